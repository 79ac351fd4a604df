//! What a key may hold: values as written, the kinds of keys, and values as checked.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// A value as some source wrote it, before the key's kind has looked at it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Raw {
    /// Untyped text, to be read as whatever the key holds: lists have commas, numbers are written out. With
    /// quotes or brackets, as in a file, it is understood as well.
    /// This is what the environment, a command line and most builders have.
    Plain(String),
    /// A TOML string.
    Text(String),
    /// A TOML integer.
    Integer(i64),
    /// A TOML boolean.
    Flag(bool),
    /// A list of strings.
    List(Vec<String>),
    /// Something that no key holds, described for the error message.
    Unusable(String),
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(text) | Self::Text(text) => write!(f, "{text:?}"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::List(items) => write!(f, "{items:?}"),
            Self::Unusable(what) => f.write_str(what),
        }
    }
}

macro_rules! as_plain_text {
    ($($Type:ty)+) => {$(
        impl From<$Type> for Raw {
            fn from(value: $Type) -> Self {
                Self::Plain(value.to_string())
            }
        }
    )+};
}

as_plain_text!(&str String &String SocketAddr u16 u32 u64 usize std::path::Display<'_>);

impl From<Duration> for Raw {
    fn from(duration: Duration) -> Self {
        Self::Text(show_duration(duration))
    }
}

impl From<bool> for Raw {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<Vec<String>> for Raw {
    fn from(items: Vec<String>) -> Self {
        Self::List(items)
    }
}

/// A rule for text: what it is to be, and the check.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// What the text is, as a noun phrase: "an address and port".
    pub expects: &'static str,
    /// Says what is wrong with a text.
    pub check: fn(&str) -> Result<(), String>,
}

/// What a key holds, and in which range.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// A time span, both ends included: `"1s"`, `"500ms"`, or an integer in milliseconds.
    Duration {
        /// Shortest allowed.
        min: Duration,
        /// Longest allowed.
        max: Duration,
    },
    /// A whole number, both ends included.
    Count {
        /// Smallest allowed.
        min: u64,
        /// Largest allowed.
        max: u64,
        /// What is counted.
        unit: &'static str,
    },
    /// Yes or no.
    Flag,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// Text under a rule.
    Text(Rule),
    /// Several texts under one rule.
    List {
        /// The rule for each of them.
        each: Rule,
        /// Fewest allowed.
        items_min: usize,
        /// Most allowed.
        items_max: usize,
    },
}

/// A checked value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// A key without a default that nobody set.
    Unset,
    /// A time span.
    Duration(Duration),
    /// A whole number.
    Count(u64),
    /// Yes or no.
    Flag(bool),
    /// Text, or one of a few words.
    Text(String),
    /// Several texts.
    List(Vec<String>),
}

/// As it would stand in a TOML file; an unset value is empty.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset => Ok(()),
            Self::Duration(duration) => write!(f, "\"{}\"", show_duration(*duration)),
            Self::Count(count) => write!(f, "{count}"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Text(text) => f.write_str(&quoted(text)),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(|item| quoted(item)).collect();
                write!(f, "[{}]", items.join(", "))
            }
        }
    }
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl Kind {
    /// Reads a value.
    ///
    /// # Errors
    /// The rule that it breaks, as a sentence.
    pub fn read(&self, raw: &Raw) -> Result<Value, String> {
        let broken = |cause: Option<String>| match cause {
            Some(cause) => format!("expected {}: {cause}", self.rule()),
            None => format!("expected {}", self.rule()),
        };
        match self {
            Self::Duration { min, max } => read_duration(raw)
                .filter(|duration| (min..=max).contains(&duration))
                .map(Value::Duration)
                .ok_or_else(|| broken(None)),
            Self::Count { min, max, .. } => read_count(raw)
                .filter(|count| (min..=max).contains(&count))
                .map(Value::Count)
                .ok_or_else(|| broken(None)),
            Self::Flag => read_flag(raw).map(Value::Flag).ok_or_else(|| broken(None)),
            Self::Choice(words) => read_text(raw)
                .filter(|text| words.contains(text))
                .map(|text| Value::Text(text.into()))
                .ok_or_else(|| broken(None)),
            Self::Text(rule) => {
                let text = read_text(raw).ok_or_else(|| broken(None))?;
                (rule.check)(text).map_err(|cause| broken(Some(cause)))?;
                Ok(Value::Text(text.into()))
            }
            Self::List { each, items_min, items_max } => {
                let items = read_list(raw).ok_or_else(|| broken(None))?;
                if !(*items_min..=*items_max).contains(&items.len()) {
                    return Err(broken(Some(format!("there are {}", items.len()))));
                }
                items.iter().try_for_each(|item| (each.check)(item)).map_err(|cause| broken(Some(cause)))?;
                Ok(Value::List(items))
            }
        }
    }

    /// What is allowed, as a noun phrase with its range.
    pub fn rule(&self) -> String {
        match self {
            Self::Duration { min, max } => {
                format!("a duration from {} to {}", show_duration(*min), show_duration(*max))
            }
            Self::Count { min, max, unit } => format!("a number of {unit} from {min} to {max}"),
            Self::Flag => "true or false".into(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::Text(rule) => rule.expects.into(),
            Self::List { each, items_min, items_max } => {
                format!("a list of {items_min} to {items_max}, each {}", each.expects)
            }
        }
    }
}

/// Writes a duration with the largest unit that leaves a whole number.
pub(crate) fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let unit = UNITS.iter().rev().find(|(_, size)| millis >= *size && millis.is_multiple_of(*size));
    let (unit, size) = unit.copied().unwrap_or(("ms", 1));
    format!("{}{unit}", millis / size)
}

const UNITS: [(&str, u128); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

fn read_duration(raw: &Raw) -> Option<Duration> {
    match raw {
        Raw::Integer(millis) => u64::try_from(*millis).ok().map(Duration::from_millis),
        Raw::Text(text) => duration_from(text),
        Raw::Plain(text) => digits(text).map(Duration::from_millis).or_else(|| duration_from(text)),
        Raw::Flag(_) | Raw::List(_) | Raw::Unusable(_) => None,
    }
}

fn duration_from(text: &str) -> Option<Duration> {
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let (_, size) = UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
    let millis = digits(number)?.checked_mul(u64::try_from(*size).ok()?)?;
    Some(Duration::from_millis(millis))
}

fn read_count(raw: &Raw) -> Option<u64> {
    match raw {
        Raw::Integer(number) => u64::try_from(*number).ok(),
        Raw::Plain(text) => digits(text),
        Raw::Text(_) | Raw::Flag(_) | Raw::List(_) | Raw::Unusable(_) => None,
    }
}

/// Only digits: `u64::from_str` alone would also take a plus sign.
fn digits(text: &str) -> Option<u64> {
    let text = text.trim();
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn read_text(raw: &Raw) -> Option<&str> {
    match raw {
        Raw::Plain(text) | Raw::Text(text) => Some(text),
        Raw::Integer(_) | Raw::Flag(_) | Raw::List(_) | Raw::Unusable(_) => None,
    }
}

fn read_flag(raw: &Raw) -> Option<bool> {
    match raw {
        Raw::Flag(flag) => Some(*flag),
        Raw::Plain(text) => text.trim().parse().ok(),
        Raw::Text(_) | Raw::Integer(_) | Raw::List(_) | Raw::Unusable(_) => None,
    }
}

fn read_list(raw: &Raw) -> Option<Vec<String>> {
    match raw {
        Raw::List(items) => Some(items.clone()),
        Raw::Plain(text) => {
            Some(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(String::from).collect())
        }
        Raw::Text(_) | Raw::Integer(_) | Raw::Flag(_) | Raw::Unusable(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPAN: Kind = Kind::Duration { min: Duration::from_millis(10), max: Duration::from_secs(3_600) };
    const COUNT: Kind = Kind::Count { min: 1, max: 100, unit: "things" };
    const LIST: Kind = Kind::List {
        each: Rule {
            expects: "a word",
            check: |text| if text.contains(' ') { Err(format!("`{text}` has a space")) } else { Ok(()) },
        },
        items_min: 0,
        items_max: 2,
    };

    fn plain(text: &str) -> Raw {
        Raw::Plain(text.into())
    }

    #[test]
    fn durations_are_text_with_a_unit_or_milliseconds() {
        for (raw, millis) in [
            (Raw::Text("1s".into()), 1_000),
            (Raw::Text("500ms".into()), 500),
            (Raw::Text("2 m".into()), 120_000),
            (Raw::Text("1h".into()), 3_600_000),
            (Raw::Integer(250), 250),
            (plain("250"), 250),
            (plain("3s"), 3_000),
        ] {
            assert_eq!(SPAN.read(&raw), Ok(Value::Duration(Duration::from_millis(millis))), "{raw}");
        }
    }

    #[test]
    fn whatever_is_no_duration_in_range_is_refused_with_the_rule() {
        for raw in ["", "s", "1.5s", "-1s", "+1s", "1 year", "9ms", "2h", "99999999999999999999d"] {
            let refusal = SPAN.read(&plain(raw));
            assert_eq!(refusal, Err("expected a duration from 10ms to 1h".into()), "{raw}");
        }
        assert!(SPAN.read(&Raw::Text("250".into())).is_err(), "quoted digits in a file lack their unit");
        assert!(SPAN.read(&Raw::Integer(-1)).is_err());
    }

    #[test]
    fn counts_are_integers_in_range() {
        assert_eq!(COUNT.read(&Raw::Integer(100)), Ok(Value::Count(100)));
        assert_eq!(COUNT.read(&plain(" 7 ")), Ok(Value::Count(7)));
        for raw in [Raw::Integer(0), Raw::Integer(101), Raw::Integer(-1), Raw::Text("7".into()), plain("")] {
            assert_eq!(COUNT.read(&raw), Err("expected a number of things from 1 to 100".into()), "{raw}");
        }
    }

    #[test]
    fn flags_are_true_or_false_and_no_other_words() {
        for (raw, flag) in [(Raw::Flag(true), true), (plain(" false "), false), (plain("true"), true)] {
            assert_eq!(Kind::Flag.read(&raw), Ok(Value::Flag(flag)), "{raw}");
        }
        for raw in [plain("yes"), plain("1"), Raw::Integer(1), Raw::Text("true".into()), plain("")] {
            assert_eq!(Kind::Flag.read(&raw), Err("expected true or false".into()), "{raw}");
        }
    }

    #[test]
    fn lists_name_the_item_that_is_wrong() {
        assert_eq!(LIST.read(&plain(" a , b ,")), Ok(Value::List(vec!["a".into(), "b".into()])));
        assert_eq!(LIST.read(&plain("")), Ok(Value::List(vec![])));
        let rule = "expected a list of 0 to 2, each a word";
        assert_eq!(LIST.read(&plain("a,b c")), Err(format!("{rule}: `b c` has a space")));
        assert_eq!(LIST.read(&plain("a,b,c")), Err(format!("{rule}: there are 3")));
        assert_eq!(LIST.read(&Raw::Text("a,b".into())), Err(rule.into()), "a file writes a list as a list");
    }

    proptest! {
        #[test]
        fn a_shown_duration_reads_back(millis in 0u64..1_000_000_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(duration_from(&show_duration(duration)), Some(duration));
        }

        #[test]
        fn no_text_makes_reading_panic(text: String) {
            for kind in [SPAN, COUNT, LIST, Kind::Flag] {
                let _ = kind.read(&Raw::Plain(text.clone()));
                let _ = kind.read(&Raw::Text(text.clone()));
            }
        }
    }
}
