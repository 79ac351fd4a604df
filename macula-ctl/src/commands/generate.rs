//! Completions and man pages, from the command line's own definition.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::error::CliError;
use crate::output;

pub(crate) fn completions(shell: Shell) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "macula_ctl", &mut script);
    output::print(String::from_utf8_lossy(&script).trim_end())
}

pub(crate) fn man(directory: &Path) -> Result<(), CliError> {
    let shown = directory.display().to_string();
    std::fs::create_dir_all(directory).map_err(CliError::io(&shown))?;
    clap_mangen::generate_to(Cli::command(), directory).map_err(CliError::io(&shown))?;
    output::say(&format!("man pages written to {shown}"));
    Ok(())
}
