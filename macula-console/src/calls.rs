//! Calls over the admin API.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Query, State};
use axum::response::Response;
use bytes::Bytes;
use macula::{Caching, CallRequest, Name, Node, NodeId, ProviderInfo, Reply, ResultStream};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::api::{self, CallEvent};
use crate::failure::Failure;
use crate::messages::{lines, realm, send};

pub(crate) async fn call(
    State(node): State<Node>,
    Json(request): Json<api::Call>,
) -> Result<Json<api::CallResult>, Failure> {
    let exact = request.exact;
    let call = asked(&node, request)?;
    let started = Instant::now();
    let reply = node.call_with(call).await?;
    Ok(Json(result(&reply, exact, started)))
}

pub(crate) async fn call_stream(
    State(node): State<Node>,
    Json(request): Json<api::Call>,
) -> Result<Response, Failure> {
    let exact = request.exact;
    let call = asked(&node, request)?;
    let started = Instant::now();
    let results = node.call_stream(call).await?;
    let (lines, body) = lines();
    let down = node.closed();
    tokio::spawn(async move {
        // Dropping the results stops the handler.
        tokio::select! {
            _ = forward(results, &lines, exact, started) => {}
            () = lines.closed() => {}
            () = down.cancelled() => {}
        }
    });
    Ok(body)
}

/// Writes the parts as they come, then the end; `None` when the client is gone.
async fn forward(
    mut results: ResultStream,
    lines: &mpsc::Sender<Result<Bytes, Infallible>>,
    exact: bool,
    started: Instant,
) -> Option<()> {
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
    let realm = realm(query.realm.as_deref())?.unwrap_or_else(|| node.realm());
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
        .realm(realm(request.realm.as_deref())?.unwrap_or_else(|| node.realm()))
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
