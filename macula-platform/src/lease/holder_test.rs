use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::objects::{Epoch, LogIndex};

const TTL: Duration = Duration::from_millis(900);
/// 900 ms less a tenth, less 10 ms.
const SPAN: u64 = 800;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_start(Duration::from_millis(millis))
}

fn session() -> SessionId {
    SessionId::new(Epoch(0), LogIndex(5))
}

/// A holder whose session was opened by a request sent at 1000.
fn holder() -> Holder {
    Holder::new(HolderConfig::default(), session(), TTL, at(1000), at(1000))
}

fn timeout(holder: &mut Holder, now: u64) -> Vec<HolderEffect> {
    let mut out = Vec::new();
    holder.on_timeout(at(now), &mut out);
    out
}

fn answer(holder: &mut Holder, now: u64, number: u64, outcome: Kept) -> Vec<HolderEffect> {
    let mut out = Vec::new();
    let to = KeepAlive { session: session(), number };
    holder.on_answer(at(now), KeptAlive { to, outcome }, &mut out);
    out
}

fn send(number: u64) -> HolderEffect {
    HolderEffect::Send(KeepAlive { session: session(), number })
}

fn until(effects: &[HolderEffect]) -> Option<Timestamp> {
    match effects {
        [HolderEffect::Lease(lease)] => Some(lease.until()),
        _ => None,
    }
}

#[test]
fn it_counts_from_the_send_and_not_from_the_answer() {
    let mut holder = holder();
    assert!(holder.valid(at(1000 + SPAN - 1)) && !holder.valid(at(1000 + SPAN)));
    assert_eq!(holder.deadline(), Some(at(1300)));
    assert_eq!(timeout(&mut holder, 1300), [send(1)]);
    assert_eq!(until(&answer(&mut holder, 1750, 1, Kept::Alive)), Some(at(1300 + SPAN)));
    assert_eq!(answer(&mut holder, 1760, 1, Kept::Alive), [], "an answer counts once");
    assert_eq!(timeout(&mut holder, 1800), [send(2)]);
}

#[test]
fn answers_may_come_late_and_out_of_order() {
    let mut holder = holder();
    assert_eq!(timeout(&mut holder, 1300), [send(1)]);
    assert_eq!(timeout(&mut holder, 1399), []);
    assert_eq!(timeout(&mut holder, 1400), [send(2)], "again after a ninth");
    assert_eq!(until(&answer(&mut holder, 1450, 2, Kept::Alive)), Some(at(1400 + SPAN)));
    assert_eq!(answer(&mut holder, 1460, 1, Kept::Alive), [], "the older one adds nothing");
    assert_eq!(answer(&mut holder, 1470, 3, Kept::Ended), [], "nothing of that number was sent");
    let other = KeepAlive { session: SessionId::default(), number: 2 };
    let mut out = Vec::new();
    holder.on_answer(at(1480), KeptAlive { to: other, outcome: Kept::Ended }, &mut out);
    assert_eq!(out, [], "another session");
}

#[test]
fn without_answers_the_lease_lapses_and_then_is_lost() {
    let mut holder = holder();
    let mut effects = Vec::new();
    while let Some(next) = holder.deadline() {
        let mut out = Vec::new();
        holder.on_timeout(next, &mut out);
        effects.extend(out.into_iter().map(|effect| (next, effect)));
    }
    let first =
        |wanted: HolderEffect| effects.iter().find(|(_, effect)| *effect == wanted).map(|(now, _)| *now);
    assert_eq!(first(HolderEffect::Lapsed), Some(at(1000 + SPAN)));
    assert_eq!(first(HolderEffect::Lost(Loss::Unanswered)), Some(at(1000 + SPAN + 900)));
    assert!(holder.is_lost() && !holder.valid(at(1001)));
    assert_eq!(answer(&mut holder, 3000, 1, Kept::Alive), []);
}

#[test]
fn an_answer_renews_a_lease_that_has_lapsed() {
    let mut holder = holder();
    timeout(&mut holder, 1750);
    assert_eq!(timeout(&mut holder, 1800), [HolderEffect::Lapsed]);
    assert!(!holder.valid(at(1801)));
    assert_eq!(until(&answer(&mut holder, 1810, 1, Kept::Alive)), Some(at(1750 + SPAN)));
    assert!(holder.valid(at(1811)));
}

#[test]
fn the_leader_may_say_that_it_is_over() {
    let mut holder = holder();
    timeout(&mut holder, 1300);
    let lost = answer(&mut holder, 1310, 1, Kept::Ended);
    assert_eq!(lost.last(), Some(&HolderEffect::Lost(Loss::Ended)));
    assert_eq!((holder.valid(at(1311)), holder.deadline()), (false, None));
}

#[test]
fn another_node_is_asked_soon_if_one_does_not_lead() {
    let mut holder = holder();
    timeout(&mut holder, 1300);
    assert_eq!(answer(&mut holder, 1301, 1, Kept::NotLeader), []);
    assert_eq!(timeout(&mut holder, 1400), [send(2)]);
}

#[test]
fn a_clock_that_goes_back_voids_the_lease_until_it_is_renewed() {
    let mut holder = holder();
    timeout(&mut holder, 1300);
    let back = timeout(&mut holder, 1200);
    assert_eq!(back[1..], [HolderEffect::Lapsed, send(2)], "{back:?}");
    assert!(!holder.valid(at(1200)) && !holder.valid(at(1400)));
    assert_eq!(answer(&mut holder, 1210, 1, Kept::Alive), [], "sent on the clock as it was before");
    assert_eq!(until(&answer(&mut holder, 1220, 2, Kept::Alive)), Some(at(1200 + SPAN)));
    assert!(holder.valid(at(1230)));
}

#[test]
fn a_clock_that_went_back_while_the_session_was_opened_tells_nothing() {
    let mut holder = Holder::new(HolderConfig::default(), session(), TTL, at(1000), at(999));
    assert!((0..2000).all(|now| !holder.valid(at(now))));
    assert_eq!(timeout(&mut holder, 999), [HolderEffect::Lapsed, send(1)]);
    assert_eq!(until(&answer(&mut holder, 1010, 1, Kept::Alive)), Some(at(999 + SPAN)));
}

#[test]
fn a_clock_that_jumps_ahead_ends_the_lease() {
    let mut holder = holder();
    assert_eq!(timeout(&mut holder, 1900), [HolderEffect::Lapsed, send(1)]);
    assert_eq!(timeout(&mut holder, 99_000).last(), Some(&HolderEffect::Lost(Loss::Unanswered)));
}

proptest! {
    /// Whatever comes whenever: it is never valid longer than the last keep-alive that was answered allows.
    #[test]
    fn it_is_never_valid_beyond_what_was_answered(steps in vec((0..400u64, 0..30u64, 0..3u8), 0..60)) {
        let mut holder = holder();
        let (mut now, mut sent, mut best) = (1000, vec![(0, 1000)], 1000);
        for (advance, number, what) in steps {
            now += advance;
            let mut out = Vec::new();
            match what {
                0 => holder.on_timeout(at(now), &mut out),
                what => {
                    let outcome = if what == 1 { Kept::Alive } else { Kept::NotLeader };
                    let to = KeepAlive { session: session(), number };
                    holder.on_answer(at(now), KeptAlive { to, outcome }, &mut out);
                    let answered = sent.iter().find(|(known, _)| *known == number && what == 1);
                    best = answered.map_or(best, |(_, at)| best.max(*at));
                }
            }
            for effect in out {
                if let HolderEffect::Send(keep_alive) = effect {
                    sent.push((keep_alive.number, now));
                }
            }
            prop_assert!(holder.lease().until() <= at(best + SPAN));
            prop_assert!(!holder.valid(at(best + SPAN)));
        }
    }
}
