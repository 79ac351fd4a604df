//! Realms: separate worlds on one mesh.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::limits::REALM_BYTES_MAX;

const DEFAULT: &str = "default";

/// A realm isolates topics, procedures, groups and state. Those who need none are in `default`.
///
/// A name has 1–63 bytes of `[a-z0-9_-]`, with dots between segments. On the wire the default realm is the
/// empty string, so it costs nothing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Realm(Arc<str>);

/// Which rule a realm name breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RealmError {
    /// Empty, or longer than 63 bytes.
    #[error("a realm name has 1 to {REALM_BYTES_MAX} bytes, not {0}")]
    Length(usize),
    /// A character outside the alphabet.
    #[error("realm `{name}` holds {found:?}: only a-z, 0-9, `_`, `-` and dots between segments are allowed")]
    Character {
        /// The name as given.
        name: String,
        /// The offending character.
        found: char,
    },
    /// An empty segment, as in `a..b`.
    #[error("realm `{0}` has an empty segment")]
    EmptySegment(String),
}

impl Realm {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as it goes on the wire: empty for the default realm.
    pub fn to_wire(&self) -> String {
        if &*self.0 == DEFAULT { String::new() } else { self.0.to_string() }
    }

    /// Reads [`Realm::to_wire`]'s form.
    ///
    /// # Errors
    /// The rule that the name breaks.
    pub fn from_wire(name: &str) -> Result<Self, RealmError> {
        if name.is_empty() { Ok(Self::default()) } else { name.parse() }
    }
}

impl Default for Realm {
    fn default() -> Self {
        Self(DEFAULT.into())
    }
}

impl FromStr for Realm {
    type Err = RealmError;

    fn from_str(name: &str) -> Result<Self, RealmError> {
        if name.is_empty() || name.len() > REALM_BYTES_MAX {
            return Err(RealmError::Length(name.len()));
        }
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-' | '.');
        if let Some(found) = name.chars().find(|c| !allowed(*c)) {
            return Err(RealmError::Character { name: name.into(), found });
        }
        if name.split('.').any(str::is_empty) {
            return Err(RealmError::EmptySegment(name.into()));
        }
        Ok(Self(name.into()))
    }
}

impl fmt::Display for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Realm({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_its_error() {
        assert_eq!("".parse::<Realm>(), Err(RealmError::Length(0)));
        assert_eq!("x".repeat(64).parse::<Realm>(), Err(RealmError::Length(64)));
        assert!(matches!("Home".parse::<Realm>(), Err(RealmError::Character { found: 'H', .. })));
        assert_eq!("a..b".parse::<Realm>(), Err(RealmError::EmptySegment("a..b".into())));
        assert_eq!("acme.eu-1".parse::<Realm>().map(|r| r.to_string()), Ok("acme.eu-1".into()));
    }

    #[test]
    fn the_default_realm_is_empty_on_the_wire() {
        assert_eq!(Realm::default().to_wire(), "");
        assert_eq!(Realm::from_wire(""), Ok(Realm::default()));
        assert_eq!(Realm::from_wire("default"), Ok(Realm::default()));
    }
}
