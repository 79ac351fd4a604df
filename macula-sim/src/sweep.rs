//! Many runs, several at a time. Each is decided by its own setting, so nothing depends on which ends first.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use crate::{Outcome, Scenario, Setting};

/// Runs every scenario with its setting, `jobs` at a time, and hands each outcome to `done` in the order of `runs`, as soon
/// as all before it are through. A large mesh takes a gigabyte: so many at a time take as many times that.
pub fn sweep(runs: &[(Scenario, Setting)], jobs: NonZeroUsize, mut done: impl FnMut(Outcome)) {
    let next = AtomicUsize::new(0);
    // Whoever is through waits while as many outcomes as there are jobs were not taken yet.
    let (sender, outcomes) = mpsc::sync_channel(jobs.get());
    thread::scope(|scope| {
        for _ in 0..jobs.get().min(runs.len()) {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some((scenario, setting)) = runs.get(number) else { return };
                    if sender.send((number, scenario.run(*setting))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let (mut early, mut wanted) = (BTreeMap::new(), 0);
        for (number, outcome) in outcomes {
            early.insert(number, outcome);
            while let Some(outcome) = early.remove(&wanted) {
                done(outcome);
                wanted += 1;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::named;

    #[test]
    fn outcomes_come_in_order_and_are_those_of_single_runs() {
        let join = named("join").unwrap();
        let setting = |seed, nodes| Setting { nodes, seed, span: None, through_codec: false };
        // The first takes longest.
        let runs: Vec<_> = [(1, 40), (2, 8), (3, 8), (4, 8)].map(|(seed, n)| (join, setting(seed, n))).into();
        let alone: Vec<_> = runs.iter().map(|(scenario, setting)| scenario.run(*setting)).collect();
        for jobs in [1, 3, 9] {
            let mut outcomes = Vec::new();
            sweep(&runs, NonZeroUsize::new(jobs).unwrap(), |outcome| outcomes.push(outcome));
            assert_eq!(outcomes, alone, "{jobs} at a time");
        }
    }
}
