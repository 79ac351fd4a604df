//! Attack: one member in fifty lies. Liars, two of them together, call healthy members dead in many names, say again what others said long ago, change
//! their tags all the time, start with the largest incarnation, invent members, withhold answers, and help nobody; and
//! messages get lost. No healthy member is held for dead, and once they stop all lists are right.

use std::time::Duration;

use super::mesh::{draw, gathered, settle};
use super::outcome::{row, seconds, traffic};
use super::{Outcome, Setting};
use crate::{BeliefKind, Faults, Lies, NodeIndex, Options, Simulation};

/// One in so many lies.
const ONE_IN: usize = 50;

/// Liars that accuse the same members, and how many members those are. Three would be as many as watch each.
const COLLUDING: usize = 2;
const VICTIMS: usize = 4;

/// In how many ways a liar accuses, in its own name and in others'.
const ACCUSERS: usize = 10;

/// In how many ways one does so who accuses everybody.
const SLANDERERS: usize = 4;

/// Members that each liar invents.
const GHOSTS: usize = 10;

/// How long they lie.
const SPAN: Duration = Duration::from_secs(120);

/// How long the lists may take to be right afterwards.
const PATIENCE: Duration = Duration::from_secs(180);

pub(super) fn run(setting: Setting) -> Outcome {
    attack("attack", setting, corrupt)
}

/// One member accuses all others at once.
pub(super) fn slander(setting: Setting) -> Outcome {
    attack("slander", setting, |simulation| {
        let liars = draw(simulation, 1);
        for liar in &liars {
            let victims = simulation.living().into_iter().filter(|node| node != liar).collect();
            let lies = Lies { victims, accusers: SLANDERERS, ghosts: Vec::new() };
            simulation.corrupt(*liar, lies);
        }
        liars
    })
}

fn attack(
    name: &'static str,
    setting: Setting,
    corrupt: impl FnOnce(&mut Simulation) -> Vec<NodeIndex>,
) -> Outcome {
    let faults = Faults { loss: 0.05, ..Faults::default() };
    let (mut simulation, _) = gathered(setting, Options { faults, ..Options::default() });
    simulation.run_for(Duration::from_secs(10));
    simulation.record_beliefs();
    let before = simulation.figures();
    let liars = corrupt(&mut simulation);
    let span = setting.span.unwrap_or(SPAN);
    simulation.run_for(span);
    let part = simulation.figures() - before;
    simulation.reform();
    let settled = settle(&mut simulation, PATIENCE);
    let healthy = |node: NodeIndex| !liars.contains(&node) && node.0 < setting.nodes;
    let count = |kind| {
        let beliefs = simulation.beliefs().iter();
        beliefs.filter(|belief| belief.kind == kind && healthy(belief.subject)).count()
    };
    let mut rows = vec![
        row("liars, and lies in all", format!("{}, {}", liars.len(), part.lies)),
        row("healthy suspected, confirmed", {
            format!("{}, {}", count(BeliefKind::Suspected), count(BeliefKind::Confirmed))
        }),
        row("all lists right afterwards", seconds(settled)),
    ];
    rows.extend(traffic(part, &simulation, span));
    Outcome::of(name, setting, simulation, rows)
}

/// Makes liars of some.
fn corrupt(simulation: &mut Simulation) -> Vec<NodeIndex> {
    let count = (simulation.nodes().len() / ONE_IN).max(1);
    let mut nodes = draw(simulation, count * (1 + VICTIMS));
    let liars: Vec<_> = nodes.drain(..count.min(nodes.len())).collect();
    for together in liars.chunks(COLLUDING) {
        let victims: Vec<_> = nodes.drain(..VICTIMS.min(nodes.len())).collect();
        for liar in together {
            let ghosts = (0..GHOSTS).map(|_| simulation.add(&[])).collect();
            simulation.corrupt(*liar, Lies { victims: victims.clone(), accusers: ACCUSERS, ghosts });
        }
    }
    liars
}
