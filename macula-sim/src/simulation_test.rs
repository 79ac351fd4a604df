use super::*;
use crate::{BeliefKind, Faults, Stops};

const SECOND: Duration = Duration::from_secs(1);

/// A mesh of `count` that knows itself.
fn mesh(count: u32, options: Options, seed: u64) -> (Simulation, Vec<NodeIndex>) {
    let mut simulation = Simulation::new(options, seed);
    let nodes: Vec<_> = (0..count).map(|_| simulation.add(&[NodeIndex(0)])).collect();
    for node in &nodes {
        simulation.start(*node);
    }
    let settled = simulation.run_until(SECOND, 60 * SECOND, Simulation::is_settled);
    assert!(settled.is_some(), "the mesh comes together");
    (simulation, nodes)
}

fn confirmed(simulation: &Simulation, subject: NodeIndex) -> usize {
    let is_one = |belief: &&Belief| belief.subject == subject && belief.kind == BeliefKind::Confirmed;
    simulation.beliefs().iter().filter(is_one).count()
}

#[test]
fn a_paused_node_is_buried_and_comes_back_when_it_goes_on() {
    let (mut simulation, nodes) = mesh(10, Options::default(), 5);
    simulation.record_beliefs();
    simulation.pause(nodes[4]);
    simulation.run_for(60 * SECOND);
    assert_eq!(confirmed(&simulation, nodes[4]), 9);
    assert!(simulation.inbox_max() > 0, "what arrived meanwhile waits");
    simulation.resume(nodes[4]);
    let back = simulation.run_until(SECOND, 120 * SECOND, Simulation::is_settled);
    assert!(back.is_some(), "it refutes its death");
    assert_eq!(simulation.finish(), []);
}

#[test]
fn a_short_pause_kills_nobody() {
    let (mut simulation, nodes) = mesh(10, Options::default(), 6);
    simulation.pause(nodes[4]);
    simulation.run_for(2 * SECOND);
    simulation.resume(nodes[4]);
    simulation.run_for(60 * SECOND);
    assert_eq!(simulation.figures().confirmed, 0);
    assert_eq!(simulation.finish(), []);
}

#[test]
fn a_node_that_is_heard_but_hears_nothing_comes_back_after_the_heal() {
    for stops in [Stops::Incoming, Stops::Outgoing] {
        let (mut simulation, nodes) = mesh(10, Options::default(), 7);
        simulation.record_beliefs();
        simulation.cut(nodes[9]..NodeIndex(10), stops, 90 * SECOND);
        simulation.run_for(90 * SECOND);
        assert!(confirmed(&simulation, nodes[9]) > 0, "it answers nobody");
        let merged = simulation.run_until(SECOND, 120 * SECOND, Simulation::is_settled);
        assert!(merged.is_some(), "{stops:?}");
        assert_eq!(simulation.finish(), []);
    }
}

#[test]
fn with_both_layers_the_directory_hears_of_deaths() {
    let options = Options { layers: Layers::Both, ..Options::default() };
    let (mut simulation, nodes) = mesh(10, options, 8);
    simulation.run_for(10 * SECOND);
    let gone = simulation.nodes()[nodes[3].place()].id();
    let knowing = |simulation: &Simulation| {
        let directories = simulation.nodes().iter().filter_map(SimNode::directory);
        directories.filter(|directory| directory.table().get(&gone).is_some()).count()
    };
    assert!(knowing(&simulation) > 0);
    simulation.crash(nodes[3]);
    simulation.run_for(60 * SECOND);
    assert_eq!(knowing(&simulation), 0);
    assert_eq!(simulation.finish(), []);
}

#[test]
fn a_full_pool_closes_links_and_nobody_is_held_for_dead() {
    let options = Options { links_max: 12, ..Options::default() };
    let (mut simulation, _) = mesh(40, options, 9);
    simulation.run_for(60 * SECOND);
    assert!(simulation.figures().links_evicted > 0);
    assert_eq!(simulation.links_max(), 12);
    assert_eq!(simulation.finish(), []);
}

#[test]
fn partitions_given_as_options_happen_at_their_time() {
    let at = |seconds| Timestamp::from_start(seconds * SECOND);
    let side = NodeIndex(0)..NodeIndex(5);
    let cut = crate::Partition { time: at(70)..at(130), side, stops: Stops::Both };
    let options =
        Options { faults: Faults { partitions: vec![cut], ..Faults::default() }, ..Options::default() };
    let (mut simulation, _) = mesh(10, options, 10);
    simulation.run_for(at(70) - simulation.now());
    assert_eq!(simulation.figures().confirmed, 0);
    simulation.run_for(60 * SECOND);
    assert_eq!(simulation.figures().confirmed, 50, "each half buries the other");
    assert!(simulation.run_until(SECOND, 120 * SECOND, Simulation::is_settled).is_some());
    assert_eq!(simulation.finish(), []);
}
