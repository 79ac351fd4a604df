//! Lookup: directories with empty tables join through one seed; some announce, others find.

use std::time::Duration;

use bytes::Bytes;
use macula_dht::kademlia::{Done, LookupTrace, Op};
use macula_proto::{Key, Realm};

use super::mesh::draw;
use super::outcome::{row, spread};
use super::{Outcome, Row, Setting};
use crate::{Layers, NodeIndex, Options, Simulation};

/// Between one node's start and the next.
const STAGGER: Duration = Duration::from_millis(50);

/// No command takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Keys announced, and lookups of each.
const KEYS_MAX: usize = 32;

pub(super) fn run(setting: Setting) -> Outcome {
    let options =
        Options { layers: Layers::Directory, through_codec: setting.through_codec, ..Options::default() };
    let mut simulation = Simulation::new(options, setting.seed);
    for _ in 0..setting.nodes {
        let node = simulation.add(&[NodeIndex(0)]);
        simulation.start(node);
        simulation.run_for(STAGGER);
    }
    simulation.run_for(setting.span.unwrap_or(PATIENCE));
    let joining = simulation.figures();
    let holders = announce(&mut simulation);
    let mut rows = vec![
        row("to join: requests a node", format!("{:.1}", joining.requests as f64 / f64::from(setting.nodes))),
        row("contacts in a table", contacts(&simulation)),
        row("holders of a record, at least", holders.to_string()),
    ];
    rows.push(find(&mut simulation));
    rows.extend(trace(&mut simulation));
    rows.push(row("most links of one node", simulation.links_max().to_string()));
    Outcome::of("lookup", setting, simulation, rows)
}

fn key(number: usize) -> Key {
    Key::derive("simulation", &Realm::default(), &number.to_string())
}

/// Announces a record at each key, from as many nodes. Returns the fewest holders that one had.
fn announce(simulation: &mut Simulation) -> usize {
    let announcers = draw(simulation, KEYS_MAX);
    let ops: Vec<(NodeIndex, Op)> = announcers
        .iter()
        .enumerate()
        .map(|(number, node)| {
            (*node, simulation.announce(*node, key(number), Bytes::from(number.to_string())))
        })
        .collect();
    simulation.run_for(PATIENCE);
    let mut fewest = usize::MAX;
    for (node, op) in ops {
        match simulation.take_done(node, op) {
            Some(Done::Announced(Ok(announced))) => fewest = fewest.min(announced.holders),
            other => simulation.violate("announcing", format!("{node}'s announcement ended in {other:?}")),
        }
    }
    fewest
}

/// Looks every key up from a node drawn for it.
fn find(simulation: &mut Simulation) -> Row {
    let finders = draw(simulation, KEYS_MAX);
    let before = simulation.figures();
    let ops: Vec<(NodeIndex, Op)> = finders
        .iter()
        .enumerate()
        .map(|(number, node)| (*node, simulation.find(*node, key(number))))
        .collect();
    simulation.run_for(PATIENCE);
    let asked = simulation.figures().requests - before.requests;
    for (number, (node, op)) in ops.iter().enumerate() {
        let wanted = number.to_string();
        match simulation.take_done(*node, *op) {
            Some(Done::Found(Ok(found))) if found.records.iter().any(|record| record.value == wanted) => {}
            other => {
                let what = format!("{node}'s lookup of key {number} ended in {other:?}");
                simulation.violate("finding", what);
            }
        }
    }
    row("requests to find a record", format!("{:.1}", asked as f64 / ops.len().max(1) as f64))
}

/// Looks for the nodes closest to random places, and compares with the truth.
fn trace(simulation: &mut Simulation) -> Vec<Row> {
    let finders = draw(simulation, KEYS_MAX);
    let ops: Vec<(Key, NodeIndex, Op)> = finders
        .iter()
        .enumerate()
        .map(|(number, node)| {
            let key = key(KEYS_MAX + number);
            (key, *node, simulation.find_node(*node, key))
        })
        .collect();
    simulation.run_for(PATIENCE);
    let mut traces: Vec<(LookupTrace, f64)> = Vec::new();
    for (key, node, op) in ops {
        match simulation.take_done(node, op) {
            Some(Done::Nodes(Ok(trace))) => {
                let recall = recall(simulation, node, &key, &trace);
                traces.push((trace, recall));
            }
            other => simulation.violate("tracing", format!("{node}'s lookup ended in {other:?}")),
        }
    }
    let count = traces.len().max(1) as f64;
    let mean = |of: &dyn Fn(&(LookupTrace, f64)) -> f64| traces.iter().map(of).sum::<f64>() / count;
    let hops_max = traces.iter().map(|(trace, _)| trace.hops).max().unwrap_or(0);
    let recall = mean(&|(_, recall)| *recall);
    if recall < 0.9 {
        simulation.violate("recall", format!("lookups find {:.0} % of the closest nodes", 100.0 * recall));
    }
    vec![
        row(
            "hops to the closest node",
            format!("mean {:.2}, max {hops_max}", mean(&|(trace, _)| trace.hops.into())),
        ),
        row(
            "requests to hear the closest out",
            format!("{:.1}", mean(&|(trace, _)| trace.steps.len() as f64)),
        ),
        row("time to hear the closest out", spread(traces.iter().map(|(trace, _)| trace.took).collect())),
        row("of the truly closest found", format!("{:.1} %", 100.0 * recall)),
    ]
}

/// Which part of the truly closest nodes a lookup found.
fn recall(simulation: &Simulation, finder: NodeIndex, key: &Key, trace: &LookupTrace) -> f64 {
    let others = simulation.living().into_iter().filter(|node| *node != finder);
    let mut closest: Vec<_> = others.map(|node| simulation.nodes()[node.place()].id()).collect();
    closest.sort_unstable_by_key(|id| key.distance(&(*id).into()));
    closest.truncate(simulation.options().kademlia.k);
    let found = closest.iter().filter(|id| trace.closest.iter().any(|contact| contact.id == **id)).count();
    found as f64 / closest.len().max(1) as f64
}

fn contacts(simulation: &Simulation) -> String {
    let mut sizes: Vec<usize> =
        simulation.nodes().iter().filter_map(|node| Some(node.directory()?.table().len())).collect();
    sizes.sort_unstable();
    let middle = sizes.get(sizes.len() / 2).copied().unwrap_or(0);
    format!("least {}, median {middle}", sizes.first().copied().unwrap_or(0))
}
