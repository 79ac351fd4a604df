//! A Rust file as the checks see it: code without comments and literals, comments without code.
//!
//! A small lexer, not a parser: it knows comments (nested too), strings (raw ones too), characters and lifetimes, which
//! is all that it takes to find words and to match braces.

/// A source file. Offsets and lines are the same in all views; lines count from 1.
pub(crate) struct Source {
    path: String,
    code: Vec<u8>,
    comments: Vec<u8>,
    line_starts: Vec<usize>,
    /// Lines of `#[cfg(test)]` items, first and last.
    test_items: Vec<(usize, usize)>,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let (code, comments) = Lexer::split(text.as_bytes());
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        let line_starts = std::iter::once(0).chain(newlines).filter(|at| *at < text.len()).collect();
        let mut source = Self { path: path.into(), code, comments, line_starts, test_items: Vec::new() };
        source.test_items = source.find_test_items();
        source
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The code alone: same length as the file, with spaces for all that is comment or literal.
    pub(crate) fn code(&self) -> &[u8] {
        &self.code
    }

    pub(crate) fn line_count(&self) -> usize {
        self.line_starts.len()
    }

    /// Whether the whole file is test code.
    pub(crate) fn is_test_file(&self) -> bool {
        let mut folders = self.path.split('/');
        self.path.ends_with("_test.rs")
            || self.path.ends_with("/tests.rs")
            || folders.any(|folder| matches!(folder, "tests" | "benches"))
    }

    /// Whether line `line` belongs to a test.
    pub(crate) fn is_test_line(&self, line: usize) -> bool {
        self.is_test_file() || self.test_items.iter().any(|(first, last)| (*first..=*last).contains(&line))
    }

    /// Whether a comment on `line`, or one that has the line above for itself, lifts `rule` there, with a reason.
    pub(crate) fn allows(&self, rule: &str, line: usize) -> bool {
        let above = line - 1;
        let above = || above > 0 && self.is_code_free(above) && allows(&self.comment(above), rule);
        allows(&self.comment(line), rule) || above()
    }

    fn is_code_free(&self, line: usize) -> bool {
        let end = self.line_starts.get(line).copied().unwrap_or(self.code.len());
        self.code[self.line_starts[line - 1]..end].iter().all(u8::is_ascii_whitespace)
    }

    /// The comments on line `line`; empty past the end.
    pub(crate) fn comment(&self, line: usize) -> String {
        let Some(start) = self.line_starts.get(line - 1).copied() else { return String::new() };
        let end = self.line_starts.get(line).copied().unwrap_or(self.comments.len());
        String::from_utf8_lossy(&self.comments[start..end]).trim().to_owned()
    }

    /// The line that holds offset `at`.
    pub(crate) fn line_of(&self, at: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= at)
    }

    /// Where `word` stands in the code with no letter, digit or `_` right before or after it.
    pub(crate) fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        let (code, len) = (&self.code, word.len());
        let free = |byte: Option<&u8>| byte.is_none_or(|byte| !is_word(*byte));
        let candidates = code.windows(len).enumerate().filter(move |(_, window)| *window == word.as_bytes());
        let whole = move |at: &usize| {
            free(at.checked_sub(1).and_then(|before| code.get(before))) && free(code.get(at + len))
        };
        candidates.map(|(at, _)| at).filter(whole)
    }

    /// The end (one past) of the item that goes on at `from`: its closing brace, or the semicolon of an item without a
    /// body. `None` at the end of the file.
    pub(crate) fn item_end(&self, from: usize) -> Option<usize> {
        let mut depth = 0usize;
        let mut in_body = false;
        for (at, byte) in self.code.iter().enumerate().skip(from) {
            match byte {
                b'(' | b'[' => depth += 1,
                b'{' => {
                    in_body |= depth == 0;
                    depth += 1;
                }
                b')' | b']' => depth = depth.saturating_sub(1),
                b'}' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 && in_body {
                        return Some(at + 1);
                    }
                }
                b';' if depth == 0 => return Some(at + 1),
                _ => {}
            }
        }
        None
    }

    /// The first byte of code at or after `from` that is no white space, with its offset.
    pub(crate) fn next_code(&self, from: usize) -> Option<(usize, u8)> {
        let rest = self.code.iter().enumerate().skip(from);
        rest.map(|(at, byte)| (at, *byte)).find(|(_, byte)| !byte.is_ascii_whitespace())
    }

    fn find_test_items(&self) -> Vec<(usize, usize)> {
        let attributes = ["#[cfg(test)]", "#[cfg(all(test,"];
        let starts = |attribute: &'static str| {
            let windows = self.code.windows(attribute.len()).enumerate();
            windows.filter(move |(_, window)| *window == attribute.as_bytes()).map(|(at, _)| at)
        };
        let ends = |at: usize| {
            let attribute_end =
                self.code[at..].iter().position(|byte| *byte == b']').map(|len| at + len + 1)?;
            Some((self.line_of(at), self.line_of(self.item_end(attribute_end)? - 1)))
        };
        attributes.into_iter().flat_map(starts).filter_map(ends).collect()
    }
}

/// Whether `comment` lifts `rule`, with a reason.
pub(crate) fn allows(comment: &str, rule: &str) -> bool {
    let marker = format!("tidy: allow({rule}):");
    comment.split_once(&marker).is_some_and(|(_, reason)| !reason.trim().is_empty())
}

pub(crate) const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    code: Vec<u8>,
    comments: Vec<u8>,
}

impl<'a> Lexer<'a> {
    /// The code and the comments of `text`, each as long as `text`.
    fn split(text: &'a [u8]) -> (Vec<u8>, Vec<u8>) {
        let blank: Vec<u8> = text.iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }).collect();
        let mut lexer = Self { text, at: 0, code: blank.clone(), comments: blank };
        while lexer.at < text.len() {
            lexer.step();
        }
        (lexer.code, lexer.comments)
    }

    fn step(&mut self) {
        let rest = &self.text[self.at..];
        if rest.starts_with(b"//") {
            let len = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            self.comment(len);
        } else if rest.starts_with(b"/*") {
            self.comment(block_comment_len(rest));
        } else if let Some(len) = self.raw_string_len() {
            self.at += len;
        } else if rest[0] == b'"' {
            self.at += quoted_len(rest, b'"');
        } else if rest[0] == b'\'' {
            self.at += char_len(rest).unwrap_or(1);
        } else {
            self.code[self.at] = if rest[0].is_ascii() { rest[0] } else { b'_' };
            self.at += 1;
        }
    }

    fn comment(&mut self, len: usize) {
        let range = self.at..self.at + len;
        self.comments[range.clone()].copy_from_slice(&self.text[range]);
        self.at += len;
    }

    /// The length of the raw string that begins here, if one does: `r"…"`, `br#"…"#`, `cr##"…"##`.
    fn raw_string_len(&self) -> Option<usize> {
        let rest = &self.text[self.at..];
        let starts_word = self.at.checked_sub(1).is_none_or(|before| !is_word(self.text[before]));
        let prefix = [&b"r"[..], b"br", b"cr"].into_iter().find(|prefix| rest.starts_with(prefix))?;
        let hashes = rest[prefix.len()..].iter().take_while(|byte| **byte == b'#').count();
        let body = prefix.len() + hashes + 1;
        if !starts_word || rest.get(body - 1) != Some(&b'"') {
            return None;
        }
        let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
        let inner = rest[body..].windows(close.len()).position(|window| window == close);
        Some(inner.map_or(rest.len(), |len| body + len + close.len()))
    }
}

fn block_comment_len(text: &[u8]) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < text.len() {
        let pair = &text[at..text.len().min(at + 2)];
        match pair {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The length of a literal in `quote`s, both included.
fn quoted_len(text: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < text.len() {
        match text[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// The length of the character literal that begins here; `None` if it is a lifetime.
fn char_len(text: &[u8]) -> Option<usize> {
    let first = *text.get(1)?;
    if first == b'\\' {
        return Some(quoted_len(text, b'\''));
    }
    let width = match first {
        0..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0.. => 4,
    };
    (text.get(1 + width) == Some(&b'\'')).then_some(width + 2)
}

#[cfg(test)]
#[path = "source_test.rs"]
mod tests;
