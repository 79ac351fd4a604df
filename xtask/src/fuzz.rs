//! `cargo xtask fuzz`: the decoders against mutated input, for a given time, on the stable compiler.

use std::path::Path;

use crate::command::{cargo, watch};

/// Runs the fuzzing test of `macula-proto` for `seconds`. It starts from the corpus in `macula-proto/tests/corpus`
/// and prints its seed; an input that breaks a rule is written beside the build.
pub(crate) fn run(root: &Path, seconds: u64) -> Result<(), String> {
    let test = ["test", "--locked", "--package", "macula-proto", "--all-features", "--test", "fuzz_decoders"];
    let only = ["--", "--exact", "mutated_input_never_breaks_a_decoder", "--nocapture"];
    let args: Vec<&str> = test.into_iter().chain(only).collect();
    let mut command = cargo(root, &args);
    command.env("MACULA_FUZZ_SECONDS", seconds.to_string());
    watch(command, |_| ())
}
