//! Example programs as processes: what they are told, what they say, how they end.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// How long anything in these tests may take before it counts as hung.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Lines that wait to be looked at; a program that says more waits.
const LINES_MAX: usize = 10_000;

/// A running example; killed when dropped.
pub(crate) struct Program {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    /// All that was said so far, for when a test fails.
    said: Vec<String>,
    port: Option<u16>,
}

/// Where cargo puts examples: beside the folder of this test.
fn binary(example: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(std::path::Path::parent).unwrap().join("examples").join(example);
    assert!(path.exists(), "{} is not built: `cargo build --examples` first", path.display());
    path
}

impl Program {
    /// Starts an example on a free port of the loopback.
    pub(crate) fn start(example: &str, args: &[&str]) -> Self {
        let mut child = Command::new(binary(example))
            .args(args)
            .args(["--listen", "127.0.0.1:0"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (said, lines) = sync_channel(LINES_MAX);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if said.send(line).is_err() {
                    break;
                }
            }
        });
        let input = child.stdin.take();
        let name = format!("{example} {}", args.join(" "));
        Self { name, child, input, lines, said: Vec::new(), port: None }
    }

    /// What to join it by, as it says when it starts.
    pub(crate) fn join_addr(&mut self) -> String {
        let port = match self.port {
            Some(port) => port,
            None => self.expect_start("listening on port ").rsplit(' ').next().unwrap().parse().unwrap(),
        };
        self.port = Some(port);
        format!("127.0.0.1:{port}")
    }

    /// Types a line.
    pub(crate) fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("its input is open");
        writeln!(input, "{line}").unwrap_or_else(|error| panic!("{}: {error}: {:#?}", self.name, self.said));
    }

    /// Types a line and returns the next one that begins like this.
    pub(crate) fn ask(&mut self, line: &str, start: &str) -> String {
        self.say(line);
        self.expect_start(start)
    }

    /// Ends its input, as Ctrl-D does.
    pub(crate) fn end_of_input(&mut self) {
        self.input = None;
    }

    /// Waits for this line, whatever comes before it.
    pub(crate) fn expect(&mut self, line: &str) {
        self.find(&format!("`{line}`"), |said| said == line);
    }

    /// Waits for a line that begins like this.
    pub(crate) fn expect_start(&mut self, start: &str) -> String {
        self.find(&format!("`{start}…`"), |said| said.starts_with(start))
    }

    /// Waits for a line that begins like this and holds that.
    pub(crate) fn find_start_and(&mut self, start: &str, part: &str) -> String {
        self.find(&format!("`{start}…{part}…`"), |said| said.starts_with(start) && said.contains(part))
    }

    /// All lines until now that begin like this.
    pub(crate) fn all_that_start(&mut self, start: &str) -> Vec<String> {
        self.said.extend(self.lines.try_iter());
        self.said.iter().filter(|line| line.starts_with(start)).cloned().collect()
    }

    fn find(&mut self, what: &str, is: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.said.push(line.clone());
                    if is(&line) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{} does not say {what}, but: {:#?}", self.name, self.said)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("{} ended without saying {what}, but: {:#?}", self.name, self.said)
                }
            }
        }
    }

    /// SIGKILL: no goodbye.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the end of the process; returns its exit code.
    pub(crate) fn end(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "{} does not end", self.name);
            // tidy: allow(sleep): the standard library has no wait with a deadline
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Already dead is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "still not so: {what}");
        // tidy: allow(sleep): polling another process, which has no event to wait for
        std::thread::sleep(Duration::from_millis(100));
    }
}
