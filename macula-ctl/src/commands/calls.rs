//! Calls, and who can be called.

use hyper::Method;
use macula_console::api::{self, Call, CallEvent, CallResult, Provider};

use super::messages::{input, millis, query, shown};
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
    if args.stream {
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
        strategy: args.strategy.map(api::Strategy::from),
        fresh: args.fresh,
        headers: args.header.iter().cloned().collect(),
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
            Some(CallEvent::Failed(info)) => return Err(CliError::Node(info)),
            Some(event) => {
                let (payload, is_last) = match &event {
                    CallEvent::Result(result) => (&result.payload, true),
                    CallEvent::Part(payload) => (payload, false),
                    CallEvent::Failed(_) => unreachable!("it is handled above"),
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

pub(crate) async fn providers(
    client: &Client,
    format: Format,
    args: &cli::Providers,
) -> Result<(), CliError> {
    let realm = args.realm.as_deref().map(|realm| format!("&realm={}", query(realm))).unwrap_or_default();
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
