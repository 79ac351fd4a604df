//! `cargo xtask bench`: the benchmark, built for speed, in processes of its own.

use std::path::Path;

use crate::command::{cargo, watch};

/// Runs the benchmark with these arguments. `cargo xtask bench --help` lists them.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<(), String> {
    let mut args = vec!["run", "--quiet", "--locked", "--release", "--package", "macula-bench", "--"];
    args.extend(arguments.iter().map(String::as_str));
    watch(cargo(root, &args), |_| ())
}
