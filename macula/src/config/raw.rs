//! The raw configuration: what the sources say, before it is checked.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin};
use super::hint::nearest;
use super::schema::KEYS;
use super::value::Raw;
use super::{Config, ConfigErrors, key_index};

/// A second name for `MACULA_BOOTSTRAP_SEEDS`.
const SEEDS_ALIAS: &str = "MACULA_SEEDS";

/// Larger configuration files are refused unread, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What files, the environment and the program say, one on top of the other.
///
/// Whatever the order of the calls, the program wins over the environment, the environment over files, and of
/// two files the one read later. Nothing fails before [`RawConfig::build`], which reports everything at once.
///
/// ```
/// use macula::config::RawConfig;
///
/// let config = RawConfig::new()
///     .text("macula.toml", "[node]\nname = \"edge\"\n[rpc]\ndefault_timeout = \"2s\"\n")
///     .env_from([("MACULA_NODE_NAME".to_string(), "edge-7".to_string())])
///     .set("node.address", "127.0.0.1:0")
///     .build()?;
/// assert_eq!(config.node.name, "edge-7");
/// assert_eq!(config.entry("node.name")?.origin.to_string(), "environment variable MACULA_NODE_NAME");
/// assert_eq!(config.entry("rpc.default_timeout")?.origin.to_string(), "macula.toml:4");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct RawConfig {
    /// One for each of [`KEYS`].
    values: Vec<Option<(Raw, Origin)>>,
    errors: Vec<ConfigError>,
    warnings: Vec<String>,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl RawConfig {
    /// Nothing but defaults.
    pub fn new() -> Self {
        Self { values: vec![None; KEYS.len()], errors: vec![], warnings: vec![] }
    }

    /// Reads a TOML file.
    pub fn file(mut self, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        match read(path) {
            Ok(text) => self.text(path, &text),
            Err(cause) => {
                self.errors.push(ConfigError::Unreadable { path: path.into(), cause });
                self
            }
        }
    }

    /// Reads TOML that is already in memory; `path` is what messages call it.
    pub fn text(mut self, path: impl Into<PathBuf>, text: &str) -> Self {
        let path = Arc::new(path.into());
        let origin = |at: usize| Origin::File { path: path.clone(), line: line_of(text, at) };
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            self.errors.extend(errors.iter().map(|error| ConfigError::Syntax {
                origin: origin(error.span().map_or(0, |span| span.start)),
                cause: error.message().into(),
            }));
            return self;
        }
        for (section, content) in table.get_ref() {
            let DeValue::Table(fields) = content.get_ref() else {
                self.assign(section.get_ref(), raw(content.get_ref()), origin(section.span().start));
                continue;
            };
            for (field, value) in fields {
                let name = format!("{}.{}", section.get_ref(), field.get_ref());
                self.assign(&name, raw(value.get_ref()), origin(field.span().start));
            }
        }
        self
    }

    /// Takes the process's own environment.
    pub fn env(mut self) -> Self {
        let mut readable = vec![];
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(|name| name.starts_with("MACULA_")) else { continue };
            match value.into_string() {
                Ok(value) => readable.push((name.to_owned(), value)),
                Err(_) => {
                    self.warnings.push(format!("environment variable {name} is ignored: it is not UTF-8"));
                }
            }
        }
        self.env_from(readable)
    }

    /// Takes environment variables. An empty one counts as not set.
    ///
    /// A variable that is a mistyped key is an error. Others that merely look like ours are only warned of:
    /// container platforms set such variables by themselves (`MACULA_NODE_PORT`).
    pub fn env_from(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut variables: Vec<_> = variables.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        variables.sort();
        for (name, value) in variables {
            let origin = Origin::Env(name.clone());
            let key = KEYS.iter().find(|key| key.env() == name).map(|key| key.name);
            match key.or_else(|| (name == SEEDS_ALIAS).then_some("bootstrap.seeds")) {
                Some(key) => self.assign(key, Raw::Plain(value), origin),
                None => self.unknown_variable(name, origin),
            }
        }
        self
    }

    /// Sets a key from the program: a builder, or the command line.
    pub fn set(mut self, key: &str, value: impl Into<Raw>) -> Self {
        self.assign(key, value.into(), Origin::Program);
        self
    }

    /// Sets a key that holds a list.
    pub fn set_list(mut self, key: &str, items: impl IntoIterator<Item: Display>) -> Self {
        let items = items.into_iter().map(|item| item.to_string()).collect();
        self.assign(key, Raw::List(items), Origin::Program);
        self
    }

    /// Checks everything.
    ///
    /// # Errors
    /// All that is wrong, not just the first.
    pub fn build(self) -> Result<Config, ConfigErrors> {
        Config::from_raw(self.values, self.errors, self.warnings)
    }

    fn assign(&mut self, name: &str, raw: Raw, origin: Origin) {
        let Some(at) = key_index(name) else {
            let hint = nearest(name, KEYS.iter().map(|key| key.name)).map(String::from);
            self.errors.push(ConfigError::Unknown { key: name.into(), origin, hint });
            return;
        };
        let slot = &mut self.values[at];
        if slot.as_ref().is_none_or(|(_, present)| rank(present) <= rank(&origin)) {
            *slot = Some((raw, origin));
        }
    }

    fn unknown_variable(&mut self, name: String, origin: Origin) {
        let Some(written) = name.strip_prefix("MACULA_") else { return };
        let as_key = |text: &str| text.to_ascii_lowercase().replacen('_', ".", 1);
        let key = as_key(written);
        let Some(meant) = nearest(&key, KEYS.iter().map(|key| key.name)) else {
            if super::schema::SECTIONS.iter().any(|(section, _)| key.split('.').next() == Some(section)) {
                self.warnings.push(format!("environment variable {name} is ignored: it is no key"));
            }
            return;
        };
        let hint = KEYS.iter().find(|key| key.name == meant).map(super::Key::env);
        self.errors.push(ConfigError::Unknown { key: name, origin, hint });
    }
}

/// Which source wins over which.
fn rank(origin: &Origin) -> u8 {
    match origin {
        Origin::Default => 0,
        Origin::File { .. } => 1,
        Origin::Env(_) => 2,
        Origin::Program => 3,
        Origin::Runtime => 4,
    }
}

fn read(path: &Path) -> Result<String, String> {
    let bytes = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(format!("it has {bytes} bytes: at most {FILE_BYTES_MAX} are read"));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

/// Text without a type. Whoever writes a value as in a file, with quotes or brackets, is understood as well.
pub(super) fn from_text(text: &str) -> Raw {
    if !text.starts_with(['"', '[']) {
        return Raw::Plain(text.into());
    }
    let line = format!("value = {text}");
    let parsed = DeTable::parse(&line).ok().filter(|table| table.get_ref().len() == 1);
    let typed = parsed.and_then(|table| table.get_ref().get("value").map(|value| raw(value.get_ref())));
    typed.unwrap_or_else(|| Raw::Plain(text.into()))
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.clone().into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| Raw::Unusable(number.to_string()), Raw::Integer),
        DeValue::Array(items) => items
            .iter()
            .map(|item| item.get_ref().as_str().map(String::from))
            .collect::<Option<_>>()
            .map_or_else(|| Raw::Unusable("a list with something else than text in it".into()), Raw::List),
        DeValue::Boolean(flag) => Raw::Flag(*flag),
        DeValue::Float(number) => Raw::Unusable(number.to_string()),
        DeValue::Datetime(date) => Raw::Unusable(date.to_string()),
        DeValue::Table(_) => Raw::Unusable("a table".into()),
    }
}
