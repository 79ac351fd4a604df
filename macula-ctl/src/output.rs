//! Data on stdout: tables for people, JSON for programs.

use std::borrow::Cow;
use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::cli::Format;
use crate::error::CliError;

/// Something that can stand in a table.
pub(crate) trait Row: Serialize {
    /// Column headings.
    const COLUMNS: &'static [&'static str];

    /// One cell a column.
    fn cells(&self) -> Vec<String>;
}

/// Prints rows: a table, an array, or a document a line.
pub(crate) fn rows<R: Row>(format: Format, rows: &[R]) -> Result<(), CliError> {
    match format {
        Format::Table => print(&table(rows)),
        Format::Json => print(&pretty(&rows)),
        Format::Ndjson => rows.iter().try_for_each(line),
    }
}

/// Prints one thing: `table` for people, or a document.
pub(crate) fn one(
    format: Format,
    value: &impl Serialize,
    table: impl FnOnce() -> String,
) -> Result<(), CliError> {
    match format {
        Format::Table => print(&harmless(&table())),
        Format::Json => print(&pretty(value)),
        Format::Ndjson => line(value),
    }
}

/// Prints a document on a line of its own.
pub(crate) fn line(value: &impl Serialize) -> Result<(), CliError> {
    print(&serde_json::to_string(value).map_err(|error| CliError::Broken(error.to_string()))?)
}

/// Prints text and a line end. A reader that went away (`| head`) ends the program quietly.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        outcome => outcome.map_err(CliError::io("stdout")),
    }
}

/// Writes bytes as they are, with nothing added.
pub(crate) fn write(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        outcome => outcome.map_err(CliError::io("stdout")),
    }
}

/// Says something to the person at the terminal.
pub(crate) fn say(text: &str) {
    // Nothing useful can be done when stderr is gone.
    let _ = writeln!(io::stderr(), "{}", harmless(text));
}

/// Text that does nothing to a terminal but stand there: what others wrote may hold escape sequences, or characters
/// that turn the direction of what follows. Both are shown as Rust escapes them; line ends and tabs stay.
pub(crate) fn harmless(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_harmful) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmful(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown.into()
}

/// The same, on one line.
pub(crate) fn one_line(text: &str) -> String {
    harmless(text).replace('\n', "\\n")
}

fn is_harmful(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || (c.is_control() && !matches!(c, '\n' | '\t'))
}

/// What to do about a failure of the system.
pub(crate) fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::PermissionDenied => {
            "this user may not write there: take another place, or change its owner"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room on that disk, or take another"
        }
        io::ErrorKind::ReadOnlyFilesystem => "take a place that can be written to",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "a file stands where a directory is wanted: take another place, or move the file away"
        }
        _ => "take another place",
    }
}

/// Two columns: what, and how it is.
pub(crate) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
    facts.iter().map(|(what, value)| format!("{what:width$}  {value}")).collect::<Vec<_>>().join("\n")
}

fn table<R: Row>(rows: &[R]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(R::COLUMNS.iter().map(|column| column.to_uppercase()));
    rows.iter().for_each(|row| {
        table.add_row(row.cells().iter().map(|cell| harmless(cell)));
    });
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("our documents have string keys only")
}

/// `1 node`, `2 nodes`.
pub(crate) fn count(number: impl TryInto<u64>, what: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A span of time, to the two largest units.
pub(crate) fn span(seconds: u64) -> String {
    let (d, h, m, s) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    match (d, h, m) {
        (0, 0, 0) => format!("{s}s"),
        (0, 0, _) => format!("{m}m {s}s"),
        (0, _, _) => format!("{h}h {m}m"),
        _ => format!("{d}d {h}h"),
    }
}

/// Microseconds, with the unit that suits.
pub(crate) fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_durations() {
        assert_eq!([0, 1, 2].map(|n| count(n, "node")), ["0 nodes", "1 node", "2 nodes"]);
        assert_eq!(span(59), "59s");
        assert_eq!(span(61), "1m 1s");
        assert_eq!(span(3_700), "1h 1m");
        assert_eq!(span(90_000), "1d 1h");
        assert_eq!(micros(999), "999 µs");
        assert_eq!(micros(1_500), "1.5 ms");
        assert_eq!(micros(2_000_000), "2.0 s");
    }

    #[test]
    fn what_others_wrote_does_nothing_to_a_terminal() {
        assert_eq!(harmless("a\tb\nc é 🏠"), "a\tb\nc é 🏠");
        assert_eq!(harmless("\u{1b}[2J\r\u{7}\u{9b}"), "\\u{1b}[2J\\r\\u{7}\\u{9b}");
        assert_eq!(harmless("\u{202e}txt.exe"), "\\u{202e}txt.exe");
        assert_eq!(one_line("a\nb"), "a\\nb");
    }

    #[test]
    fn facts_are_aligned() {
        assert_eq!(facts(&[("a", "1".into()), ("long", "2".into())]), "a     1\nlong  2");
    }
}
