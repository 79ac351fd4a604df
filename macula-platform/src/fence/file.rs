//! Tokens in a file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use macula_proto::{Name, NameError};

use super::{Fences, Seen};
use crate::objects::PlaceError;

/// Most names in one file. Each new token writes the whole file.
pub const FENCES_MAX: usize = 10_000;

/// The first line; the last one counts the lines between.
const TITLE: &str = "macula fences 1";

/// Why tokens cannot be kept in a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileFencesError {
    /// The file cannot be read or written.
    #[error("{path}: {cause}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The file is not one of tokens, or not all of it.
    #[error("{path}, line {line}: {cause}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Why.
        cause: Damage,
    },
    /// A write failed before. What the file holds is not known, so nothing is let in until it is opened again.
    #[error("{0}: a write failed before; open it again")]
    Broken(PathBuf),
    /// A further name.
    #[error("{0}: holds {FENCES_MAX} names, and no more are allowed")]
    Full(PathBuf),
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// Another first line.
    #[error("the first line is not `{TITLE}`")]
    Title,
    /// Not two tokens and a name.
    #[error("a line is two tokens and a name")]
    Parts,
    /// A token that is none.
    #[error(transparent)]
    Token(#[from] PlaceError),
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The end is missing, or counts another number of lines.
    #[error("the last line does not count the lines before it")]
    End,
}

/// Tokens in a file: written to a new one beside it, synced, and put in its place at once, so that it is whole at any time.
/// For one process; who opens it twice loses tokens.
#[derive(Debug)]
pub struct FileFences {
    path: PathBuf,
    seen: BTreeMap<Name, Seen>,
    broken: bool,
}

impl FileFences {
    /// Opens the file, or begins one.
    ///
    /// # Errors
    /// [`FileFencesError::Io`], [`FileFencesError::Damaged`]: a file that is not whole lets nobody in.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, FileFencesError> {
        let path = path.into();
        let seen = match fs::read_to_string(&path) {
            Ok(text) => read(&text).map_err(|(line, cause)| FileFencesError::Damaged {
                path: path.clone(),
                line,
                cause,
            })?,
            Err(cause) if cause.kind() == ErrorKind::NotFound => BTreeMap::new(),
            Err(cause) => return Err(FileFencesError::Io { path, cause }),
        };
        Ok(Self { path, seen, broken: false })
    }

    fn write(&self) -> io::Result<()> {
        let mut text = format!("{TITLE}\n");
        for (name, seen) in &self.seen {
            text.push_str(&format!("{} {} {name}\n", seen.exclusive, seen.any));
        }
        text.push_str(&format!("end {}\n", self.seen.len()));
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Fences for FileFences {
    type Error = FileFencesError;

    fn seen(&self, name: &Name) -> Seen {
        self.seen.get(name).copied().unwrap_or_default()
    }

    fn keep(&mut self, name: &Name, seen: Seen) -> Result<(), FileFencesError> {
        if self.broken {
            return Err(FileFencesError::Broken(self.path.clone()));
        }
        if self.seen.len() >= FENCES_MAX && !self.seen.contains_key(name) {
            return Err(FileFencesError::Full(self.path.clone()));
        }
        self.seen.insert(name.clone(), seen);
        self.write().map_err(|cause| {
            self.broken = true;
            FileFencesError::Io { path: self.path.clone(), cause }
        })
    }
}

fn read(text: &str) -> Result<BTreeMap<Name, Seen>, (usize, Damage)> {
    let mut lines = text.lines().zip(1..);
    if lines.next().is_none_or(|(title, _)| title != TITLE) {
        return Err((1, Damage::Title));
    }
    let mut seen = BTreeMap::new();
    for (text, line) in lines {
        if let Some(count) = text.strip_prefix("end ") {
            let whole = count.parse() == Ok(seen.len());
            return if whole { Ok(seen) } else { Err((line, Damage::End)) };
        }
        let (name, tokens) = read_line(text).map_err(|damage| (line, damage))?;
        seen.insert(name, tokens);
    }
    Err((text.lines().count() + 1, Damage::End))
}

fn read_line(text: &str) -> Result<(Name, Seen), Damage> {
    let parts: Vec<&str> = text.split(' ').collect();
    let [exclusive, any, name] = parts[..] else { return Err(Damage::Parts) };
    Ok((name.parse()?, Seen { exclusive: exclusive.parse()?, any: any.parse()? }))
}
