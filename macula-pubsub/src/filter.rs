//! What a subscription wants of a topic's messages: [`Filter`].

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use crate::{Headers, Payload};

mod expression;
mod json;
mod parse;

use expression::Expression;

/// Longest filter, in bytes.
pub const FILTER_BYTES_MAX: usize = 512;

/// How deep parentheses and negations may nest.
pub const FILTER_DEPTH_MAX: usize = 16;

/// Most tests in one filter.
pub const FILTER_TESTS_MAX: usize = 32;

/// A condition on a message's headers and on fields of its JSON content.
///
/// ```text
///   filter  = all, { "||", all }
///   all     = one, { "&&", one }
///   one     = "!", one | "(", filter, ")" | test
///   test    = field, [ ( "==" | "!=" | "<" | "<=" | ">" | ">=" | "^=" ), literal ]
///   field   = "header.", name | "json.", name, { ".", name }
///   name    = letters, digits, "_" and "-" | text
///   literal = text | number | "true" | "false" | "null"
///   text    = "…", where \" and \\ stand for " and \
/// ```
///
/// - `header.NAME` is the first header of this name. It is text; beside a number, `true` or `false` it is read as such.
/// - `json.a.b` is the field `b` of the field `a` of the content, which is read as JSON whatever its content type says;
///   of an array, `0` is the first element. Of two fields of one name the last counts. Numbers are 64-bit floats.
/// - `^=` is "begins with", for text. `<`, `<=`, `>` and `>=` compare numbers with numbers, and text with text byte by byte.
/// - A comparison with a field that is not there, or is of another type, does not hold. `!=` holds whenever `==` does not.
/// - A field alone holds if it is there; one of the content must also be neither `false` nor `null`.
///
/// A filter has at most [`FILTER_BYTES_MAX`] bytes and [`FILTER_TESTS_MAX`] tests, nested at most [`FILTER_DEPTH_MAX`]
/// deep. Evaluating it reads the content at most once, and holds no more of it than the fields that are compared.
///
/// ```
/// use macula_pubsub::{Filter, Payload};
///
/// let large: Filter = r#"header.kind == "order" && json.amount > 10"#.parse()?;
/// assert!(large.accepts(&Payload::new(r#"{"amount": 12.5}"#).header("kind", "order")));
/// assert!(!large.accepts(&Payload::new(r#"{"amount": 2}"#).header("kind", "order")));
/// let wrong = "header.kind = 3".parse::<Filter>().unwrap_err();
/// assert_eq!(wrong.to_string(), "character 13: a comparison is one of == != < <= > >= ^=, which `=` is not");
/// # Ok::<(), macula_pubsub::FilterError>(())
/// ```
#[derive(Clone)]
pub struct Filter(Arc<Parsed>);

struct Parsed {
    text: Box<str>,
    expression: Expression,
    /// The fields of the content that the expression asks for, by number.
    paths: Vec<json::Path>,
}

/// Which rule a filter breaks, and where: characters are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// Empty, or too long.
    #[error("a filter has 1 to {FILTER_BYTES_MAX} bytes, not {0}")]
    Length(usize),
    /// Something else should stand there.
    #[error("character {at}: here stands {expected}, which `{found}` is not")]
    Unexpected {
        /// Where.
        at: usize,
        /// What may stand there.
        expected: &'static str,
        /// What does.
        found: String,
    },
    /// It ends too early.
    #[error("character {at}: the filter ends where {expected} should stand")]
    Ends {
        /// Where it ends.
        at: usize,
        /// What is missing.
        expected: &'static str,
    },
    /// Not a comparison.
    #[error("character {at}: a comparison is one of == != < <= > >= ^=, which `{found}` is not")]
    Comparison {
        /// Where.
        at: usize,
        /// What stands there.
        found: String,
    },
    /// Not a field.
    #[error("character {at}: a field begins with `header.` or `json.`, which `{found}` does not")]
    Field {
        /// Where.
        at: usize,
        /// What stands there.
        found: String,
    },
    /// A header has one name.
    #[error("character {at}: a header has one name; quote it if there are dots in it")]
    HeaderName {
        /// Where the second name begins.
        at: usize,
    },
    /// A text without end, or with an escape that is none.
    #[error("character {at}: a text ends with a quote, and knows only \\\" and \\\\ as escapes")]
    Text {
        /// Where.
        at: usize,
    },
    /// Not a number.
    #[error("character {at}: `{found}` is no number as in JSON, or too large")]
    Number {
        /// Where it begins.
        at: usize,
        /// What stands there.
        found: String,
    },
    /// This comparison is not for this literal.
    #[error("character {at}: {rule}")]
    Incomparable {
        /// Where the literal is.
        at: usize,
        /// What is allowed.
        rule: &'static str,
    },
    /// Nested too deep.
    #[error("character {at}: parentheses and negations nest at most {FILTER_DEPTH_MAX} deep")]
    Depth {
        /// Where it is too deep.
        at: usize,
    },
    /// Too many tests.
    #[error("character {at}: a filter has at most {FILTER_TESTS_MAX} tests")]
    Tests {
        /// Where the first begins that is one too many.
        at: usize,
    },
}

impl Filter {
    /// The filter as it was written.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// Whether a message with this content and these headers passes.
    pub fn accepts(&self, payload: &Payload) -> bool {
        self.accepts_parts(&payload.headers, &payload.bytes)
    }

    fn accepts_parts(&self, headers: &Headers, content: &[u8]) -> bool {
        let mut fields = expression::Fields::new(headers, content, &self.0.paths);
        self.0.expression.holds(&mut fields)
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        if text.is_empty() || text.len() > FILTER_BYTES_MAX {
            return Err(FilterError::Length(text.len()));
        }
        let (expression, paths) = parse::parse(text)?;
        Ok(Self(Arc::new(Parsed { text: text.into(), expression, paths })))
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Filter {}

impl PartialOrd for Filter {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Filter {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for Filter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({})", self.as_str())
    }
}

#[cfg(test)]
#[path = "filter_test.rs"]
pub(crate) mod tests;
