//! Tags: what a node says about itself, as the configuration writes it.

use std::fmt;
use std::str::FromStr;

/// Longest name of a tag, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// One of the words that a node says about itself, for others to read: `zone=eu-west`.
///
/// ```
/// use macula::config::Tag;
///
/// let tag: Tag = "zone=eu-west".parse()?;
/// assert_eq!((tag.name.as_str(), tag.value.as_str()), ("zone", "eu-west"));
/// assert!("no value".parse::<Tag>().is_err());
/// # Ok::<(), macula::config::TagError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// What it is about.
    pub name: String,
    /// What it says.
    pub value: String,
}

/// Which rule a tag breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TagError {
    /// There is no `=`.
    #[error("`{0}` has no `=`")]
    NoValue(String),
    /// The name is empty or too long.
    #[error("the name of `{tag}` has {bytes} bytes")]
    NameLength {
        /// The tag.
        tag: String,
        /// How long its name is.
        bytes: usize,
    },
    /// The name holds something else than letters, digits, `_`, `-` and dots.
    #[error("{found:?} is not allowed in the name of `{tag}`")]
    NameCharacter {
        /// The tag.
        tag: String,
        /// What is not allowed.
        found: char,
    },
    /// The value holds a comma, which separates tags, or a control character.
    #[error("{found:?} is not allowed in the value of `{name}`")]
    ValueCharacter {
        /// The name of the tag.
        name: String,
        /// What is not allowed.
        found: char,
    },
    /// The value begins or ends with white space.
    #[error("the value of `{0}` begins or ends with white space")]
    ValueSpace(String),
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        let (name, value) = text.split_once('=').ok_or_else(|| TagError::NoValue(text.into()))?;
        if !(1..=NAME_BYTES_MAX).contains(&name.len()) {
            return Err(TagError::NameLength { tag: text.into(), bytes: name.len() });
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if let Some(found) = name.chars().find(|c| !allowed(*c)) {
            return Err(TagError::NameCharacter { tag: text.into(), found });
        }
        if let Some(found) = value.chars().find(|c| *c == ',' || c.is_control()) {
            return Err(TagError::ValueCharacter { name: name.into(), found });
        }
        if value.trim() != value {
            return Err(TagError::ValueSpace(name.into()));
        }
        Ok(Self { name: name.into(), value: value.into() })
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_a_name_and_a_value() {
        for good in ["zone=eu", "a.b-c_d=", "k==v=", "city=São Paulo", &format!("{}=v", "n".repeat(64))] {
            assert_eq!(good.parse::<Tag>().map(|tag| tag.to_string()), Ok(good.into()));
        }
    }

    #[test]
    fn what_is_no_tag_is_refused_with_the_rule() {
        for (bad, rule) in [
            ("zone", "`zone` has no `=`"),
            ("=eu", "the name of `=eu` has 0 bytes"),
            ("my zone=eu", "' ' is not allowed in the name of `my zone=eu`"),
            ("zone=a,b", "',' is not allowed in the value of `zone`"),
            ("zone=a\nb", "'\\n' is not allowed in the value of `zone`"),
            ("zone= a", "the value of `zone` begins or ends with white space"),
        ] {
            assert_eq!(bad.parse::<Tag>().unwrap_err().to_string(), rule);
        }
        let long = format!("{}=v", "n".repeat(65)).parse::<Tag>();
        assert!(matches!(long, Err(TagError::NameLength { bytes: 65, .. })), "{long:?}");
    }
}
