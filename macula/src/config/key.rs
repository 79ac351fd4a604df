//! Keys, as the schema declares them.

use super::raw::from_text;
use super::value::{Kind, Raw, Value};

/// One key of the configuration, with everything there is to know about it.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name, with its section: `quic.idle_timeout`.
    pub name: &'static str,
    /// What it holds, and in which range.
    pub kind: Kind,
    /// The default, as it would be written into an environment variable; `None` if it may stay unset.
    pub default: Option<&'static str>,
    /// What it is for and why its default is what it is, in Markdown.
    pub doc: &'static str,
    /// Whether it may change while the node runs.
    pub change: Change,
}

/// Whether a key may change while the node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Yes, at once.
    Live,
    /// Only with a restart, for this reason.
    Restart(&'static str),
}

impl Key {
    /// The environment variable that sets this key: `MACULA_QUIC_IDLE_TIMEOUT`.
    pub fn env(&self) -> String {
        format!("MACULA_{}", self.name.replace('.', "_").to_ascii_uppercase())
    }

    /// The section that it stands in.
    pub fn section(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(section, _)| section)
    }

    /// Its name within its section.
    pub fn field(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(_, field)| field)
    }

    /// Reads a value. Empty plain text means that nobody set the key, if it may stay unset.
    ///
    /// # Errors
    /// The rule that the value breaks.
    pub(crate) fn read(&self, raw: &Raw) -> Result<Value, String> {
        match raw {
            Raw::Plain(text) if text.is_empty() && self.default.is_none() => Ok(Value::Unset),
            Raw::Plain(text) => self.kind.read(&from_text(text)),
            raw => self.kind.read(raw),
        }
    }

    /// The default as a value.
    pub fn default_value(&self) -> Value {
        let Some(default) = self.default else { return Value::Unset };
        self.read(&Raw::Plain(default.into()))
            .expect("each default obeys its own rule: a test reads them all")
    }
}
