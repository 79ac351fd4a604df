//! Commands that show how a node is.

use macula_console::api::{
    Bucket, ConfigEntry, Lookup, LookupAnswer, LookupQuestion, LookupRecord, Mesh, Peer, Provider,
    Registration, Status, Subscription, Task, Tree,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::messages::query;
use crate::cli::{self, Format};
use crate::client::Client;
use crate::context::{self, Running};
use crate::error::CliError;
use crate::output::{self, Row, count, micros, span};

/// How many characters of an id stand in a table.
const ID_CHARS: usize = 10;

pub(crate) async fn status(client: &Client, format: Format) -> Result<(), CliError> {
    let status: Status = client.get("/v1/status").await?;
    output::one(format, &status, || status_text(&status))
}

pub(crate) async fn list<R>(client: &Client, format: Format, path: &str) -> Result<(), CliError>
where
    R: Row + for<'a> Deserialize<'a>,
{
    let rows: Vec<R> = client.get(path).await?;
    if rows.is_empty() && format == Format::Table {
        output::say("none");
        return Ok(());
    }
    output::rows(format, &rows)
}

pub(crate) async fn metrics(client: &Client, format: Format) -> Result<(), CliError> {
    if format != Format::Table {
        return Err(CliError::Usage {
            message: "metrics are printed in the OpenMetrics text format alone".into(),
            hint: "leave out -o; `macula_ctl status -o json` has the main numbers".into(),
        });
    }
    let text = client.text("/metrics").await?;
    output::print(text.trim_end())
}

pub(crate) async fn lookup(client: &Client, format: Format, args: &cli::Lookup) -> Result<(), CliError> {
    let asked = match (&args.key, &args.topic, &args.procedure) {
        (Some(key), _, _) => format!("key={}", query(key)),
        (_, Some(topic), _) => format!("topic={}", query(topic)),
        (_, _, Some(procedure)) => format!("procedure={}", query(procedure)),
        (None, None, None) => unreachable!("clap requires one of them"),
    };
    let progress = super::progress("asking the directory");
    let lookup: Lookup = client.get(&format!("/v1/lookup?{asked}")).await?;
    progress.finish_and_clear();
    match format {
        Format::Table => {
            if args.trace {
                output::rows(format, &lookup.questions)?;
            }
            if !lookup.records.is_empty() {
                output::rows(format, &lookup.records)?;
            }
            output::print(&lookup_summary(&lookup))
        }
        Format::Json | Format::Ndjson => output::one(format, &lookup, String::new),
    }
}

/// A node that runs on this machine.
#[derive(Debug, Serialize)]
pub(crate) struct RunningNode {
    pub(super) name: String,
    /// `running`, or `not answering`.
    pub(super) state: &'static str,
    /// `None` if the node does not say.
    pub(super) id: Option<String>,
    pub(super) listen: Vec<String>,
    pub(super) pid: u32,
    pub(super) socket: String,
}

pub(crate) async fn nodes(format: Format) -> Result<(), CliError> {
    let row = |node: Running| RunningNode {
        name: node.name(),
        state: if node.status.is_some() { "running" } else { "not answering" },
        pid: node.pid,
        socket: node.client.socket().display().to_string(),
        id: node.status.as_ref().map(|status| status.id.clone()),
        listen: node.status.map(|status| status.listen).unwrap_or_default(),
    };
    let rows: Vec<_> = context::running().await?.into_iter().map(row).collect();
    if rows.is_empty() && format == Format::Table {
        output::say("no node is running; `macula_ctl start` starts one");
        return Ok(());
    }
    output::rows(format, &rows)
}

fn status_text(status: &Status) -> String {
    let tasks = |task: &Task| match (&task.last_failure, task.restarts) {
        (Some(failure), restarts) => {
            let restarts = count(restarts, "restart");
            format!("{}: {}, {restarts} ({failure})", task.name, task.state)
        }
        (None, _) => format!("{}: {}", task.name, task.state),
    };
    output::facts(&[
        ("node", status.name.clone()),
        ("id", status.id.clone()),
        ("health", status.health.clone()),
        ("mesh", mesh(status.mesh).into()),
        ("version", status.version.clone()),
        ("up", span(status.uptime_s)),
        ("pid", status.pid.to_string()),
        ("listens on", status.listen.join(", ")),
        ("advertises", status.advertise.join(", ")),
        ("realms", status.realms.join(", ")),
        ("members", status.members.to_string()),
        ("connections", status.connections.to_string()),
        ("routing contacts", status.routing_contacts.to_string()),
        ("subscriptions", status.subscriptions.to_string()),
        ("registrations", status.registrations.to_string()),
        ("tasks", status.tasks.iter().map(tasks).collect::<Vec<_>>().join("\n                  ")),
    ])
}

fn mesh(mesh: Mesh) -> &'static str {
    match mesh {
        Mesh::Joined => "joined",
        Mesh::Alone => "alone: no other member is known",
        Mesh::Left => "left; `macula_ctl join ADDR` takes the node back in",
    }
}

fn lookup_summary(lookup: &Lookup) -> String {
    let rounds = lookup.questions.iter().map(|question| question.round).max().unwrap_or(0);
    format!(
        "key {}: {} in {}; {} in {}",
        lookup.key,
        count(lookup.records.len(), "record"),
        micros(lookup.took_us),
        count(lookup.questions.len(), "question"),
        count(rounds, "round"),
    )
}

/// A configuration value as it stands in a file; an unset one is empty.
pub(super) fn written(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Array(items) => format!("[{}]", items.iter().map(written).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

pub(crate) fn short(id: &str) -> String {
    id.chars().take(ID_CHARS).collect()
}

impl Row for Peer {
    const COLUMNS: &'static [&'static str] = &["id", "remote", "dir", "rtt", "sent", "received", "agent"];

    fn cells(&self) -> Vec<String> {
        vec![
            short(&self.id),
            self.remote.clone(),
            self.direction.clone(),
            micros(self.rtt_us),
            self.frames_sent.to_string(),
            self.frames_received.to_string(),
            self.agent.clone(),
        ]
    }
}

impl Row for Bucket {
    const COLUMNS: &'static [&'static str] = &["shared bits", "contacts", "waiting", "nodes"];

    fn cells(&self) -> Vec<String> {
        let contact = |contact: &macula_console::api::BucketContact| {
            let rtt = contact.rtt_us.map_or_else(|| "-".into(), micros);
            let addr = contact.addrs.first().map_or("-", String::as_str);
            format!("{} {addr} seen {} ago, rtt {rtt}", short(&contact.id), span(contact.seen_s))
        };
        vec![
            self.shared_bits.to_string(),
            self.contacts.len().to_string(),
            self.waiting.to_string(),
            self.contacts.iter().map(contact).collect::<Vec<_>>().join("\n"),
        ]
    }
}

impl Row for Subscription {
    const COLUMNS: &'static [&'static str] =
        &["id", "realm", "pattern", "group", "filter", "queued", "delivered", "dropped"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.realm.clone(),
            self.pattern.clone(),
            self.group.clone().unwrap_or_default(),
            self.filter.clone().unwrap_or_default(),
            self.queued.to_string(),
            self.delivered.to_string(),
            self.dropped.to_string(),
        ]
    }
}

impl Row for Tree {
    const COLUMNS: &'static [&'static str] =
        &["pattern", "realm", "pushes to", "announces to", "announced", "hops"];

    fn cells(&self) -> Vec<String> {
        let short_ids = |ids: &[String]| ids.iter().map(|id| short(id)).collect::<Vec<_>>().join("\n");
        vec![
            self.pattern.clone(),
            self.realm.clone(),
            short_ids(&self.eager),
            short_ids(&self.lazy),
            if self.announced { "yes" } else { "no" }.to_owned(),
            self.hops.to_string(),
        ]
    }
}

impl Row for Registration {
    const COLUMNS: &'static [&'static str] =
        &["procedure", "realm", "in flight", "limit", "calls", "errors", "kept for"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.procedure.clone(),
            self.realm.clone(),
            self.in_flight.to_string(),
            self.concurrency_max.to_string(),
            self.calls.to_string(),
            self.errors.to_string(),
            kept_for(self.cache_ms),
        ]
    }
}

impl Row for Provider {
    const COLUMNS: &'static [&'static str] =
        &["provider", "address", "limit", "load", "state", "kept for", "description"];

    fn cells(&self) -> Vec<String> {
        let state = match (self.is_self, self.penalised) {
            (true, _) => "this node",
            (false, true) => "failed lately",
            (false, false) => "ready",
        };
        vec![
            short(&self.id),
            self.addrs.first().cloned().unwrap_or_default(),
            self.concurrency_max.to_string(),
            self.load.to_string(),
            state.into(),
            kept_for(self.cache_ms),
            self.description.clone(),
        ]
    }
}

/// For how long answers may be kept.
fn kept_for(cache_ms: Option<u64>) -> String {
    cache_ms.map_or_else(|| "-".into(), |millis| micros(millis.saturating_mul(1_000)))
}

impl Row for ConfigEntry {
    const COLUMNS: &'static [&'static str] = &["key", "value", "set by", "at run time"];

    fn cells(&self) -> Vec<String> {
        let runtime = if self.runtime { "yes" } else { "restart" };
        vec![self.key.clone(), written(&self.value), self.source.clone(), runtime.into()]
    }
}

impl Row for LookupQuestion {
    const COLUMNS: &'static [&'static str] = &["round", "at", "asked", "shared bits", "answer", "took"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.round.to_string(),
            micros(self.asked_us),
            short(&self.asked),
            self.shared_bits.to_string(),
            match self.answer {
                LookupAnswer::Answered { contacts, records } => {
                    format!("{}, {}", count(contacts, "contact"), count(records, "record"))
                }
                LookupAnswer::Failed => "failed".into(),
                LookupAnswer::Unanswered => "not waited for".into(),
            },
            self.took_us.map_or_else(|| "-".into(), micros),
        ]
    }
}

impl Row for LookupRecord {
    const COLUMNS: &'static [&'static str] = &["announcer", "address", "sequence", "bytes"];

    fn cells(&self) -> Vec<String> {
        vec![
            short(&self.announcer),
            self.addrs.first().cloned().unwrap_or_default(),
            self.sequence.to_string(),
            self.value_bytes.to_string(),
        ]
    }
}

impl Row for RunningNode {
    const COLUMNS: &'static [&'static str] = &["name", "state", "id", "listens on", "pid", "socket"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.state.into(),
            self.id.as_deref().map_or_else(|| "-".into(), short),
            self.listen.join(", "),
            self.pid.to_string(),
            self.socket.clone(),
        ]
    }
}
