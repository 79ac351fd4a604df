//! The resolved configuration: checked once, then only read, but for keys that may change at run time.

use std::ops::Deref;

use macula_proto::NodeId;

use super::error::{ConfigError, ConfigErrors, Origin};
use super::field::NodeIdSetting;
use super::hint::nearest;
use super::key::{Change, Key};
use super::schema::{KEYS, Sections};
use super::value::{Raw, Value};
use super::{RawConfig, key_index};
use crate::tags;

/// A checked configuration: `config.quic.idle_timeout`.
///
/// ```
/// use macula::config::Config;
///
/// let mut config = Config::default();
/// assert_eq!(config.get("quic.connections_max")?.to_string(), "100");
/// config.set("log.level", "debug")?;
/// let refusal = config.set("node.address", "0.0.0.0:1").unwrap_err();
/// assert!(refusal.to_string().contains("cannot be changed while the node runs"));
/// # Ok::<(), macula::config::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    sections: Sections,
    /// One for each of [`KEYS`].
    settings: Vec<Setting>,
    warnings: Vec<String>,
}

/// A key with its value and who set it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: &'static Key,
    /// Its value.
    pub value: Value,
    /// Who set it.
    pub origin: Origin,
    /// Whether it can be changed while the node runs.
    pub runtime: bool,
}

#[derive(Clone, Debug)]
struct Setting {
    value: Value,
    origin: Origin,
}

/// A rule between keys.
pub(super) struct Law {
    /// The keys it is about; the first is the one to blame.
    pub(super) keys: &'static [&'static str],
    holds: fn(&Sections) -> bool,
    pub(super) rule: &'static str,
}

/// The rules between keys.
pub(super) const LAWS: &[Law] = &[
    Law {
        keys: &["node.tags"],
        holds: |all| tags::are_distinct(&all.node.tags),
        rule: "no name may stand twice",
    },
    Law {
        keys: &["node.tags"],
        holds: |all| tags::fit(&all.node.tags),
        rule: "names and values must have at most 512 bytes in all",
    },
    Law {
        keys: &["quic.cert_file", "quic.key_file"],
        holds: |all| all.quic.cert_file.is_none() || all.quic.key_file.is_some(),
        rule: "a certificate needs its private key: set `quic.key_file` too",
    },
    Law {
        keys: &["quic.ca_file", "quic.cert_file"],
        holds: |all| all.quic.ca_file.is_none() || all.quic.cert_file.is_some(),
        rule: "where peers must be certified, so must this node: set `quic.cert_file` too",
    },
    Law {
        keys: &["quic.crl_file", "quic.ca_file"],
        holds: |all| all.quic.crl_file.is_none() || all.quic.ca_file.is_some(),
        rule: "only an authority revokes certificates: set `quic.ca_file` too",
    },
    Law {
        keys: &["membership.suspect_timeout", "membership.protocol_period"],
        holds: |all| all.membership.suspect_timeout >= all.membership.protocol_period.saturating_mul(2),
        rule: "it must be at least twice `membership.protocol_period`, or a refutation cannot arrive in time",
    },
    Law {
        keys: &["platform.voters"],
        holds: |all| !all.platform.voters.is_multiple_of(2),
        rule: "it must be odd: an even number survives no more losses than the odd one below it",
    },
    Law {
        keys: &["routing.alpha", "routing.k"],
        holds: |all| all.routing.alpha <= all.routing.k,
        rule: "it must not be more than `routing.k`: a lookup never knows more nodes worth asking",
    },
];

impl Config {
    /// Begins a configuration with nothing but defaults.
    pub fn builder() -> RawConfig {
        RawConfig::new()
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`ConfigError::Unknown`], with a hint.
    pub fn get(&self, key: &str) -> Result<Value, ConfigError> {
        self.entry(key).map(|entry| entry.value)
    }

    /// A key with its value and who set it.
    ///
    /// # Errors
    /// [`ConfigError::Unknown`], with a hint.
    pub fn entry(&self, key: &str) -> Result<Entry, ConfigError> {
        self.find(key).map(|at| self.entry_at(at))
    }

    /// All keys with their values and who set them, in the order of the reference page.
    pub fn entries(&self) -> Vec<Entry> {
        (0..KEYS.len()).map(|at| self.entry_at(at)).collect()
    }

    /// Changes a key while the node runs. The caller hands the new value to whoever uses it.
    ///
    /// # Errors
    /// [`ConfigError::Unknown`], [`ConfigError::Fixed`] for a key that needs a restart, and
    /// [`ConfigError::Invalid`]; then nothing has changed.
    pub fn set(&mut self, key: &str, value: impl Into<Raw>) -> Result<Entry, ConfigError> {
        let at = self.find(key)?;
        let key = &KEYS[at];
        if let Change::Restart(why) = key.change {
            return Err(ConfigError::Fixed { key: key.name, why });
        }
        let raw = value.into();
        let value = key.read(&raw).map_err(|rule| invalid(key.name, &raw, rule, Origin::Runtime))?;
        let before = std::mem::replace(&mut self.settings[at], Setting { value, origin: Origin::Runtime });
        let sections = sections(&self.settings);
        if let Some(error) = broken_laws(&sections, &self.settings, &[]).into_iter().next() {
            self.settings[at] = before;
            return Err(error);
        }
        self.sections = sections;
        Ok(self.entry_at(at))
    }

    /// Compares `node.id` with the id that the node's key really has.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] if another id is configured.
    pub fn check_id(&self, found: NodeId) -> Result<(), ConfigError> {
        match self.node.id {
            NodeIdSetting::Exactly(id) if id != found => {
                let Entry { key, value, origin, .. } = self.entry("node.id")?;
                let rule = format!("the node's key belongs to {found}");
                Err(ConfigError::Invalid { key: key.name, value: value.to_string(), rule, origin })
            }
            NodeIdSetting::Exactly(_) | NodeIdSetting::Auto => Ok(()),
        }
    }

    /// Oddities that did not keep the configuration from being resolved, for the log.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub(super) fn from_raw(
        raw: Vec<Option<(Raw, Origin)>>,
        mut errors: Vec<ConfigError>,
        warnings: Vec<String>,
    ) -> Result<Self, ConfigErrors> {
        let mut settings = vec![];
        let mut failed = vec![];
        for (key, given) in KEYS.iter().zip(raw) {
            let default = || Setting { value: key.default_value(), origin: Origin::Default };
            settings.push(match given {
                None => default(),
                Some((raw, origin)) => match key.read(&raw) {
                    Ok(value) => Setting { value, origin },
                    Err(rule) => {
                        errors.push(invalid(key.name, &raw, rule, origin));
                        failed.push(key.name);
                        default()
                    }
                },
            });
        }
        let sections = sections(&settings);
        errors.extend(broken_laws(&sections, &settings, &failed));
        if errors.is_empty() { Ok(Self { sections, settings, warnings }) } else { Err(ConfigErrors(errors)) }
    }

    fn find(&self, key: &str) -> Result<usize, ConfigError> {
        key_index(key).ok_or_else(|| ConfigError::Unknown {
            key: key.into(),
            origin: Origin::Runtime,
            hint: nearest(key, KEYS.iter().map(|key| key.name)).map(String::from),
        })
    }

    fn entry_at(&self, at: usize) -> Entry {
        let Setting { value, origin } = self.settings[at].clone();
        let key = &KEYS[at];
        Entry { key, value, origin, runtime: key.change == Change::Live }
    }
}

/// All defaults.
impl Default for Config {
    fn default() -> Self {
        RawConfig::new().build().expect("the defaults obey the rules: a test resolves them")
    }
}

/// Reading only: a value that changed behind the list of sources would make that list lie.
impl Deref for Config {
    type Target = Sections;

    fn deref(&self) -> &Sections {
        &self.sections
    }
}

fn sections(settings: &[Setting]) -> Sections {
    Sections::from_values(settings.iter().map(|setting| &setting.value))
}

/// The laws that do not hold, but for those about a key that is already known to be wrong.
fn broken_laws(all: &Sections, settings: &[Setting], failed: &[&str]) -> Vec<ConfigError> {
    let judged = |law: &&Law| !law.keys.iter().any(|key| failed.contains(key));
    let broken = LAWS.iter().filter(judged).filter(|law| !(law.holds)(all));
    broken.filter_map(|law| blame(law, settings)).collect()
}

/// Blames the first key that somebody set: a default is nobody's mistake.
fn blame(law: &Law, settings: &[Setting]) -> Option<ConfigError> {
    let set = |key: &&&str| key_index(key).is_some_and(|at| settings[at].origin != Origin::Default);
    let name = law.keys.iter().find(set).or(law.keys.first())?;
    let at = key_index(name)?;
    let Setting { value, origin } = settings[at].clone();
    let rule = if Some(name) == law.keys.first() { law.rule.into() } else { about(law) };
    Some(ConfigError::Invalid { key: KEYS[at].name, value: value.to_string(), rule, origin })
}

fn about(law: &Law) -> String {
    format!("`{}`: {}", law.keys[0], law.rule)
}

fn invalid(key: &'static str, raw: &Raw, rule: String, origin: Origin) -> ConfigError {
    ConfigError::Invalid { key, value: raw.to_string(), rule, origin }
}
