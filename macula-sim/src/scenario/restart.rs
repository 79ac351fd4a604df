//! Restart: nodes die and come back under the same id, some at once, some after they were buried, every other one with
//! a wall clock an hour slow, so that its first incarnation is lower than the last that others know.

use std::time::Duration;

use macula_membership::{Machine, MemberState};

use super::mesh::{draw, gathered, settle};
use super::outcome::{row, seconds, traffic};
use super::{Outcome, Setting};
use crate::{NodeIndex, Options, SimNode, Simulation};

/// Protocol periods until whoever came back is a member everywhere, at most.
const KNOWN_PERIODS: u32 = 3;

/// Long enough for everybody to bury the dead.
const SPAN: Duration = Duration::from_secs(60);

const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn run(setting: Setting) -> Outcome {
    let (mut simulation, _) = gathered(setting, Options::default());
    simulation.run_for(Duration::from_secs(10));
    let (start, before) = (simulation.now(), simulation.figures());
    let nodes = draw(&mut simulation, (setting.nodes as usize / 10).max(2));
    nodes.iter().for_each(|node| simulation.crash(*node));
    let (soon, late) = nodes.split_at(nodes.len() / 2);
    simulation.run_for(Duration::from_secs(1));
    restart(&mut simulation, soon);
    let at_once = known_anew(&mut simulation, soon);
    simulation.run_for(setting.span.unwrap_or(SPAN));
    restart(&mut simulation, late);
    let buried = known_anew(&mut simulation, late);
    settle(&mut simulation, PATIENCE);
    simulation.run_for(Duration::from_secs(30));
    let span = simulation.now() - start;
    let mut rows = vec![
        row("restarted at once, and buried", format!("{}, {}", soon.len(), late.len())),
        row("known everywhere: after at once", seconds(at_once)),
        row("known everywhere: after burial", seconds(buried)),
    ];
    rows.extend(traffic(simulation.figures() - before, &simulation, span));
    Outcome::of("restart", setting, simulation, rows)
}

fn restart(simulation: &mut Simulation, nodes: &[NodeIndex]) {
    for (at, node) in nodes.iter().enumerate() {
        let clock_back = if at % 2 == 0 { Duration::ZERO } else { Duration::from_secs(3_600) };
        simulation.restart(*node, clock_back);
    }
}

/// Waits until everybody holds these nodes for alive as of their own newest word.
fn known_anew(simulation: &mut Simulation, nodes: &[NodeIndex]) -> Duration {
    let is_known = |simulation: &Simulation| {
        let machines = || simulation.nodes().iter().filter_map(SimNode::membership);
        let words = nodes.iter().filter_map(|node| simulation.nodes()[node.place()].membership());
        words.map(Machine::local).all(|word| {
            let id = word.id();
            machines().all(|machine| {
                machine.incarnation_of(&id) == Some(word.incarnation)
                    && machine.state_of(&id) == Some(MemberState::Alive)
            })
        })
    };
    let took = simulation.run_until(Duration::from_millis(100), PATIENCE, is_known);
    if took.is_none() {
        simulation.violate("settling", format!("the restarted are not known everywhere after {PATIENCE:?}"));
    }
    let took = took.unwrap_or(PATIENCE);
    let limit = simulation.options().swim.protocol_period * KNOWN_PERIODS;
    if took > limit {
        simulation.violate("return", format!("members everywhere after {took:?}, not within {limit:?}"));
    }
    took
}
