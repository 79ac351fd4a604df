//! The report: the figures of many scenarios in one table, to be compared with those of another day.

use std::fmt::Write as _;

use super::{Outcome, Row};

/// One Markdown table of all figures: a line each, in the order of the runs. It holds nothing that differs between two runs
/// of the same build, such as real time.
pub fn report(outcomes: &[Outcome]) -> String {
    let mut table = String::from("| scenario | nodes | seed | figure | value |\n|---|---|---|---|---|\n");
    for outcome in outcomes {
        let mut line = |label: &str, value: &str| {
            let (scenario, setting) = (outcome.scenario, outcome.setting);
            let (label, value) = (cell(label), cell(value));
            // Writing to a string cannot fail.
            let _ =
                writeln!(table, "| {scenario} | {} | {} | {label} | {value} |", setting.nodes, setting.seed);
        };
        for Row { label, value } in &outcome.rows {
            line(label, value);
        }
        line("simulated", &format!("{:.1} s, {} events", outcome.simulated.as_secs_f64(), outcome.events));
        line("rules broken", &outcome.violations.len().to_string());
        for violation in &outcome.violations {
            line("broken", &violation.to_string());
        }
    }
    table
}

/// Text that does not end its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Setting, named};

    #[test]
    fn every_figure_has_a_line_of_five_cells() {
        let setting = Setting { nodes: 8, seed: 1, span: None, through_codec: false };
        let outcome = named("join").unwrap().run(setting);
        let table = report(std::slice::from_ref(&outcome));
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 2 + outcome.rows.len() + 2);
        assert!(lines.iter().all(|line| line.matches('|').count() == 6), "{table}");
        assert!(table.contains("| join | 8 | 1 | rules broken | 0 |"));
    }
}
