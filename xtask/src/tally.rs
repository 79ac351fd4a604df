//! How many tests ran: read from the summary lines of nextest and of `cargo test`.

use std::fmt;
use std::ops::AddAssign;

/// Counted tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    /// What a line of output says, if it is a summary.
    pub(crate) fn of_line(line: &str) -> Option<Self> {
        let line = without_escapes(line);
        let counts =
            line.split_once("test result: ").map(|(_, rest)| rest.split_once(". ").map_or(rest, |r| r.1));
        let counts = counts.or_else(|| of_nextest(&line))?;
        let mut tally = Self::default();
        for part in without_parentheses(counts).split([',', ';']) {
            let (count, what) = part.trim().split_once(' ')?;
            let Ok(count) = count.parse::<u64>() else { continue };
            match what.trim() {
                "passed" => tally.passed += count,
                "failed" | "exec failed" | "timed out" => tally.failed += count,
                "skipped" | "ignored" => tally.skipped += count,
                // "measured", "filtered out", and what future versions may add.
                _ => {}
            }
        }
        Some(tally)
    }

    /// How many tests there are in all.
    pub(crate) const fn total(self) -> u64 {
        self.passed + self.failed + self.skipped
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// The counts in nextest's `Summary [ 1.2s] 9 tests run: 8 passed, 1 failed, 0 skipped`.
fn of_nextest(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("Summary [")?;
    rest.split_once("run: ").map(|(_, counts)| counts)
}

/// Drops what stands in parentheses, such as `(1 slow, 2 flaky)`.
fn without_parentheses(text: &str) -> String {
    let mut depth = 0usize;
    let keep = |c: &char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && *c != ')'
    };
    text.chars().filter(keep).collect()
}

/// Drops terminal colours.
fn without_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut parts = text.split('\u{1b}');
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        out.push_str(part.split_once('m').map_or("", |(_, rest)| rest));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: u64, failed: u64, skipped: u64) -> Option<Tally> {
        Some(Tally { passed, failed, skipped })
    }

    #[test]
    fn nextest_summaries_are_read() {
        let of = Tally::of_line;
        assert_eq!(of("     Summary [   0.123s] 412 tests run: 412 passed, 0 skipped"), tally(412, 0, 0));
        assert_eq!(
            of(
                "     Summary [   9.1s] 5/9 tests run: 3 passed (1 slow, 1 flaky), 1 failed, 1 timed out, 4 skipped"
            ),
            tally(3, 2, 4)
        );
        assert_eq!(
            of("\u{1b}[32;1m     Summary\u{1b}[0m [ 1s] 1 test run: \u{1b}[1m1\u{1b}[0m passed, 0 skipped"),
            tally(1, 0, 0)
        );
    }

    #[test]
    fn cargo_test_summaries_are_read() {
        let line =
            "test result: ok. 7 passed; 0 failed; 2 ignored; 0 measured; 3 filtered out; finished in 0.01s";
        assert_eq!(Tally::of_line(line), tally(7, 0, 2));
        let line = "test result: FAILED. 1 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s";
        assert_eq!(Tally::of_line(line), tally(1, 4, 0));
    }

    #[test]
    fn other_lines_are_not_summaries() {
        for line in
            ["", "running 3 tests", "test a ... ok", "Summary of the weather: 3 passed", "error: test failed"]
        {
            assert_eq!(Tally::of_line(line), None, "{line}");
        }
    }
}
