//! Procedures that are answered by a client of the admin API, such as a shell script.
//!
//! The client opens `GET /v1/serve`: the procedure is registered for as long as it reads that stream. Each call is a
//! line of the stream, each reply a `POST /v1/serve/{id}`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use data_encoding::BASE64;
use macula::{Call, HandlerError, Node, RegisterOptions, Reply, RequestParts};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::api::{Payload, ServeEvent, ServePart, ServeReply};
use crate::failure::Failure;
use crate::messages::{LineSender, lines, realm_in, send};

/// The procedures that clients serve now, by number.
#[derive(Clone, Default)]
pub(crate) struct Servers(Arc<Table>);

#[derive(Default)]
struct Table {
    next: AtomicU64,
    servers: Mutex<HashMap<u64, Arc<Server>>>,
}

/// One client that serves a procedure. Calls that wait are bounded by the registration's concurrency.
struct Server {
    lines: LineSender,
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, Pending>>,
}

/// A call that the client works on.
struct Pending {
    call: Arc<Call>,
    parts: Option<Arc<tokio::sync::Mutex<RequestParts>>>,
    reply: oneshot::Sender<Result<Reply, HandlerError>>,
}

/// Query of `GET /v1/serve`.
#[derive(Debug, Deserialize)]
pub(crate) struct ServeQuery {
    procedure: String,
    realm: Option<String>,
    concurrency: u32,
    cache_ms: Option<u32>,
    #[serde(default)]
    description: String,
}

pub(crate) async fn serve(
    State(node): State<Node>,
    State(servers): State<Servers>,
    Query(query): Query<ServeQuery>,
) -> Result<Response, Failure> {
    let realm = realm_in(&node, query.realm.as_deref())?;
    let (lines, body) = lines();
    let server = Arc::new(Server { lines, next: AtomicU64::new(0), waiting: Mutex::default() });
    let handler = {
        let server = server.clone();
        move |call: Call| {
            let server = server.clone();
            async move { server.answer(call).await }
        }
    };
    let options = RegisterOptions {
        concurrency_max: query.concurrency,
        description: query.description,
        cache_for: query.cache_ms.map(|millis| Duration::from_millis(millis.into())),
    };
    let registration = node.register_in(realm, &query.procedure, options, handler).await?;
    let id = servers.0.next.fetch_add(1, Ordering::Relaxed);
    servers.0.servers.lock().insert(id, server.clone());
    let down = node.closed();
    tokio::spawn(async move {
        let registered = ServeEvent::Registered { id, procedure: query.procedure };
        if send(&server.lines, &registered).await.is_some() {
            tokio::select! {
                () = server.lines.closed() => {}
                () = down.cancelled() => {}
            }
        }
        servers.0.servers.lock().remove(&id);
        // A node that is down has withdrawn everything already.
        if !down.is_cancelled() {
            registration.unregister().await;
        }
    });
    Ok(body)
}

pub(crate) async fn reply(
    State(servers): State<Servers>,
    Path(id): Path<u64>,
    Json(reply): Json<ServeReply>,
) -> Result<Json<Value>, Failure> {
    let server = servers.0.servers.lock().get(&id).cloned();
    let server = server.ok_or_else(|| Failure::not_found(format!("no client serves under number {id}")))?;
    let nobody = || Failure::not_found(format!("nobody waits for call {} any more", reply.call));
    if let (Some(part), None, None) = (&reply.part, &reply.result, &reply.error) {
        let call = server.waiting.lock().get(&reply.call).map(|pending| pending.call.clone());
        call.ok_or_else(nobody)?.progress(said(part)?).await.map_err(|_| nobody())?;
        return Ok(Json(Value::Null));
    }
    let pending = server.waiting.lock().remove(&reply.call).ok_or_else(nobody)?;
    // A caller that gave up in this very moment is no error of the client.
    let _ = pending.reply.send(outcome(reply)?);
    Ok(Json(Value::Null))
}

/// The next part of a call's request; waits until its caller has sent one.
pub(crate) async fn part(
    State(servers): State<Servers>,
    Path((id, call)): Path<(u64, u64)>,
) -> Result<Json<ServePart>, Failure> {
    let server = servers.0.servers.lock().get(&id).cloned();
    let parts = server.and_then(|server| server.waiting.lock().get(&call)?.parts.clone());
    let parts = parts.ok_or_else(|| Failure::not_found(format!("call {call} has no parts, or is over")))?;
    let part = parts.lock().await.next().await;
    Ok(Json(ServePart { part: part.map(|part| BASE64.encode(&part)) }))
}

/// What a program printed.
fn said(text: &str) -> Result<Reply, Failure> {
    let bytes =
        BASE64.decode(text.as_bytes()).map_err(|_| Failure::invalid("what was said is not base64"))?;
    // What a program prints ends with a line break that is not part of its result.
    let bytes = bytes.strip_suffix(b"\n").map(<[u8]>::to_vec).unwrap_or(bytes);
    let (bytes, content_type) = Payload::from_input(bytes).to_bytes().map_err(Failure::invalid)?;
    Ok(Reply::new(bytes).content_type(content_type))
}

fn outcome(reply: ServeReply) -> Result<Result<Reply, HandlerError>, Failure> {
    match (reply.part, reply.result, reply.error) {
        (None, Some(result), None) => Ok(Ok(said(&result)?)),
        (None, None, Some(error)) => Ok(Err(HandlerError::new(error))),
        _ => Err(Failure::invalid("a reply has one of `part`, `result` and `error`")),
    }
}

impl Server {
    async fn answer(&self, mut call: Call) -> Result<Reply, HandlerError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (reply, answered) = oneshot::channel();
        let parts = call.take_parts().map(|parts| Arc::new(tokio::sync::Mutex::new(parts)));
        let (call, has_parts) = (Arc::new(call), parts.is_some());
        self.waiting.lock().insert(id, Pending { call: call.clone(), parts, reply });
        let mut waiting = Waiting { server: self, call: id, answered: false };
        let event = ServeEvent::Call {
            call: id,
            caller: call.caller.to_string(),
            timeout_ms: u64::try_from(call.remaining().as_millis()).unwrap_or(u64::MAX),
            arguments: BASE64.encode(&call.payload),
            streamed: call.takes_progress(),
            parts: has_parts,
        };
        let gone = || HandlerError::new("the program that serves this procedure has gone away");
        send(&self.lines, &event).await.ok_or_else(gone)?;
        let outcome = tokio::select! {
            outcome = answered => outcome.map_err(|_| gone())?,
            () = self.lines.closed() => Err(gone()),
        };
        waiting.answered = true;
        outcome
    }
}

/// A call that the client works on. Dropped unanswered (the caller gave up), the client is told to stop.
struct Waiting<'a> {
    server: &'a Server,
    call: u64,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.server.waiting.lock().remove(&self.call);
        if !self.answered {
            let event = serde_json::to_vec(&ServeEvent::Cancelled { call: self.call });
            let mut line = event.expect("our documents have string keys only");
            line.push(b'\n');
            // With no room for the line the client stops at the deadline that it was given.
            let _ = self.server.lines.try_send(Ok(line.into()));
        }
    }
}
