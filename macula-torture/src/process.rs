//! A node's process, as the driver has it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::node::orders::{Order, Report};
use crate::plant::Plant;

/// How long a node may take to start, or to do what it is told.
const PATIENCE: Duration = Duration::from_secs(30);

/// Lines that wait to be read, at most.
const LINES_MAX: usize = 64;

/// One of the nodes, through all its lives.
pub(crate) struct NodeProcess {
    pub(crate) number: u64,
    pub(crate) addr: SocketAddr,
    join: Option<SocketAddr>,
    dir: PathBuf,
    plant: Option<Plant>,
    lives: u64,
    running: Option<Running>,
    pub(crate) stopped: bool,
}

struct Running {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl NodeProcess {
    pub(crate) fn new(
        number: u64,
        addr: SocketAddr,
        join: Option<SocketAddr>,
        dir: &Path,
        plant: Option<Plant>,
    ) -> Self {
        let (running, stopped) = (None, false);
        Self { number, addr, join, dir: dir.to_owned(), plant, lives: 0, running, stopped }
    }

    /// The records of all its lives.
    pub(crate) fn records(&self) -> impl Iterator<Item = PathBuf> {
        (0..self.lives).map(|life| self.record(life))
    }

    fn record(&self, life: u64) -> PathBuf {
        self.dir.join(format!("record-{}-{life}", self.number))
    }

    /// Starts it, and waits until it is up.
    pub(crate) fn start(&mut self) -> Result<(), String> {
        let failed = |cause: std::io::Error| format!("a node could not be started: {cause}");
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        let life = self.lives;
        command.args(["node", "--number", &self.number.to_string(), "--life", &life.to_string()]);
        command.args(["--listen", &self.addr.to_string()]);
        command.arg("--dir").arg(self.dir.join(self.number.to_string()));
        command.arg("--record").arg(self.record(life)).arg("--resource").arg(self.dir.join("resource"));
        if let Some(join) = self.join {
            command.args(["--join", &join.to_string()]);
        }
        if let Some(plant) = self.plant {
            command.args(["--plant", plant.name()]);
        }
        self.lives += 1;
        // With some planted bugs an engine panics again and again.
        command.env("RUST_BACKTRACE", "0");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a process without pipes".into());
        };
        let (read, lines) = sync_channel(LINES_MAX);
        std::thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            lines.into_iter().all(|line| read.send(line).is_ok())
        });
        self.running = Some(Running { child, input, lines });
        self.stopped = false;
        match self.line(PATIENCE)?.as_str() {
            "ready" => Ok(()),
            other => Err(format!("node {} said `{other}` in place of being ready", self.number)),
        }
    }

    fn line(&mut self, patience: Duration) -> Result<String, String> {
        let number = self.number;
        let running = self.running.as_mut().ok_or_else(|| format!("node {number} does not run"))?;
        running.lines.recv_timeout(patience).map_err(|cause| match cause {
            RecvTimeoutError::Timeout => format!("node {number} says nothing for {patience:?}"),
            RecvTimeoutError::Disconnected => format!("node {number} ended by itself"),
        })
    }

    /// Tells it something, and waits for the answer.
    pub(crate) fn order(&mut self, order: &Order) -> Result<Report, String> {
        let text = serde_json::to_string(order).map_err(|cause| cause.to_string())?;
        let number = self.number;
        let running = self.running.as_mut().ok_or_else(|| format!("node {number} does not run"))?;
        writeln!(running.input, "{text}").map_err(|cause| format!("node {number}: {cause}"))?;
        let answer = self.line(PATIENCE)?;
        serde_json::from_str(&answer).map_err(|cause| format!("node {number}: `{answer}`: {cause}"))
    }

    /// kill -9; returns when it is gone.
    pub(crate) fn kill(&mut self) -> bool {
        let Some(mut running) = self.running.take() else { return false };
        self.stopped = false;
        running.child.kill().is_ok() && running.child.wait().is_ok_and(|status| status.code().is_none())
    }

    /// Stops it in order.
    pub(crate) fn stop(&mut self) -> Result<(), String> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let text = serde_json::to_string(&Order::Stop).map_err(|cause| cause.to_string())?;
        let number = self.number;
        writeln!(running.input, "{text}").map_err(|cause| format!("node {number}: {cause}"))?;
        self.line(PATIENCE)?;
        self.running = None;
        Ok(())
    }

    /// SIGSTOP; whether it could be sent.
    pub(crate) fn pause(&mut self) -> bool {
        let Some(pid) = self.pid() else { return false };
        self.stopped = kill_process(pid, Signal::STOP).is_ok();
        self.stopped
    }

    /// Whether the system says that it is paused.
    pub(crate) fn is_paused(&self) -> bool {
        let Some(pid) = self.pid() else { return false };
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()));
        status.is_ok_and(|status| status.lines().any(|line| line.starts_with("State:\tT")))
    }

    /// SIGCONT.
    pub(crate) fn go_on(&mut self) {
        if let Some(pid) = self.pid() {
            // It may be gone.
            let _ = kill_process(pid, Signal::CONT);
        }
        self.stopped = false;
    }

    fn pid(&self) -> Option<Pid> {
        Some(Pid::from_child(&self.running.as_ref()?.child))
    }
}
