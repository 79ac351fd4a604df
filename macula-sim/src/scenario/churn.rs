//! Churn: every minute one node in twenty dies, as many leave, and as many as both come: some of the dead as themselves,
//! others anew. Messages get lost. Nobody who lives is held for dead, and afterwards all lists are right.

use std::time::Duration;

use rand::RngExt as _;

use super::mesh::{draw, gathered, settle};
use super::outcome::{row, seconds, traffic};
use super::{Outcome, Setting};
use crate::{Faults, NodeIndex, Options, Simulation};

/// One in so many dies, and as many leave, in each minute.
const ONE_IN_A_MINUTE: u32 = 20;

const SPAN: Duration = Duration::from_secs(180);

/// How long the lists may take to be right afterwards.
const PATIENCE: Duration = Duration::from_secs(120);

/// The dead that wait before one comes back.
const DOWN: usize = 3;

pub(super) fn run(setting: Setting) -> Outcome {
    let faults = Faults { loss: 0.05, ..Faults::default() };
    let (mut simulation, _) = gathered(setting, Options { faults, ..Options::default() });
    let (before, start) = (simulation.figures(), simulation.now());
    let span = setting.span.unwrap_or(SPAN);
    let pause = Duration::from_secs(60) / (setting.nodes / ONE_IN_A_MINUTE).max(1);
    let (mut down, mut turns) = (Vec::new(), 0u32);
    while simulation.now() - start < span {
        turn_over(&mut simulation, &mut down);
        turns += 1;
        simulation.run_for(pause);
    }
    let settled = settle(&mut simulation, PATIENCE);
    let mut rows = vec![
        row("died or left, and as many came", (2 * turns).to_string()),
        row("all lists right afterwards", seconds(settled)),
    ];
    rows.extend(traffic(simulation.figures() - before, &simulation, span + settled));
    Outcome::of("churn", setting, simulation, rows)
}

/// One dies, one leaves, one that died earlier comes back (or a new one comes), and a new one comes.
fn turn_over(simulation: &mut Simulation, down: &mut Vec<NodeIndex>) {
    let nodes = draw(simulation, 2);
    if let [dies, leaves] = nodes[..] {
        simulation.crash(dies);
        simulation.leave(leaves);
        down.push(dies);
    }
    if down.len() > DOWN {
        let place = simulation.rng().random_range(0..DOWN);
        let back = down.swap_remove(place);
        simulation.restart(back, Duration::ZERO);
    } else {
        join(simulation);
    }
    join(simulation);
}

fn join(simulation: &mut Simulation) {
    let seeds: Vec<_> = NodeIndex::each(0..3).collect();
    let new = simulation.add(&seeds);
    simulation.start(new);
}
