//! `cargo xtask ci`: everything a change must pass, cheapest first.
//!
//! The world is compiled three times and no more: once as metadata with the tests' features (clippy), once as
//! metadata with a user's features (check, then docs), once to code (tests, doctests). Flags are the same within each
//! group, so that cargo shares what it has built; warnings become errors by arguments, never by `RUSTFLAGS`, which would
//! rebuild all.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::command::{cargo, output, watch};
use crate::tally::Tally;
use crate::tidy;

struct Step {
    name: &'static str,
    action: Action,
}

enum Action {
    /// Cargo, with these arguments.
    Cargo(Vec<&'static str>),
    /// Cargo, with these arguments; its tests are counted.
    Tests(Vec<&'static str>),
    /// Cargo, with rustdoc's warnings as errors.
    Docs(Vec<&'static str>),
    /// Our own rules.
    Tidy,
}

/// Runs all steps; stops at the first failure unless `keep_going`. The last line printed counts what ran.
pub(crate) fn run(root: &Path, keep_going: bool) -> Result<(), String> {
    let begun = Instant::now();
    let mut report = Report::default();
    for step in steps(has_nextest(root)) {
        if !report.failed.is_empty() && !keep_going {
            report.not_run.push(step.name);
            continue;
        }
        let step_begun = Instant::now();
        println!("\n==> {}: {}", step.name, step.action.shown());
        match step.action.run(root) {
            Ok(tests) => report.pass(step.name, tests, step_begun.elapsed()),
            Err((problem, tests)) => report.fail(step.name, &problem, tests, step_begun.elapsed()),
        }
    }
    println!("\n{}in all {}", report.durations(), seconds(begun.elapsed()));
    println!("{}", report.last_line());
    if report.failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", report.failed.join(", "))) }
}

/// Feature sets: all features where tests are involved (nobody's conformance suite is left out), a user's defaults
/// for `check`, which finds code that compiles only beside the tests.
fn steps(has_nextest: bool) -> Vec<Step> {
    use Action::{Cargo, Docs, Tests, Tidy};
    let tests = if has_nextest {
        vec![
            "nextest",
            "run",
            "--workspace",
            "--all-features",
            "--locked",
            "--no-fail-fast",
            "--status-level",
            "slow",
        ]
    } else {
        println!("note: cargo-nextest is not installed; `cargo test` takes its place");
        let targets = ["--lib", "--bins", "--tests", "--no-fail-fast"];
        ["test", "--workspace", "--all-features", "--locked"].into_iter().chain(targets).collect()
    };
    let step = |name, action| Step { name, action };
    let mut steps = vec![
        step("format", Cargo(vec!["fmt", "--all", "--check"])),
        step("tidy", Tidy),
        step(
            "clippy",
            Cargo(vec![
                "clippy",
                "--workspace",
                "--all-targets",
                "--all-features",
                "--locked",
                "--",
                "-Dwarnings",
            ]),
        ),
        step("check", Cargo(vec!["check", "--workspace", "--locked"])),
        step("tests", Tests(tests)),
        step("doctests", Tests(vec!["test", "--doc", "--workspace", "--all-features", "--locked"])),
        step("docs", Docs(vec!["doc", "--workspace", "--no-deps", "--all-features", "--locked"])),
    ];
    if !has_nextest {
        // Tests run these programs. Nextest builds them by itself; `cargo test` does not where targets are named.
        let examples = Cargo(vec!["build", "--workspace", "--examples", "--all-features", "--locked"]);
        let tests = steps.iter().position(|step| step.name == "tests").unwrap_or_default();
        steps.insert(tests, step("examples", examples));
    }
    steps
}

fn has_nextest(root: &Path) -> bool {
    output(cargo(root, &["nextest", "--version"])).is_ok()
}

impl Action {
    fn shown(&self) -> String {
        match self {
            Self::Cargo(args) | Self::Tests(args) => format!("cargo {}", args.join(" ")),
            Self::Docs(args) => format!("RUSTDOCFLAGS=-Dwarnings cargo {}", args.join(" ")),
            Self::Tidy => "cargo xtask tidy".into(),
        }
    }

    /// Returns the tests counted, also where the step failed.
    fn run(&self, root: &Path) -> Result<Tally, (String, Tally)> {
        let mut tests = Tally::default();
        let outcome = match self {
            Self::Tidy => tidy::run(root),
            Self::Cargo(args) => watch(cargo(root, args), |_| ()),
            Self::Docs(args) => {
                let mut command = cargo(root, args);
                command.env("RUSTDOCFLAGS", "-Dwarnings");
                watch(command, |_| ())
            }
            Self::Tests(args) => {
                let mut summaries = 0u32;
                let counted = watch(cargo(root, args), |line| {
                    if let Some(some) = Tally::of_line(line) {
                        tests += some;
                        summaries += 1;
                    }
                });
                let silent = || "no summary of tests was printed, so nothing shows that they ran".to_owned();
                counted.and_then(|()| if summaries > 0 { Ok(()) } else { Err(silent()) })
            }
        };
        outcome.map(|()| tests).map_err(|problem| (problem, tests))
    }
}

#[derive(Default)]
struct Report {
    passed: Vec<&'static str>,
    failed: Vec<&'static str>,
    not_run: Vec<&'static str>,
    took: Vec<(&'static str, Duration)>,
    tests: Tally,
}

impl Report {
    fn pass(&mut self, name: &'static str, tests: Tally, took: Duration) {
        let counted = if tests.total() > 0 { format!(" ({tests})") } else { String::new() };
        println!("==> {name}: passed in {}{counted}", seconds(took));
        self.passed.push(name);
        self.took.push((name, took));
        self.tests += tests;
    }

    fn fail(&mut self, name: &'static str, problem: &str, tests: Tally, took: Duration) {
        println!("==> {name}: FAILED in {}: {problem}", seconds(took));
        self.failed.push(name);
        self.took.push((name, took));
        self.tests += tests;
    }

    fn durations(&self) -> String {
        self.took.iter().map(|(name, took)| format!("{name} {} · ", seconds(*took))).collect()
    }

    fn last_line(&self) -> String {
        let mut line = format!("ci: {} steps passed", self.passed.len());
        if !self.failed.is_empty() {
            line += &format!(", {} failed ({})", self.failed.len(), self.failed.join(", "));
        }
        line += &format!(", {} skipped", self.not_run.len());
        if !self.not_run.is_empty() {
            line += &format!(" ({}: not reached after the failure)", self.not_run.join(", "));
        }
        format!("{line}; {}", self.tests)
    }
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts_steps_and_tests() {
        let mut report = Report::default();
        report.pass("format", Tally::default(), Duration::ZERO);
        report.pass("tests", Tally { passed: 412, failed: 0, skipped: 1 }, Duration::ZERO);
        assert_eq!(report.last_line(), "ci: 2 steps passed, 0 skipped; 412 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn a_failure_and_what_it_prevented_are_named() {
        let mut report = Report::default();
        report.fail("clippy", "it failed", Tally::default(), Duration::ZERO);
        report.not_run.extend(["tests", "docs"]);
        assert_eq!(
            report.last_line(),
            "ci: 0 steps passed, 1 failed (clippy), 2 skipped (tests, docs: not reached after the failure); \
             0 passed, 0 failed, 0 skipped"
        );
    }

    #[test]
    fn without_nextest_the_same_tests_run_under_cargo_test() {
        let shown: Vec<String> = steps(false).iter().map(|step| step.action.shown()).collect();
        assert!(
            shown.iter().any(|line| line.starts_with("cargo test --workspace --all-features")),
            "{shown:?}"
        );
        assert!(!shown.iter().any(|line| line.contains("nextest")), "{shown:?}");
        let place = |what: &str| shown.iter().position(|line| line.contains(what));
        assert!(place("--examples").is_some() && place("--examples") < place("cargo test"), "{shown:?}");
    }
}
