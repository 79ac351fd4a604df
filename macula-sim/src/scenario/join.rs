//! Join: all nodes start, one shortly after the other, through three seeds.

use std::time::Duration;

use super::mesh::gathered;
use super::outcome::{row, seconds, traffic};
use super::{Outcome, Setting};
use crate::{Figures, Options};

/// How long the finished mesh is watched.
const SPAN: Duration = Duration::from_secs(30);

pub(super) fn run(setting: Setting) -> Outcome {
    let (mut simulation, gathering) = gathered(setting, Options::default());
    let joining = simulation.figures() - Figures::default();
    let span = setting.span.unwrap_or(SPAN);
    simulation.run_for(span);
    let quiet = simulation.figures() - joining;
    let each = |count: u64| format!("{:.1}", count as f64 / f64::from(setting.nodes));
    let mut rows = vec![
        row("after the last start: 99 % known", seconds(gathering.nearly)),
        row("after the last start: all known", seconds(gathering.complete)),
        row("to join: datagrams a node", each(joining.datagrams)),
        row("to join: bytes a node, in all", each(joining.datagram_bytes + joining.exchange_bytes)),
        row("to join: exchanges and failed", format!("{}, {}", joining.exchanges, joining.exchanges_failed)),
    ];
    rows.extend(traffic(quiet, &simulation, span));
    Outcome::of("join", setting, simulation, rows)
}
