//! Leave: one node in ten says goodbye; within a few periods all others have seen it leave, and nobody suspects it.

use std::time::Duration;

use super::mesh::{draw, gathered, settle};
use super::outcome::{row, seconds, traffic};
use super::{Outcome, Setting};
use crate::{BeliefKind, Life, Options};

const SPAN: Duration = Duration::from_secs(60);

/// Protocol periods until everybody knows, at most: gossip takes about as many rounds as the size has binary digits.
const KNOWN_PERIODS: u32 = 10;

pub(super) fn run(setting: Setting) -> Outcome {
    let (mut simulation, _) = gathered(setting, Options::default());
    simulation.run_for(Duration::from_secs(10));
    simulation.record_beliefs();
    let before = simulation.figures();
    let nodes = draw(&mut simulation, (setting.nodes as usize / 10).max(1));
    nodes.iter().for_each(|node| simulation.leave(*node));
    let ended = |simulation: &crate::Simulation| {
        nodes.iter().all(|node| simulation.nodes()[node.place()].life() == Life::Departed)
    };
    let goodbye = simulation.run_until(Duration::from_millis(10), SPAN, ended);
    if goodbye.is_none() {
        simulation.violate("leaving", format!("not every goodbye was acknowledged within {SPAN:?}"));
    }
    let known = settle(&mut simulation, SPAN);
    let span = setting.span.unwrap_or(SPAN);
    simulation.run_for(span);
    let beliefs = simulation.beliefs();
    let count =
        |kind| beliefs.iter().filter(|belief| belief.kind == kind && nodes.contains(&belief.subject)).count();
    let (left, suspected, confirmed) =
        (count(BeliefKind::Left), count(BeliefKind::Suspected), count(BeliefKind::Confirmed));
    if suspected + confirmed > 0 {
        let what = format!("{suspected} times suspected and {confirmed} times buried who had said goodbye");
        simulation.violate("leaving", what);
    }
    let limit = simulation.options().swim.protocol_period * KNOWN_PERIODS;
    if known > limit {
        simulation.violate("leaving", format!("known everywhere after {known:?}, not within {limit:?}"));
    }
    let mut rows = vec![
        row("said goodbye", nodes.len().to_string()),
        row("acknowledged within", seconds(goodbye.unwrap_or(SPAN))),
        row("known everywhere after", seconds(known)),
        row("seen to leave, suspected, buried", format!("{left}, {suspected}, {confirmed}")),
    ];
    rows.extend(traffic(simulation.figures() - before, &simulation, span));
    Outcome::of("leave", setting, simulation, rows)
}
