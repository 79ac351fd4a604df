//! A process of a measurement. It says one line when it is ready, and one with its figures at the end.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child as Process, ChildStdin, ChildStdout, Command, Stdio};

use serde::de::DeserializeOwned;

/// Killed when dropped.
pub(crate) struct Child {
    process: Process,
    input: ChildStdin,
    lines: BufReader<ChildStdout>,
}

impl Child {
    /// Starts this program in a role.
    pub(crate) fn start(arguments: &[String]) -> Result<Self, String> {
        let failed = |cause: std::io::Error| format!("a process could not be started: {cause}");
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().map_err(failed)?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("a process without pipes".into());
        };
        Ok(Self { process, input, lines: BufReader::new(output) })
    }

    /// Its next line.
    pub(crate) fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => Err("a process ended early; what it said stands above".into()),
            Ok(_) => Ok(line.trim().to_owned()),
            Err(cause) => Err(format!("a process could not be read: {cause}")),
        }
    }

    /// Tells it to go on.
    pub(crate) fn go(&mut self) -> Result<(), String> {
        self.tell("go")
    }

    /// Tells it something, in one line.
    pub(crate) fn tell(&mut self, line: &str) -> Result<(), String> {
        writeln!(self.input, "{line}").map_err(|cause| format!("a process does not listen: {cause}"))
    }

    /// Its figures.
    pub(crate) fn figures<F: DeserializeOwned>(&mut self) -> Result<F, String> {
        let line = self.line()?;
        serde_json::from_str(&line).map_err(|error| format!("`{line}` are no figures: {error}"))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
