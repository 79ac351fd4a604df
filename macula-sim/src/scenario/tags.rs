//! Tags: some members change theirs again and again, while messages get lost and overtake each other; everybody ends with
//! the newest.

use std::collections::BTreeSet;
use std::time::Duration;

use macula_membership::{Machine, TAGS_BYTES_MAX, Tags};
use macula_proto::NodeId;
use rand::RngExt as _;

use super::mesh::{draw, gathered};
use super::outcome::{row, seconds, traffic};
use super::{Outcome, Setting};
use crate::{Faults, NodeIndex, Options, SimNode, Simulation};

/// How often each changes them.
const CHANGES: u32 = 10;

/// For one change of all, at most.
const ROUND_MS_MAX: u64 = 1_000;

/// How long the last ones may take to be known everywhere.
const PATIENCE: Duration = Duration::from_secs(60);

/// Watched after that: old tags must not come back.
const AFTERMATH: Duration = Duration::from_secs(60);

pub(super) fn run(setting: Setting) -> Outcome {
    let faults = Faults { loss: 0.05, duplication: 0.05, reordering: 0.2, ..Faults::default() };
    let (mut simulation, _) = gathered(setting, Options { faults, ..Options::default() });
    simulation.run_for(Duration::from_secs(10));
    let (start, before) = (simulation.now(), simulation.figures());
    let nodes = draw(&mut simulation, (setting.nodes as usize / 20).max(1));
    for round in 1..=CHANGES {
        for node in &nodes {
            if let Err(cause) = simulation.set_tags(*node, tags(round)) {
                simulation.violate("tags", cause.to_string());
            }
            let pause = simulation.rng().random_range(0..=ROUND_MS_MAX / nodes.len() as u64);
            simulation.run_for(Duration::from_millis(pause));
        }
    }
    let all_know = |simulation: &Simulation| stale(simulation, &nodes) == 0;
    let took = simulation.run_until(Duration::from_millis(500), PATIENCE, all_know);
    simulation.run_for(setting.span.unwrap_or(AFTERMATH));
    let wrong = stale(&simulation, &nodes);
    if took.is_none() || wrong > 0 {
        simulation.violate("tags", format!("{wrong} lists hold old tags, known everywhere after {took:?}"));
    }
    let span = simulation.now() - start;
    let mut rows = vec![
        row("members, and changes of each", format!("{}, {CHANGES}", nodes.len())),
        row("the last known everywhere after", seconds(took.unwrap_or(PATIENCE))),
    ];
    rows.extend(traffic(simulation.figures() - before, &simulation, span));
    Outcome::of("tags", setting, simulation, rows)
}

/// As large as tags may be.
fn tags(round: u32) -> Tags {
    let (round, keys) = (round.to_string(), "round".len() + "fill".len());
    let fill = "x".repeat(TAGS_BYTES_MAX - keys - round.len());
    Tags::from([("round".to_owned(), round), ("fill".to_owned(), fill)])
}

/// How many lists hold old tags of one of these members.
fn stale(simulation: &Simulation, nodes: &[NodeIndex]) -> usize {
    let ids: BTreeSet<NodeId> = nodes.iter().map(|node| simulation.nodes()[node.place()].id()).collect();
    let last = tags(CHANGES);
    let is_stale = |machine: &&Machine| {
        let theirs = machine.members().filter(|member| ids.contains(&member.id()));
        theirs.filter(|member| *member.tags == last).count() < ids.len()
    };
    simulation.nodes().iter().filter_map(SimNode::membership).filter(is_stale).count()
}
