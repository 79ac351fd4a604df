//! Names of topics and procedures.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::limits::{NAME_BYTES_MAX, NAME_SEGMENTS_MAX};

/// A topic or procedure name: 1–255 bytes, at most 16 segments of `[A-Za-z0-9_-]` with dots between them,
/// case-sensitive.
///
/// ```
/// use macula_proto::Name;
/// let name: Name = "be.cortexiq.home.kitchen".parse()?;
/// assert_eq!(name.segments().count(), 4);
/// # Ok::<(), macula_proto::NameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Which rule a name breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Empty, or longer than 255 bytes.
    #[error("a name has 1 to {NAME_BYTES_MAX} bytes, not {0}")]
    Length(usize),
    /// More than 16 segments.
    #[error("`{name}` has {segments} segments: at most {NAME_SEGMENTS_MAX} are allowed")]
    Segments {
        /// The name as given.
        name: String,
        /// How many segments it has.
        segments: usize,
    },
    /// Two dots in a row, or a dot at an end.
    #[error("`{0}` has an empty segment (a dot at an end, or two in a row)")]
    EmptySegment(String),
    /// A character outside the alphabet.
    #[error("`{name}` holds {found:?}: a segment is made of A-Z, a-z, 0-9, `_` and `-`")]
    Character {
        /// The name as given.
        name: String,
        /// The offending character.
        found: char,
    },
}

impl Name {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its segments, from the left.
    pub fn segments(&self) -> std::str::Split<'_, char> {
        self.0.split('.')
    }

    /// Whether `c` may stand in a segment.
    pub fn allows(c: char) -> bool {
        c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(NameError::Length(name.len()));
        }
        if let Some(found) = name.chars().find(|c| *c != '.' && !Self::allows(*c)) {
            return Err(NameError::Character { name: name.into(), found });
        }
        if name.split('.').any(str::is_empty) {
            return Err(NameError::EmptySegment(name.into()));
        }
        let segments = name.split('.').count();
        if segments > NAME_SEGMENTS_MAX {
            return Err(NameError::Segments { name: name.into(), segments });
        }
        Ok(Self(name.into()))
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_its_error() {
        assert_eq!("".parse::<Name>(), Err(NameError::Length(0)));
        assert_eq!("a".repeat(256).parse::<Name>(), Err(NameError::Length(256)));
        for bad in [".", "a.", ".a", "a..b"] {
            assert_eq!(bad.parse::<Name>(), Err(NameError::EmptySegment(bad.into())), "{bad}");
        }
        for (bad, found) in [("a.*", '*'), ("a b", ' '), ("é", 'é'), ("a\0", '\0')] {
            assert_eq!(bad.parse::<Name>(), Err(NameError::Character { name: bad.into(), found }), "{bad}");
        }
        let deep = vec!["s"; 17].join(".");
        assert_eq!(deep.parse::<Name>(), Err(NameError::Segments { name: deep.clone(), segments: 17 }));
    }

    #[test]
    fn the_limits_themselves_are_allowed() {
        assert!(vec!["s"; 16].join(".").parse::<Name>().is_ok());
        assert!("a".repeat(255).parse::<Name>().is_ok());
        assert!("Ab-9_".parse::<Name>().is_ok());
    }
}
