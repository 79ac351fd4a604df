//! A procedure from the shell: each call runs a program.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use hyper::Method;
use macula_console::api::{ServeEvent, ServeReply};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::task::{AbortHandle, JoinSet};

use super::messages::query;
use crate::cli;
use crate::client::Client;
use crate::error::CliError;
use crate::output;

/// Most bytes of a program's stderr that go into an error.
const STDERR_BYTES_MAX: usize = 4 * 1024;

pub(crate) async fn serve(client: &Client, args: cli::Serve) -> Result<(), CliError> {
    let program = Arc::new(Program::find(&args)?);
    let realm = args.realm.as_deref().map(|realm| format!("&realm={}", query(realm))).unwrap_or_default();
    let path =
        format!("/v1/serve?procedure={}&concurrency={}{realm}", query(&args.procedure), args.concurrency);
    let mut events = client.lines(Method::GET, &path).await?;
    let mut serving =
        Serving { client: client.clone(), program, id: 0, runs: JoinSet::new(), calls: HashMap::new() };
    loop {
        tokio::select! {
            event = events.next::<ServeEvent>() => match event? {
                Some(event) => serving.on_event(event),
                None => return Err(CliError::Broken("the node ended the registration".into())),
            },
            Some(done) = serving.runs.join_next() => {
                if let Ok(call) = done {
                    serving.calls.remove(&call);
                }
            }
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

/// The calls that this process works on. The node never hands out more than `--concurrency` at once.
struct Serving {
    client: Client,
    program: Arc<Program>,
    id: u64,
    runs: JoinSet<u64>,
    calls: HashMap<u64, AbortHandle>,
}

impl Serving {
    fn on_event(&mut self, event: ServeEvent) {
        match event {
            ServeEvent::Registered { id, procedure } => {
                self.id = id;
                output::say(&format!("serving {procedure}; Ctrl-C ends it"));
            }
            ServeEvent::Cancelled { call } => {
                // Aborting drops the child, which kills it.
                if let Some(run) = self.calls.remove(&call) {
                    run.abort();
                }
            }
            ServeEvent::Call { call, timeout_ms, arguments, caller } => {
                let (client, program, id) = (self.client.clone(), self.program.clone(), self.id);
                let timeout = Duration::from_millis(timeout_ms);
                let run = self.runs.spawn(async move {
                    let outcome = tokio::time::timeout(timeout, program.run(&arguments, &caller)).await;
                    let outcome = outcome.unwrap_or_else(|_| Err("the deadline passed".into()));
                    let (result, error) = match outcome {
                        Ok(result) => (Some(BASE64.encode(&result)), None),
                        Err(error) => (None, Some(error)),
                    };
                    let reply = ServeReply { call, result, error };
                    let sent = client.send::<Value>(Method::POST, &format!("/v1/serve/{id}"), &reply).await;
                    if let Err(error) = sent {
                        output::say(&format!("call {call}: the reply could not be given: {error}"));
                    }
                    call
                });
                self.calls.insert(call, run);
            }
        }
    }
}

/// What is run for each call.
struct Program {
    path: std::path::PathBuf,
    args: Vec<String>,
}

impl Program {
    /// Checks at once that the program can be run, not only at the first call.
    fn find(args: &cli::Serve) -> Result<Self, CliError> {
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
    async fn run(&self, arguments: &str, caller: &str) -> Result<Vec<u8>, String> {
        let arguments = BASE64.decode(arguments.as_bytes()).map_err(|error| error.to_string())?;
        let mut child = Command::new(&self.path)
            .args(&self.args)
            .env("MACULA_CALLER", caller)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{}: {error}", self.path.display()))?;
        let (out, err) = exchange(&mut child, &arguments).await.map_err(|error| error.to_string())?;
        let status = child.wait().await.map_err(|error| error.to_string())?;
        if !status.success() {
            let text = String::from_utf8_lossy(&err);
            return Err(format!("{status}: {}", text.trim()));
        }
        if out.len() > macula::PAYLOAD_BYTES_MAX {
            return Err(format!("the result has more than {} bytes", macula::PAYLOAD_BYTES_MAX));
        }
        Ok(out)
    }
}

/// Feeds stdin and reads stdout and stderr at the same time, so that no pipe fills up and blocks the child.
async fn exchange(child: &mut Child, input: &[u8]) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let mut stdout = child.stdout.take().expect("stdout is piped").take(macula::PAYLOAD_BYTES_MAX as u64 + 1);
    let mut stderr = child.stderr.take().expect("stderr is piped");
    let feed = async {
        // A program that does not read its input closes the pipe: that is its right.
        let _ = stdin.write_all(input).await;
        drop(stdin);
    };
    let mut out = Vec::new();
    let mut err = Vec::new();
    let ((), read_out, read_err) =
        tokio::join!(feed, stdout.read_to_end(&mut out), read_head(&mut stderr, &mut err));
    read_out?;
    read_err?;
    Ok((out, err))
}

/// Reads to the end, keeping the first bytes only.
async fn read_head(from: &mut (impl AsyncReadExt + Unpin), head: &mut Vec<u8>) -> std::io::Result<()> {
    let mut buffer = [0; 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let room = STDERR_BYTES_MAX - head.len();
        head.extend_from_slice(&buffer[..read.min(room)]);
    }
}

#[cfg(unix)]
fn is_executable(path: &std::path::Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
