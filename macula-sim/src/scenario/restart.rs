//! Restart: nodes die and come back under the same id, some at once, some after they were buried, every other one with
//! a wall clock an hour slow, so that its first incarnation is lower than the last that others know.

use std::time::Duration;

use super::mesh::{draw, gathered, settle};
use super::outcome::{row, seconds, traffic};
use super::{Outcome, Setting};
use crate::Options;

/// Long enough for everybody to bury the dead.
const SPAN: Duration = Duration::from_secs(60);

const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn run(setting: Setting) -> Outcome {
    let (mut simulation, _) = gathered(setting, Options::default());
    simulation.run_for(Duration::from_secs(10));
    let before = simulation.figures();
    let nodes = draw(&mut simulation, (setting.nodes as usize / 10).max(2));
    nodes.iter().for_each(|node| simulation.crash(*node));
    let (soon, late) = nodes.split_at(nodes.len() / 2);
    simulation.run_for(Duration::from_secs(1));
    restart(&mut simulation, soon);
    let at_once = settle_without(&mut simulation, late.len());
    simulation.run_for(setting.span.unwrap_or(SPAN));
    restart(&mut simulation, late);
    let buried = settle(&mut simulation, PATIENCE);
    simulation.run_for(Duration::from_secs(30));
    let span = simulation.options().swim.protocol_period.max(setting.span.unwrap_or(SPAN));
    let mut rows = vec![
        row("restarted at once, and buried", format!("{}, {}", soon.len(), late.len())),
        row("known everywhere: after at once", seconds(at_once)),
        row("known everywhere: after burial", seconds(buried)),
    ];
    rows.extend(traffic(simulation.figures() - before, &simulation, span));
    Outcome::of("restart", setting, simulation, rows)
}

fn restart(simulation: &mut crate::Simulation, nodes: &[crate::NodeIndex]) {
    for (at, node) in nodes.iter().enumerate() {
        let clock_back = if at % 2 == 0 { Duration::ZERO } else { Duration::from_secs(3_600) };
        simulation.restart(*node, clock_back);
    }
}

/// Waits until everybody knows everybody again who runs; up to `missing` others may still be in the lists.
fn settle_without(simulation: &mut crate::Simulation, missing: usize) -> Duration {
    let living = simulation.living().len();
    let known = |simulation: &crate::Simulation| {
        let mut machines = simulation.nodes().iter().filter_map(crate::SimNode::membership);
        machines.all(|machine| (living..=living + missing).contains(&machine.members_len()))
    };
    let took = simulation.run_until(Duration::from_millis(100), PATIENCE, known);
    if took.is_none() {
        simulation.violate("settling", format!("the restarted are not known everywhere after {PATIENCE:?}"));
    }
    took.unwrap_or(PATIENCE)
}
