//! What is known about one member.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use macula_proto::{Contact, NodeId, Timestamp};

/// Most bytes of all keys and values of a member's tags together.
pub const TAGS_BYTES_MAX: usize = 512;

/// Most tags that a member has.
pub const TAGS_MAX: usize = 32;

/// What a member says about itself, for others to read: small words such as a zone or a role.
pub type Tags = BTreeMap<String, String>;

/// Which of a member's own words is the newest. Only the member itself raises it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// The incarnation that is newer than this one.
    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What this node believes about a member.
///
/// ```text
///                 no answer, or hearsay              nobody refuted in time
///   ┌──────▶ Alive ───────────────────▶ Suspect ─────────────────────────▶ Dead
///   │          │ ◀─────────────────────── │                                │
///   │          │   higher incarnation     │ its own word                   │ kept for a while,
///   │          └──────────┬───────────────┘                                │ then forgotten
///   │                     ▼ its own word                                   │
///   │                   Left                                               │
///   └─────────────────────┴──────── higher incarnation ────────────────────┘
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum MemberState {
    /// It answers, as far as is known.
    Alive = 0,
    /// Somebody got no answer; it may still refute that.
    Suspect = 1,
    /// Nobody heard from it in time. Not part of a snapshot.
    Dead = 2,
    /// It said goodbye. Not part of a snapshot.
    Left = 3,
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
            Self::Left => "left",
        })
    }
}

impl MemberState {
    /// Whether the member counts as there: alive or suspect.
    pub const fn is_present(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }

    pub(crate) const fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Alive),
            1 => Some(Self::Suspect),
            2 => Some(Self::Dead),
            3 => Some(Self::Left),
            _ => None,
        }
    }
}

/// A member, as this node sees it. Cloning shares the contact and the tags.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Who, and where it can be reached.
    pub contact: Arc<Contact>,
    /// What this node believes about it.
    pub state: MemberState,
    /// The newest of its own words that is known here.
    pub incarnation: Incarnation,
    /// Its tags.
    pub tags: Arc<Tags>,
    /// Drawn anew at each start of its process.
    pub instance: u64,
    /// Since when `state` holds, on this node's clock, to a tenth of a second.
    pub since: Timestamp,
}

impl Member {
    /// Who.
    pub fn id(&self) -> NodeId {
        self.contact.id
    }
}

/// Which rule a set of tags breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TagsError {
    /// Too many bytes.
    #[error("tags have at most {TAGS_BYTES_MAX} bytes (all keys and values together), not {0}")]
    Bytes(usize),
    /// Too many tags.
    #[error("a member has at most {TAGS_MAX} tags, not {0}")]
    Count(usize),
}

/// Checks tags against the limits.
pub(crate) fn check_tags(tags: &Tags) -> Result<(), TagsError> {
    let bytes: usize = tags.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > TAGS_BYTES_MAX {
        return Err(TagsError::Bytes(bytes));
    }
    if tags.len() > TAGS_MAX {
        return Err(TagsError::Count(tags.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_at_the_limit_are_allowed_and_one_byte_more_is_not() {
        let tags = |bytes: usize| Tags::from([("k".into(), "v".repeat(bytes - 1))]);
        assert_eq!(check_tags(&tags(512)), Ok(()));
        assert_eq!(check_tags(&tags(513)), Err(TagsError::Bytes(513)));
        let many = (0..33).map(|i| (i.to_string(), String::new())).collect();
        assert_eq!(check_tags(&many), Err(TagsError::Count(33)));
    }
}
