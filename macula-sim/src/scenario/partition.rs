//! Partition: two halves are cut apart until each holds the other for dead, then the cut heals and they merge.

use std::time::Duration;

use super::mesh::{gathered, settle};
use super::outcome::{row, seconds, traffic};
use super::{Outcome, Setting};
use crate::{NodeIndex, Options, Stops};

const SPAN: Duration = Duration::from_secs(60);

/// How long the halves may take to merge.
const PATIENCE: Duration = Duration::from_secs(300);

/// Watched after that, for relapses.
const AFTERMATH: Duration = Duration::from_secs(30);

pub(super) fn run(setting: Setting) -> Outcome {
    halves("partition", setting, SPAN)
}

/// For an hour.
pub(super) fn hour(setting: Setting) -> Outcome {
    halves("hour-partition", setting, Duration::from_secs(3_600))
}

/// For longer than the dead are remembered.
pub(super) fn two_hours(setting: Setting) -> Outcome {
    halves("two-hour-partition", setting, Duration::from_secs(7_200))
}

fn halves(name: &'static str, setting: Setting, usual: Duration) -> Outcome {
    let (mut simulation, _) = gathered(setting, Options::default());
    simulation.run_for(Duration::from_secs(10));
    let before = simulation.figures();
    let span = setting.span.unwrap_or(usual);
    simulation.cut(NodeIndex(0)..NodeIndex(setting.nodes / 2), Stops::Both, span);
    simulation.run_for(span);
    let apart = simulation.figures() - before;
    let merged = settle(&mut simulation, PATIENCE);
    let healing = simulation.figures() - before - apart;
    simulation.run_for(AFTERMATH);
    let mut rows = vec![
        row("confirmed while apart", apart.confirmed.to_string()),
        row("merged after the heal", seconds(merged)),
        row("exchanges to merge", healing.exchanges.to_string()),
    ];
    rows.extend(traffic(healing, &simulation, merged));
    Outcome::of(name, setting, simulation, rows)
}
