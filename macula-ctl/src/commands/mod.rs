//! One module for each group of commands.

pub(crate) mod bench;
pub(crate) mod calls;
pub(crate) mod dev;
pub(crate) mod generate;
pub(crate) mod groups;
pub(crate) mod inspect;
pub(crate) mod manage;
pub(crate) mod members;
pub(crate) mod messages;
mod program;
pub(crate) mod retained;
pub(crate) mod serve;
pub(crate) mod start;

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How long something may take before its progress is shown.
const QUIET: Duration = Duration::from_millis(300);

/// Shows on stderr that something is going on. Draws nothing where stderr is no terminal.
fn progress(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}").expect("the template is constant");
    let bar = ProgressBar::new_spinner().with_style(style).with_message(what.to_owned());
    bar.enable_steady_tick(QUIET);
    bar
}
