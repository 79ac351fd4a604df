//! The router, and how the node is.

use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{FromRef, Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use macula::config::{self, Change};
use macula::{Health, Key, Node, StepOutcome};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::Control;
use crate::api::{self, ErrorCode};
use crate::calls::{self, Senders};
use crate::failure::Failure;
use crate::groups;
use crate::members;
use crate::messages::{self, lines, send};
use crate::serve::{self, Servers};

/// Longest refusal of the framework that is passed on, in bytes.
const REFUSAL_BYTES_MAX: usize = 4 * 1024;

/// What every handler may use.
#[derive(Clone)]
struct Shared {
    node: Node,
    control: Control,
    servers: Servers,
    senders: Senders,
}

impl FromRef<Shared> for Node {
    fn from_ref(shared: &Shared) -> Self {
        shared.node.clone()
    }
}

impl FromRef<Shared> for Control {
    fn from_ref(shared: &Shared) -> Self {
        shared.control.clone()
    }
}

impl FromRef<Shared> for Senders {
    fn from_ref(shared: &Shared) -> Self {
        shared.senders.clone()
    }
}

impl FromRef<Shared> for Servers {
    fn from_ref(shared: &Shared) -> Self {
        shared.servers.clone()
    }
}

pub(crate) fn router(node: Node, control: Control) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/members", get(members::members))
        .route("/v1/members/events", get(members::events))
        .route("/v1/tags", get(members::tags).patch(members::change_tags))
        .route("/v1/peers", get(peers))
        .route("/v1/routing-table", get(routing_table))
        .route("/v1/lookup", get(lookup))
        .route("/v1/subscriptions", get(subscriptions))
        .route("/v1/trees", get(trees))
        .route("/v1/registrations", get(registrations))
        .route("/v1/config", get(config))
        .route("/v1/config/{key}", get(config_get).put(config_set))
        .route("/v1/seeds", get(seeds).post(seed_add).delete(seed_remove))
        .route("/v1/join", post(join))
        .route("/v1/leave", post(leave))
        .route("/v1/publish", post(messages::publish))
        .route("/v1/publish-acknowledged", post(messages::publish_acknowledged))
        .route("/v1/publish-retained", post(messages::publish_retained))
        .route("/v1/retained", get(messages::retained).delete(messages::clear_retained))
        .route("/v1/subscribe", get(messages::subscribe))
        .route("/v1/call", post(calls::call))
        .route("/v1/call-stream", post(calls::call_stream))
        .route("/v1/call-stream/{id}", post(calls::part))
        .route("/v1/providers", get(calls::providers))
        .route("/v1/serve", get(serve::serve))
        .route("/v1/serve/{id}", post(serve::reply))
        .route("/v1/serve/{id}/{call}/part", get(serve::part))
        .route("/v1/groups", get(groups::groups))
        .route("/v1/groups/manage", post(groups::manage))
        .route("/v1/groups/abandon", post(groups::abandon))
        .route("/v1/groups/recover", post(groups::recover))
        .route("/v1/elections", get(groups::elections))
        .route("/v1/elections/observe", get(groups::observe))
        .route("/v1/elections/campaign", get(groups::campaign))
        .route("/v1/elections/resign", post(groups::resign))
        .route("/v1/locks", get(groups::locks))
        .route("/v1/locks/hold", get(groups::hold))
        .route("/v1/logs", get(groups::logs))
        .route("/v1/logs/append", post(groups::append))
        .route("/v1/logs/read", get(groups::read))
        .route("/v1/logs/tail", get(groups::tail))
        .route("/v1/log", put(log))
        .route("/v1/stop", post(stop))
        .route("/metrics", get(metrics))
        .fallback(unknown)
        .layer(map_response(explained))
        .with_state(Shared { node, control, servers: Servers::default(), senders: Senders::default() })
}

/// Refusals of the framework itself (a body that is no JSON or too large, a missing parameter, a wrong method) in the
/// form of all others.
async fn explained(response: Response) -> Response {
    let status = response.status();
    let is_ours =
        response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/"));
    if !(status.is_client_error() || status.is_server_error()) || is_ours {
        return response;
    }
    let text = to_bytes(response.into_body(), REFUSAL_BYTES_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let why = if text.is_empty() { status.to_string() } else { text.into_owned() };
    let mut explained = Failure::invalid(why).into_response();
    *explained.status_mut() = status;
    explained
}

async fn unknown() -> Failure {
    Failure::not_found("no such page in the admin API")
}

async fn status(State(node): State<Node>) -> Result<Json<api::Status>, Failure> {
    let tasks = node.tasks();
    let texts = |items: &[std::net::SocketAddr]| items.iter().map(ToString::to_string).collect();
    Ok(Json(api::Status {
        name: node.name(),
        id: node.node_id().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_s: node.uptime().as_secs(),
        listen: texts(&node.listen_addrs()),
        advertise: texts(&node.contact().addrs),
        realms: node.realms().iter().map(ToString::to_string).collect(),
        health: match node.health() {
            Health::Healthy => "healthy".to_owned(),
            Health::Degraded(why) => format!("degraded: {why}"),
            Health::Unhealthy(why) => format!("unhealthy: {why}"),
            _ => "unknown".to_owned(),
        },
        mesh: members::mesh(&node),
        members: node.members().len(),
        connections: node.peers().len(),
        routing_contacts: node.routing_table().await?.len(),
        subscriptions: node.subscriptions().len(),
        registrations: node.registrations().len(),
        tasks: tasks
            .into_iter()
            .map(|task| api::Task {
                name: task.name.to_string(),
                state: task.state.to_string(),
                restarts: task.restarts,
                last_failure: task.last_failure.map(|failure| failure.to_string()),
            })
            .collect(),
    }))
}

async fn peers(State(node): State<Node>) -> Json<Vec<api::Peer>> {
    let row = |peer: macula::PeerInfo| api::Peer {
        id: peer.id.to_string(),
        remote: peer.remote.to_string(),
        rtt_us: micros(peer.rtt),
        direction: if peer.dialled { "out" } else { "in" }.to_owned(),
        frames_sent: peer.frames_sent,
        frames_received: peer.frames_received,
        agent: peer.agent,
    };
    Json(node.peers().into_iter().map(row).collect())
}

async fn routing_table(State(node): State<Node>) -> Result<Json<Vec<api::Bucket>>, Failure> {
    let table = node.routing_table().await?;
    let contact = |known: &macula::Known| api::BucketContact {
        id: known.contact.id.to_string(),
        addrs: known.contact.addrs.iter().map(ToString::to_string).collect(),
        seen_s: table.at.since(known.seen).as_secs(),
        rtt_us: known.rtt.map(micros),
    };
    let bucket = |bucket: &macula::BucketSnapshot| api::Bucket {
        shared_bits: bucket.shared_bits,
        contacts: bucket.contacts.iter().map(contact).collect(),
        waiting: bucket.waiting,
    };
    Ok(Json(table.buckets.iter().map(bucket).collect()))
}

/// Query of `GET /v1/lookup`: one of the three.
#[derive(Debug, Deserialize)]
struct LookupQuery {
    key: Option<String>,
    topic: Option<String>,
    procedure: Option<String>,
}

async fn lookup(
    State(node): State<Node>,
    Query(query): Query<LookupQuery>,
) -> Result<Json<api::Lookup>, Failure> {
    let key: Key = match query {
        LookupQuery { key: Some(key), .. } => key.parse().map_err(Failure::invalid)?,
        LookupQuery { topic: Some(topic), .. } => node.topic_key(&topic)?,
        LookupQuery { procedure: Some(procedure), .. } => node.procedure_key(&procedure)?,
        _ => return Err(Failure::invalid("say what to look up: key, topic or procedure")),
    };
    let (trace, found) = node.lookup(key).await?;
    let questions = trace.steps.iter().map(|step| api::LookupQuestion {
        round: step.round,
        asked_us: micros(step.asked),
        asked: step.peer.id.to_string(),
        shared_bits: step.shared_bits,
        answer: match step.outcome {
            StepOutcome::Answered { contacts, records } => api::LookupAnswer::Answered { contacts, records },
            StepOutcome::Failed => api::LookupAnswer::Failed,
            StepOutcome::Unanswered => api::LookupAnswer::Unanswered,
        },
        took_us: step.took.map(micros),
    });
    let records = found.records.iter().map(|record| api::LookupRecord {
        announcer: record.announcer.id.to_string(),
        addrs: record.announcer.addrs.iter().map(ToString::to_string).collect(),
        sequence: record.sequence,
        value_bytes: record.value.len(),
    });
    Ok(Json(api::Lookup {
        key: key.to_string(),
        questions: questions.collect(),
        records: records.collect(),
        took_us: micros(trace.took),
    }))
}

async fn subscriptions(State(node): State<Node>) -> Json<Vec<api::Subscription>> {
    let row = |info: macula::SubscriptionInfo| api::Subscription {
        id: info.id.0,
        realm: info.realm.to_string(),
        pattern: info.pattern.to_string(),
        filter: info.filter.map(|filter| filter.to_string()),
        group: info.group.map(|group| group.to_string()),
        lag: info.lag.into(),
        queued: info.queued as u64,
        delivered: info.delivered,
        dropped: info.dropped,
    };
    Json(node.subscriptions().into_iter().map(row).collect())
}

async fn trees(State(node): State<Node>) -> Json<Vec<api::Tree>> {
    let row = |info: macula::TreeInfo| {
        let (eager, lazy): (Vec<_>, Vec<_>) = info.links.iter().partition(|link| link.is_eager);
        let ids = |links: Vec<&macula::LinkInfo>| links.iter().map(|link| link.peer.to_string()).collect();
        api::Tree {
            realm: info.realm.to_string(),
            pattern: info.pattern.to_string(),
            eager: ids(eager),
            lazy: ids(lazy),
            announced: info.is_announced,
            hops: info.last_hops,
        }
    };
    Json(node.trees().into_iter().map(row).collect())
}

async fn registrations(State(node): State<Node>) -> Json<Vec<api::Registration>> {
    let row = |info: macula::RegistrationInfo| api::Registration {
        procedure: info.procedure.to_string(),
        realm: info.realm.to_string(),
        in_flight: info.in_flight.into(),
        concurrency_max: info.concurrency_max.into(),
        calls: info.calls,
        errors: info.errors,
        cache_ms: info.cache_for.map(calls::millis),
    };
    Json(node.registrations().into_iter().map(row).collect())
}

fn entry(entry: config::Entry) -> api::ConfigEntry {
    api::ConfigEntry {
        key: entry.key.name.to_owned(),
        value: json_value(entry.value),
        source: entry.origin.to_string(),
        runtime: entry.key.change == Change::Live,
    }
}

/// As JSON has it; a duration as it is written, with its unit.
fn json_value(value: config::Value) -> Value {
    match value {
        config::Value::Text(text) => text.into(),
        config::Value::Count(count) => count.into(),
        config::Value::Flag(flag) => flag.into(),
        config::Value::List(items) => items.into(),
        config::Value::Duration(_) => value.to_string().trim_matches('"').into(),
        _ => Value::Null,
    }
}

async fn config(State(node): State<Node>) -> Json<Vec<api::ConfigEntry>> {
    Json(node.config_entries().into_iter().map(entry).collect())
}

async fn config_get(
    State(node): State<Node>,
    Path(key): Path<String>,
) -> Result<Json<api::ConfigEntry>, Failure> {
    Ok(Json(entry(node.get_config(&key)?)))
}

async fn config_set(
    State(node): State<Node>,
    State(control): State<Control>,
    Path(key): Path<String>,
    Json(body): Json<api::SetValue>,
) -> Result<Json<api::ConfigEntry>, Failure> {
    let changed = node.set_config(&key, &body.value)?;
    if key == "log.level" {
        (control.set_log)(&body.value).map_err(Failure::invalid)?;
    }
    Ok(Json(entry(changed)))
}

async fn log(
    State(node): State<Node>,
    State(control): State<Control>,
    Json(body): Json<api::SetValue>,
) -> Result<Json<Value>, Failure> {
    node.set_config("log.level", &body.value)?;
    (control.set_log)(&body.value).map_err(Failure::invalid)?;
    Ok(Json(Value::Null))
}

async fn seeds(State(node): State<Node>) -> Json<Value> {
    let seeds = node.seeds().into_iter();
    Json(
        seeds
            .map(|seed| json!({ "addr": seed.seed.to_string(), "source": seed.origin.to_string() }))
            .collect(),
    )
}

async fn seed_add(State(node): State<Node>, Json(body): Json<api::Address>) -> Result<Json<Value>, Failure> {
    node.add_seed(&body.addr)?;
    Ok(Json(Value::Null))
}

async fn seed_remove(
    State(node): State<Node>,
    Json(body): Json<api::Address>,
) -> Result<Json<Value>, Failure> {
    match node.remove_seed(&body.addr) {
        true => Ok(Json(Value::Null)),
        false => Err(Failure::not_found(format!("`{}` is no seed", body.addr))),
    }
}

async fn join(
    State(node): State<Node>,
    Json(body): Json<api::Address>,
) -> Result<Json<api::Joined>, Failure> {
    let joined = node.join(&body.addr).await?;
    // Among seeds that all nodes share, a node's own address does no harm; here somebody meant another node.
    if joined.seed == node.node_id() {
        return Err(Failure::join_to_itself(&body.addr));
    }
    Ok(Json(api::Joined {
        seed: joined.seed.to_string(),
        members: joined.members,
        took_ms: u64::try_from(joined.took.as_millis()).unwrap_or(u64::MAX),
    }))
}

async fn leave(State(node): State<Node>) -> Result<Json<Value>, Failure> {
    node.leave().await?;
    Ok(Json(Value::Null))
}

async fn metrics(State(node): State<Node>) -> Response {
    let kind = [("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    (kind, node.metrics()).into_response()
}

/// Answers at once and ends the answer when the node is down.
async fn stop(State(node): State<Node>, State(control): State<Control>) -> Result<Response, Failure> {
    let (lines, body) = lines();
    send(&lines, &json!({ "event": "stopping" }))
        .await
        .ok_or_else(|| Failure::new(ErrorCode::Internal, "the client went away"))?;
    control.stop.cancel();
    tokio::spawn(async move {
        node.closed().cancelled().await;
        drop(lines);
    });
    Ok(body)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
