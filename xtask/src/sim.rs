//! `cargo xtask sim`: the simulator, built for speed, in a process of its own.

use std::path::Path;

use crate::command::{cargo, watch};

/// Runs the simulator with these arguments; an error if a rule was broken. `cargo xtask sim --help` lists them.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<(), String> {
    let mut args = vec!["run", "--quiet", "--locked", "--release", "--package", "macula-sim", "--"];
    args.extend(arguments.iter().map(String::as_str));
    watch(cargo(root, &args), |_| ())
}
