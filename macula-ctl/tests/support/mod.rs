//! Real nodes in real processes, and `macula_ctl` as a user runs it.

// Each test binary uses its own part of this module.
#![allow(dead_code)]
// The lint lets tests unwrap, but not what they share.
#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_macula_ctl");

/// How long anything in these tests may take before it counts as hung.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A user of one machine: a home of their own, so that tests do not see each other's nodes.
pub(crate) struct User {
    home: tempfile::TempDir,
}

impl User {
    pub(crate) fn new() -> Self {
        Self { home: tempfile::Builder::new().prefix("macula").tempdir().unwrap() }
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// `macula_ctl` with these arguments, not started yet.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, args: &[A]) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(args)
            .env_clear()
            .env("HOME", self.home.path())
            .env("XDG_RUNTIME_DIR", self.home.path().join("run"))
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn ctl<A: AsRef<OsStr>>(&self, args: &[A]) -> Outcome {
        Outcome(self.command(args).output().unwrap())
    }

    /// Runs a command that must succeed, and reads its JSON.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let outcome = self.ctl(&[args, &["-o", "json"]].concat());
        assert_eq!(outcome.code(), 0, "{args:?}: {}", outcome.stderr());
        serde_json::from_str(&outcome.stdout())
            .unwrap_or_else(|error| panic!("{args:?}: {error}: {outcome:?}"))
    }

    /// Starts a node on a free port of the loopback and waits until it is ready.
    pub(crate) fn start(&self, name: &str, args: &[&str]) -> NodeProcess {
        let given = [&["start", "--name", name, "--listen", "127.0.0.1:0", "-o", "ndjson"], args].concat();
        self.launch(name, &given, &[])
    }

    /// Starts a node with a command line and an environment, and waits until it is ready.
    pub(crate) fn launch(&self, name: &str, args: &[&str], env: &[(&str, &str)]) -> NodeProcess {
        let log = std::fs::File::create(self.log(name)).unwrap();
        let mut child = self.command(args).envs(env.iter().copied()).stderr(log).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|_| {
            let status = child.wait();
            panic!("{name} did not start: {status:?}: {}", std::fs::read_to_string(self.log(name)).unwrap())
        });
        NodeProcess { name: name.into(), child, ready, _stdout: lines }
    }

    /// What a node logged.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.home.path().join(format!("{name}.log"))
    }

    /// Asks until the answer is as it should be.
    pub(crate) fn wait_for(&self, args: &[&str], what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.json(args);
            if is(&answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "{args:?}: still not {what}: {answer:#}");
            // tidy: allow(sleep): polling another process, which has no event to wait for
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until something is so.
    pub(crate) fn until(&self, what: &str, mut is: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is() {
            assert!(Instant::now() < deadline, "still not so: {what}");
            // tidy: allow(sleep): polling another process, which has no event to wait for
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until a node sees exactly so many live members.
    pub(crate) fn wait_for_members(&self, node: &str, count: usize) {
        self.wait_for(&["--node", node, "members"], &format!("{count} members"), |members| {
            alive(members).len() == count
        });
    }

    /// One of a node's counters; zero if it is not shown. `filter` is part of the labels.
    pub(crate) fn metric(&self, node: &str, name: &str, filter: &str) -> f64 {
        let outcome = self.ctl(&["--node", node, "metrics"]);
        assert_eq!(outcome.code(), 0, "{}", outcome.stderr());
        let lines = outcome.stdout();
        let lines = lines.lines().filter(|line| line.starts_with(name) && line.contains(filter));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Starts a command that goes on, such as `subscribe`, and waits until it says that it stands.
    pub(crate) fn stream(&self, args: &[&str], stands: &str) -> Stream {
        let mut child = self.command(args).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains(stands) {
            line.clear();
            assert_ne!(said.read_line(&mut line).unwrap(), 0, "{args:?} ended before it said `{stands}`");
        }
        // What it says later is drained, so that it never blocks on a full pipe.
        let later = std::thread::spawn(move || {
            let mut later = String::new();
            let _ = said.read_to_string(&mut later);
            later
        });
        let lines = BufReader::new(child.stdout.take().unwrap());
        Stream { child, lines, later: Some(later) }
    }

    /// Writes an executable script.
    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.home.path().join(name);
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o755)
            .open(&path)
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
        path
    }
}

/// The ids of the members that are alive or only suspected.
pub(crate) fn alive(members: &Value) -> Vec<String> {
    let rows = members.as_array().unwrap().iter();
    let live = rows.filter(|row| matches!(row["state"].as_str(), Some("alive" | "suspect")));
    live.map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

/// A node in a process of its own; killed when dropped.
pub(crate) struct NodeProcess {
    pub(crate) name: String,
    child: Child,
    ready: Value,
    _stdout: BufReader<ChildStdout>,
}

impl NodeProcess {
    pub(crate) fn id(&self) -> String {
        self.ready["id"].as_str().unwrap().to_owned()
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> String {
        let addr: SocketAddr = self.ready["listen"][0].as_str().unwrap().parse().unwrap();
        addr.to_string()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.ready["socket"].as_str().unwrap().into()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: no goodbye.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Another signal, by its name.
    pub(crate) fn signal(&self, signal: &str) {
        send_signal(signal, self.child.id());
    }

    /// Waits for the end of the process; returns its exit code.
    pub(crate) fn wait(mut self) -> Option<i32> {
        wait_for_end(&mut self.child, &self.name)
    }
}

fn send_signal(signal: &str, pid: u32) {
    let sent = Command::new("kill").args(["-s", signal, &pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

fn wait_for_end(child: &mut Child, name: &str) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        assert!(Instant::now() < deadline, "{name} does not end");
        // tidy: allow(sleep): the standard library has no wait with a deadline
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // Already dead is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running client; killed when dropped.
pub(crate) struct Stream {
    child: Child,
    lines: BufReader<ChildStdout>,
    later: Option<std::thread::JoinHandle<String>>,
}

impl Stream {
    /// The next line of stdout.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.lines.read_line(&mut line).unwrap(), 0, "the stream ended");
        line.trim_end().to_owned()
    }

    /// The next line of stdout as JSON.
    pub(crate) fn json(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// A signal, by its name.
    pub(crate) fn signal(&self, signal: &str) {
        send_signal(signal, self.child.id());
    }

    /// Waits for the end of the process; returns its exit code.
    pub(crate) fn wait(mut self) -> Option<i32> {
        wait_for_end(&mut self.child, "the stream")
    }

    /// Waits for the end of the process; returns its exit code and what it said since it stood.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let code = wait_for_end(&mut self.child, "the stream");
        (code, self.later.take().unwrap().join().unwrap())
    }

    /// Everything until the end.
    pub(crate) fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        rest
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a finished command left.
#[derive(Debug)]
pub(crate) struct Outcome(Output);

impl Outcome {
    pub(crate) fn code(&self) -> i32 {
        self.0.status.code().unwrap_or(-1)
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }
}
