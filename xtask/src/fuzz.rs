//! `cargo xtask fuzz`: the decoders against mutated input, for a given time, on the stable compiler.

use std::path::Path;

use crate::command::{cargo, watch};

/// The crates whose decoders are fuzzed.
const CRATES: [&str; 2] = ["macula-proto", "macula-platform"];

/// Runs the fuzzing tests for `seconds`, a part for each crate. They start from valid messages, `macula-proto` also from the
/// corpus in its `tests/corpus`, and print their seeds; an input that breaks a rule is written beside the build.
pub(crate) fn run(root: &Path, seconds: u64) -> Result<(), String> {
    CRATES.iter().try_for_each(|name| run_one(root, name, seconds.div_ceil(CRATES.len() as u64)))
}

fn run_one(root: &Path, name: &str, seconds: u64) -> Result<(), String> {
    let test = ["test", "--locked", "--package", name, "--all-features", "--test", "fuzz_decoders"];
    let only = ["--", "--exact", "mutated_input_never_breaks_a_decoder", "--nocapture"];
    let args: Vec<&str> = test.into_iter().chain(only).collect();
    let mut command = cargo(root, &args);
    command.env("MACULA_FUZZ_SECONDS", seconds.to_string());
    watch(command, |_| ())
}
