//! Whether what the nodes did is what one copy of everything would have done.

use std::collections::{BTreeMap, BTreeSet};

use macula_platform::checker::model::{Log, LogCall, LogReturn, Model, Token};
use macula_platform::checker::{Checked as Counted, Event, History, Outcome, check};

use crate::model::{LockCall, LockReturn, Reign, ReignCall, ReignReturn, SharedLock};
use crate::record::{Line, Relied};
use crate::resource::Visit;

/// What was looked at, and what is wrong with it.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub(crate) log: Counted,
    pub(crate) lock: Counted,
    pub(crate) reign: Counted,
    /// Spans in which a node relied on a token.
    pub(crate) leases: usize,
    pub(crate) leader_changes: usize,
    pub(crate) visits: usize,
    pub(crate) refused: usize,
    pub(crate) tailed: usize,
    pub(crate) problems: Vec<String>,
}

/// A node relied on a token for this span at least, in nanoseconds.
#[derive(Clone, Debug)]
struct Lease {
    key: String,
    node: u64,
    token: Token,
    shared: bool,
    from: u64,
    until: u64,
}

type Events<C, R> = Vec<Event<String, C, R>>;

/// Checks records and visits.
pub(crate) fn all(lines: Vec<Line>, visits: &[Visit]) -> Checked {
    let (mut logs, mut locks, mut reigns) = (Vec::new(), Vec::new(), Vec::new());
    let (mut relied, mut tailed, mut leaders) = (Vec::new(), Vec::new(), BTreeSet::new());
    for line in lines {
        match line {
            Line::Log(event) => logs.push(event),
            Line::Lock(event) => locks.push(event),
            Line::Reign(event) => reigns.push(event),
            Line::Relied(one) => relied.push(one),
            Line::Tailed { key, offset, value } => tailed.push((key, offset, value)),
            Line::Leads { term, leader } => drop(leaders.insert((term, leader))),
        }
    }
    let mut checked = Checked { tailed: tailed.len(), visits: visits.len(), ..Checked::default() };
    checked.refused = visits.iter().filter(|visit| !visit.let_in).count();
    checked.leader_changes = leaders.len().saturating_sub(1);
    checked.problems.extend(two_leaders(&leaders));
    let leases = leases(relied);
    checked.leases = leases.len();
    checked.problems.extend(overlaps(&leases));
    checked.problems.extend(visits_in_order(visits));
    logs.sort_by_key(|event| event.time);
    let unknown = unanswered(&logs);
    let known = checked.problems.len();
    let entries = entries(&logs, &tailed, &mut checked.problems);
    let logs_agree = checked.problems.len() == known;
    let logs = resolve(logs, &entries);
    checked.problems.extend(observed_beside(&reigns, &leases));
    locks.extend(lost(&locks));
    // Where logs disagree already, a search for an order of what was done to them takes long and says no more.
    checked.log = match logs_agree {
        true => linearizable("log", logs, Log::default, &mut checked.problems),
        false => Counted { operations: logs.len() / 2, ..Counted::default() },
    };
    checked.log.unknown += unknown;
    checked.lock = linearizable("lock", locks, || SharedLock, &mut checked.problems);
    checked.reign = linearizable("election", reigns, || Reign, &mut checked.problems);
    checked
}

fn linearizable<M: Model>(
    what: &str,
    events: Events<M::Call, M::Return>,
    model: impl Fn() -> M,
    problems: &mut Vec<String>,
) -> Counted {
    let (mut invoked, mut unknown) = (0, 0);
    for event in &events {
        invoked += usize::from(matches!(event.what, Outcome::Invoke(_)));
        unknown += usize::from(matches!(event.what, Outcome::Unknown));
    }
    let history = match History::from_events(events) {
        Ok(history) => history,
        Err(cause) => {
            problems.push(format!("{what}: the records are no history: {cause}"));
            return Counted::default();
        }
    };
    match check(&history, |_| model()) {
        Ok(counted) => counted,
        Err(failure) => {
            problems.push(format!("{what}: {}", shortened(&failure.to_string())));
            Counted { operations: invoked, unknown, ..Counted::default() }
        }
    }
}

/// A failure shows whole pages of logs; the beginning of each of its lines says enough.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 300;
    text.lines().map(|line| line.chars().take(CHARS_MAX).collect()).collect::<Vec<String>>().join("\n")
}

/// Operations without an answer.
fn unanswered<C, R>(events: &[Event<String, C, R>]) -> usize {
    let invoked = events.iter().filter(|event| matches!(event.what, Outcome::Invoke(_))).count();
    invoked - events.iter().filter(|event| matches!(event.what, Outcome::Ok(_))).count()
}

/// A term has one leader.
fn two_leaders(leaders: &BTreeSet<(u64, String)>) -> Vec<String> {
    let neighbours = leaders.iter().zip(leaders.iter().skip(1));
    let same = neighbours.filter(|(one, other)| one.0 == other.0);
    same.map(|(one, other)| format!("in term {} both {} and {} lead the group", one.0, one.1, other.1))
        .collect()
}

/// A grant of which no record says that it was given back may have been lost at any time since: a release whose outcome is not
/// known.
fn lost(events: &[Event<String, LockCall, LockReturn>]) -> Events<LockCall, LockReturn> {
    /// Processes that none of the nodes has.
    const OTHERS: u64 = 1 << 60;
    let of = |event: &Event<String, LockCall, LockReturn>, released: bool| match &event.what {
        Outcome::Invoke(LockCall::Release { client }) if released => Some(*client),
        Outcome::Invoke(LockCall::Acquire { client, .. }) if !released => Some(*client),
        _ => None,
    };
    let released: BTreeSet<u64> = events.iter().filter_map(|event| of(event, true)).collect();
    let acquired = events.iter().filter_map(|event| Some((of(event, false)?, event)));
    let lost = acquired.filter(|(client, _)| !released.contains(client));
    let release = |(number, (client, event)): (u64, (u64, &Event<String, LockCall, LockReturn>))| Event {
        process: OTHERS + number,
        time: event.time,
        key: event.key.clone(),
        what: Outcome::Invoke(LockCall::Release { client }),
    };
    (0..).zip(lost).map(release).collect()
}

/// For each token the span from the first to the last instant at which its bearer saw that it may rely on it. Between the two
/// nobody else may, whether the bearer looked or not: a token that is over does not come back.
fn leases(relied: Vec<Relied>) -> Vec<Lease> {
    let mut spans: BTreeMap<(String, u64, Token, bool), (u64, u64)> = BTreeMap::new();
    for Relied { key, node, token, shared, after, before } in relied {
        let (from, until) = spans.entry((key, node, token, shared)).or_insert((u64::MAX, 0));
        (*from, *until) = (before.min(*from), after.max(*until));
    }
    // Who looked once only says nothing of a span.
    let spans = spans.into_iter().filter(|(_, (from, until))| from <= until);
    let lease = |((key, node, token, shared), (from, until))| Lease { key, node, token, shared, from, until };
    spans.map(lease).collect()
}

/// Spans that overlap although one bearer should be alone, and tokens that do not grow.
fn overlaps(leases: &[Lease]) -> Vec<String> {
    let mut by_key: BTreeMap<&str, Vec<&Lease>> = BTreeMap::new();
    for lease in leases {
        by_key.entry(&lease.key).or_default().push(lease);
    }
    let mut found = Vec::new();
    for leases in by_key.values_mut() {
        leases.sort_by_key(|lease| (lease.from, lease.until));
        // Of those that began before, the one that lasts longest, among all and among those who were alone.
        let (mut longest, mut alone): (Option<&Lease>, Option<&Lease>) = (None, None);
        for lease in leases.iter().copied() {
            let before = if lease.shared { alone } else { longest };
            if let Some(before) = before.filter(|before| before.until >= lease.from) {
                found.push(format!("two at once: {before:?} and {lease:?}"));
            }
            let grows = |before: &&Lease| lease.token > before.token || (lease.shared && before.shared);
            if let Some(before) = longest.filter(|before| !grows(before) && before.until < lease.from) {
                found.push(format!("the token does not grow: {before:?}, and then {lease:?}"));
            }
            let later = |one: Option<&'_ Lease>| one.is_none_or(|one| one.until < lease.until);
            if later(longest) {
                longest = Some(lease);
            }
            if !lease.shared && later(alone) {
                alone = Some(lease);
            }
        }
    }
    found
}

/// Nobody was let in with a token that is older than one that was there before.
fn visits_in_order(visits: &[Visit]) -> Vec<String> {
    let mut seen: BTreeMap<_, (Token, Token)> = BTreeMap::new();
    let mut found = Vec::new();
    for visit in visits.iter().filter(|visit| visit.let_in) {
        let (alone, any) = seen.entry(&visit.name).or_default();
        let token = Token::from(visit.token);
        if token < if visit.shared { *alone } else { *any } {
            found.push(format!("the resource let in an old token: {visit:?}, after {any:?}"));
        }
        *any = token.max(*any);
        if !visit.shared {
            *alone = token.max(*alone);
        }
    }
    found
}

type Entries = BTreeMap<(String, u64), u64>;

/// What is where in the logs, as writers, readers and tails were told. Each entry that was acknowledged is where it was said to
/// be, and once.
fn entries(
    events: &[Event<String, LogCall, LogReturn>],
    tailed: &[(String, u64, u64)],
    problems: &mut Vec<String>,
) -> Entries {
    let mut entries = Entries::new();
    let mut note = |key: &str, offset: u64, value: u64, who: &str| {
        let known = *entries.entry((key.to_owned(), offset)).or_insert(value);
        if known != value {
            problems.push(format!("log {key:?}: at offset {offset} is {known}, and {value} for {who}"));
        }
    };
    let mut calls: BTreeMap<u64, &LogCall> = BTreeMap::new();
    for event in events {
        match &event.what {
            Outcome::Invoke(call) => drop(calls.insert(event.process, call)),
            Outcome::Ok(result) => match (calls.get(&event.process), result) {
                (Some(LogCall::Append(value)), LogReturn::At(offset)) => {
                    note(&event.key, *offset, *value, "its writer");
                }
                (Some(LogCall::Read { from }), LogReturn::Entries { values, .. }) => {
                    (*from..).zip(values).for_each(|(at, value)| note(&event.key, at, *value, "a reader"));
                }
                _ => {}
            },
            Outcome::Fail | Outcome::Unknown => {}
        }
    }
    tailed.iter().for_each(|(key, offset, value)| note(key, *offset, *value, "a tail"));
    let mut values = BTreeSet::new();
    for ((key, offset), value) in &entries {
        if !values.insert((key, value)) {
            problems.push(format!("log {key:?}: {value} is there twice, the second time at offset {offset}"));
        }
    }
    entries
}

/// Finds out what became of operations whose outcome their processes did not hear. Each value is appended once, and at the end
/// all logs were read: an append that anybody saw took effect at some time, and one that nobody saw did not. Reads without an
/// answer say nothing. Without this the search would have to try all of them everywhere.
fn resolve(events: Events<LogCall, LogReturn>, entries: &Entries) -> Events<LogCall, LogReturn> {
    /// Processes that none of the nodes has.
    const OTHERS: u64 = 1 << 61;
    let offsets: BTreeMap<(&str, u64), u64> =
        entries.iter().map(|((key, offset), value)| ((key.as_str(), *value), *offset)).collect();
    let end = events.iter().map(|event| event.time).max().unwrap_or(0) + 1;
    let mut open: BTreeMap<u64, Event<String, LogCall, LogReturn>> = BTreeMap::new();
    let (mut resolved, mut unheard) = (Vec::new(), Vec::new());
    for event in events {
        match &event.what {
            Outcome::Invoke(_) => unheard.extend(open.insert(event.process, event)),
            Outcome::Ok(_) => {
                resolved.extend(open.remove(&event.process));
                resolved.push(event);
            }
            Outcome::Fail => drop(open.remove(&event.process)),
            Outcome::Unknown => unheard.extend(open.remove(&event.process)),
        }
    }
    unheard.extend(open.into_values());
    for (process, invoked) in (OTHERS..).zip(unheard) {
        let Outcome::Invoke(LogCall::Append(value)) = invoked.what else { continue };
        let Some(offset) = offsets.get(&(invoked.key.as_str(), value)) else { continue };
        let what = Outcome::Ok(LogReturn::At(*offset));
        resolved.push(Event { process, time: end, key: invoked.key.clone(), what });
        resolved.push(Event { process, ..invoked });
    }
    resolved
}

/// Who asks the group while a node relies on its leadership is told of that node, and of no other.
fn observed_beside(events: &[Event<String, ReignCall, ReignReturn>], leases: &[Lease]) -> Vec<String> {
    let Ok(history) = History::from_events(events.to_vec()) else { return Vec::new() };
    let mut found = Vec::new();
    for (key, operations) in history.keys() {
        let of = format!("election {key}");
        let mut leases: Vec<_> = leases.iter().filter(|lease| lease.key == of).collect();
        leases.sort_by_key(|lease| lease.from);
        for operation in operations {
            let Some(returned) = &operation.returned else { continue };
            let last = leases.partition_point(|lease| lease.from <= operation.invoked);
            let Some(lease) = last.checked_sub(1).map(|at| leases[at]) else { continue };
            let ReignReturn::Leader(told) = returned.value;
            if lease.until >= returned.time && told != Some((lease.node, lease.token)) {
                found.push(format!("while {lease:?}, the group said that {told:?} leads: {operation:?}"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(process: u64, time: u64, what: Outcome<LogCall, LogReturn>) -> Line {
        Line::Log(Event { process, time, key: "orders".into(), what })
    }

    fn appended(process: u64, from: u64, until: u64, value: u64, offset: Option<u64>) -> [Line; 2] {
        let end = offset.map_or(Outcome::Unknown, |offset| Outcome::Ok(LogReturn::At(offset)));
        [log(process, from, Outcome::Invoke(LogCall::Append(value))), log(process, until, end)]
    }

    fn read(process: u64, from: u64, until: u64, values: &[u64]) -> [Line; 2] {
        let entries = LogReturn::Entries { values: values.to_vec(), end: true };
        [
            log(process, from, Outcome::Invoke(LogCall::Read { from: 0 })),
            log(process, until, Outcome::Ok(entries)),
        ]
    }

    fn problems(lines: &[&[Line]]) -> Vec<String> {
        all(lines.concat(), &[]).problems
    }

    #[test]
    fn what_was_acknowledged_is_there_and_what_was_not_may_be() {
        let acknowledged = appended(1, 10, 20, 7, Some(0));
        let unheard = appended(2, 12, 30, 8, None);
        for seen in [&[7][..], &[7, 8]] {
            let problems = problems(&[&acknowledged, &unheard, &read(3, 40, 50, seen)]);
            assert!(problems.is_empty(), "{problems:?}");
        }
        assert!(!problems(&[&acknowledged, &unheard, &read(3, 40, 50, &[8])]).is_empty(), "7 is lost");
        assert!(!problems(&[&acknowledged, &unheard, &read(3, 40, 50, &[])]).is_empty(), "7 is lost");
        assert!(
            !problems(&[&acknowledged, &unheard, &read(3, 40, 50, &[7, 8, 8])]).is_empty(),
            "8 is there twice"
        );
    }

    #[test]
    fn what_was_read_once_is_read_later() {
        let unheard = appended(2, 12, 30, 8, None);
        let seen = read(3, 40, 50, &[8]);
        assert!(problems(&[&unheard, &seen, &read(4, 60, 70, &[8])]).is_empty());
        assert!(!problems(&[&unheard, &seen, &read(4, 60, 70, &[])]).is_empty());
    }

    fn relied(node: u64, token: u64, shared: bool, span: (u64, u64)) -> [Line; 2] {
        let relied = |at| {
            let (key, token) = ("lock x".into(), Token(0, token));
            Line::Relied(Relied { key, node, token, shared, after: at, before: at })
        };
        [relied(span.0), relied(span.1)]
    }

    #[test]
    fn who_relies_on_something_alone_is_alone() {
        let alone = relied(1, 5, false, (10, 20));
        assert!(problems(&[&alone, &relied(2, 6, false, (21, 30))]).is_empty());
        assert!(!problems(&[&alone, &relied(2, 6, false, (19, 30))]).is_empty());
        assert!(!problems(&[&alone, &relied(2, 6, true, (19, 30))]).is_empty());
        assert!(!problems(&[&alone, &relied(2, 4, false, (21, 30))]).is_empty(), "an older token");
        assert!(problems(&[&relied(1, 5, true, (10, 20)), &relied(2, 5, true, (12, 30))]).is_empty());
    }

    #[test]
    fn the_resource_lets_nobody_in_whose_token_is_old() {
        let visit = |token: &str, shared, let_in| Visit {
            name: "x".parse().unwrap(),
            token: token.parse().unwrap(),
            shared,
            let_in,
        };
        let visits = |last| [visit("0.5", false, true), visit("0.9", false, true), last];
        assert!(!all(Vec::new(), &visits(visit("0.5", false, true))).problems.is_empty());
        assert!(all(Vec::new(), &visits(visit("0.5", false, false))).problems.is_empty());
        assert!(!all(Vec::new(), &visits(visit("0.8", true, true))).problems.is_empty());
    }
}
