//! Medians and ratios, as a table and as CSV.

use std::fmt;

use crate::case::{Case, Load};
use crate::outcome::Outcome;
use crate::run::{Pair, Plan};

/// One case, summed up.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) case: Case,
    pub(crate) ours: Summary,
    pub(crate) raw: Option<Summary>,
    /// Ours divided by raw QUIC, of the runs that followed each other: the median.
    ratios: Option<Ratios>,
}

/// The medians of several runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summary {
    pub(crate) rate: f64,
    cpu_nanos: f64,
    /// In microseconds: p50, p90, p99, p99.9.
    latency: [f64; 4],
    source_mib: f64,
    sink_mib: f64,
    /// In all runs together.
    lost: u64,
}

#[derive(Clone, Copy, Debug)]
struct Ratios {
    rate: f64,
    p50: f64,
    cpu: f64,
}

impl Line {
    pub(crate) fn of(case: Case, pairs: &[Pair]) -> Self {
        let ours: Vec<Outcome> = pairs.iter().map(|pair| pair.ours).collect();
        let raw: Vec<Outcome> = pairs.iter().filter_map(|pair| pair.raw).collect();
        let ratio = |of: fn(&Outcome) -> f64| {
            median(ours.iter().zip(&raw).map(|(ours, raw)| of(ours) / of(raw).max(1e-9)))
        };
        let ratios = || Ratios {
            rate: ratio(|run| run.rate),
            p50: ratio(|run| run.latency.p50 as f64),
            cpu: ratio(|run| run.cpu_nanos),
        };
        Self {
            case,
            ours: Summary::of(&ours),
            raw: (!raw.is_empty()).then(|| Summary::of(&raw)),
            ratios: (!raw.is_empty()).then(ratios),
        }
    }
}

impl Summary {
    fn of(runs: &[Outcome]) -> Self {
        let of = |of: &dyn Fn(&Outcome) -> f64| median(runs.iter().map(of));
        let micros = |of: fn(&Outcome) -> u64| median(runs.iter().map(|run| of(run) as f64 / 1e3));
        Self {
            rate: of(&|run| run.rate),
            cpu_nanos: of(&|run| run.cpu_nanos),
            latency: [
                micros(|run| run.latency.p50),
                micros(|run| run.latency.p90),
                micros(|run| run.latency.p99),
                micros(|run| run.latency.p999),
            ],
            source_mib: of(&|run| run.source_bytes as f64 / f64::from(1 << 20)),
            sink_mib: of(&|run| run.sink_bytes as f64 / f64::from(1 << 20)),
            lost: runs.iter().map(|run| run.lost).sum(),
        }
    }
}

/// The middle one, or the mean of the middle two; 0 of none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [_, rest @ ..] = self.cells();
        let titled = COLUMNS[1..].iter().zip(rest).filter(|(_, cell)| !cell.is_empty());
        let shown: Vec<String> = titled.map(|(title, cell)| format!("{title} {cell}")).collect();
        f.write_str(&shown.join(" · "))
    }
}

const COLUMNS: [&str; 11] = [
    "case",
    "k/s",
    "raw k/s",
    "ratio",
    "p50/p90/p99/p99.9 µs",
    "raw p50 µs",
    "p50 ratio",
    "CPU ns each",
    "CPU ratio",
    "lost",
    "MiB source/sink",
];

impl Line {
    fn cells(&self) -> [String; COLUMNS.len()] {
        let (ours, is_call) = (&self.ours, matches!(self.case.load, Load::Call { .. }));
        let memory = format!("{:.1}/{:.1}", ours.source_mib, ours.sink_mib);
        if self.case.load == Load::Idle {
            let share = format!("{:.3} % of a core", ours.cpu_nanos / 1e7);
            let none = String::new;
            return [
                self.case.name(),
                none(),
                none(),
                none(),
                none(),
                none(),
                none(),
                share,
                none(),
                none(),
                memory,
            ];
        }
        let rate = |rate: f64| format!("{:.1}", rate / 1e3);
        let raw = |of: &dyn Fn(&Summary) -> String| self.raw.as_ref().map(of).unwrap_or_default();
        let ratio = |of: fn(&Ratios) -> f64| {
            self.ratios.as_ref().map(|ratios| format!("{:.2}", of(ratios))).unwrap_or_default()
        };
        let calls = |text: String| if is_call { text } else { String::new() };
        [
            self.case.name(),
            rate(ours.rate),
            raw(&|raw| rate(raw.rate)),
            ratio(|ratios| ratios.rate),
            calls(ours.latency.map(|micros| format!("{micros:.0}")).join("/")),
            calls(raw(&|raw| format!("{:.0}", raw.latency[0]))),
            calls(ratio(|ratios| ratios.p50)),
            format!("{:.0}", ours.cpu_nanos),
            ratio(|ratios| ratios.cpu),
            ours.lost.to_string(),
            memory,
        ]
    }
}

/// A table in Markdown.
pub(crate) fn table(lines: &[Line], plan: &Plan) -> String {
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    rows.extend(lines.iter().map(Line::cells));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    let row = |cells: &[String; COLUMNS.len()]| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("| {} |\n", padded.join(" | "))
    };
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    let (head, body) = (row(&rows[0]), rows[1..].iter().map(row).collect::<String>());
    let runs = format!("Medians of {} runs of {} s each, in turns.", plan.runs, plan.seconds);
    format!(
        "{head}|{}|\n{body}\n{runs} Ratios: Macula divided by raw QUIC with the same settings.\n\
         Rates are deliveries at the subscribers (k/s: thousands a second), CPU is user and system time of all processes\n\
         for one delivery or call, MiB the largest resident set.\n",
        rule.join("|")
    )
}

/// All figures, one case a line.
pub(crate) fn csv(lines: &[Line]) -> String {
    let mut text = String::from(
        "case,payload_bytes,rate,raw_rate,rate_ratio,p50_us,p90_us,p99_us,p999_us,raw_p50_us,p50_ratio,cpu_ns,raw_cpu_ns,\
         cpu_ratio,lost,raw_lost,source_mib,sink_mib,raw_source_mib,raw_sink_mib\n",
    );
    for line in lines {
        let (ours, raw) = (&line.ours, line.raw.as_ref());
        let raw =
            |of: fn(&Summary) -> f64| raw.map(of).map(|value| format!("{value:.2}")).unwrap_or_default();
        let ratio = |of: fn(&Ratios) -> f64| {
            line.ratios.as_ref().map(|r| format!("{:.3}", of(r))).unwrap_or_default()
        };
        let [p50, p90, p99, p999] = ours.latency;
        text += &format!(
            "\"{}\",{},{:.1},{},{},{p50:.1},{p90:.1},{p99:.1},{p999:.1},{},{},{:.0},{},{},{},{},{:.1},{:.1},{},{}\n",
            line.case.name(),
            line.case.payload,
            ours.rate,
            raw(|raw| raw.rate),
            ratio(|ratios| ratios.rate),
            raw(|raw| raw.latency[0]),
            ratio(|ratios| ratios.p50),
            ours.cpu_nanos,
            raw(|raw| raw.cpu_nanos),
            ratio(|ratios| ratios.cpu),
            ours.lost,
            raw(|raw| raw.lost as f64),
            ours.source_mib,
            ours.sink_mib,
            raw(|raw| raw.source_mib),
            raw(|raw| raw.sink_mib),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert_eq!(median(std::iter::empty()), 0.0);
    }

    #[test]
    fn ratios_are_of_neighbouring_runs() {
        let case = Case { load: Load::Call { in_flight: 1 }, payload: 16, curve: None, own_thread: false };
        let run = |rate| Outcome { rate, ..Outcome::default() };
        // The machine became half as fast in the middle.
        let pairs = [(100.0, 200.0), (50.0, 100.0), (50.0, 100.0)];
        let pairs = pairs.map(|(ours, raw)| Pair { ours: run(ours), raw: Some(run(raw)) });
        let line = Line::of(case, &pairs);
        assert_eq!(line.ratios.unwrap().rate, 0.5);
        assert!(table(std::slice::from_ref(&line), &Plan { runs: 3, seconds: 1.0 }).contains("| 0.50"));
        let csv = csv(&[line]);
        let columns: Vec<usize> = csv.lines().map(|line| line.replace(", ", "").split(',').count()).collect();
        assert_eq!(columns, [20, 20]);
    }
}
