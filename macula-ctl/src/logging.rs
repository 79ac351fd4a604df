//! The daemon's log: on stderr, as text or JSON, its level changeable while it runs.

use std::io::IsTerminal;

use macula::config::LogFormat;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::error::CliError;

/// Changes the level of the running log.
#[derive(Clone)]
pub(crate) struct LogHandle(reload::Handle<EnvFilter, Registry>);

impl LogHandle {
    /// Takes `debug` and the like, or a filter such as `info,macula_dht=debug`.
    pub(crate) fn set(&self, level: &str) -> Result<(), String> {
        let filter = EnvFilter::try_new(level).map_err(|error| error.to_string())?;
        self.0.reload(filter).map_err(|error| error.to_string())
    }
}

/// Starts logging. Call it once.
pub(crate) fn init(level: &str, format: LogFormat) -> Result<LogHandle, CliError> {
    let filter = EnvFilter::try_new(level).map_err(|error| CliError::Usage {
        message: format!("`{level}` is no log level: {error}"),
        hint: "error, warn, info, debug, trace, or a filter such as info,macula_dht=debug".into(),
    })?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines: Box<dyn Layer<_> + Send + Sync> = match format {
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(),
        _ => fmt::layer().with_ansi(colours()).with_writer(std::io::stderr).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    Ok(LogHandle(handle))
}

/// Colours only for people who want them (<https://no-color.org>).
fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && std::io::stderr().is_terminal()
}
