use std::net::SocketAddr;

use macula_proto::{Ed25519Verifier, SecretKey};
use proptest::prelude::*;

use super::*;
use crate::{Accusation, Event, Refused, RefusedLabel};

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32])
}

fn id(n: u8) -> NodeId {
    key(n).node_id()
}

fn at(ms: u64) -> Timestamp {
    Timestamp::from_start(Duration::from_millis(ms))
}

fn machine_with(n: u8, config: SwimConfig) -> Machine {
    let parts = MachineParts {
        config,
        contact: contact(n),
        tags: Tags::new(),
        incarnation_min: Incarnation::default(),
        signer: Arc::new(key(n)),
        verifier: Arc::new(Ed25519Verifier),
        metrics: SwimMetrics::default(),
        unix: UnixMillis(1_000),
        seed: n.into(),
    };
    Machine::new(parts, at(0))
}

fn machine(n: u8) -> Machine {
    machine_with(n, SwimConfig::default())
}

fn contact(n: u8) -> Contact {
    Contact::new(id(n), SocketAddr::from(([10, 0, 0, n], 4_000)))
}

fn alive(n: u8, incarnation: u64) -> Update {
    let presence = Presence { contact: Arc::new(contact(n)), tags: Arc::default(), instance: incarnation };
    Update::Statement(Arc::new(Statement::alive(&key(n), Incarnation(incarnation), presence, UnixMillis(0))))
}

fn leave(n: u8, incarnation: u64) -> Update {
    Update::Statement(Arc::new(Statement::leave(&key(n), id(n), Incarnation(incarnation), UnixMillis(0))))
}

fn suspect(n: u8, incarnation: u64, by: u8) -> Update {
    Update::Suspect(Arc::new(Accusation::new(&key(by), id(n), Incarnation(incarnation))))
}

fn dead(n: u8, incarnation: u64, by: u8) -> Update {
    Update::Dead(Arc::new(Accusation::new(&key(by), id(n), Incarnation(incarnation))))
}

fn gossip(updates: Vec<Update>) -> Packet {
    Packet { kind: PacketKind::Gossip, sequence: 0, target: None, updates }
}

/// Hears `updates` from node 99.
fn hear(machine: &mut Machine, now: Timestamp, updates: Vec<Update>) -> Effects {
    let mut out = Effects::new();
    machine.on_packet(now, id(99), &gossip(updates), &mut out);
    out
}

fn sends(out: &[Effect]) -> Vec<(NodeId, PacketKind, u64)> {
    let send = |effect: &Effect| match effect {
        Effect::Send { to, packet } => Some((*to, packet.kind, packet.sequence)),
        _ => None,
    };
    out.iter().filter_map(send).collect()
}

fn events(out: &[Effect]) -> Vec<&Event> {
    out.iter()
        .filter_map(|effect| if let Effect::Event(event) = effect { Some(event) } else { None })
        .collect()
}

/// Turns the hands until a timer says something, at most a minute.
fn tick(machine: &mut Machine, now: &mut Timestamp) -> Effects {
    let mut out = Effects::new();
    let end = *now + Duration::from_secs(60);
    while out.is_empty() && *now < end {
        *now = machine.deadline().max(*now);
        machine.on_timeout(*now, &mut out);
    }
    out
}

/// A machine that knows node 2, is linked to it, and has nothing left to tell.
fn with_peer(links: &[u8]) -> (Machine, Timestamp) {
    let mut machine = machine(1);
    hear(&mut machine, at(1), links.iter().map(|n| alive(*n, 5)).collect());
    for n in links {
        machine.on_link_up(at(1), id(*n), &mut Effects::new());
    }
    machine.news = News::new(64, 7);
    (machine, at(1))
}

#[test]
fn a_member_that_is_not_linked_is_dialled_then_pinged() {
    let mut machine = machine(1);
    let out = hear(&mut machine, at(1), vec![alive(2, 5)]);
    assert!(matches!(events(&out)[..], [Event::Joined(member)] if member.id() == id(2)));
    let (mut now, dial) = (at(1), Effect::Connect(Arc::new(contact(2))));
    // The first exchange of lists may come before.
    let out = [tick(&mut machine, &mut now), tick(&mut machine, &mut now)].concat();
    assert!(out.contains(&dial), "{out:?}");
    let mut out = Effects::new();
    machine.on_link_up(now, id(2), &mut out);
    assert!(matches!(sends(&out)[..], [(to, PacketKind::Ping, _)] if to == id(2)));
}

/// The pauses between eight exchanges of lists with node 2, which answers its pings, in seconds.
fn sync_pauses(machine: &mut Machine, now: &mut Timestamp) -> Vec<f64> {
    let mut at = Vec::new();
    while at.len() < 8 {
        let out = tick(machine, now);
        for (_, _, sequence) in sends(&out).into_iter().filter(|(_, kind, _)| *kind == PacketKind::Ping) {
            let ack = Packet { kind: PacketKind::Ack, sequence, target: None, updates: Vec::new() };
            machine.on_packet(*now, id(2), &ack, &mut Effects::new());
        }
        if out.iter().any(|effect| matches!(effect, Effect::Sync(_))) {
            machine.on_sync_end(id(2), true);
            at.push(*now);
        }
    }
    at.windows(2).map(|pair| pair[1].since(pair[0]).as_secs_f64()).collect()
}

#[test]
fn exchanges_of_lists_come_quickly_at_first_and_after_a_return() {
    let (mut machine, mut now) = with_peer(&[2]);
    for _ in 0..2 {
        let pauses = sync_pauses(&mut machine, &mut now);
        for (pause, expected) in pauses.iter().zip([1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]) {
            assert!((0.7..1.3).contains(&(pause / expected)), "{pauses:?}");
        }
        machine.leave(now, &mut Effects::new());
        machine.rejoin(now);
    }
}

#[test]
fn exchanges_of_lists_come_quickly_again_after_an_upheaval() {
    let (mut machine, mut now) = with_peer(&[2]);
    sync_pauses(&mut machine, &mut now);
    let few = (1..=32).map(|incarnation| alive(3, incarnation));
    hear(&mut machine, now, few.chain([leave(3, 32)]).collect());
    let pauses = sync_pauses(&mut machine, &mut now);
    for (pause, expected) in pauses.iter().zip([7.5, 15.0, 30.0, 30.0]) {
        assert!((0.7..1.3).contains(&(pause / expected)), "{pauses:?}");
    }
}

#[test]
fn a_few_changes_are_no_upheaval() {
    let (mut machine, mut now) = with_peer(&[2]);
    sync_pauses(&mut machine, &mut now);
    hear(
        &mut machine,
        now,
        (1..=31).map(|incarnation| alive(3, incarnation)).chain([leave(3, 31)]).collect(),
    );
    let pauses = sync_pauses(&mut machine, &mut now);
    assert!(pauses.iter().all(|pause| *pause > 20.0), "{pauses:?}");
}

#[test]
fn a_ping_is_answered_with_its_sequence() {
    let (mut machine, now) = with_peer(&[2]);
    let mut out = Effects::new();
    let ping = Packet { kind: PacketKind::Ping, sequence: 42, target: None, updates: Vec::new() };
    machine.on_packet(now, id(2), &ping, &mut out);
    assert_eq!(sends(&out), [(id(2), PacketKind::Ack, 42)]);
}

#[test]
fn silence_leads_to_helpers_then_suspicion_then_death() {
    let (mut machine, mut now) = with_peer(&[2, 3]);
    machine.links.remove(&id(3));
    // Only node 3 is probed here; its dial fails.
    let mut out = Effects::new();
    machine.start_probe(now, id(3), None, &mut out);
    assert_eq!(out, [Effect::Connect(Arc::new(contact(3)))]);
    out.clear();
    machine.on_dial_failed(now, id(3), false, &mut out);
    assert!(matches!(sends(&out)[..], [(to, PacketKind::PingReq, _)] if to == id(2)), "{out:?}");

    let mut seen = Vec::new();
    let end = now + Duration::from_secs(40);
    while now < end {
        let out = tick(&mut machine, &mut now);
        // Node 2 is fine, and every dial to node 3 fails.
        for (to, kind, sequence) in sends(&out) {
            if to == id(2) && kind == PacketKind::Ping {
                machine.on_ack(now, to, sequence, &mut Effects::new());
            }
        }
        if out.iter().any(|effect| matches!(effect, Effect::Connect(_))) {
            machine.on_dial_failed(now, id(3), false, &mut Effects::new());
        }
        seen.extend(events(&out).into_iter().cloned());
    }
    assert!(matches!(&seen[..], [Event::Suspected(_), Event::Confirmed(_)]), "{seen:?}");
    assert_eq!(machine.state_of(&id(3)), Some(MemberState::Dead));
}

/// Nobody answers, for so long.
fn silence(machine: &mut Machine, now: &mut Timestamp, span: Duration) -> Effects {
    let (mut out, end) = (Effects::new(), *now + span);
    while *now < end {
        out.extend(tick(machine, now));
    }
    out
}

#[test]
fn a_newer_word_is_as_good_as_an_answer() {
    let (mut machine, mut now) = with_peer(&[2]);
    machine.start_probe(now, id(2), None, &mut Effects::new());
    hear(&mut machine, now, vec![alive(2, 6)]);
    let newer = machine.probes.keys().next_back().copied();
    while machine.probes.keys().next_back() == newer.as_ref() {
        tick(&mut machine, &mut now);
    }
    assert_eq!(machine.state_of(&id(2)), Some(MemberState::Alive));
}

#[test]
fn whom_this_node_alone_suspects_it_asks_and_tells_again_and_again() {
    let (mut machine, mut now) = with_peer(&[2, 3, 4, 5]);
    machine.accuse(now, id(2), &mut Effects::new());
    let out = silence(&mut machine, &mut now, Duration::from_secs(8));
    let doubted = out.iter().filter(|effect| {
        matches!(effect, Effect::Send { to, packet } if *to == id(2)
            && packet.updates.contains(&Update::Doubt(Doubt { id: id(2), incarnation: Incarnation(5) })))
    });
    assert!(doubted.count() > 4);
}

#[test]
fn a_silent_neighbour_is_suspected_within_a_period_and_a_half() {
    let (mut machine, now) = with_peer(&[2, 3]);
    machine.start_probe(now, id(3), None, &mut Effects::new());
    let (mut at, mut suspected) = (now, None);
    while suspected.is_none() && at.since(now) < Duration::from_secs(10) {
        let out = tick(&mut machine, &mut at);
        for (to, kind, sequence) in sends(&out) {
            let answer = if to != id(2) {
                continue;
            } else if kind == PacketKind::Ping {
                PacketKind::Ack
            } else {
                PacketKind::Nack
            };
            let answer = Packet { kind: answer, sequence, target: None, updates: Vec::new() };
            machine.on_packet(at, to, &answer, &mut Effects::new());
        }
        suspected =
            events(&out).iter().any(|event| matches!(event, Event::Suspected(_))).then(|| at.since(now));
    }
    let config = SwimConfig::default();
    assert_eq!(suspected, Some(config.probe_timeout.mul_f64(2.2)));
    assert!(suspected < Some(config.protocol_period.mul_f64(1.5)));
}

#[test]
fn every_step_of_a_probe_is_repeated_before_the_member_is_suspected() {
    let (mut machine, now) = with_peer(&[2, 3]);
    let mut out = Effects::new();
    machine.start_probe(now, id(3), None, &mut out);
    let (mut at, mut steps) = (now, sends(&out));
    let ping = steps[0];
    let request = (id(2), PacketKind::PingReq, ping.2);
    while machine.state_of(&id(3)) == Some(MemberState::Alive) {
        let sent = sends(&tick(&mut machine, &mut at));
        steps.extend(sent.into_iter().filter(|step| *step == request || *step == ping));
    }
    assert_eq!(steps, [ping, ping, ping, request, ping, request]);
    assert_eq!(at.since(now), SwimConfig::default().probe_timeout.mul_f64(2.2));
}

#[test]
fn a_helper_that_is_asked_again_pings_again_and_answers_once() {
    let (mut machine, now) = with_peer(&[2, 3]);
    let ask = Packet { kind: PacketKind::PingReq, sequence: 7, target: Some(id(3)), updates: Vec::new() };
    let mut out = Effects::new();
    machine.on_packet(now, id(2), &ask, &mut out);
    machine.on_packet(now, id(2), &ask, &mut out);
    let [first, again] = sends(&out)[..] else { panic!("{out:?}") };
    assert_eq!(first, again);
    out.clear();
    machine.on_ack(now, id(3), first.2, &mut out);
    machine.on_ack(now, id(3), first.2, &mut out);
    assert_eq!(sends(&out), [(id(2), PacketKind::Ack, 7)]);
}

#[test]
fn without_lifeguard_local_health_stays_as_it_is() {
    let mut machine = machine_with(1, SwimConfig { health_max: 0, ..SwimConfig::default() });
    machine.health.worsen(5);
    assert_eq!(machine.health_score(), 0);
    assert_eq!(machine.health.stretch(Duration::from_secs(1)), Duration::from_secs(1));
}

#[test]
fn an_ack_of_a_helper_counts_and_a_strangers_does_not() {
    let (mut machine, now) = with_peer(&[2, 3]);
    machine.links.remove(&id(3));
    let mut out = Effects::new();
    machine.start_probe(now, id(3), None, &mut out);
    machine.on_dial_failed(now, id(3), false, &mut out);
    let (_, _, sequence) = sends(&out)[0];
    machine.on_ack(now, id(9), sequence, &mut out);
    assert_eq!(machine.probes.len(), 1);
    machine.on_ack(now, id(2), sequence, &mut out);
    assert!(machine.probes.is_empty());
    assert_eq!(machine.state_of(&id(2)), Some(MemberState::Alive));
}

#[test]
fn no_room_for_a_connection_here_is_not_held_against_the_member() {
    let (mut machine, now) = with_peer(&[2, 3]);
    machine.links.remove(&id(3));
    let mut out = Effects::new();
    machine.start_probe(now, id(3), None, &mut out);
    out.clear();
    machine.on_dial_failed(now, id(3), true, &mut out);
    assert!(out.is_empty() && machine.probes.is_empty());
}

#[test]
fn a_helper_relays_the_ack_and_says_so_when_there_is_none() {
    let (mut machine, now) = with_peer(&[2, 3]);
    let ask = Packet { kind: PacketKind::PingReq, sequence: 7, target: Some(id(3)), updates: Vec::new() };
    let mut out = Effects::new();
    machine.on_packet(now, id(2), &ask, &mut out);
    let [(to, PacketKind::Ping, sequence)] = sends(&out)[..] else { panic!("{out:?}") };
    assert_eq!(to, id(3));
    let mut late = Effects::new();
    machine.expire_relays(now + Duration::from_millis(400), &mut late);
    assert_eq!(sends(&late), [(id(2), PacketKind::Nack, 7)]);
    out.clear();
    machine.on_ack(now, id(3), sequence, &mut out);
    assert_eq!(sends(&out), [(id(2), PacketKind::Ack, 7)]);
}

#[test]
fn this_node_refutes_a_suspicion_in_the_very_ack() {
    let (mut machine, now) = with_peer(&[2]);
    let own = machine.local().incarnation;
    let ping =
        Packet { kind: PacketKind::Ping, sequence: 1, target: None, updates: vec![suspect(1, own.0, 2)] };
    let mut out = Effects::new();
    machine.on_packet(now, id(2), &ping, &mut out);
    assert_eq!(machine.local().incarnation, own.next());
    let [Effect::Send { packet, .. }] = &out[..] else { panic!("{out:?}") };
    let refuted = |update: &Update| matches!(update, Update::Statement(s) if s.incarnation() == own.next());
    assert!(packet.updates.iter().any(refuted));
}

#[test]
fn nobody_can_drive_an_incarnation_up() {
    let (mut machine, now) = with_peer(&[2]);
    let own = machine.local().incarnation;
    hear(&mut machine, now, vec![suspect(1, u64::MAX, 2), dead(1, u64::MAX, 2), dead(1, own.0 + 1, 2)]);
    assert_eq!(machine.local().incarnation, own);
    hear(&mut machine, now, vec![suspect(2, u64::MAX, 2), alive(2, 5)]);
    assert_eq!(machine.incarnation_of(&id(2)), Some(Incarnation(5)));
    hear(&mut machine, now, vec![alive(2, 6)]);
    assert_eq!(machine.state_of(&id(2)), Some(MemberState::Alive));
}

#[test]
fn hearsay_of_a_death_only_starts_a_suspicion() {
    let (mut machine, now) = with_peer(&[2, 3, 4, 5]);
    let now = now + machine.config.suspect_timeout;
    hear(&mut machine, now, vec![dead(2, 5, 3)]);
    assert_eq!(machine.state_of(&id(2)), Some(MemberState::Suspect));
    hear(&mut machine, now, vec![dead(2, 5, 4), dead(2, 5, 5)]);
    assert_eq!(machine.state_of(&id(2)), Some(MemberState::Suspect));
}

#[test]
fn an_earlier_life_with_a_clock_that_was_ahead_is_outbid() {
    let mut machine = machine(1);
    let Update::Statement(old) = alive(1, 9_000) else { unreachable!() };
    hear(&mut machine, at(1), vec![Update::Statement(old)]);
    assert_eq!(machine.local().incarnation, Incarnation(9_001));
    // Another process with the same key is answered at most once a second.
    hear(&mut machine, at(500), vec![alive(1, 9_500)]);
    assert_eq!(machine.local().incarnation, Incarnation(9_001));
    hear(&mut machine, at(1_500), vec![alive(1, 9_500)]);
    assert_eq!(machine.local().incarnation, Incarnation(9_501));
}

#[test]
fn another_process_with_the_same_key_is_known_while_it_speaks() {
    let mut machine = machine(1);
    let word = |incarnation| {
        let contact = Arc::new(Contact::new(id(1), SocketAddr::from(([10, 0, 0, 77], 4_000))));
        let presence = Presence { contact, tags: Arc::default(), instance: 7 };
        let statement = Statement::alive(&key(1), Incarnation(incarnation), presence, UnixMillis(0));
        Update::Statement(Arc::new(statement))
    };
    // An earlier life at the same address is no rival.
    hear(&mut machine, at(1), vec![alive(1, 9_000)]);
    assert_eq!((machine.rival(at(1)), machine.metrics.contested.get()), (None, 0));
    hear(&mut machine, at(2_000), vec![word(9_500)]);
    let rival = machine.rival(at(61_000)).map(|rival| rival.addrs[0].to_string());
    assert_eq!((rival.as_deref(), machine.metrics.contested.get()), (Some("10.0.0.77:4000"), 1));
    assert_eq!(machine.rival(at(62_000)), None, "nothing was heard of it for a minute");
}

#[test]
fn who_is_gone_is_remembered_with_what_is_still_known() {
    let (mut machine, now) = with_peer(&[2, 3]);
    hear(&mut machine, now, vec![leave(2, 5)]);
    let gone: Vec<_> = machine.gone_members().map(|member| (member.id(), member.state)).collect();
    assert_eq!(gone, [(id(2), MemberState::Left)]);
    assert_eq!(machine.gone_members().next().unwrap().contact.addrs, []);
    machine.leave(now, &mut Effects::new());
    assert_eq!(machine.gone_members().count(), 1, "this node is not one of them");
}

#[test]
fn a_forged_statement_is_counted_and_changes_nothing() {
    let mut machine = machine(1);
    let Update::Statement(good) = alive(2, 5) else { unreachable!() };
    let mut signed = good.signed().clone();
    let mut bytes = signed.signature.to_vec();
    bytes[0] ^= 1;
    signed.signature = bytes.into();
    let forged = Statement::parse_alive(signed).expect("well formed");
    let out = hear(&mut machine, at(1), vec![Update::Statement(Arc::new(forged))]);
    assert!(out.is_empty());
    assert_eq!(machine.state_of(&id(2)), None);
    let refused = machine.metrics.refused.get_or_create(&RefusedLabel { reason: Refused::Forged }).get();
    assert_eq!(refused, 1);
}

#[test]
fn a_full_list_takes_no_more_but_lets_the_dead_go_first() {
    let mut machine = machine_with(1, SwimConfig { members_max: 3, ..SwimConfig::default() });
    hear(&mut machine, at(1), vec![alive(2, 5), alive(3, 5), alive(4, 5)]);
    assert_eq!(machine.state_of(&id(4)), None);
    hear(&mut machine, at(2), vec![leave(2, 5), alive(4, 5)]);
    assert_eq!((machine.state_of(&id(2)), machine.state_of(&id(4))), (None, Some(MemberState::Alive)));
}

#[test]
fn the_departed_are_remembered_for_a_while_so_that_old_news_does_not_bring_them_back() {
    let (mut machine, now) = with_peer(&[2]);
    hear(&mut machine, now, vec![leave(2, 5), alive(2, 5), suspect(2, 5, 3)]);
    assert_eq!(machine.state_of(&id(2)), Some(MemberState::Left));
    machine.forget(now + Duration::from_secs(3_599));
    assert_eq!(machine.state_of(&id(2)), Some(MemberState::Left));
    machine.forget(now + Duration::from_secs(3_600));
    assert_eq!(machine.state_of(&id(2)), None);
}

#[test]
fn the_forgotten_dead_are_tried_again_until_they_are_back() {
    let mut machine = machine(1);
    hear(&mut machine, at(1), vec![alive(2, 5)]);
    machine.bury(at(2), id(2), &mut Effects::new());
    let later = at(2) + machine.config.forget_after;
    machine.forget(later);
    assert_eq!(machine.state_of(&id(2)), None);
    let tries = |machine: &mut Machine, now| {
        let mut out = Effects::new();
        machine.recontact_next(now, &mut out);
        out.contains(&Effect::Sync(Arc::new(contact(2))))
    };
    assert!(tries(&mut machine, later));
    machine.on_sync_end(id(2), false);
    machine.forget(later + machine.config.forget_after * 24);
    assert!(!tries(&mut machine, later), "not for ever");

    hear(&mut machine, later, vec![alive(3, 5)]);
    machine.bury(later, id(3), &mut Effects::new());
    let later = later + machine.config.forget_after;
    machine.forget(later);
    hear(&mut machine, later, vec![alive(3, 6)]);
    assert!(machine.lost.is_empty(), "it is back");
}

#[test]
fn tags_that_change_after_a_goodbye_are_told_with_the_return() {
    let (mut machine, _) = with_peer(&[2]);
    machine.leave(at(5_000), &mut Effects::new());
    assert_eq!((machine.local().state, machine.local().since), (MemberState::Left, at(5_000)));
    let (tags, mut out, left) =
        (Tags::from([("zone".into(), "north".into())]), Effects::new(), machine.version());
    machine.set_tags(at(6_000), tags.clone(), &mut out).unwrap();
    assert!(out.is_empty(), "{out:?}");
    assert!(machine.version() > left, "snapshots show the new tags");
    assert_eq!((*machine.local().tags).clone(), tags);
    machine.rejoin(at(7_000));
    assert_eq!((machine.local().state, machine.local().since), (MemberState::Alive, at(7_000)));
    let told = machine.own().statement().presence().unwrap().tags.clone();
    assert_eq!(*told, tags);
}

#[test]
fn a_goodbye_is_repeated_until_acknowledged() {
    let (mut machine, now) = with_peer(&[2]);
    let mut out = Effects::new();
    machine.leave(now, &mut out);
    let [(to, PacketKind::Ping, sequence)] = sends(&out)[..] else { panic!("{out:?}") };
    assert_eq!((to, machine.local().state), (id(2), MemberState::Left));
    let mut later = now;
    let again = tick(&mut machine, &mut later);
    assert_eq!(sends(&again), [(id(2), PacketKind::Ping, sequence)]);
    out.clear();
    machine.on_ack(later, id(2), sequence, &mut out);
    assert_eq!(out, [Effect::Departed]);
}

#[test]
fn slowness_here_makes_probes_rarer() {
    let mut health = LocalHealth::new(8);
    health.worsen(2);
    assert_eq!(health.stretch(Duration::from_secs(1)), Duration::from_secs(3));
    health.worsen(100);
    assert_eq!(health.score(), 8);
    health.improve();
    assert_eq!(health.score(), 7);
}

fn news() -> impl Strategy<Value = Update> {
    (2u8..5, 0u64..4, any::<bool>())
        .prop_map(|(n, inc, goes)| if goes { leave(n, inc) } else { alive(n, inc) })
}

type View = Vec<Option<(MemberState, Incarnation)>>;

fn view(machine: &Machine) -> View {
    (2u8..5).map(|n| Some((machine.state_of(&id(n))?, machine.incarnation_of(&id(n))?))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Members' own words merge the same way in any order, any number of times.
    #[test]
    fn statements_commute_and_repeat(mut updates in prop::collection::vec(news(), 0..12), turn in 0usize..12) {
        let (mut one, mut two) = (machine(1), machine(1));
        hear(&mut one, at(1), updates.clone());
        updates.reverse();
        let turn = turn.min(updates.len());
        updates.rotate_left(turn);
        hear(&mut two, at(2), updates.clone());
        hear(&mut two, at(3), updates);
        prop_assert_eq!(view(&one), view(&two));
    }

    /// After one exchange in each direction two nodes believe the same.
    #[test]
    fn an_exchange_makes_equal(mine in prop::collection::vec(news(), 0..8), theirs in prop::collection::vec(news(), 0..8)) {
        let (mut one, mut two) = (machine(1), machine(6));
        hear(&mut one, at(1), mine);
        hear(&mut two, at(1), theirs);
        for _ in 0..2 {
            converse(&mut one, &mut two);
            converse(&mut two, &mut one);
        }
        // One who is absent here may be remembered as departed there.
        let present = |view: View| -> View {
            view.into_iter().map(|seen| seen.filter(|(state, _)| state.is_present())).collect()
        };
        prop_assert_eq!(present(view(&one)), present(view(&two)));
        prop_assert_eq!(one.roster.buckets(), two.roster.buckets());
    }
}

fn converse(asker: &mut Machine, answerer: &mut Machine) {
    let mut out = Effects::new();
    let mut asked = vec![asker.begin_sync()];
    while !asked.is_empty() {
        let mut answers = Vec::new();
        for message in asked.drain(..) {
            answerer.on_sync(at(9), asker.id(), &message, &mut answers, &mut out);
        }
        for message in answers {
            asker.on_sync(at(9), answerer.id(), &message, &mut asked, &mut out);
        }
    }
}
