//! What a filter means: the expression, and how it is evaluated.

use std::cmp::Ordering;

use bytes::Bytes;

use super::json::{self, Value};
use crate::Headers;

#[derive(Debug)]
pub(super) enum Expression {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Test(Field, Option<(Operator, Literal)>),
}

#[derive(Debug)]
pub(super) enum Field {
    Header(Box<str>),
    /// A field of the content, by its number among the filter's paths.
    Json(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
    BeginsWith,
}

#[derive(Debug)]
pub(super) enum Literal {
    Text(Box<str>),
    Number(f64),
    Bool(bool),
    Null,
}

/// One message, as a filter sees it. The content is read when the first of its fields is asked for.
pub(super) struct Fields<'a> {
    headers: &'a Headers,
    content: &'a [u8],
    paths: &'a [json::Path],
    values: Option<Vec<Option<Value>>>,
}

impl<'a> Fields<'a> {
    pub(super) const fn new(headers: &'a Headers, content: &'a [u8], paths: &'a [json::Path]) -> Self {
        Self { headers, content, paths, values: None }
    }

    fn json(&mut self, number: usize) -> Option<&Value> {
        let values = self.values.get_or_insert_with(|| json::read(self.content, self.paths));
        values[number].as_ref()
    }
}

impl Expression {
    pub(super) fn holds(&self, fields: &mut Fields<'_>) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(fields)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(fields)),
            Self::Not(part) => !part.holds(fields),
            Self::Test(field, None) => field.is_set(fields),
            Self::Test(field, Some((operator, literal))) => field.compares(fields, *operator, literal),
        }
    }
}

impl Field {
    fn is_set(&self, fields: &mut Fields<'_>) -> bool {
        match self {
            Self::Header(name) => fields.headers.get(name).is_some(),
            Self::Json(number) => {
                !matches!(fields.json(*number), None | Some(Value::Null | Value::Bool(false)))
            }
        }
    }

    fn compares(&self, fields: &mut Fields<'_>, operator: Operator, literal: &Literal) -> bool {
        if operator == Operator::BeginsWith {
            return self.begins_with(fields, literal);
        }
        let order = match self {
            Self::Header(name) => fields.headers.get(name).and_then(|value| order_of_text(value, literal)),
            Self::Json(number) => fields.json(*number).and_then(|value| order_of(value, literal)),
        };
        match operator {
            Operator::Unequal => order != Some(Ordering::Equal),
            Operator::Equal => order == Some(Ordering::Equal),
            Operator::Less => order == Some(Ordering::Less),
            Operator::AtMost => order.is_some_and(Ordering::is_le),
            Operator::Greater => order == Some(Ordering::Greater),
            Operator::AtLeast | Operator::BeginsWith => order.is_some_and(Ordering::is_ge),
        }
    }

    fn begins_with(&self, fields: &mut Fields<'_>, literal: &Literal) -> bool {
        let Literal::Text(prefix) = literal else { return false };
        match self {
            Self::Header(name) => {
                fields.headers.get(name).is_some_and(|value| value.starts_with(prefix.as_bytes()))
            }
            Self::Json(number) => {
                matches!(fields.json(*number), Some(Value::Text(text)) if text.starts_with(prefix.as_ref()))
            }
        }
    }
}

/// How a header's value compares with a literal; `None` if it does not.
fn order_of_text(value: &Bytes, literal: &Literal) -> Option<Ordering> {
    let text = || std::str::from_utf8(value).ok();
    match literal {
        Literal::Text(wanted) => Some(value.as_ref().cmp(wanted.as_bytes())),
        Literal::Number(wanted) => number(text()?)?.partial_cmp(wanted),
        Literal::Bool(wanted) => Some(text()?.parse::<bool>().ok()?.cmp(wanted)),
        Literal::Null => None,
    }
}

fn order_of(value: &Value, literal: &Literal) -> Option<Ordering> {
    match (value, literal) {
        (Value::Text(text), Literal::Text(wanted)) => Some(text.as_bytes().cmp(wanted.as_bytes())),
        (Value::Number(number), Literal::Number(wanted)) => number.partial_cmp(wanted),
        (Value::Bool(flag), Literal::Bool(wanted)) => Some(flag.cmp(wanted)),
        (Value::Null, Literal::Null) => Some(Ordering::Equal),
        _ => None,
    }
}

/// Reads a number as JSON writes it: no sign but `-`, no infinity, digits on both sides of the point.
pub(super) fn number(text: &str) -> Option<f64> {
    serde_json::from_str::<f64>(text.trim()).ok()
}
