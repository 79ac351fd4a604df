//! Running cargo and other tools from the workspace's root.

use std::env;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Variables that `cargo run` sets for this very program. Passed on, they would make the build scripts of some
/// dependencies run again each time that a task is started in another way.
const OUR_OWN: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_NAME", "CARGO_CRATE_NAME"];

/// The folder that holds the workspace's `Cargo.toml`.
pub(crate) fn workspace_root() -> PathBuf {
    let here = PathBuf::from(".");
    let Some(ours) = env::var_os("CARGO_MANIFEST_DIR") else { return here };
    Path::new(&ours).parent().map_or(here, Path::to_path_buf)
}

/// The same cargo that started this program.
pub(crate) fn cargo(root: &Path, args: &[&str]) -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.args(args).current_dir(root);
    let ours = |name: &str| OUR_OWN.iter().any(|prefix| name.starts_with(prefix));
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_str().is_some_and(ours)) {
        command.env_remove(name);
    }
    if io::stdout().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    command
}

/// Runs `command`, prints what it prints and shows each line to `on_line`; an error if it fails.
pub(crate) fn watch(mut command: Command, mut on_line: impl FnMut(&str)) -> Result<(), String> {
    let shown = shown(&command);
    let failed = |cause: io::Error| format!("`{shown}` could not be run: {cause}");
    let (reader, writer) = io::pipe().map_err(failed)?;
    command.stdout(writer.try_clone().map_err(failed)?).stderr(writer);
    let mut child = command.spawn().map_err(failed)?;
    // The command holds the pipe's writing ends: while they live, reading would never end.
    drop(command);
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).map_err(failed)? > 0 {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        on_line(text.trim_end());
        line.clear();
    }
    let status = child.wait().map_err(failed)?;
    if status.success() { Ok(()) } else { Err(format!("`{shown}` failed ({status})")) }
}

/// Runs `command` and returns what it printed; an error if it fails.
pub(crate) fn output(mut command: Command) -> Result<String, String> {
    let shown = shown(&command);
    let output = command.output().map_err(|cause| format!("`{shown}` could not be run: {cause}"))?;
    if !output.status.success() {
        return Err(format!("`{shown}` failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("`{shown}` printed something else than UTF-8"))
}

/// The command as one would type it.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_both_outputs_is_seen() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo one; echo two >&2; printf three"]);
        let mut lines = Vec::new();
        watch(shell, |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(lines, ["one", "two", "three"]);
    }

    #[test]
    fn a_failure_names_the_command() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "exit 3"]);
        let problem = watch(shell, |_| ()).unwrap_err();
        assert!(problem.contains("sh -c exit 3") && problem.contains('3'), "{problem}");
        assert!(output(Command::new("no-such-tool")).unwrap_err().contains("could not be run"));
    }
}
