//! Look-ups by the hundred, and what came of them.

use std::time::Duration;

use macula_dht::kademlia::{Done, LookupTrace, Op};
use macula_proto::Key;

use super::{Announced, PATIENCE};
use crate::scenario::Row;
use crate::scenario::outcome::{row, spread};
use crate::{NodeIndex, Simulation};

/// Between one look-up's start and the next.
const PACE: Duration = Duration::from_millis(20);

/// How exactly the end of a look-up is noticed.
const STEP: Duration = Duration::from_millis(10);

/// What came of many look-ups of records. Those whose asker died meanwhile do not count.
#[derive(Debug, Default)]
pub(in crate::scenario) struct Finds {
    pub(in crate::scenario) asked: usize,
    pub(in crate::scenario) found: usize,
    /// How long each took, those that failed included.
    pub(in crate::scenario) took: Vec<Duration>,
    /// Requests for records sent meanwhile.
    pub(in crate::scenario) requests: u64,
    /// What some of those that failed ended in.
    pub(in crate::scenario) failures: Vec<String>,
}

/// Failures that are told.
const FAILURES_MAX: usize = 3;

impl Finds {
    /// The share found, 0 to 1.
    pub(in crate::scenario) fn share(&self) -> f64 {
        self.found as f64 / self.asked.max(1) as f64
    }

    /// A violation if fewer than `share` of the records were found.
    pub(in crate::scenario) fn demand(&self, simulation: &mut Simulation, share: f64) {
        if self.share() < share || self.asked == 0 {
            simulation.violate("finding", self.told());
        }
    }

    /// How many were found, and how some of the others ended.
    pub(in crate::scenario) fn told(&self) -> String {
        let Self { asked, found, failures, .. } = self;
        format!("{found} of {asked} found; {}", failures.join("; "))
    }

    /// The figures.
    pub(in crate::scenario) fn rows(&self) -> Vec<Row> {
        let Self { asked, found, .. } = self;
        vec![
            row("records found", format!("{:.2} % ({found} of {asked})", 100.0 * self.share())),
            row("requests to find a record", format!("{:.1}", self.requests_each())),
            row("time to find a record", spread(self.took.clone())),
        ]
    }

    /// Requests for each look-up.
    pub(in crate::scenario) fn requests_each(&self) -> f64 {
        self.requests as f64 / self.asked.max(1) as f64
    }

    /// The time that 99 of 100 did not exceed.
    pub(in crate::scenario) fn p99(&self) -> Duration {
        let mut took = self.took.clone();
        took.sort_unstable();
        took.get((took.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
    }
}

/// Asks all questions, one after the other without waiting for answers, over `paths` disjoint ways. `meanwhile` is
/// called at each step.
pub(in crate::scenario) fn find(
    simulation: &mut Simulation,
    questions: Vec<(NodeIndex, Announced)>,
    paths: usize,
    mut meanwhile: impl FnMut(&mut Simulation),
) -> Finds {
    let before = simulation.figures();
    let mut finds = Finds::default();
    let mut questions = questions.into_iter();
    let mut pending: Vec<(NodeIndex, Announced, Op, Duration)> = Vec::new();
    let mut next = simulation.now();
    loop {
        if simulation.now() >= next
            && let Some((finder, record)) = questions.next()
        {
            next = simulation.now() + PACE;
            if simulation.nodes()[finder.place()].is_there() {
                let op = simulation.find_disjoint(finder, record.key, paths);
                pending.push((finder, record, op, simulation.now().since_start()));
            }
        }
        if pending.is_empty() && questions.len() == 0 {
            break;
        }
        simulation.run_for(STEP);
        meanwhile(simulation);
        pending.retain(|(finder, record, op, begun)| {
            let took = simulation.now().since_start() - *begun;
            match simulation.take_done(*finder, *op) {
                Some(done) => finds.note(*finder, record, took, Some(done)),
                None if !simulation.nodes()[finder.place()].is_there() => {}
                None if took > PATIENCE => finds.note(*finder, record, took, None),
                None => return true,
            }
            false
        });
    }
    finds.requests = (simulation.figures() - before).requests_for_records;
    finds
}

impl Finds {
    fn note(&mut self, finder: NodeIndex, record: &Announced, took: Duration, done: Option<Done>) {
        self.asked += 1;
        self.took.push(took);
        match done {
            Some(Done::Found(Ok(found))) if found.records.iter().any(|found| found.value == record.value) => {
                self.found += 1;
            }
            other if self.failures.len() < FAILURES_MAX => {
                self.failures.push(format!("{finder}'s look-up of {} ended in {other:?}", record.key));
            }
            _ => {}
        }
    }
}

/// How look-ups of the closest nodes went.
#[derive(Debug, Default)]
pub(in crate::scenario) struct Traces {
    all: Vec<LookupTrace>,
    /// Which part of the truly closest each found, 0 to 1.
    recall: Vec<f64>,
}

impl Traces {
    /// Referrals until the closest node was known: mean and 99th percentile.
    pub(in crate::scenario) fn referrals(&self) -> (f64, u32) {
        let mut referrals: Vec<u32> = self.all.iter().map(|trace| trace.hops.saturating_sub(1)).collect();
        referrals.sort_unstable();
        let p99 = (referrals.len() * 99).div_ceil(100).saturating_sub(1);
        let sum: u32 = referrals.iter().sum();
        (f64::from(sum) / referrals.len().max(1) as f64, referrals.get(p99).copied().unwrap_or(0))
    }

    /// Requests of each.
    pub(in crate::scenario) fn requests_each(&self) -> f64 {
        let sum: usize = self.all.iter().map(|trace| trace.steps.len()).sum();
        sum as f64 / self.all.len().max(1) as f64
    }

    /// The mean part of the truly closest that was found, 0 to 1.
    pub(in crate::scenario) fn recall(&self) -> f64 {
        self.recall.iter().sum::<f64>() / self.recall.len().max(1) as f64
    }

    /// The figures.
    pub(in crate::scenario) fn rows(&self) -> Vec<Row> {
        let (mean, p99) = self.referrals();
        vec![
            row("referrals to the closest node", format!("mean {mean:.2}, p99 {p99}")),
            row("requests to hear the closest out", format!("{:.1}", self.requests_each())),
            row("time to hear the closest out", spread(self.all.iter().map(|trace| trace.took).collect())),
            row("of the truly closest found", format!("{:.1} %", 100.0 * self.recall())),
        ]
    }
}

/// Looks for the nodes closest to each of `keys` from one of `finders`, and compares with the truth.
pub(in crate::scenario) fn trace(
    simulation: &mut Simulation,
    finders: &[NodeIndex],
    keys: impl Iterator<Item = Key>,
) -> Traces {
    let mut begun: Vec<(Key, NodeIndex, Op)> = Vec::new();
    for (key, node) in keys.zip(finders.iter().cycle()) {
        begun.push((key, *node, simulation.find_node(*node, key)));
        simulation.run_for(PACE);
    }
    simulation.run_for(PATIENCE);
    let mut traces = Traces::default();
    for (key, node, op) in begun {
        match simulation.take_done(node, op) {
            Some(Done::Nodes(Ok(trace))) => {
                traces.recall.push(recall(simulation, node, &key, &trace));
                traces.all.push(trace);
            }
            other => simulation.violate("tracing", format!("{node}'s lookup ended in {other:?}")),
        }
    }
    traces
}

/// Which part of the truly closest nodes a lookup found.
fn recall(simulation: &Simulation, finder: NodeIndex, key: &Key, trace: &LookupTrace) -> f64 {
    let others = simulation.living().into_iter().filter(|node| *node != finder);
    let mut closest: Vec<_> = others.map(|node| simulation.nodes()[node.place()].id()).collect();
    let count = simulation.options().kademlia.k.min(closest.len());
    if count == 0 {
        return 0.0;
    }
    closest.select_nth_unstable_by_key(count - 1, |id| key.distance(&(*id).into()));
    closest.truncate(count);
    let found = closest.iter().filter(|id| trace.closest.iter().any(|contact| contact.id == **id)).count();
    found as f64 / count as f64
}
