//! Calls over the admin API.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use data_encoding::BASE64;
use macula::{
    Caching, CallRequest, Name, Node, NodeId, PartError, PartSender, ProviderInfo, Reply, ResultStream,
};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;

use crate::api::{self, CallEvent};
use crate::failure::Failure;
use crate::messages::{LineSender, lines, realm_in, send};

pub(crate) async fn call(
    State(node): State<Node>,
    Json(request): Json<api::Call>,
) -> Result<Json<api::CallResult>, Failure> {
    let (exact, leader_of) = (request.exact, request.leader_of.clone());
    let call = asked(&node, request)?;
    let started = Instant::now();
    let reply = match leader_of {
        Some(election) => node.election_in(call.realm.clone(), &election)?.call_with(call).await?,
        None => node.call_with(call).await?,
    };
    Ok(Json(result(&reply, exact, started)))
}

pub(crate) async fn call_stream(
    State(node): State<Node>,
    State(senders): State<Senders>,
    Json(request): Json<api::Call>,
) -> Result<Response, Failure> {
    if request.leader_of.is_some() {
        return Err(Failure::invalid(
            "`leader_of` goes with plain calls: look up the leader, and name it in `to`",
        ));
    }
    let (exact, has_parts) = (request.exact, request.parts);
    let call = asked(&node, request)?;
    let started = Instant::now();
    let (sender, results) = if has_parts {
        let (parts, results) = node.call_duplex(call).await?;
        (Some(senders.add(parts)), results)
    } else {
        (None, node.call_stream(call).await?)
    };
    let (lines, body) = lines();
    let down = node.closed();
    tokio::spawn(async move {
        let forwarded = async {
            if let Some(sender) = &sender {
                send(&lines, &CallEvent::Started { id: sender.id }).await?;
            }
            forward(results, &lines, exact, started).await
        };
        // Dropping the results stops the handler.
        tokio::select! {
            _ = forwarded => {}
            () = lines.closed() => {}
            () = down.cancelled() => {}
        }
    });
    Ok(body)
}

/// One part of a request, or its end.
pub(crate) async fn part(
    State(senders): State<Senders>,
    Path(id): Path<u64>,
    Json(part): Json<api::CallPart>,
) -> Result<Json<Value>, Failure> {
    let over = || Failure::not_found(format!("call {id} takes no more parts"));
    let sender = senders.0.senders.lock().get(&id).cloned().ok_or_else(over)?;
    let mut sender = sender.lock().await;
    match part.part {
        Some(part) => {
            let bytes =
                BASE64.decode(part.as_bytes()).map_err(|_| Failure::invalid("`part` is not base64"))?;
            sender.as_mut().ok_or_else(over)?.send(bytes).await.map_err(|error| match error {
                PartError::TooLarge { .. } => Failure::invalid(error),
                // What became of the call is what its results say.
                _ => over(),
            })?;
        }
        None => sender.take().ok_or_else(over)?.finish(),
    }
    Ok(Json(Value::Null))
}

/// The calls of clients that send parts, by number.
#[derive(Clone, Default)]
pub(crate) struct Senders(Arc<Table>);

#[derive(Default)]
struct Table {
    next: AtomicU64,
    senders: Mutex<HashMap<u64, Sender>>,
}

/// `None` once the client has sent all.
type Sender = Arc<tokio::sync::Mutex<Option<PartSender>>>;

/// Keeps a call's sender in the table.
struct Listed {
    id: u64,
    table: Arc<Table>,
}

impl Senders {
    fn add(&self, parts: PartSender) -> Listed {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.0.senders.lock().insert(id, Arc::new(tokio::sync::Mutex::new(Some(parts))));
        Listed { id, table: self.0.clone() }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.table.senders.lock().remove(&self.id);
    }
}

/// Writes the parts as they come, then the end; `None` when the client is gone.
async fn forward(mut results: ResultStream, lines: &LineSender, exact: bool, started: Instant) -> Option<()> {
    let end = loop {
        match results.next().await {
            Ok(Some(part)) => send(lines, &CallEvent::Part(shown(&part, exact))).await?,
            Ok(None) => break results.reply().await,
            Err(error) => break Err(error),
        }
    };
    let last = match end {
        Ok(reply) => CallEvent::Result(result(&reply, exact, started)),
        Err(error) => CallEvent::Failed(Failure::from(error).into_info()),
    };
    send(lines, &last).await
}

/// Query of `GET /v1/providers`.
#[derive(Debug, Deserialize)]
pub(crate) struct ProvidersQuery {
    procedure: String,
    realm: Option<String>,
}

pub(crate) async fn providers(
    State(node): State<Node>,
    Query(query): Query<ProvidersQuery>,
) -> Result<Json<Vec<api::Provider>>, Failure> {
    let realm = realm_in(&node, query.realm.as_deref())?;
    let row = |info: ProviderInfo| api::Provider {
        id: info.contact.id.to_string(),
        addrs: info.contact.addrs.iter().map(ToString::to_string).collect(),
        is_self: info.local,
        description: info.description,
        concurrency_max: info.concurrency_max,
        load: info.load,
        penalised: info.penalised,
        cache_ms: info.cache_for.map(millis),
    };
    Ok(Json(node.providers_in(realm, &query.procedure).await?.into_iter().map(row).collect()))
}

fn asked(node: &Node, request: api::Call) -> Result<CallRequest, Failure> {
    let (bytes, content_type) = request.payload.to_bytes().map_err(Failure::invalid)?;
    let procedure: Name =
        request.procedure.parse().map_err(|error| Failure::from(macula::Error::Name(error)))?;
    let mut call = CallRequest::new(procedure)
        .realm(realm_in(node, request.realm.as_deref())?)
        .payload(bytes)
        .content_type(content_type)
        .idempotent(request.idempotent);
    call.headers = request.headers;
    call.timeout = request.timeout_ms.map(Duration::from_millis);
    call.strategy = request.strategy.map(macula::Strategy::from);
    if let Some(to) = &request.to {
        let to: NodeId =
            to.parse().map_err(|error| Failure::invalid(format!("`{to}` is no node id: {error}")))?;
        call = call.to(to);
    }
    Ok(if request.fresh { call.caching(Caching::Refresh) } else { call })
}

fn result(reply: &Reply, exact: bool, started: Instant) -> api::CallResult {
    api::CallResult {
        payload: shown(reply, exact),
        took_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        age_ms: reply.age.map(millis),
    }
}

fn shown(reply: &Reply, exact: bool) -> api::Payload {
    if exact {
        api::Payload::exact(&reply.payload)
    } else {
        api::Payload::show(&reply.payload, &reply.content_type)
    }
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
