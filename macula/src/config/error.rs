//! Where a value came from, and what can be wrong with it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Who set a value. Later ones in this list win over earlier ones, in whatever order they are read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Nobody: the built-in default.
    Default,
    /// A configuration file.
    File {
        /// Which.
        path: Arc<PathBuf>,
        /// The line, counted from 1.
        line: usize,
    },
    /// An environment variable.
    Env(String),
    /// The program itself: a builder, or the command line.
    Program,
    /// A change while the node was running.
    Runtime,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Program => f.write_str("program"),
            Self::Runtime => f.write_str("changed at run time"),
        }
    }
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{}: cannot be read: {cause}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system says.
        cause: String,
    },
    /// A file is not TOML.
    #[error("{origin}: not valid TOML: {cause}")]
    Syntax {
        /// Where.
        origin: Origin,
        /// What is wrong.
        cause: String,
    },
    /// There is no such key.
    #[error("{origin}: unknown key `{key}`{}", did_you_mean(hint))]
    Unknown {
        /// The key, as given.
        key: String,
        /// Who gave it.
        origin: Origin,
        /// What may have been meant.
        hint: Option<String>,
    },
    /// A value breaks its key's rule, or one that holds between keys.
    #[error("{origin}: `{key}` is {value}: {rule}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// The value, as given.
        value: String,
        /// The rule, as a sentence.
        rule: String,
        /// Who gave the value.
        origin: Origin,
    },
    /// The key cannot change while the node runs.
    #[error("`{key}` cannot be changed while the node runs: {why}. Set it in the configuration and restart")]
    Fixed {
        /// The key.
        key: &'static str,
        /// The reason.
        why: &'static str,
    },
}

fn did_you_mean(hint: &Option<String>) -> String {
    hint.as_ref().map(|hint| format!("; did you mean `{hint}`?")).unwrap_or_default()
}

/// Everything that is wrong with a configuration; never empty. Shown with one line for each error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            let line_break = if at == 0 { "" } else { "\n" };
            write!(f, "{line_break}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
