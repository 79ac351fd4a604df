//! `cargo xtask torture`: real nodes under faults, built for speed, in processes of their own.

use std::path::Path;

use crate::command::{cargo, watch};

/// Runs the torture with these arguments; an error if it found something, or too little happened for that to mean anything.
/// `cargo xtask torture --help` lists them.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<(), String> {
    let mut args = vec!["run", "--quiet", "--locked", "--release", "--package", "macula-torture", "--"];
    args.extend(arguments.iter().map(String::as_str));
    watch(cargo(root, &args), |_| ())
}
