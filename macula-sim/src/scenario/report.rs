//! The report: the figures of many scenarios in a few tables, to be compared with those of another day.

use std::fmt::Write as _;

use super::{Outcome, Setting};

/// Runs of one scenario whose figures are shown side by side: those that broke a rule first.
const SHOWN_MAX: usize = 4;

/// In Markdown: first a table with a line for each scenario and size, then one of all figures for each. It holds nothing that
/// differs between two runs of the same build, such as real time.
pub fn report(outcomes: &[Outcome]) -> String {
    let groups = groups(outcomes);
    let mut text = String::from(
        "| scenario | nodes | runs | broke a rule | simulated, s | events |\n|---|--:|--:|--:|--:|--:|\n",
    );
    for group in &groups {
        let (scenario, nodes) = (group[0].scenario, group[0].setting.nodes);
        let broken = group.iter().filter(|outcome| outcome.is_broken()).count();
        let simulated: f64 = group.iter().map(|outcome| outcome.simulated.as_secs_f64()).sum();
        let events: u64 = group.iter().map(|outcome| outcome.events).sum();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {scenario} | {nodes} | {} | {broken} | {simulated:.0} | {events} |",
            group.len()
        );
    }
    for group in &groups {
        figures(group, &mut text);
    }
    text
}

/// Outcomes of the same scenario and size, in the order in which these first come.
fn groups(outcomes: &[Outcome]) -> Vec<Vec<&Outcome>> {
    let mut groups: Vec<Vec<&Outcome>> = Vec::new();
    for outcome in outcomes {
        let kind = |outcome: &Outcome| (outcome.scenario, Setting { seed: 0, ..outcome.setting });
        match groups.iter_mut().find(|group| kind(group[0]) == kind(outcome)) {
            Some(group) => group.push(outcome),
            None => groups.push(vec![outcome]),
        }
    }
    groups
}

/// A scenario's figures, a line each, and a column for each run shown.
fn figures(group: &[&Outcome], text: &mut String) {
    let (whole, broken): (Vec<&Outcome>, Vec<&Outcome>) =
        group.iter().copied().partition(|outcome| !outcome.is_broken());
    let mut shown: Vec<_> = broken.iter().copied().chain(whole).take(SHOWN_MAX).collect();
    shown.sort_by_key(|outcome| outcome.setting.seed);
    let line = |label: &str, values: Vec<String>| {
        let values: String = values.iter().map(|value| format!(" {} |", cell(value))).collect();
        format!("| {} |{values}\n", cell(label))
    };
    let _ = writeln!(text, "\n### {}, {} nodes\n", group[0].scenario, group[0].setting.nodes);
    text.push_str(&line("", shown.iter().map(|outcome| format!("seed {}", outcome.setting.seed)).collect()));
    let _ = writeln!(text, "|---|{}", "---|".repeat(shown.len()));
    for (place, row) in shown[0].rows.iter().enumerate() {
        let value =
            |outcome: &&Outcome| outcome.rows.get(place).map_or(String::new(), |row| row.value.clone());
        text.push_str(&line(row.label, shown.iter().map(value).collect()));
    }
    let count = |outcome: &&Outcome| outcome.violations.len().to_string();
    text.push_str(&line("rules broken", shown.iter().map(count).collect()));
    for outcome in broken {
        let first = outcome.violations.first().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(text, "\nBroken: {first}; again with `{}`", outcome.command());
    }
}

/// Text that does not end its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use macula_proto::Timestamp;

    use super::*;
    use crate::Violation;
    use crate::scenario::named;

    #[test]
    fn each_scenario_has_a_line_and_each_figure_too() {
        let run = |name, seed| {
            let setting = Setting { nodes: 8, seed, span: None, through_codec: false };
            named(name).unwrap().run(setting)
        };
        let mut outcomes: Vec<_> = (1..=6).map(|seed| run("join", seed)).collect();
        outcomes.push(run("leave", 1));
        outcomes[5].violations =
            vec![Violation { rule: "planted", at: Timestamp::ZERO, what: "a|b".to_owned() }];
        let text = report(&outcomes);
        assert!(text.contains("| join | 8 | 6 | 1 |") && text.contains("| leave | 8 | 1 | 0 |"), "{text}");
        assert!(text.contains("|  | seed 1 | seed 2 | seed 3 | seed 6 |"), "the broken one is shown: {text}");
        assert!(text.contains("| rules broken | 0 | 0 | 0 | 1 |"), "{text}");
        assert!(
            text.contains("Broken: planted at 0.000 s: a|b; again with `cargo xtask sim --scenario join")
        );
        for row in &outcomes[0].rows {
            assert!(text.contains(&format!("| {} | {}", row.label, row.value)), "{} is missing", row.label);
        }
    }
}
