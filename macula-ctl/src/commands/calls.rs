//! Calls, and who can be called.

use data_encoding::BASE64;
use hyper::Method;
use macula_console::api::{self, Call, CallEvent, CallPart, CallResult, Provider};
use serde_json::Value;
use tokio::sync::mpsc;

use super::messages::{in_realm, input, millis, query, shown};
use crate::cli::{self, Format, Strategy};
use crate::client::Client;
use crate::daemon;
use crate::error::CliError;
use crate::output;

pub(crate) async fn call(client: &Client, format: Format, args: &cli::Call) -> Result<(), CliError> {
    if args.raw && format != Format::Table {
        return Err(CliError::Usage {
            message: "--raw writes bytes, not documents".into(),
            hint: "leave out -o, or --raw".into(),
        });
    }
    let body = body(args)?;
    if args.parts && args.arguments == "-" {
        return Err(CliError::Usage {
            message: "stdin cannot be both the arguments and the parts".into(),
            hint: "give the arguments on the command line, or leave out --parts".into(),
        });
    }
    if args.stream || args.parts {
        return stream(client, format, &body).await;
    }
    let progress = super::progress(&format!("calling {}", args.procedure));
    let result: CallResult = client.send(Method::POST, "/v1/call", &body).await?;
    progress.finish_and_clear();
    if args.raw {
        let (bytes, _) = result.payload.to_bytes().map_err(|error| CliError::Broken(error.to_string()))?;
        return output::write(&bytes);
    }
    output::one(format, &result, || shown(&result.payload))
}

fn body(args: &cli::Call) -> Result<Call, CliError> {
    Ok(Call {
        procedure: args.procedure.clone(),
        realm: args.realm.clone(),
        payload: input(&args.arguments)?,
        timeout_ms: args.timeout.map(millis),
        idempotent: args.idempotent,
        exact: args.raw,
        to: args.to.clone(),
        leader_of: args.leader_of.clone(),
        strategy: args.strategy.map(api::Strategy::from),
        fresh: args.fresh,
        headers: args.header.iter().cloned().collect(),
        parts: args.parts,
    })
}

/// Prints the parts as they come. As a table each is a line, and so is an end that says something.
async fn stream(client: &Client, format: Format, body: &Call) -> Result<(), CliError> {
    let mut events = client.lines_of("/v1/call-stream", body).await?;
    let told_to_stop = daemon::told_to_stop();
    tokio::pin!(told_to_stop);
    loop {
        let event = tokio::select! {
            event = events.next::<CallEvent>() => event?,
            outcome = &mut told_to_stop => return outcome,
        };
        match event {
            None => return Err(CliError::stopped()),
            Some(CallEvent::Started { id }) => {
                let client = client.clone();
                // It ends with the process, should the call end before its input does.
                tokio::spawn(async move { send_lines(&client, id).await });
            }
            Some(CallEvent::Failed(info)) => return Err(CliError::Node(info)),
            Some(event) => {
                let (payload, is_last) = match &event {
                    CallEvent::Result(result) => (&result.payload, true),
                    CallEvent::Part(payload) => (payload, false),
                    CallEvent::Failed(_) | CallEvent::Started { .. } => {
                        unreachable!("they are handled above")
                    }
                };
                match format {
                    Format::Table if is_last && shown(payload).is_empty() => {}
                    Format::Table => output::print(&output::one_line(&shown(payload)))?,
                    Format::Json | Format::Ndjson => output::line(&event)?,
                }
                if is_last {
                    return Ok(());
                }
            }
        }
    }
}

/// Sends what stands on stdin, line by line: the next one when there is room for it. If the call takes no more, its results
/// say why.
async fn send_lines(client: &Client, id: u64) {
    let path = format!("/v1/call-stream/{id}");
    let mut lines = stdin_lines();
    loop {
        let line = lines.recv().await;
        let is_last = line.is_none();
        let part = CallPart { part: line.map(|line| BASE64.encode(line.as_bytes())) };
        if client.send::<Value>(Method::POST, &path, &part).await.is_err() || is_last {
            return;
        }
    }
}

/// Lines of stdin, from a thread of their own: reading it blocks.
fn stdin_lines() -> mpsc::Receiver<String> {
    let (lines, read) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                break;
            }
        }
    });
    read
}

pub(crate) async fn providers(
    client: &Client,
    format: Format,
    args: &cli::Providers,
) -> Result<(), CliError> {
    let realm = in_realm(args.realm.as_deref());
    let path = format!("/v1/providers?procedure={}{realm}", query(&args.procedure));
    super::inspect::list::<Provider>(client, format, &path).await
}

impl From<Strategy> for api::Strategy {
    fn from(strategy: Strategy) -> Self {
        match strategy {
            Strategy::LocalFirst => Self::LocalFirst,
            Strategy::RoundRobin => Self::RoundRobin,
            Strategy::Random => Self::Random,
            Strategy::Nearest => Self::Nearest,
            Strategy::LeastLoaded => Self::LeastLoaded,
        }
    }
}
