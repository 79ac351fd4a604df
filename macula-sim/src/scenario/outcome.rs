//! What a scenario found out, for people.

use std::fmt;
use std::time::Duration;

use super::Setting;
use crate::{Figures, Simulation, TraceHash, Violation};

/// One figure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Of what.
    pub label: &'static str,
    /// In words, with its unit.
    pub value: String,
}

/// How a run went. Equal outcomes are the same run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Which scenario.
    pub scenario: &'static str,
    /// How.
    pub setting: Setting,
    /// Simulated time in all.
    pub simulated: Duration,
    /// Events handled.
    pub events: u64,
    /// The figures.
    pub rows: Vec<Row>,
    /// The hash of everything that happened.
    pub trace: TraceHash,
    /// What was broken; empty if all is well.
    pub violations: Vec<Violation>,
}

impl Outcome {
    /// Ends a simulation and sums it up.
    pub(super) fn of(
        scenario: &'static str,
        setting: Setting,
        mut simulation: Simulation,
        rows: Vec<Row>,
    ) -> Self {
        let violations = simulation.finish();
        Self {
            scenario,
            setting,
            simulated: simulation.now().since_start(),
            events: simulation.events(),
            rows,
            trace: simulation.trace_hash(),
            violations,
        }
    }

    /// Whether a rule was broken.
    pub fn is_broken(&self) -> bool {
        !self.violations.is_empty()
    }

    /// The command that does the very same again.
    pub fn command(&self) -> String {
        let Setting { nodes, seed, span, through_codec } = self.setting;
        let minutes =
            span.map(|span| format!(" --minutes {}", span.as_secs_f64() / 60.0)).unwrap_or_default();
        let codec = if through_codec { " --codec" } else { "" };
        format!("cargo xtask sim --scenario {} --nodes {nodes} --seed {seed}{minutes}{codec}", self.scenario)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setting { nodes, seed, .. } = self.setting;
        writeln!(f, "{}, {nodes} nodes, seed {seed}", self.scenario)?;
        for Row { label, value } in &self.rows {
            writeln!(f, "  {label:<34} {value}")?;
        }
        writeln!(f, "  {:<34} {:.1} s, {} events", "simulated", self.simulated.as_secs_f64(), self.events)?;
        writeln!(f, "  {:<34} {}", "trace", self.trace)?;
        for violation in &self.violations {
            writeln!(f, "  BROKEN  {violation}")?;
        }
        if !self.violations.is_empty() {
            writeln!(f, "  again:  {}", self.command())?;
        }
        Ok(())
    }
}

/// One figure.
pub(super) fn row(label: &'static str, value: impl Into<String>) -> Row {
    Row { label, value: value.into() }
}

/// Time in seconds.
pub(super) fn seconds(span: Duration) -> String {
    format!("{:.2} s", span.as_secs_f64())
}

/// Mean, 99th percentile and maximum.
pub(super) fn spread(mut spans: Vec<Duration>) -> String {
    spans.sort_unstable();
    let Some(max) = spans.last() else { return "none".into() };
    let mean = spans.iter().sum::<Duration>() / spans.len() as u32;
    let p99 = spans[(spans.len() * 99).div_ceil(100) - 1];
    format!("mean {}, p99 {}, max {}", seconds(mean), seconds(p99), seconds(*max))
}

/// The first, the median, the 99th percentile and the last.
pub(super) fn percentiles(mut spans: Vec<Duration>) -> String {
    spans.sort_unstable();
    let (Some(first), Some(last)) = (spans.first(), spans.last()) else { return "none".into() };
    let at = |percent: usize| seconds(spans[(spans.len() * percent).div_ceil(100) - 1]);
    format!("first {}, median {}, p99 {}, last {}", seconds(*first), at(50), at(99), seconds(*last))
}

/// What a part of a run cost, per node and protocol period.
pub(super) fn traffic(part: Figures, simulation: &Simulation, span: Duration) -> Vec<Row> {
    let period = simulation.options().swim.protocol_period;
    let shares = simulation.living().len() as f64 * span.as_secs_f64() / period.as_secs_f64();
    let each = |count: u64| format!("{:.2}", count as f64 / shares);
    vec![
        row("datagrams, a node and period", each(part.datagrams)),
        row("their bytes, a node and period", each(part.datagram_bytes)),
        row("bytes of list exchanges, the same", each(part.exchange_bytes)),
        row("dials, the same", format!("{:.4}", part.dials as f64 / shares)),
        row("datagrams lost and doubled", format!("{}, {}", part.datagrams_lost, part.datagrams_doubled)),
        row(
            "suspected, refuted, confirmed",
            format!("{}, {}, {}", part.suspected, part.refuted, part.confirmed),
        ),
        row("most links of one node", format!("{} ({} evicted)", simulation.links_max(), part.links_evicted)),
    ]
}
