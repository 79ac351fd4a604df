//! Which topics a subscription wants: [`Pattern`].

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use macula_proto::Name;
use macula_proto::limits::{NAME_BYTES_MAX, NAME_SEGMENTS_MAX};

/// A topic, or a family of topics.
///
/// Segments are those of a [`Name`], or a wildcard: `*` stands for exactly one segment, `#` for any number of
/// them, none included. Wildcards may stand anywhere, but only as whole segments.
///
/// ```
/// use macula_pubsub::Pattern;
///
/// let kitchens: Pattern = "be.*.kitchen.#".parse()?;
/// assert!(kitchens.matches(&"be.cortexiq.kitchen".parse().unwrap()));
/// assert!(kitchens.matches(&"be.cortexiq.kitchen.oven.on".parse().unwrap()));
/// assert!(!kitchens.matches(&"be.kitchen".parse().unwrap()));
/// # Ok::<(), macula_pubsub::PatternError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Arc<str>);

/// Which rule a pattern breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// Empty, or longer than 255 bytes.
    #[error("a pattern has 1 to {NAME_BYTES_MAX} bytes, not {0}")]
    Length(usize),
    /// More than 16 segments.
    #[error("`{pattern}` has {segments} segments: at most {NAME_SEGMENTS_MAX} are allowed")]
    Segments {
        /// The pattern as given.
        pattern: String,
        /// How many segments it has.
        segments: usize,
    },
    /// Two dots in a row, or a dot at an end.
    #[error("`{0}` has an empty segment (a dot at an end, or two in a row)")]
    EmptySegment(String),
    /// A character outside the alphabet.
    #[error("`{pattern}` holds {found:?}: a segment is made of A-Z, a-z, 0-9, `_` and `-`, or is `*` or `#`")]
    Character {
        /// The pattern as given.
        pattern: String,
        /// The offending character.
        found: char,
    },
    /// A wildcard beside other characters in one segment, as in `a*`.
    #[error("`{pattern}`: a wildcard is a whole segment, which `{segment}` is not")]
    PartialWildcard {
        /// The pattern as given.
        pattern: String,
        /// The offending segment.
        segment: String,
    },
}

/// One segment of a pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Segment<'a> {
    /// This very segment.
    Literal(&'a str),
    /// `*`: any one segment.
    One,
    /// `#`: any number of segments.
    Many,
}

impl Pattern {
    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `topic` is of this family.
    pub fn matches(&self, topic: &Name) -> bool {
        let pattern: Vec<Segment<'_>> = self.segments().collect();
        // Bit i: the first i segments of the pattern are used up. At most 17 states, so the cost is bounded by
        // 16 × 17 whatever the wildcards.
        let mut states = close_over_many(&pattern, 1);
        for segment in topic.segments() {
            let next = pattern.iter().enumerate().filter(|(at, _)| states & (1 << at) != 0);
            let next = next.fold(0, |next, (at, wanted)| match wanted {
                Segment::Literal(literal) if *literal != segment => next,
                Segment::Literal(_) | Segment::One => next | (1 << (at + 1)),
                Segment::Many => next | (1 << at),
            });
            states = close_over_many(&pattern, next);
        }
        states & (1 << pattern.len()) != 0
    }

    /// Whether this names one topic: there is no wildcard.
    pub fn is_exact(&self) -> bool {
        self.segments().all(|segment| matches!(segment, Segment::Literal(_)))
    }

    /// The leading segments without wildcards, at most `depth` of them; empty if the first is a wildcard.
    ///
    /// ```
    /// let pattern: macula_pubsub::Pattern = "a.b.*.d".parse()?;
    /// assert_eq!(pattern.literal_prefix(4), "a.b");
    /// assert_eq!(pattern.literal_prefix(1), "a");
    /// # Ok::<(), macula_pubsub::PatternError>(())
    /// ```
    pub fn literal_prefix(&self, depth: usize) -> &str {
        let literals = self.segments().take(depth).map_while(|segment| match segment {
            Segment::Literal(literal) => Some(literal.len()),
            Segment::One | Segment::Many => None,
        });
        // Each literal but the first is preceded by a dot.
        let end = literals.fold(0, |end, len| end + len + usize::from(end > 0));
        &self.0[..end]
    }

    pub(crate) fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        self.0.split('.').map(|segment| match segment {
            "*" => Segment::One,
            "#" => Segment::Many,
            literal => Segment::Literal(literal),
        })
    }
}

/// A `#` may stand for nothing: whoever is before it is also behind it.
fn close_over_many(pattern: &[Segment<'_>], states: u32) -> u32 {
    pattern.iter().enumerate().fold(states, |states, (at, segment)| match segment {
        Segment::Many if states & (1 << at) != 0 => states | (1 << (at + 1)),
        _ => states,
    })
}

impl From<&Name> for Pattern {
    /// The pattern that matches this topic alone.
    fn from(topic: &Name) -> Self {
        Self(topic.as_str().into())
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(pattern: &str) -> Result<Self, PatternError> {
        if pattern.is_empty() || pattern.len() > NAME_BYTES_MAX {
            return Err(PatternError::Length(pattern.len()));
        }
        let allowed = |c: char| Name::allows(c) || matches!(c, '.' | '*' | '#');
        if let Some(found) = pattern.chars().find(|c| !allowed(*c)) {
            return Err(PatternError::Character { pattern: pattern.into(), found });
        }
        if pattern.split('.').any(str::is_empty) {
            return Err(PatternError::EmptySegment(pattern.into()));
        }
        let partial = |segment: &&str| segment.len() > 1 && segment.contains(['*', '#']);
        if let Some(segment) = pattern.split('.').find(partial) {
            return Err(PatternError::PartialWildcard { pattern: pattern.into(), segment: segment.into() });
        }
        let segments = pattern.split('.').count();
        if segments > NAME_SEGMENTS_MAX {
            return Err(PatternError::Segments { pattern: pattern.into(), segments });
        }
        Ok(Self(pattern.into()))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({})", self.0)
    }
}

#[cfg(test)]
#[path = "pattern_test.rs"]
pub(crate) mod tests;
