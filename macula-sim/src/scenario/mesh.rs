//! A mesh that has come together: what most scenarios begin with.

use std::time::Duration;

use super::Setting;
use crate::{NodeIndex, Options, SimNode, Simulation};

/// Between one node's start and the next.
const STAGGER: Duration = Duration::from_millis(10);

/// How many nodes the others join through.
const SEEDS: u32 = 3;

/// No mesh takes longer to come together.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long a mesh took to come together, after the last start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gathering {
    /// Until the lists held 99 of 100 entries.
    pub(super) nearly: Duration,
    /// Until every list was complete.
    pub(super) complete: Duration,
}

/// Starts all nodes through a few seeds and waits until every list is complete.
pub(super) fn gathered(setting: Setting, options: Options) -> (Simulation, Gathering) {
    let options = Options { through_codec: setting.through_codec, ..options };
    let mut simulation = Simulation::new(options, setting.seed);
    let seeds: Vec<_> = NodeIndex::each(0..SEEDS).collect();
    for _ in 0..setting.nodes {
        let node = simulation.add(&seeds);
        // The others must exist before they are dialled.
        if node.0 >= SEEDS {
            simulation.start(node);
            simulation.run_for(STAGGER);
        } else if node.0 == SEEDS - 1 {
            for seed in &seeds {
                simulation.start(*seed);
            }
        }
    }
    let (start, entries) = (simulation.now(), u64::from(setting.nodes).pow(2));
    let mut nearly = None;
    let complete = simulation.run_until(Duration::from_millis(100), PATIENCE, |simulation| {
        let machines = simulation.nodes().iter().filter_map(SimNode::membership);
        let known: u64 = machines.map(|machine| machine.members_len() as u64).sum();
        if nearly.is_none() && known * 100 >= entries * 99 {
            nearly = Some(simulation.now() - start);
        }
        simulation.is_settled()
    });
    if complete.is_none() {
        simulation.violate("gathering", format!("the lists are not complete after {PATIENCE:?}"));
    }
    let (nearly, complete) = (nearly.unwrap_or(PATIENCE), complete.unwrap_or(PATIENCE));
    (simulation, Gathering { nearly, complete })
}

/// Waits until every list is right again; a violation if that takes longer than `patience`.
pub(super) fn settle(simulation: &mut Simulation, patience: Duration) -> Duration {
    let took = simulation.run_until(Duration::from_millis(100), patience, Simulation::is_settled);
    if took.is_none() {
        simulation.violate("settling", format!("the lists are not right again after {patience:?}"));
    }
    took.unwrap_or(patience)
}

/// Some of the living, drawn at random; never a seed, so that others can always join.
pub(super) fn draw(simulation: &mut Simulation, count: usize) -> Vec<NodeIndex> {
    use rand::seq::SliceRandom as _;
    let mut nodes: Vec<_> = simulation.living().into_iter().filter(|node| node.0 >= SEEDS).collect();
    nodes.shuffle(simulation.rng());
    nodes.truncate(count);
    nodes
}
