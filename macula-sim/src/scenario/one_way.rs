//! One-way: some nodes speak but hear nothing, others hear but are not heard, for a minute; nobody else is held for dead, and
//! after the heal they are members again.

use std::time::Duration;

use super::mesh::{gathered, settle};
use super::outcome::{row, seconds, traffic};
use super::{Outcome, Setting};
use crate::{BeliefKind, NodeIndex, Options, Stops};

const SPAN: Duration = Duration::from_secs(60);

/// How long they may take to be members again.
const PATIENCE: Duration = Duration::from_secs(300);

/// Watched after that, for relapses.
const AFTERMATH: Duration = Duration::from_secs(30);

pub(super) fn run(setting: Setting) -> Outcome {
    let (mut simulation, _) = gathered(setting, Options::default());
    simulation.run_for(Duration::from_secs(10));
    simulation.record_beliefs();
    let before = simulation.figures();
    let span = setting.span.unwrap_or(SPAN);
    let each = (setting.nodes / 20).max(1);
    // The last ones: none is a seed.
    let (deaf, dumb) = (setting.nodes - 2 * each, setting.nodes - each);
    simulation.cut(NodeIndex(deaf)..NodeIndex(dumb), Stops::Incoming, span);
    simulation.cut(NodeIndex(dumb)..NodeIndex(setting.nodes), Stops::Outgoing, span);
    simulation.run_for(span);
    let is_bystander = |node: NodeIndex| node.0 < deaf;
    let buried = simulation.beliefs().iter().filter(|belief| belief.kind == BeliefKind::Confirmed);
    let bystanders =
        buried.filter(|belief| is_bystander(belief.subject) && is_bystander(belief.observer)).count();
    if bystanders > 0 {
        simulation.violate("bystanders", format!("{bystanders} times a bystander held another for dead"));
    }
    let merged = settle(&mut simulation, PATIENCE);
    simulation.run_for(AFTERMATH);
    let mut rows = vec![
        row("deaf, dumb", format!("{each}, {each}")),
        row("members again after the heal", seconds(merged)),
    ];
    rows.extend(traffic(simulation.figures() - before, &simulation, span + merged + AFTERMATH));
    Outcome::of("one-way", setting, simulation, rows)
}
