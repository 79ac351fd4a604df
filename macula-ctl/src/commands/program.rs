//! The program that `serve` runs for each call, and the end of everything that it started.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use data_encoding::BASE64;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use crate::cli;
use crate::error::CliError;

/// Most bytes of a program's stderr that go into an error; what follows is read and thrown away.
const STDERR_BYTES_MAX: usize = 4 * 1024;

/// What is run for each call.
pub(super) struct Program {
    path: PathBuf,
    args: Vec<String>,
}

impl Program {
    /// Checks at once that the program can be run, not only at the first call.
    pub(super) fn find(args: &cli::Serve) -> Result<Self, CliError> {
        let wrong = |message: String| CliError::Usage {
            message,
            hint: "--exec takes the path of an executable file, such as ./add.sh".into(),
        };
        let given = args.exec.display();
        let path = args.exec.canonicalize().map_err(|error| wrong(format!("--exec {given}: {error}")))?;
        if !is_executable(&path) {
            return Err(wrong(format!("--exec {given}: not an executable file (chmod +x?)")));
        }
        Ok(Self { path, args: args.args.clone() })
    }

    /// Arguments on stdin, result on stdout; a failure is the program's stderr.
    ///
    /// The run is over when the program has ended and its output is closed. Whatever it started and left running is
    /// killed then, as it is when this future is dropped.
    ///
    /// With `parts`, each line of stdout goes there as soon as it is written, and nothing is left for the result. The program
    /// is held up while nobody takes them. What comes from `more` is written to stdin, a line each, after the arguments.
    pub(super) async fn run(
        &self,
        arguments: &str,
        caller: &str,
        parts: Option<mpsc::Sender<Vec<u8>>>,
        more: Option<mpsc::Receiver<Vec<u8>>>,
    ) -> Result<Vec<u8>, String> {
        let arguments = BASE64.decode(arguments.as_bytes()).map_err(|error| error.to_string())?;
        let mut run =
            Run::start(self, caller).map_err(|error| format!("{}: {error}", self.path.display()))?;
        let (out, err) = run.exchange(&arguments, parts, more).await?;
        let status = run.child.wait().await.map_err(|error| error.to_string())?;
        if !status.success() {
            let text = String::from_utf8_lossy(&err);
            return Err(format!("{status}: {}", text.trim()));
        }
        Ok(out)
    }
}

/// A running program and all that it starts: a process group of its own, killed when this is dropped.
struct Run {
    child: Child,
    group: Option<Pid>,
}

impl Run {
    fn start(program: &Program, caller: &str) -> io::Result<Self> {
        let child = Command::new(&program.path)
            .args(&program.args)
            .env("MACULA_CALLER", caller)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            // The group is killed below; this has the program itself waited for.
            .kill_on_drop(true)
            .spawn()?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Self { child, group })
    }

    /// Feeds stdin and reads stdout and stderr at the same time, so that no pipe fills up and blocks the program.
    /// Ends at once, and in failure, when there is more than a result may hold.
    async fn exchange(
        &mut self,
        input: &[u8],
        parts: Option<mpsc::Sender<Vec<u8>>>,
        more: Option<mpsc::Receiver<Vec<u8>>>,
    ) -> Result<(Vec<u8>, Vec<u8>), String> {
        let mut stdin = self.child.stdin.take().expect("stdin is piped");
        let stdout = self.child.stdout.take().expect("stdout is piped");
        let mut stderr = self.child.stderr.take().expect("stderr is piped");
        let feed = async {
            // A program that does not read its input closes the pipe: that is its right.
            let _ = feed(&mut stdin, input, more).await;
            drop(stdin);
            Ok(())
        };
        let read = async {
            match parts {
                Some(parts) => pass_on(stdout, parts).await.map(|()| Vec::new()),
                None => read_result(stdout).await,
            }
        };
        let ((), out, err) = tokio::try_join!(feed, read, read_head(&mut stderr))?;
        Ok((out, err))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // A group that is empty already is what is wanted.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Writes the arguments, and what follows them.
async fn feed(
    stdin: &mut (impl AsyncWriteExt + Unpin),
    input: &[u8],
    more: Option<mpsc::Receiver<Vec<u8>>>,
) -> io::Result<()> {
    stdin.write_all(input).await?;
    let Some(mut more) = more else { return Ok(()) };
    stdin.write_all(b"\n").await?;
    while let Some(mut line) = more.recv().await {
        line.push(b'\n');
        stdin.write_all(&line).await?;
        stdin.flush().await?;
    }
    Ok(())
}

/// Passes lines on as they come, until the end or until nobody takes them any more.
async fn pass_on(from: impl AsyncRead + Unpin, parts: mpsc::Sender<Vec<u8>>) -> Result<(), String> {
    let mut from = BufReader::new(from);
    loop {
        let mut line = Vec::new();
        let mut some = (&mut from).take(macula::PAYLOAD_BYTES_MAX as u64 + 1);
        let read = some.read_until(b'\n', &mut line).await.map_err(|error| error.to_string())?;
        if read == 0 {
            return Ok(());
        }
        if line.len() > macula::PAYLOAD_BYTES_MAX {
            return Err(format!("a line of the result has more than {} bytes", macula::PAYLOAD_BYTES_MAX));
        }
        parts.send(line).await.map_err(|_| "the caller takes no more".to_owned())?;
    }
}

/// Reads to the end, or until it is too much.
async fn read_result(from: impl AsyncReadExt + Unpin) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut from = from.take(macula::PAYLOAD_BYTES_MAX as u64 + 1);
    from.read_to_end(&mut out).await.map_err(|error| error.to_string())?;
    if out.len() > macula::PAYLOAD_BYTES_MAX {
        return Err(format!("the result has more than {} bytes", macula::PAYLOAD_BYTES_MAX));
    }
    Ok(out)
}

/// Reads to the end, keeping the first bytes only.
async fn read_head(from: &mut (impl AsyncReadExt + Unpin)) -> Result<Vec<u8>, String> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let read = from.read(&mut buffer).await.map_err(|error| error.to_string())?;
        if read == 0 {
            return Ok(head);
        }
        let room = STDERR_BYTES_MAX - head.len();
        head.extend_from_slice(&buffer[..read.min(room)]);
    }
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
