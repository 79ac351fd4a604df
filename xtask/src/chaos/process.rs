//! One node of the run: a process that is started, killed, paused, and asked who is alive.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use super::admin::Admin;

/// A node that does not answer on its admin socket within this time has not started.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// A node that was told to stop must be gone after all deadlines of its shutdown together.
const END_PATIENCE: Duration = Duration::from_secs(25);

/// How long one question may take.
pub(super) const ASK_PATIENCE: Duration = Duration::from_secs(5);

/// What a node does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No process.
    Down,
    /// Running, and a member.
    Up,
    /// Running, but it has left the mesh.
    Left,
    /// Stopped by SIGSTOP.
    Paused,
}

pub(super) struct NodeProcess {
    pub(super) name: String,
    /// The same for all lives of the node, so that peers of an earlier run find it.
    pub(super) port: u16,
    pub(super) phase: Phase,
    pub(super) id: String,
    /// Who was a member when all was last well: whom it can come back through without a seed.
    pub(super) knew: BTreeSet<String>,
    /// The latest probe that reached its application.
    pub(super) heard: Arc<AtomicU64>,
    binary: PathBuf,
    home: PathBuf,
    child: Option<Child>,
}

impl NodeProcess {
    pub(super) fn new(binary: &Path, home: &Path, name: String) -> Result<Self, String> {
        let probe = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let port = probe.map_err(|error| format!("no free port: {error}"))?.port();
        let (binary, home) = (binary.to_owned(), home.to_owned());
        Ok(Self {
            name,
            port,
            phase: Phase::Down,
            id: String::new(),
            knew: BTreeSet::new(),
            heard: Arc::default(),
            binary,
            home,
            child: None,
        })
    }

    pub(super) fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(super) fn admin(&self) -> Admin {
        Admin::new(&self.home.join(format!("{}.sock", self.name)))
    }

    /// Forgets identity and peers.
    pub(super) fn wipe(&self) {
        // A node that never ran has no directory yet.
        let _ = fs::remove_dir_all(self.data_dir());
    }

    /// Starts it and waits until it answers.
    pub(super) fn start(&mut self, seed: Option<&str>) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", self.name);
        let log =
            File::options().create(true).append(true).open(self.home.join(format!("{}.log", self.name)));
        let mut command = Command::new(&self.binary);
        command
            .args(["start", "--name", &self.name, "--listen", &self.addr(), "-o", "ndjson", "--data-dir"])
            .arg(self.data_dir())
            .envs(super::COMPRESSED.iter().copied())
            .env("HOME", &self.home)
            .env("MACULA_ADMIN_SOCKET", self.home.join(format!("{}.sock", self.name)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.map_err(failed)?);
        if let Some(seed) = seed {
            command.args(["--join", seed]);
        }
        self.child = Some(command.spawn().map_err(failed)?);
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            if let Ok(status) = self.admin().ask("GET", "/v1/status", "", ASK_PATIENCE) {
                self.id = status["id"].as_str().unwrap_or_default().to_owned();
                self.phase = Phase::Up;
                return Ok(());
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() || Instant::now() > deadline {
                return Err(format!(
                    "{} did not start ({ended:?}): see its log in {}",
                    self.name,
                    self.home.display()
                ));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a signal by name; `KILL` and `TERM` wait for the end.
    pub(super) fn signal(&mut self, signal: &str) -> Result<(), String> {
        let child = self.child.as_mut().ok_or("it does not run")?;
        let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        if !sent.is_ok_and(|status| status.success()) {
            return Err(format!("{}: SIG{signal} could not be sent", self.name));
        }
        match signal {
            "STOP" => self.phase = Phase::Paused,
            "CONT" => self.phase = Phase::Up,
            _ => {
                let begun = Instant::now();
                while child.try_wait().map_err(|error| error.to_string())?.is_none() {
                    if begun.elapsed() > END_PATIENCE {
                        return Err(format!("{} still runs {END_PATIENCE:?} after SIG{signal}", self.name));
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                (self.child, self.phase) = (None, Phase::Down);
            }
        }
        Ok(())
    }

    /// The ids of those that it takes for members, itself included.
    pub(super) fn members(&self) -> Result<BTreeSet<String>, String> {
        let rows = self.admin().ask("GET", "/v1/members", "", ASK_PATIENCE)?;
        let rows = rows.as_array().ok_or("no list")?.iter();
        let present = rows.filter(|row| matches!(row["state"].as_str(), Some("alive" | "suspect")));
        Ok(present.filter_map(|row| row["id"].as_str()).map(str::to_owned).collect())
    }

    /// Resident memory in KiB and open file descriptors, from the kernel.
    pub(super) fn footprint(&self) -> Option<(u64, usize)> {
        let pid = self.child.as_ref()?.id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let rss = rss.trim().trim_end_matches(" kB").parse().ok()?;
        Some((rss, fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count()))
    }

    fn data_dir(&self) -> PathBuf {
        self.home.join(&self.name)
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Already dead is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
