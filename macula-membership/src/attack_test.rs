//! What members that lie can do to a machine: start suspicions that are refuted, and fill what is bounded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use macula_proto::{Contact, Ed25519Verifier, NodeId, SecretKey, Signer as _, Timestamp, UnixMillis};

use crate::overlay::is_watcher;
use crate::statement::Presence;
use crate::{
    Accusation, Effect, Effects, Incarnation, Machine, MachineParts, MemberState, PACKET_BYTES_MAX, Packet,
    PacketKind, Refused, RefusedLabel, Statement, SwimConfig, SwimMetrics, Tags, Update,
};

/// The one that lies.
const LIAR: u32 = 9;

fn key(n: u32) -> SecretKey {
    let mut seed = [0xa7; 32];
    seed[..4].copy_from_slice(&n.to_le_bytes());
    SecretKey::from_seed(seed)
}

fn id(n: u32) -> NodeId {
    key(n).node_id()
}

fn at(ms: u64) -> Timestamp {
    Timestamp::from_start(Duration::from_millis(ms))
}

fn contact(n: u32) -> Contact {
    let [_, a, b, c] = n.to_be_bytes();
    Contact::new(id(n), SocketAddr::from(([10, a, b, c], 4_000)))
}

/// Node 1, which knows the `others` as of incarnation 5 and is linked with them.
fn machine_with(config: SwimConfig, others: &[u32]) -> Machine {
    let parts = MachineParts {
        config,
        contact: contact(1),
        tags: Tags::new(),
        incarnation_min: Incarnation::default(),
        signer: Arc::new(key(1)),
        verifier: Arc::new(Ed25519Verifier),
        metrics: SwimMetrics::default(),
        unix: UnixMillis(1_000),
        seed: 1,
    };
    let mut machine = Machine::new(parts, at(0));
    for other in others {
        hear(&mut machine, at(0), vec![alive(*other, 5, "")]);
        machine.on_link_up(at(0), id(*other), &mut Effects::new());
    }
    machine
}

fn machine(others: &[u32]) -> Machine {
    machine_with(SwimConfig::default(), others)
}

fn alive(n: u32, incarnation: u64, tag: &str) -> Update {
    Update::Statement(statement(n, incarnation, tag))
}

fn statement(n: u32, incarnation: u64, tag: &str) -> Arc<Statement> {
    let tags = Arc::new(Tags::from([("tag".to_owned(), tag.to_owned())]));
    let presence = Presence { contact: Arc::new(contact(n)), tags, instance: 7 };
    Arc::new(Statement::alive(&key(n), Incarnation(incarnation), presence, UnixMillis(0)))
}

fn leave(n: u32, incarnation: u64) -> Update {
    Update::Statement(Arc::new(Statement::leave(&key(n), id(n), Incarnation(incarnation), UnixMillis(0))))
}

/// The word of `by` that `n` is dead.
fn dead(n: u32, incarnation: u64, by: u32) -> Update {
    Update::Dead(Arc::new(Accusation::new(&key(by), id(n), Incarnation(incarnation))))
}

/// The same, signed by another.
fn forged(n: u32, incarnation: u64, by: u32) -> Update {
    let mut signed = Accusation::new(&key(LIAR), id(n), Incarnation(incarnation)).signed().clone();
    signed.public_key = key(by).public_key().as_bytes().to_vec().into();
    Update::Dead(Arc::new(Accusation::parse(signed).expect("well formed")))
}

/// Hears `updates` from the liar.
fn hear(machine: &mut Machine, now: Timestamp, updates: Vec<Update>) -> Effects {
    let mut out = Effects::new();
    let packet = Packet { kind: PacketKind::Gossip, sequence: 0, target: None, updates };
    machine.on_packet(now, id(LIAR), &packet, &mut out);
    out
}

/// Lets the machine's timers run until `end`. Everybody answers its pings. Returns what it sent.
fn run(machine: &mut Machine, mut now: Timestamp, end: Timestamp) -> Vec<(NodeId, Packet)> {
    let mut sent = Vec::new();
    while machine.deadline() < end {
        now = machine.deadline().max(now);
        let mut out = Effects::new();
        machine.on_timeout(now, &mut out);
        for effect in out {
            let Effect::Send { to, packet } = effect else { continue };
            if packet.kind == PacketKind::Ping {
                let ack = Packet {
                    kind: PacketKind::Ack,
                    sequence: packet.sequence,
                    target: None,
                    updates: vec![],
                };
                machine.on_packet(now, to, &ack, &mut Effects::new());
            }
            sent.push((to, packet));
        }
    }
    sent
}

fn refused(machine: &Machine, reason: Refused) -> u64 {
    machine.metrics.refused.get_or_create(&RefusedLabel { reason }).get()
}

#[test]
fn one_liar_has_one_voice_and_its_suspicion_lasts_long_enough_to_refute() {
    let mut machine = machine(&[2, 3, 4, 5, LIAR]);
    let names = [3, 4, 5].map(|by| forged(2, 5, by));
    hear(&mut machine, at(5_000), names.to_vec());
    assert_eq!(machine.state_of(&id(2)), Some(MemberState::Alive));
    assert_eq!(refused(&machine, Refused::Forged), 3);
    hear(&mut machine, at(5_000), [dead(2, 5, LIAR)].into_iter().chain(names).collect());
    hear(&mut machine, at(5_000), vec![dead(2, 5, 77), dead(2, 5, LIAR)]);
    assert_eq!(machine.state_of(&id(2)), Some(MemberState::Suspect));
    // With nobody else who says so it takes six times the shortest suspicion, of four seconds.
    run(&mut machine, at(5_000), at(28_900));
    assert_eq!(machine.state_of(&id(2)), Some(MemberState::Suspect));
    hear(&mut machine, at(28_900), vec![alive(2, 6, "")]);
    assert_eq!(machine.state_of(&id(2)), Some(MemberState::Alive));
    run(&mut machine, at(28_900), at(60_000));
    assert_eq!(machine.state_of(&id(2)), Some(MemberState::Alive));
}

#[test]
fn all_who_lie_together_start_a_suspicion_that_lasts_long_enough_to_refute() {
    let mut machine = machine(&[2, 3, 4, 5, LIAR]);
    hear(&mut machine, at(5_000), [3, 4, 5, LIAR].map(|by| dead(2, 5, by)).to_vec());
    run(&mut machine, at(5_000), at(8_900));
    assert_eq!(machine.state_of(&id(2)), Some(MemberState::Suspect), "four seconds are the shortest");
    hear(&mut machine, at(8_900), vec![alive(2, 6, "")]);
    run(&mut machine, at(8_900), at(60_000));
    assert_eq!(machine.state_of(&id(2)), Some(MemberState::Alive));
}

#[test]
fn nobody_is_believed_about_more_members_than_he_may_watch() {
    let others: Vec<u32> = (100..300).chain([LIAR]).collect();
    let words: Vec<Arc<Statement>> = others.iter().map(|n| statement(*n, 5, "")).collect();
    let mut machine = machine(&[]);
    hear(&mut machine, at(0), words.iter().cloned().map(Update::Statement).collect());
    let slander = others.iter().filter(|n| **n != LIAR).map(|n| dead(*n, 5, LIAR));
    hear(&mut machine, at(30_000), slander.collect());
    let believed = machine.suspects_len();
    // Eight are expected on each of three rings.
    assert!((8..50).contains(&believed), "{believed} of 200");
    assert_eq!(refused(&machine, Refused::NoWatcher) as usize, 200 - believed);
    for word in &words {
        let may = words.iter().filter(|other| other != &word && is_watcher(other, word, 3, 202)).count();
        assert!((4..50).contains(&may), "{may} may watch {word:?}");
    }
}

#[test]
fn half_way_through_a_suspicion_it_is_told_again_so_that_who_knows_better_says_so() {
    let mut doubting = machine(&[2, 3, LIAR]);
    hear(&mut doubting, at(5_000), vec![dead(2, 5, 3)]);
    run(&mut doubting, at(5_000), at(6_900));
    let told = run(&mut doubting, at(6_900), at(7_600));
    let suspicion = |update: &&Update| matches!(update, Update::Suspect(_)) && update.subject() == id(2);
    let told = told.iter().flat_map(|(_, packet)| &packet.updates).find(suspicion).expect("told again");
    let mut knowing = machine(&[2, 3, LIAR]);
    hear(&mut knowing, at(0), vec![alive(2, 6, "")]);
    let out = hear(&mut knowing, at(7_500), vec![told.clone()]);
    let [Effect::Send { to, packet }] = &out[..] else { panic!("{out:?}") };
    assert!(*to == id(LIAR) && packet.updates.contains(&alive(2, 6, "")), "whoever told it is put right");
    assert_eq!(knowing.state_of(&id(2)), Some(MemberState::Alive));
}

#[test]
fn whoever_refuted_is_not_suspected_on_hearsay_for_a_while() {
    let mut machine = machine(&[2, 3, LIAR]);
    hear(&mut machine, at(5_000), vec![dead(2, 5, LIAR), alive(2, 6, "")]);
    for ms in (5_000..9_000).step_by(100) {
        hear(&mut machine, at(ms), vec![dead(2, 6, LIAR), dead(2, 6, 3)]);
        assert_eq!(machine.state_of(&id(2)), Some(MemberState::Alive), "after {ms} ms");
    }
    assert_eq!(machine.metrics.suspected.get(), 1);
    run(&mut machine, at(8_900), at(9_100));
    assert_eq!(machine.state_of(&id(2)), Some(MemberState::Suspect), "it may have died since");
}

#[test]
fn who_has_just_learned_of_a_member_does_not_believe_what_others_may_have_heard_refuted() {
    let mut machine = machine(&[2, 3, LIAR]);
    hear(&mut machine, at(3_900), vec![dead(2, 5, LIAR)]);
    run(&mut machine, at(3_900), at(3_990));
    assert_eq!(machine.state_of(&id(2)), Some(MemberState::Alive));
    run(&mut machine, at(3_990), at(4_100));
    assert_eq!(machine.state_of(&id(2)), Some(MemberState::Suspect), "nobody may tell it again");
}

#[test]
fn an_accusation_counts_against_the_life_that_it_names() {
    let mut machine = machine(&[2, 3, LIAR]);
    hear(&mut machine, at(5_000), vec![dead(2, 4, LIAR), dead(2, 6, LIAR), dead(2, u64::MAX, 3)]);
    assert_eq!(machine.state_of(&id(2)), Some(MemberState::Alive));
    hear(&mut machine, at(10_000), vec![alive(2, 7, "new")]);
    hear(&mut machine, at(10_000), vec![dead(2, 7, 3)]);
    assert_eq!(machine.state_of(&id(2)), Some(MemberState::Suspect));
}

#[test]
fn accusations_cost_this_node_one_signature_and_one_point_of_health_however_many_there_are() {
    let mut machine = machine(&[2, 3, 4, LIAR]);
    let own = machine.local().incarnation.0;
    let flood =
        |own: u64| [2, 3, 4, LIAR].iter().flat_map(|by| [dead(1, own, *by), dead(1, own + 1, *by)]).collect();
    hear(&mut machine, at(1_000), flood(own));
    assert_eq!((machine.local().incarnation.0, machine.health_score()), (own + 1, 1));
    hear(&mut machine, at(1_100), flood(own + 1));
    assert_eq!((machine.local().incarnation.0, machine.health_score()), (own + 1, 1));
    // A third of the shortest suspicion later it answers again: in time for whoever has a reason.
    hear(&mut machine, at(2_400), flood(own + 1));
    assert_eq!(machine.local().incarnation.0, own + 2);
}

/// Nobody else can sign it: whoever does has used up its own word, until it is forgotten.
#[test]
fn the_largest_incarnation_binds_its_signer_alone_and_not_for_ever() {
    let mut machine = machine(&[2, 3, LIAR]);
    hear(&mut machine, at(0), vec![alive(2, u64::MAX, "")]);
    hear(&mut machine, at(5_000), vec![dead(2, u64::MAX, LIAR), alive(2, u64::MAX, "again")]);
    assert_eq!(machine.state_of(&id(2)), Some(MemberState::Suspect), "the same incarnation refutes nothing");
    run(&mut machine, at(5_000), at(60_000));
    assert_eq!(machine.state_of(&id(2)), Some(MemberState::Dead));
    assert_eq!(
        (machine.state_of(&id(3)), machine.local().incarnation),
        (Some(MemberState::Alive), Incarnation(1_000))
    );
    run(&mut machine, at(60_000), at(3_700_000));
    assert_eq!(machine.state_of(&id(2)), None, "forgotten");
    hear(&mut machine, at(3_700_000), vec![alive(2, u64::MAX, "")]);
    assert_eq!(machine.state_of(&id(2)), Some(MemberState::Alive));
}

#[test]
fn words_of_an_earlier_life_change_nothing() {
    let mut machine = machine(&[2, 3, LIAR]);
    let (old, goodbye) = (alive(2, 4, "old"), leave(2, 4));
    let before = machine.version();
    for ms in 0..100 {
        assert_eq!(hear(&mut machine, at(ms), vec![old.clone(), goodbye.clone(), dead(2, 4, LIAR)]).len(), 1);
    }
    assert_eq!((machine.version(), machine.state_of(&id(2))), (before, Some(MemberState::Alive)));
    hear(&mut machine, at(200), vec![leave(2, 5), old, alive(2, 5, "")]);
    assert_eq!(machine.state_of(&id(2)), Some(MemberState::Left), "nobody else brings back who left");
}

#[test]
fn accusations_of_nobody_leave_nothing_behind() {
    let mut machine = machine(&[2, LIAR]);
    let before = machine.queues();
    for ms in 0..100 {
        let nobody = (1_000..1_018).map(|n| dead(n, ms, LIAR)).collect();
        let out = hear(&mut machine, at(ms), nobody);
        assert!(out.is_empty());
    }
    assert_eq!(machine.queues(), before);
}

#[test]
fn invented_members_fill_the_list_and_push_out_nobody_who_is_there() {
    let config = SwimConfig { members_max: 20, news_max: 16, ..SwimConfig::default() };
    let mut machine = machine_with(config, &[2, 3, LIAR]);
    for n in 100..300 {
        hear(&mut machine, at(n.into()), vec![alive(n, 1, "")]);
        let full = machine.queues().into_iter().find(|queue| queue.len > queue.max);
        assert_eq!(full, None);
    }
    assert_eq!(machine.members_len(), 20);
    assert_eq!(refused(&machine, Refused::MembersFull), 200 - 16);
    for n in [2, 3, LIAR] {
        assert_eq!(machine.state_of(&id(n)), Some(MemberState::Alive));
    }
}

#[test]
fn what_is_not_signed_does_not_make_a_full_list_forget() {
    let mut machine = machine_with(SwimConfig { members_max: 4, ..SwimConfig::default() }, &[2, 3, LIAR]);
    hear(&mut machine, at(1), vec![leave(2, 5)]);
    let Update::Statement(other) = alive(7, 1, "") else { unreachable!() };
    let mut signed = other.signed().clone();
    signed.signature = vec![0; 64].into();
    let forged = Statement::parse_alive(signed).expect("well formed");
    hear(&mut machine, at(2), vec![Update::Statement(Arc::new(forged)), alive(2, 5, "")]);
    assert_eq!(
        machine.state_of(&id(2)),
        Some(MemberState::Left),
        "remembered, so that nobody brings it back"
    );
    assert_eq!(refused(&machine, Refused::Forged), 1);
    hear(&mut machine, at(3), vec![alive(7, 1, "")]);
    assert_eq!((machine.state_of(&id(2)), machine.state_of(&id(7))), (None, Some(MemberState::Alive)));
}

/// Packets and bytes that ten seconds cost while a member changes its tags a hundred times a second, or not at all.
fn relayed(changes: bool) -> (usize, usize) {
    let mut machine = machine(&[2, 3, 4, LIAR]);
    let mut sent = Vec::new();
    for turn in 0..1_000 {
        let now = at(turn * 10);
        if changes {
            hear(&mut machine, now, vec![alive(LIAR, 6 + turn, &"x".repeat(500))]);
        }
        sent.extend(run(&mut machine, now, at(turn * 10 + 10)));
    }
    (sent.len(), sent.iter().map(|(_, packet)| packet.wire_len()).sum())
}

#[test]
fn tags_that_change_all_the_time_are_relayed_no_more_often_than_gossip_goes_out() {
    let ((quiet, _), (packets, bytes)) = (relayed(false), relayed(true));
    let SwimConfig { gossip_interval, gossip_fanout, .. } = SwimConfig::default();
    let rounds = Duration::from_secs(10).div_duration_f64(gossip_interval) as usize;
    assert!(packets <= quiet + rounds * gossip_fanout, "{packets} packets, {quiet} without");
    assert!(bytes <= packets * PACKET_BYTES_MAX && packets < 1_000, "{bytes} bytes for 1,000 changes");
}

#[test]
fn tags_that_change_all_the_time_do_not_keep_others_news_from_going_round() {
    let mut machine = machine(&[2, 3, 4, LIAR, 10]);
    run(&mut machine, at(0), at(5_000));
    let flood = |machine: &mut Machine, ms: u64| {
        for liar in [LIAR, 10] {
            hear(machine, at(ms), vec![alive(liar, 6 + ms, &"x".repeat(500))]);
        }
    };
    flood(&mut machine, 5_000);
    flood(&mut machine, 5_010);
    hear(&mut machine, at(5_020), vec![alive(3, 6, &"y".repeat(300))]);
    flood(&mut machine, 5_030);
    let sent = run(&mut machine, at(5_030), at(5_250));
    let has_it = |packet: &Packet| packet.updates.iter().any(|update| update.subject() == id(3));
    assert!(sent.iter().any(|(to, packet)| *to == id(2) && has_it(packet)), "{sent:?}");
}

#[test]
fn false_answers_of_helpers_make_no_suspicion_sooner_and_nobody_else_answers_for_them() {
    let mut machine = machine(&[2, 3, LIAR]);
    let mut out = Effects::new();
    machine.start_probe(at(100), id(2), None, &mut out);
    let Some(Effect::Send { packet: Packet { sequence, .. }, .. }) = out.pop() else { panic!("no ping") };
    let answer = |kind| Packet { kind, sequence, target: None, updates: Vec::new() };
    for ms in 100..1_000 {
        machine.on_packet(at(ms), id(LIAR), &answer(PacketKind::Nack), &mut Effects::new());
        machine.on_packet(at(ms), id(77), &answer(PacketKind::Ack), &mut Effects::new());
    }
    assert_eq!(machine.state_of(&id(2)), Some(MemberState::Alive));
    assert_eq!(machine.probes.len(), 1, "neither ends the probe");
    machine.on_packet(at(1_000), id(2), &answer(PacketKind::Ack), &mut Effects::new());
    assert_eq!((machine.probes.len(), machine.state_of(&id(2))), (0, Some(MemberState::Alive)));
}
