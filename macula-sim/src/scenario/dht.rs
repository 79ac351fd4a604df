//! Meshes of directories that joined through one seed with empty tables: what the scenarios about them share.

pub(super) mod churn;
pub(super) mod cost;
mod curve;
pub(super) mod liars;
pub(super) mod massacre;
mod measure;
pub(super) mod slow;

use std::time::Duration;

use bytes::Bytes;
use macula_dht::kademlia::{Done, Op};
use macula_proto::{Key, Realm};
use rand::RngExt as _;

pub use curve::Curve;
pub(super) use measure::{Finds, find, trace};

use super::mesh::draw;
use super::outcome::row;
use super::{Row, Setting};
use crate::{Layers, NodeIndex, Options, Simulation};

/// Between one node's start and the next.
const STAGGER: Duration = Duration::from_millis(50);

/// However many nodes there are, a mesh whose growth is not what is measured is together after this long.
const GATHERING_MAX: Duration = Duration::from_secs(200);

/// No command takes longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Keys announced, at most.
const KEYS_MAX: usize = 200;

/// Look-ups of each key.
const FINDS_PER_KEY: usize = 5;

/// Measures a curve.
pub(super) type Measure = fn(Setting) -> Curve;

/// The curves that can be measured, by name.
pub(super) const CURVES: [(&str, Measure); 2] = [("dht-cost", cost::curve), ("dht-liars", liars::curve)];

/// Directories that alone make up the nodes of a simulation.
pub(super) fn options(setting: Setting) -> Options {
    Options { layers: Layers::Directory, through_codec: setting.through_codec, ..Options::default() }
}

/// Starts all nodes through the first, knowing nobody else, and lets the last of them get ready.
pub(super) fn gathered(setting: Setting, options: Options) -> Simulation {
    staggered(setting, options, STAGGER)
}

/// The same, within a few minutes however many there are.
pub(super) fn gathered_soon(setting: Setting, options: Options) -> Simulation {
    staggered(setting, options, STAGGER.min(GATHERING_MAX / setting.nodes.max(1)))
}

fn staggered(setting: Setting, options: Options, pause: Duration) -> Simulation {
    let mut simulation = Simulation::new(options, setting.seed);
    for _ in 0..setting.nodes {
        newcomer(&mut simulation);
        simulation.run_for(pause);
    }
    simulation.run_for(PATIENCE);
    simulation
}

/// One more node joins through the first.
pub(super) fn newcomer(simulation: &mut Simulation) {
    let node = simulation.add(&[NodeIndex(0)]);
    simulation.start(node);
}

/// One record of a scenario: announced by whom, where, saying what.
#[derive(Clone, Debug)]
pub(super) struct Announced {
    pub(super) by: NodeIndex,
    pub(super) key: Key,
    pub(super) value: Bytes,
}

/// The scenario's key of that number.
pub(super) fn key(number: usize) -> Key {
    Key::derive("simulation", &Realm::default(), &number.to_string())
}

/// As many records as are right for a mesh of this size, announced by as many nodes that are `honest`; and the fewest
/// holders that one of them has. A record that nobody holds is a violation.
pub(super) fn announce(
    simulation: &mut Simulation,
    honest: impl Fn(NodeIndex) -> bool,
) -> (Vec<Announced>, usize) {
    let mut announcers = draw(simulation, usize::MAX);
    announcers.retain(|node| honest(*node));
    announcers.truncate(KEYS_MAX.min(simulation.nodes().len() / 2));
    let records: Vec<_> = announcers
        .into_iter()
        .enumerate()
        .map(|(number, by)| Announced { by, key: key(number), value: number.to_string().into() })
        .collect();
    let begun: Vec<Op> = records
        .iter()
        .map(|Announced { by, key, value }| simulation.announce(*by, *key, value.clone()))
        .collect();
    simulation.run_for(PATIENCE);
    let mut fewest = usize::MAX;
    for (Announced { by, .. }, op) in records.iter().zip(begun) {
        match simulation.take_done(*by, op) {
            Some(Done::Announced(Ok(announced))) => fewest = fewest.min(announced.holders),
            other => simulation.violate("announcing", format!("{by}'s announcement ended in {other:?}")),
        }
    }
    (records, fewest)
}

/// Looks each record up from several nodes drawn for it, among those that live and are `honest`.
pub(super) fn questions(
    simulation: &mut Simulation,
    records: &[Announced],
    honest: impl Fn(NodeIndex) -> bool,
) -> Vec<(NodeIndex, Announced)> {
    let finders: Vec<_> = simulation.living().into_iter().filter(|node| honest(*node)).collect();
    let mut questions = Vec::new();
    for record in std::iter::repeat_n(records, FINDS_PER_KEY).flatten() {
        let others = finders.len() - usize::from(finders.contains(&record.by));
        if others > 0 {
            let drawn = simulation.rng().random_range(0..others);
            let finder = finders.iter().filter(|node| **node != record.by).nth(drawn);
            questions.extend(finder.map(|finder| (*finder, record.clone())));
        }
    }
    questions
}

/// How many contacts the tables have.
pub(super) fn contacts(simulation: &Simulation) -> Row {
    let mut sizes: Vec<usize> =
        simulation.nodes().iter().filter_map(|node| Some(node.directory()?.table().len())).collect();
    sizes.sort_unstable();
    let middle = sizes.get(sizes.len() / 2).copied().unwrap_or(0);
    row("contacts in a table", format!("least {}, median {middle}", sizes.first().copied().unwrap_or(0)))
}

#[cfg(test)]
#[path = "dht/dht_test.rs"]
mod tests;
