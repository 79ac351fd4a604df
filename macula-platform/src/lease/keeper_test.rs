use super::*;
use crate::objects::{Epoch, LogIndex};

const TTL: Duration = Duration::from_millis(1000);

fn at(millis: u64) -> Timestamp {
    Timestamp::from_start(Duration::from_millis(millis))
}

fn session(n: u64) -> SessionId {
    SessionId::new(Epoch(0), LogIndex(n))
}

fn keep_alive(n: u64) -> KeepAlive {
    KeepAlive { session: session(n), number: 7 }
}

fn answer(ticket: u64, n: u64, outcome: Kept) -> KeeperEffect {
    KeeperEffect::Answer { ticket: Ticket(ticket), answer: KeptAlive { to: keep_alive(n), outcome } }
}

/// A keeper that serves sessions 1 to `count` since time 0.
fn serving(count: u64) -> Keeper {
    let mut keeper = Keeper::default();
    keeper.serve(at(0), (1..=count).map(|n| (session(n), TTL)));
    keeper
}

/// What happens until then, if nobody is late.
fn pass(keeper: &mut Keeper, until: u64) -> Vec<KeeperEffect> {
    let mut out = Vec::new();
    while let Some(deadline) = keeper.deadline().filter(|deadline| *deadline < at(until)) {
        keeper.on_timeout(deadline, &mut out);
    }
    out
}

fn arrive(keeper: &mut Keeper, now: u64, ticket: u64, n: u64) -> Vec<KeeperEffect> {
    let mut out = pass(keeper, now);
    keeper.on_keep_alive(at(now), Ticket(ticket), keep_alive(n), &mut out);
    out
}

fn round(keeper: &mut Keeper, id: u64, confirmed: bool) -> Vec<KeeperEffect> {
    let mut out = Vec::new();
    keeper.on_round(RoundId(id), confirmed, &mut out);
    out
}

fn timeout(keeper: &mut Keeper, now: u64) -> Vec<KeeperEffect> {
    let mut out = pass(keeper, now);
    keeper.on_timeout(at(now), &mut out);
    out
}

#[test]
fn a_keep_alive_is_answered_after_a_round_that_began_after_it() {
    let mut keeper = serving(2);
    assert_eq!(arrive(&mut keeper, 10, 1, 1), [KeeperEffect::Round(RoundId(1))]);
    assert_eq!(arrive(&mut keeper, 11, 2, 2), [], "the round had begun before");
    let first = [answer(1, 1, Kept::Alive), KeeperEffect::Round(RoundId(2))];
    assert_eq!(round(&mut keeper, 1, true), first);
    assert_eq!(round(&mut keeper, 1, true), [], "a result counts once");
    assert_eq!(round(&mut keeper, 2, true), [answer(2, 2, Kept::Alive)]);
}

#[test]
fn a_round_that_is_not_confirmed_answers_nobody() {
    let mut keeper = serving(1);
    arrive(&mut keeper, 10, 1, 1);
    assert_eq!(round(&mut keeper, 1, false), [answer(1, 1, Kept::NotLeader)]);
    assert_eq!(timeout(&mut keeper, 1009), []);
    assert_eq!(timeout(&mut keeper, 1010), [KeeperEffect::Expire(vec![session(1)])]);
}

#[test]
fn silence_for_the_time_to_live_ends_a_session() {
    let mut keeper = serving(2);
    arrive(&mut keeper, 400, 1, 2);
    round(&mut keeper, 1, true);
    assert_eq!(keeper.deadline(), Some(at(420)), "it looks at the clock often");
    assert_eq!(timeout(&mut keeper, 999), []);
    assert_eq!(timeout(&mut keeper, 1000), [KeeperEffect::Expire(vec![session(1)])]);
    keeper.on_ended(session(1));
    assert_eq!(timeout(&mut keeper, 1399), []);
    assert_eq!(timeout(&mut keeper, 1400), [KeeperEffect::Expire(vec![session(2)])]);
}

#[test]
fn there_is_no_way_back_once_the_end_is_proposed() {
    let mut keeper = serving(1);
    arrive(&mut keeper, 100, 1, 1);
    assert_eq!(timeout(&mut keeper, 1100), [KeeperEffect::Expire(vec![session(1)])]);
    assert_eq!(round(&mut keeper, 1, true), [answer(1, 1, Kept::Ended)], "its round took too long");
    arrive(&mut keeper, 1101, 2, 1);
    assert_eq!(round(&mut keeper, 2, true), [answer(2, 1, Kept::Ended)]);
    assert_eq!(pass(&mut keeper, 1102), []);
    keeper.on_opened(at(1102), session(1), TTL);
    assert_eq!(timeout(&mut keeper, 2099), []);
    assert_eq!(timeout(&mut keeper, 2100), [KeeperEffect::Expire(vec![session(1)])], "proposed again");
}

#[test]
fn an_unknown_session_is_ended_if_a_quorum_confirms() {
    let mut keeper = serving(0);
    arrive(&mut keeper, 10, 1, 9);
    assert_eq!(round(&mut keeper, 1, false), [answer(1, 9, Kept::NotLeader)]);
    arrive(&mut keeper, 10, 2, 9);
    assert_eq!(round(&mut keeper, 2, true), [answer(2, 9, Kept::Ended)]);
}

#[test]
fn who_does_not_lead_forgets_all() {
    let mut keeper = Keeper::default();
    assert_eq!(arrive(&mut keeper, 10, 1, 1), [answer(1, 1, Kept::NotLeader)]);
    keeper.serve(at(20), [(session(1), TTL)]);
    arrive(&mut keeper, 30, 2, 1);
    arrive(&mut keeper, 31, 3, 1);
    let mut out = Vec::new();
    keeper.stop(&mut out);
    assert_eq!(out, [answer(2, 1, Kept::NotLeader), answer(3, 1, Kept::NotLeader)]);
    assert_eq!((keeper.deadline(), timeout(&mut keeper, 9999)), (None, Vec::new()));
    // Leader again: the round of before means nothing, and the time to live is whole.
    keeper.serve(at(500), [(session(1), TTL)]);
    assert_eq!(round(&mut keeper, 1, true), []);
    assert_eq!(arrive(&mut keeper, 501, 4, 1), [KeeperEffect::Round(RoundId(2))]);
    assert_eq!(timeout(&mut keeper, 1500), []);
    assert_eq!(timeout(&mut keeper, 1501), [KeeperEffect::Expire(vec![session(1)])]);
}

#[test]
fn time_in_which_nobody_could_be_heard_is_nobodys_silence() {
    let mut keeper = serving(1);
    assert_eq!(timeout(&mut keeper, 500), []);
    // Its process was paused for a minute, or its clock jumped: of that, 40 ms count.
    let mut out = Vec::new();
    keeper.on_timeout(at(60_500), &mut out);
    assert_eq!(out, []);
    assert_eq!(timeout(&mut keeper, 60_959), []);
    assert_eq!(timeout(&mut keeper, 60_960), [KeeperEffect::Expire(vec![session(1)])]);
}

#[test]
fn a_clock_that_goes_back_keeps_no_session_alive() {
    let mut keeper = Keeper::default();
    keeper.serve(at(60_000), [(session(1), TTL)]);
    assert_eq!(timeout(&mut keeper, 60_400), []);
    let mut out = Vec::new();
    keeper.on_timeout(at(10), &mut out);
    assert_eq!(out, []);
    assert_eq!(timeout(&mut keeper, 609), []);
    assert_eq!(timeout(&mut keeper, 610), [KeeperEffect::Expire(vec![session(1)])]);
}

#[test]
fn more_keep_alives_than_fit_are_refused() {
    let mut keeper = serving(1);
    arrive(&mut keeper, 0, 0, 1);
    for ticket in 1..=KEEP_ALIVES_MAX as u64 {
        assert_eq!(arrive(&mut keeper, 0, ticket, 1), []);
    }
    assert_eq!(arrive(&mut keeper, 0, 99_999, 1), [answer(99_999, 1, Kept::Busy)]);
}

#[test]
fn many_sessions_end_in_several_commands() {
    let mut keeper = serving(10_000);
    let expired: Vec<usize> = timeout(&mut keeper, 1000)
        .into_iter()
        .map(|effect| match effect {
            KeeperEffect::Expire(sessions) => sessions.len(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(expired, [EXPIRE_MAX, EXPIRE_MAX, 10_000 - 2 * EXPIRE_MAX]);
}
