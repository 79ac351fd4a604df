//! A procedure from the shell: each call runs a program.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use hyper::Method;
use macula_console::api::{ServeEvent, ServePart, ServeReply};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::messages::{in_realm, query};
use super::program::Program;
use crate::cli;
use crate::client::Client;
use crate::daemon;
use crate::error::CliError;
use crate::output;

/// A program is ended so long after its caller's deadline, should the node's word that the time is up get lost.
const GRACE: Duration = Duration::from_secs(1);

pub(crate) async fn serve(client: &Client, args: cli::Serve) -> Result<(), CliError> {
    let program = Arc::new(Program::find(&args)?);
    let realm = in_realm(args.realm.as_deref());
    let cache = args.cache.map(|cache| format!("&cache_ms={}", cache.as_millis())).unwrap_or_default();
    let path = format!(
        "/v1/serve?procedure={}&concurrency={}&description={}{realm}{cache}",
        query(&args.procedure),
        args.concurrency,
        query(&args.description),
    );
    let mut events = client.lines(Method::GET, &path).await?;
    let mut serving = Serving {
        client: client.clone(),
        program,
        stream: args.stream,
        id: 0,
        runs: JoinSet::new(),
        calls: HashMap::new(),
    };
    let told_to_stop = daemon::told_to_stop();
    tokio::pin!(told_to_stop);
    let outcome = loop {
        tokio::select! {
            event = events.next::<ServeEvent>() => match event {
                Ok(Some(event)) => serving.on_event(event),
                Ok(None) => break Err(CliError::stopped()),
                Err(error) => break Err(error),
            },
            Some(done) = serving.runs.join_next() => {
                if let Ok(call) = done {
                    serving.calls.remove(&call);
                }
            }
            outcome = &mut told_to_stop => break outcome,
        }
    };
    serving.runs.shutdown().await;
    outcome
}

/// The calls that this process works on. The node never hands out more than `--concurrency` at once.
struct Serving {
    client: Client,
    program: Arc<Program>,
    /// Whether lines are sent as they come.
    stream: bool,
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
                // Aborting drops the run, which kills everything that the program started.
                if let Some(run) = self.calls.remove(&call) {
                    run.abort();
                }
            }
            ServeEvent::Call { call, timeout_ms, arguments, caller, streamed, parts: has_parts } => {
                let (client, program, id) = (self.client.clone(), self.program.clone(), self.id);
                let in_parts = self.stream && streamed;
                let patience = Duration::from_millis(timeout_ms).saturating_add(GRACE);
                let run = self.runs.spawn(async move {
                    let (parts, lines) = mpsc::channel(1);
                    let parts = in_parts.then_some(parts);
                    let (to_program, more) = mpsc::channel(1);
                    let more = has_parts.then_some(more);
                    let work = async {
                        let run = program.run(&arguments, &caller, parts, more);
                        let run = async { tokio::join!(run, send_parts(&client, id, call, lines)).0 };
                        tokio::select! {
                            outcome = run => outcome,
                            // A program may end before its caller has sent all.
                            never = fetch_parts(&client, id, call, has_parts.then_some(to_program)) => match never {},
                        }
                    };
                    let outcome = tokio::time::timeout(patience, work).await;
                    // The node has told the caller by its own clock: nobody waits for a reply.
                    let Ok(outcome) = outcome else { return call };
                    let (result, error) = match outcome {
                        Ok(result) => (Some(BASE64.encode(&result)), None),
                        Err(error) => (None, Some(error)),
                    };
                    let reply = ServeReply { call, part: None, result, error };
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

/// Sends lines to the caller, the next one once it has room for it; ends when there are no more, or nobody waits for them.
async fn send_parts(client: &Client, id: u64, call: u64, mut lines: mpsc::Receiver<Vec<u8>>) {
    while let Some(line) = lines.recv().await {
        let part = Some(BASE64.encode(&line));
        let reply = ServeReply { call, part, result: None, error: None };
        if client.send::<Value>(Method::POST, &format!("/v1/serve/{id}"), &reply).await.is_err() {
            return;
        }
    }
}

/// Fetches the parts of a request, the next one once the program takes it.
async fn fetch_parts(
    client: &Client,
    id: u64,
    call: u64,
    to_program: Option<mpsc::Sender<Vec<u8>>>,
) -> Infallible {
    if let Some(to_program) = to_program {
        let path = format!("/v1/serve/{id}/{call}/part");
        while let Ok(ServePart { part: Some(part) }) = client.get(&path).await {
            let Ok(part) = BASE64.decode(part.as_bytes()) else { break };
            if to_program.send(part).await.is_err() {
                break;
            }
        }
    }
    std::future::pending().await
}
