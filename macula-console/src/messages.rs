//! Publish and subscribe over the admin API.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use macula::{Message, Node, Publish, Realm, SubscribeOptions, Subscription};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::api::{self, SubscribeEvent};
use crate::failure::Failure;

/// Lines of a streamed answer that wait for the client. Behind them stands the subscription's own, larger queue,
/// whose losses are counted and reported.
const LINES_MAX: usize = 64;

/// Longest queue that a client may ask for, in messages.
const QUEUE_MESSAGES_MAX: NonZeroUsize = NonZeroUsize::new(1_000_000).expect("not zero");

pub(crate) async fn publish(
    State(node): State<Node>,
    Json(request): Json<api::Publish>,
) -> Result<Json<api::Published>, Failure> {
    Ok(Json(reached(node.publish_with(message(&node, request)?).await?)))
}

fn reached(published: macula::Published) -> api::Published {
    api::Published {
        peers: published.peers,
        local: published.local,
        dropped: published.dropped,
        failed: published.failed,
        unnamed: published.unnamed,
        by_trees: published.by_trees,
        groups: published.groups,
        unserved: published.unserved,
    }
}

pub(crate) async fn publish_retained(
    State(node): State<Node>,
    Json(request): Json<api::Publish>,
) -> Result<Json<api::Retained>, Failure> {
    let macula::Retained { published, holders } = node.publish_retained(message(&node, request)?).await?;
    Ok(Json(api::Retained { holders, published: reached(published) }))
}

/// Query of `GET /v1/retained`.
#[derive(Debug, Deserialize)]
pub(crate) struct RetainedQuery {
    pattern: String,
    realm: Option<String>,
}

pub(crate) async fn retained(
    State(node): State<Node>,
    Query(query): Query<RetainedQuery>,
) -> Result<Json<api::RetainedFound>, Failure> {
    let realm = realm_in(&node, query.realm.as_deref())?;
    let found = node.retained(realm, &query.pattern).await?;
    let value = |value: macula::RetainedMessage| api::RetainedValue {
        topic: value.topic.to_string(),
        publisher: value.publisher.to_string(),
        payload: api::Payload::show(&value.payload.bytes, &value.payload.content_type),
        headers: shown_headers(&value.payload.headers),
    };
    Ok(Json(api::RetainedFound {
        values: found.values.into_iter().map(value).collect(),
        failed: found.failed,
    }))
}

/// Query of `DELETE /v1/retained`.
#[derive(Debug, Deserialize)]
pub(crate) struct ClearQuery {
    topic: String,
    realm: Option<String>,
}

pub(crate) async fn clear_retained(
    State(node): State<Node>,
    Query(query): Query<ClearQuery>,
) -> Result<Json<api::RetainedCleared>, Failure> {
    let realm = realm_in(&node, query.realm.as_deref())?;
    Ok(Json(api::RetainedCleared { cleared: node.clear_retained(realm, &query.topic).await? }))
}

pub(crate) async fn publish_acknowledged(
    State(node): State<Node>,
    Json(request): Json<api::PublishAcknowledged>,
) -> Result<Json<api::Acknowledged>, Failure> {
    let within = Duration::from_millis(request.within_ms);
    let acknowledged = node.publish_acknowledged(message(&node, request.message)?, within).await?;
    let missed = |missed: &macula::Missed| api::Missed {
        node: missed.node.to_string(),
        reason: missed.reason.to_string(),
    };
    Ok(Json(api::Acknowledged {
        complete: acknowledged.is_complete(),
        taken: acknowledged.taken.iter().map(ToString::to_string).collect(),
        missed: acknowledged.missed.iter().map(missed).collect(),
        groups: acknowledged
            .groups
            .iter()
            .map(|(group, node)| (group.to_string(), node.to_string()))
            .collect(),
        unserved: acknowledged.unserved.iter().map(ToString::to_string).collect(),
        unnamed: acknowledged.unnamed,
        unresolved: acknowledged.unresolved,
    }))
}

fn message(node: &Node, request: api::Publish) -> Result<Publish, Failure> {
    let (bytes, content_type) = request.payload.to_bytes().map_err(Failure::invalid)?;
    let mut message = Publish::new(&request.topic, (bytes, content_type)).map_err(Failure::from)?;
    message = message.realm(realm_in(node, request.realm.as_deref())?);
    for (name, value) in request.headers {
        message = message.header(&name, value);
    }
    if let Some(wait) = request.wait_ms {
        message = message.wait(Duration::from_millis(wait));
    }
    Ok(message)
}

/// Query of `GET /v1/subscribe`.
#[derive(Debug, Deserialize)]
pub(crate) struct SubscribeQuery {
    pattern: String,
    realm: Option<String>,
    filter: Option<String>,
    group: Option<String>,
    lag: Option<api::Lag>,
    queue: Option<NonZeroUsize>,
    #[serde(default)]
    retained: bool,
}

impl SubscribeQuery {
    fn options(&self) -> Result<SubscribeOptions, macula::Error> {
        let mut options = SubscribeOptions::default();
        if let Some(filter) = &self.filter {
            options = options.filter(filter)?;
        }
        if let Some(group) = &self.group {
            options = options.group(group)?;
        }
        if let Some(lag) = self.lag {
            options.lag = lag.into();
        }
        if let Some(messages) = self.queue {
            options.queue_messages = messages.min(QUEUE_MESSAGES_MAX);
        }
        Ok(options)
    }
}

pub(crate) async fn subscribe(
    State(node): State<Node>,
    Query(query): Query<SubscribeQuery>,
) -> Result<Response, Failure> {
    let realm = realm_in(&node, query.realm.as_deref())?;
    let options = query.options()?;
    let mut subscription = match query.retained {
        true => node.subscribe_with_retained(realm, &query.pattern, options).await?,
        false => node.subscribe_in(realm, &query.pattern, options).await?,
    };
    let (lines, body) = lines();
    let macula::RetainedReport { queued, lost, failed } = subscription.retained();
    let first = SubscribeEvent::Subscribed {
        pattern: query.pattern,
        holders: subscription.announced().holders,
        retained: queued,
        retained_lost: lost,
        retained_failed: failed,
    };
    let down = node.closed();
    tokio::spawn(async move {
        let forwarded = async {
            send(&lines, &first).await?;
            forward(&mut subscription, &lines).await
        };
        // A client that does not read must not hold up the end of the node.
        tokio::select! {
            _ = forwarded => {}
            () = down.cancelled() => {}
        }
    });
    Ok(body)
}

/// Writes what arrives, until the subscription ends or the client goes away.
async fn forward(subscription: &mut Subscription, lines: &LineSender) -> Option<()> {
    let mut lost = subscription.retained().lost;
    loop {
        let message = tokio::select! {
            message = subscription.recv() => message?,
            () = lines.closed() => return None,
        };
        let lagged = subscription.lagged();
        if lagged > lost {
            send(lines, &SubscribeEvent::Lagged { lost: lagged - lost }).await?;
            lost = lagged;
        }
        let line =
            Line { text: line(&SubscribeEvent::Message(shown(&message))), message, lines: lines.downgrade() };
        lines.send(Ok(Bytes::from_owner(line))).await.ok()?;
    }
}

/// A message on its way to the client. It is dropped, and so acknowledged, when it has been written to the socket; if the
/// client goes away before that, it is declined.
struct Line {
    text: Vec<u8>,
    message: Message,
    lines: mpsc::WeakSender<Result<Bytes, Infallible>>,
}

impl AsRef<[u8]> for Line {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.lines.upgrade().is_none_or(|lines| lines.is_closed()) {
            self.message.decline();
        }
    }
}

/// The realm that a request names, or the node's first one.
pub(crate) fn realm_in(node: &Node, name: Option<&str>) -> Result<Realm, Failure> {
    let realm =
        name.map(str::parse).transpose().map_err(|error| Failure::from(macula::Error::Realm(error)))?;
    Ok(realm.unwrap_or_else(|| node.realm()))
}

/// Where the lines of a body go.
pub(crate) type LineSender = mpsc::Sender<Result<Bytes, Infallible>>;

/// A body that is written line by line. The sender closes when the client goes away.
pub(crate) fn lines() -> (LineSender, Response) {
    let (sender, receiver) = mpsc::channel(LINES_MAX);
    let body = Body::from_stream(ReceiverStream::new(receiver));
    (sender, ([(CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// Writes one line; `None` when the client is gone.
pub(crate) async fn send(lines: &LineSender, document: &impl Serialize) -> Option<()> {
    lines.send(Ok(line(document).into())).await.ok()
}

fn line(document: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(document).expect("our documents have string keys only");
    line.push(b'\n');
    line
}

fn shown_headers(headers: &macula::Headers) -> BTreeMap<String, String> {
    let text = |value: &Bytes| String::from_utf8_lossy(value).into_owned();
    headers.iter().map(|(name, value)| (name.to_owned(), text(value))).collect()
}

fn shown(message: &Message) -> api::Message {
    api::Message {
        topic: message.topic.to_string(),
        realm: message.realm.to_string(),
        publisher: message.publisher.to_string(),
        sequence: message.sequence,
        retained: message.is_retained,
        payload: api::Payload::show(&message.payload, &message.content_type),
        headers: shown_headers(&message.headers),
    }
}
