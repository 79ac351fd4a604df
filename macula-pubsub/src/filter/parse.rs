//! Reads a filter: recursive descent with bounded depth, one character of look-ahead.

use super::expression::{Expression, Field, Literal, Operator, number};
use super::json::Path;
use super::{FILTER_DEPTH_MAX, FILTER_TESTS_MAX, FilterError};

/// What may begin a part of a filter.
const PART: &str = "a field, `!` or `(`";

/// Longest piece of the input that an error repeats, in characters.
const FOUND_CHARS_MAX: usize = 24;

pub(super) fn parse(text: &str) -> Result<(Expression, Vec<Path>), FilterError> {
    let mut parser = Parser { text, at: 0, tests: 0, paths: Vec::new() };
    let expression = parser.any(0)?;
    parser.skip_space();
    if parser.at < text.len() {
        return Err(parser.unexpected("`&&`, `||` or the end"));
    }
    Ok((expression, parser.paths))
}

struct Parser<'t> {
    text: &'t str,
    /// The byte that is next.
    at: usize,
    tests: usize,
    paths: Vec<Path>,
}

impl<'t> Parser<'t> {
    fn any(&mut self, depth: usize) -> Result<Expression, FilterError> {
        self.joined("||", depth, Self::all).map(|parts| one_or(parts, Expression::Any))
    }

    fn all(&mut self, depth: usize) -> Result<Expression, FilterError> {
        self.joined("&&", depth, Self::one).map(|parts| one_or(parts, Expression::All))
    }

    fn joined(
        &mut self,
        joint: &str,
        depth: usize,
        part: fn(&mut Self, usize) -> Result<Expression, FilterError>,
    ) -> Result<Vec<Expression>, FilterError> {
        let mut parts = vec![part(self, depth)?];
        while self.takes(joint) {
            parts.push(part(self, depth)?);
        }
        Ok(parts)
    }

    fn one(&mut self, depth: usize) -> Result<Expression, FilterError> {
        self.skip_space();
        if depth > FILTER_DEPTH_MAX {
            return Err(FilterError::Depth { at: self.column(self.at) });
        }
        if self.takes("!") {
            return Ok(Expression::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.takes("(") {
            let inner = self.any(depth + 1)?;
            return if self.takes(")") { Ok(inner) } else { Err(self.unexpected("`)`, `&&` or `||`")) };
        }
        self.test()
    }

    fn test(&mut self) -> Result<Expression, FilterError> {
        self.skip_space();
        self.tests += 1;
        if self.tests > FILTER_TESTS_MAX {
            return Err(FilterError::Tests { at: self.column(self.at) });
        }
        let field = self.field()?;
        let Some(operator) = self.operator()? else { return Ok(Expression::Test(field, None)) };
        self.skip_space();
        let at = self.column(self.at);
        let literal = self.literal()?;
        let rule = match (operator, &literal) {
            (Operator::Equal | Operator::Unequal, _) | (_, Literal::Text(_)) => None,
            (Operator::BeginsWith, _) => Some("`^=` compares with a text"),
            (_, Literal::Number(_)) => None,
            (_, Literal::Bool(_) | Literal::Null) => {
                Some("`<`, `<=`, `>` and `>=` compare with a number or a text")
            }
        };
        match rule {
            Some(rule) => Err(FilterError::Incomparable { at, rule }),
            None => Ok(Expression::Test(field, Some((operator, literal)))),
        }
    }

    fn field(&mut self) -> Result<Field, FilterError> {
        let at = self.at;
        if self.rest().is_empty() {
            return Err(self.unexpected(PART));
        }
        let root = self.word();
        if !matches!(root, "header" | "json") || !self.rest().starts_with('.') {
            self.at = at;
            return Err(FilterError::Field { at: self.column(at), found: self.found() });
        }
        let mut path = Path::new();
        while self.rest().starts_with('.') {
            if root == "header" && !path.is_empty() {
                return Err(FilterError::HeaderName { at: self.column(self.at) });
            }
            self.at += 1;
            path.push(self.name()?);
        }
        if root == "header" {
            return Ok(Field::Header(path.remove(0)));
        }
        let known = self.paths.iter().position(|known| *known == path);
        Ok(Field::Json(known.unwrap_or_else(|| {
            self.paths.push(path);
            self.paths.len() - 1
        })))
    }

    fn name(&mut self) -> Result<Box<str>, FilterError> {
        if self.rest().starts_with('"') {
            return self.quoted();
        }
        match self.word() {
            "" => Err(self.unexpected("a name")),
            name => Ok(name.into()),
        }
    }

    /// The comparison that follows, if one does.
    fn operator(&mut self) -> Result<Option<Operator>, FilterError> {
        // The longer ones first: `<` begins `<=`.
        const OPERATORS: [(&str, Operator); 7] = [
            ("==", Operator::Equal),
            ("!=", Operator::Unequal),
            ("<=", Operator::AtMost),
            (">=", Operator::AtLeast),
            ("^=", Operator::BeginsWith),
            ("<", Operator::Less),
            (">", Operator::Greater),
        ];
        for (text, operator) in OPERATORS {
            if self.takes(text) {
                return Ok(Some(operator));
            }
        }
        let found: String = self.rest().chars().take_while(|c| "=!<>^~".contains(*c)).collect();
        if found.is_empty() {
            Ok(None)
        } else {
            Err(FilterError::Comparison { at: self.column(self.at), found })
        }
    }

    fn literal(&mut self) -> Result<Literal, FilterError> {
        match self.rest().chars().next() {
            Some('"') => self.quoted().map(Literal::Text),
            Some('-' | '0'..='9') => self.number().map(Literal::Number),
            _ => {
                let at = self.at;
                match self.word() {
                    "true" => Ok(Literal::Bool(true)),
                    "false" => Ok(Literal::Bool(false)),
                    "null" => Ok(Literal::Null),
                    _ => {
                        self.at = at;
                        Err(self.unexpected("a number, a text in quotes, true, false or null"))
                    }
                }
            }
        }
    }

    fn number(&mut self) -> Result<f64, FilterError> {
        let rest = self.rest();
        let end =
            rest.find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E')).unwrap_or(rest.len());
        let found = &rest[..end];
        let read = number(found);
        let at = self.column(self.at);
        self.at += end;
        read.ok_or_else(|| FilterError::Number { at, found: shortened(found) })
    }

    /// A text in quotes, of which the first is next.
    fn quoted(&mut self) -> Result<Box<str>, FilterError> {
        let mut text = String::new();
        let mut escaped = false;
        for (offset, c) in self.rest().char_indices().skip(1) {
            match (c, escaped) {
                ('"' | '\\', true) => {
                    text.push(c);
                    escaped = false;
                }
                (_, true) => return Err(FilterError::Text { at: self.column(self.at + offset) }),
                ('\\', false) => escaped = true,
                ('"', false) => {
                    self.at += offset + 1;
                    return Ok(text.into());
                }
                (_, false) => text.push(c),
            }
        }
        Err(FilterError::Text { at: self.column(self.text.len()) })
    }

    /// The letters, digits, `_` and `-` that follow; may be none.
    fn word(&mut self) -> &'t str {
        let rest = self.rest();
        let end =
            rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// Skips space and takes `token` if it follows.
    fn takes(&mut self, token: &str) -> bool {
        self.skip_space();
        let follows = self.rest().starts_with(token);
        self.at += if follows { token.len() } else { 0 };
        follows
    }

    fn skip_space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    /// A byte's place as people count it.
    fn column(&self, at: usize) -> usize {
        self.text[..at].chars().count() + 1
    }

    /// What stands next, as far as an error shows it.
    fn found(&self) -> String {
        let rest = self.rest();
        let end = rest
            .find(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | '&' | '|'))
            .unwrap_or(rest.len());
        let first = rest.chars().next().map_or(0, char::len_utf8);
        shortened(&rest[..end.max(first)])
    }

    fn unexpected(&self, expected: &'static str) -> FilterError {
        let at = self.column(self.at);
        if self.rest().is_empty() {
            FilterError::Ends { at, expected }
        } else {
            FilterError::Unexpected { at, expected, found: self.found() }
        }
    }
}

fn shortened(found: &str) -> String {
    found.chars().take(FOUND_CHARS_MAX).collect()
}

fn one_or(mut parts: Vec<Expression>, join: fn(Vec<Expression>) -> Expression) -> Expression {
    if parts.len() == 1 { parts.remove(0) } else { join(parts) }
}
