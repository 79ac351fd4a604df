use proptest::collection::vec;
use proptest::prelude::*;

use super::model::{
    Election, ElectionCall, ElectionReturn, Lock, LockCall, LockReturn, Log, LogCall, LogReturn, Register,
    RegisterCall, RegisterReturn, Token,
};
use super::*;

/// An operation in a drawing: when it begins and ends, and what.
type Drawn<M> = (u64, u64, <M as Model>::Call, <M as Model>::Return);

/// Ends that never come.
const NEVER: u64 = u64::MAX;

/// A history of one key, each operation by a process of its own. Results of operations that end `NEVER` are ignored.
fn history<M: Model>(drawn: &[Drawn<M>]) -> History<u8, M::Call, M::Return> {
    let events = drawn.iter().zip(0..).flat_map(|((from, until, call, result), process)| {
        let begin = Event { process, time: *from, key: 0, what: Outcome::Invoke(call.clone()) };
        let end = Event { process, time: *until, key: 0, what: Outcome::Ok(result.clone()) };
        std::iter::once(begin).chain((*until != NEVER).then_some(end))
    });
    History::from_events(events.collect()).expect("well-formed")
}

fn linearizable<M: Model + Default>(drawn: &[Drawn<M>]) -> bool {
    check(&history::<M>(drawn), |_| M::default()).is_ok()
}

fn write(from: u64, until: u64, value: u64) -> Drawn<Register> {
    (from, until, RegisterCall::Write(value), RegisterReturn::Done)
}

fn read(from: u64, until: u64, value: u64) -> Drawn<Register> {
    let value = (value != 0).then_some(value);
    (from, until, RegisterCall::Read, RegisterReturn::Value(value))
}

fn swap(from: u64, until: u64, values: (u64, u64), set: bool) -> Drawn<Register> {
    (from, until, RegisterCall::CompareAndSet(Some(values.0), values.1), RegisterReturn::Set(set))
}

#[test]
fn reads_that_overlap_a_write_see_it_or_not_but_never_back_and_forth() {
    // Herlihy & Wing 1990, figure 2, with registers.
    assert!(linearizable::<Register>(&[write(0, 10, 1), read(2, 4, 0), read(5, 7, 1)]));
    assert!(!linearizable::<Register>(&[write(0, 10, 1), read(2, 4, 1), read(5, 7, 0)]));
    assert!(linearizable::<Register>(&[write(0, 10, 1), read(2, 6, 1), read(5, 7, 0)]), "the reads overlap");
    assert!(!linearizable::<Register>(&[write(0, 3, 1), read(5, 7, 0)]), "a stale read");
    assert!(!linearizable::<Register>(&[write(0, 3, 1), write(4, 6, 2), read(7, 9, 1)]), "a lost write");
}

#[test]
fn two_readers_agree_on_the_order_of_two_writers() {
    let writes = [write(0, 20, 1), write(0, 20, 2)];
    let agree = [read(1, 2, 1), read(3, 4, 2), read(5, 6, 2)];
    assert!(linearizable::<Register>(&[&writes[..], &agree].concat()));
    let disagree = [read(1, 2, 1), read(3, 4, 2), read(5, 6, 1)];
    assert!(!linearizable::<Register>(&[&writes[..], &disagree].concat()));
}

#[test]
fn compare_and_set_succeeds_for_one() {
    assert!(linearizable::<Register>(&[write(0, 1, 1), swap(2, 9, (1, 2), true), swap(2, 9, (1, 3), false)]));
    assert!(!linearizable::<Register>(&[write(0, 1, 1), swap(2, 9, (1, 2), true), swap(2, 9, (1, 3), true)]));
    assert!(!linearizable::<Register>(&[write(0, 1, 1), swap(2, 9, (1, 2), false)]), "nobody else was there");
}

#[test]
fn an_unknown_outcome_takes_effect_at_any_later_time_or_never() {
    let lost = write(0, NEVER, 1);
    for reads in [vec![], vec![read(5, 6, 0)], vec![read(5, 6, 1)], vec![read(5, 6, 0), read(90, 91, 1)]] {
        assert!(linearizable::<Register>(&[vec![lost], reads].concat()));
    }
    let undone = [lost, read(5, 6, 1), read(7, 8, 0)];
    assert!(!linearizable::<Register>(&undone), "but it is not undone");
    assert!(!linearizable::<Register>(&[read(1, 2, 7), write(3, NEVER, 7)]), "and not done before it began");
    let once = [lost, write(5, 6, 2), read(7, 8, 1), write(9, 10, 3), read(11, 12, 1)];
    assert!(!linearizable::<Register>(&once), "and not done twice");
}

#[test]
fn the_equal_instant_counts_as_overlap() {
    assert!(linearizable::<Register>(&[write(0, 5, 1), read(5, 7, 0)]));
    assert!(!linearizable::<Register>(&[write(0, 5, 1), read(6, 7, 0)]));
}

fn acquire(from: u64, until: u64, client: u64, token: u64) -> Drawn<Lock> {
    (from, until, LockCall::Acquire { client }, LockReturn::Granted(Token(0, token)))
}

fn release(from: u64, until: u64, client: u64, result: LockReturn) -> Drawn<Lock> {
    (from, until, LockCall::Release { client }, result)
}

#[test]
fn a_lock_has_one_holder_and_its_tokens_grow() {
    let first = [acquire(0, 1, 1, 5), release(10, 11, 1, LockReturn::Released)];
    let then = |drawn: Drawn<Lock>| linearizable::<Lock>(&[&first[..], &[drawn]].concat());
    assert!(then(acquire(2, 12, 2, 6)), "it waited");
    assert!(!then(acquire(2, 9, 2, 6)), "two holders");
    assert!(!then(acquire(2, 12, 2, 4)), "a token that is smaller");
    assert!(then((3, 4, LockCall::Acquire { client: 2 }, LockReturn::Busy)));
    assert!(!then((12, 13, LockCall::Acquire { client: 2 }, LockReturn::Busy)), "nobody has it");
    // A holder that died at 2 loses it some time later.
    let died = [acquire(0, 1, 1, 5), release(2, NEVER, 1, LockReturn::Released), acquire(4, 9, 2, 6)];
    assert!(linearizable::<Lock>(&died));
    // It cannot give back later what it lost.
    let late = [&died[..], &[release(20, 21, 1, LockReturn::Released)]].concat();
    assert!(!linearizable::<Lock>(&late));
    let late = [&died[..], &[release(20, 21, 1, LockReturn::NotHeld)]].concat();
    assert!(linearizable::<Lock>(&late));
}

#[test]
fn observers_of_an_election_agree() {
    let campaign = |from, until, candidate, token| {
        (from, until, ElectionCall::Campaign { candidate }, ElectionReturn::Elected(Token(0, token)))
    };
    let observe = |from, until, leader: Option<(u64, u64)>| {
        let leader = leader.map(|(candidate, token)| (candidate, Token(0, token)));
        (from, until, ElectionCall::Observe, ElectionReturn::Leader(leader))
    };
    let end = |from, until, candidate| (from, until, ElectionCall::End { candidate }, ElectionReturn::Done);
    let first = [campaign(0, 2, 1, 5), end(6, 8, 1), campaign(3, 9, 2, 8)];
    let with = |drawn: Drawn<Election>| linearizable::<Election>(&[&first[..], &[drawn]].concat());
    assert!(
        with(observe(4, 5, Some((1, 5)))) && with(observe(6, 7, None)) && with(observe(7, 8, Some((2, 8))))
    );
    assert!(!with(observe(4, 5, Some((2, 8)))), "not elected yet");
    assert!(!with(observe(10, 11, Some((1, 5)))), "the old leader");
    assert!(!with(observe(10, 11, Some((2, 9)))), "another token");
    // One whose candidate never heard of its election may lead all the same.
    let unheard = [campaign(0, NEVER, 3, 0), observe(4, 5, Some((3, 4))), observe(6, 7, Some((3, 4)))];
    assert!(linearizable::<Election>(&unheard));
    let changes = [campaign(0, NEVER, 3, 0), observe(4, 5, Some((3, 4))), observe(6, 7, Some((3, 5)))];
    assert!(!linearizable::<Election>(&changes), "but its token stays");
}

#[test]
fn a_log_appends_once_and_forgets_nothing() {
    let append = |from, until, value, at| (from, until, LogCall::Append(value), LogReturn::At(at));
    let read = |at, from, values: &[u64], end| {
        (at, at + 1, LogCall::Read { from }, LogReturn::Entries { values: values.to_vec(), end })
    };
    let both = [append(0, 5, 7, 0), append(2, 8, 9, 1)];
    let with = |drawn: Drawn<Log>| linearizable::<Log>(&[&both[..], &[drawn]].concat());
    assert!(
        with(read(10, 0, &[7, 9], true)) && with(read(10, 1, &[9], true)) && with(read(10, 0, &[7], false))
    );
    assert!(with(read(10, 2, &[], true)) && with((10, 11, LogCall::End, LogReturn::End(2))));
    assert!(!with(read(10, 0, &[7], true)), "an entry is missing");
    assert!(!with(read(10, 0, &[9, 7], true)), "the wrong order");
    assert!(!with(append(10, 11, 3, 1)), "an offset is used once");
    let lost = [append(0, NEVER, 7, 0), append(10, 12, 9, 1), read(13, 0, &[7, 9], true)];
    assert!(linearizable::<Log>(&lost), "an append whose answer was lost");
    let twice = [append(0, NEVER, 7, 0), append(10, 12, 9, 1), read(13, 0, &[7, 9, 7], true)];
    assert!(!linearizable::<Log>(&twice), "it is not appended again");
}

#[test]
fn a_failure_says_where_and_how_far() {
    let drawn = [write(0, 1, 1), write(2, 3, 2), read(4, 6, 1), read(5, NEVER, 0), write(8, 9, 3)];
    let failure = check(&history::<Register>(&drawn), |_| Register).unwrap_err();
    let stuck = &failure.stuck;
    assert_eq!((stuck.done, stuck.state, stuck.undecided), (2, Some(2), false), "{failure}");
    let text = failure.to_string();
    assert!(text.contains("an order of 2 of 5 operations is the longest"), "{text}");
    assert!(text.contains("▶ process 2 at 4: Read → Value(Some(1)) at 6"), "{text}");
    assert!(!text.contains("Write(3)"), "what began later is of no use: {text}");
}

#[test]
fn records_of_processes_that_were_killed_are_read() {
    let mut file = Vec::new();
    let mut first = Recorder::new(1, &mut file);
    first.record(5, "k".to_owned(), Outcome::Invoke(RegisterCall::Write(3))).unwrap();
    first.record(9, "k".to_owned(), Outcome::Ok(RegisterReturn::Done)).unwrap();
    let mut second = Recorder::new(2, &mut file);
    second.record(6, "k".to_owned(), Outcome::Invoke(RegisterCall::CompareAndSet(Some(3), 4))).unwrap();
    second.record(7, "k".to_owned(), Outcome::<_, RegisterReturn>::Unknown).unwrap();
    second.record(8, "k".to_owned(), Outcome::<_, RegisterReturn>::Invoke(RegisterCall::Read)).unwrap();
    file.extend_from_slice(b"{\"process\":2,\"ti");
    let events = Event::<String, RegisterCall, RegisterReturn>::read_lines(file.as_slice()).unwrap();
    assert_eq!(events.len(), 5);
    let checked = check(&History::from_events(events).unwrap(), |_| Register).unwrap();
    assert_eq!((checked.keys, checked.operations, checked.unknown), (1, 3, 2));
    file.push(b'\n');
    let refused = Event::<String, RegisterCall, RegisterReturn>::read_lines(file.as_slice());
    assert!(matches!(refused, Err(HistoryError::Line { line: 6, .. })), "{refused:?}");
}

#[test]
fn events_that_do_not_pair_are_refused() {
    let event = |process, time, what| Event { process, time, key: 0, what };
    let begin = |time| event(1, time, Outcome::Invoke(RegisterCall::Read));
    let refused =
        History::from_events(vec![begin(1), begin(2), event(1, 3, Outcome::Ok(RegisterReturn::Done))]);
    assert!(matches!(refused, Err(HistoryError::Busy { process: 1, time: 2 })), "{refused:?}");
    let refused = History::from_events(vec![event(1, 3, Outcome::<RegisterCall, RegisterReturn>::Fail)]);
    assert!(matches!(refused, Err(HistoryError::NotBegun { process: 1, time: 3 })), "{refused:?}");
    let failed =
        History::from_events(vec![begin(1), event(1, 3, Outcome::<_, RegisterReturn>::Fail)]).unwrap();
    assert_eq!(failed.keys().count(), 0, "what did not happen is left out");
}

#[test]
fn leases_that_overlap_or_go_back_are_found() {
    let interval = |node: &str, token, from, until| Interval {
        key: "e".into(),
        node: node.into(),
        token: Token(0, token),
        from,
        until,
    };
    let good = vec![interval("a", 1, 0, 10), interval("a", 1, 5, 20), interval("b", 2, 21, 30)];
    assert_eq!(overlaps(good.clone()), []);
    let elsewhere = Interval { key: "f".into(), ..interval("c", 1, 0, 99) };
    assert_eq!(overlaps([good, vec![elsewhere]].concat()), [], "another key");
    let (long, inside, after) = (interval("a", 1, 0, 50), interval("a", 1, 5, 9), interval("b", 2, 30, 60));
    assert_eq!(overlaps(vec![after.clone(), inside, long.clone()]), [Overlap::Both(long, after)]);
    let (first, back) = (interval("a", 2, 0, 10), interval("b", 2, 20, 30));
    assert_eq!(overlaps(vec![back.clone(), first.clone()]), [Overlap::Token(first, back)]);
}

/// What a real register does in `order`, each operation somewhere around the instant at which it takes effect.
#[derive(Clone, Debug)]
struct Step {
    call: RegisterCall,
    before: u64,
    after: u64,
    /// 0: nobody hears of it; 1: and it does not happen either.
    fate: u8,
}

fn step() -> impl Strategy<Value = Step> {
    let call = prop_oneof![
        Just(RegisterCall::Read),
        (1..4u64).prop_map(RegisterCall::Write),
        (1..4u64, 1..4u64).prop_map(|(from, to)| RegisterCall::CompareAndSet(Some(from), to)),
    ];
    (call, 0..40u64, 0..40u64, 0..16u8).prop_map(|(call, before, after, fate)| Step {
        call,
        before,
        after,
        fate,
    })
}

fn happen(steps: &[Step]) -> Vec<Drawn<Register>> {
    let mut state = None;
    let mut drawn = Vec::new();
    for (step, at) in steps.iter().zip(1u64..) {
        let at = at * 10 + 40;
        let result = match step.call {
            RegisterCall::Read => RegisterReturn::Value(state),
            RegisterCall::Write(_) => RegisterReturn::Done,
            RegisterCall::CompareAndSet(from, _) => RegisterReturn::Set(from == state),
        };
        if step.fate != 1 {
            match step.call {
                RegisterCall::Write(value) => state = Some(value),
                RegisterCall::CompareAndSet(from, to) if from == state => state = Some(to),
                RegisterCall::Read | RegisterCall::CompareAndSet(..) => {}
            }
        }
        let until = if step.fate < 2 { NEVER } else { at + step.after };
        drawn.push((at - step.before, until, step.call, result));
    }
    drawn
}

/// All orders, one by one.
fn by_force(drawn: &[Drawn<Register>], state: Option<u64>) -> bool {
    if drawn.iter().all(|operation| operation.1 == NEVER) {
        return true;
    }
    (0..drawn.len()).any(|next| {
        let (from, until, call, result) = &drawn[next];
        let first = drawn.iter().all(|other| other.1 >= *from);
        let result = (*until != NEVER).then_some(result);
        let after = Register.step(&state, call, result).filter(|_| first);
        after.is_some_and(|state| {
            let mut rest = drawn.to_vec();
            rest.remove(next);
            by_force(&rest, state)
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_real_register_did_is_linearizable(steps in vec(step(), 0..150)) {
        let checked = check(&history::<Register>(&happen(&steps)), |_| Register);
        prop_assert!(checked.is_ok(), "{:?}", checked.unwrap_err());
    }

    #[test]
    fn a_value_that_nobody_wrote_is_found(steps in vec(step(), 1..60), at: prop::sample::Index) {
        let mut drawn = happen(&steps);
        let reads: Vec<usize> =
            (0..drawn.len()).filter(|at| drawn[*at].1 != NEVER && drawn[*at].2 == RegisterCall::Read).collect();
        prop_assume!(!reads.is_empty());
        drawn[reads[at.index(reads.len())]].3 = RegisterReturn::Value(Some(99));
        prop_assert!(!linearizable::<Register>(&drawn));
    }

    #[test]
    fn it_agrees_with_trying_all_orders(steps in vec(step(), 0..7), flip: Option<prop::sample::Index>, value in 0..4u64) {
        let mut drawn = happen(&steps);
        if let Some(flip) = flip.filter(|_| !drawn.is_empty()) {
            let at = flip.index(drawn.len());
            drawn[at].3 = match &drawn[at].3 {
                RegisterReturn::Value(_) => RegisterReturn::Value((value != 0).then_some(value)),
                RegisterReturn::Set(set) => RegisterReturn::Set(!set),
                RegisterReturn::Done => RegisterReturn::Done,
            };
        }
        prop_assert_eq!(linearizable::<Register>(&drawn), by_force(&drawn, None));
    }

    /// Appends by several processes, some of which never hear of theirs, and readers.
    #[test]
    fn what_a_real_log_did_is_linearizable(steps in vec((0..3u8, 0..40u64, 0..40u64, 0..16u8), 0..100)) {
        let mut entries: Vec<u64> = Vec::new();
        let mut drawn: Vec<Drawn<Log>> = Vec::new();
        for ((what, before, after, fate), number) in steps.into_iter().zip(1u64..) {
            let at = number * 10 + 40;
            let until = if fate == 0 { NEVER } else { at + after };
            let end = entries.len() as u64;
            let (call, result) = match what {
                0 => (LogCall::Append(number), LogReturn::At(end)),
                1 => (LogCall::End, LogReturn::End(end)),
                _ => {
                    let from = end.saturating_sub(before);
                    let values = entries[from as usize..].to_vec();
                    (LogCall::Read { from }, LogReturn::Entries { values, end: true })
                }
            };
            if what == 0 {
                entries.push(number);
            }
            drawn.push((at - before, until, call, result));
        }
        prop_assert!(linearizable::<Log>(&drawn));
        // An offset that no log of so few entries has, and it is found.
        let known = |operation: &&mut Drawn<Log>| operation.1 != NEVER && matches!(operation.2, LogCall::Append(_));
        if let Some(operation) = drawn.iter_mut().rfind(known) {
            operation.3 = LogReturn::At(1_000);
            prop_assert!(!linearizable::<Log>(&drawn));
        }
    }
}
