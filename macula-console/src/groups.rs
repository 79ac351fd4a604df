//! Groups, elections, locks and logs over the admin API.

use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::Response;
use macula::{
    CoordinationError, ElectionView, Error, Foreign, Kinship, Leader, LockGuard, LockMode, LogOffset, Node,
    NodeId, RealmStatus,
};
use serde::Deserialize;
use serde_json::Value;

use crate::api::{self, ElectionEvent, LockEvent};
use crate::failure::Failure;
use crate::messages::{LineSender, lines, realm_in, send};

/// How long a lock is waited for when nothing is said.
const LOCK_WAIT: Duration = Duration::from_secs(3_600);

/// Between two tries of a tail whose group does not answer.
const TAIL_PAUSE: Duration = Duration::from_secs(1);

pub(crate) async fn groups(State(node): State<Node>) -> Json<Vec<api::Group>> {
    Json(node.groups().iter().map(group).collect())
}

fn group(status: &RealmStatus) -> api::Group {
    let member = status.member.as_ref();
    let role = match member {
        Some(member) if member.is_leader() => "leader",
        Some(member) if member.voters.contains(&member.me) => "voter",
        Some(_) => "learner",
        None => "client",
    };
    api::Group {
        realm: status.realm.to_string(),
        group: status.group.map(|group| group.to_string()),
        leader: status.leader.map(|leader| leader.node.to_string()),
        voters: status.voters.iter().map(|voter| voter.node.to_string()).collect(),
        learners: member
            .map(|member| member.learners.iter().map(|learner| learner.node.to_string()).collect())
            .unwrap_or_default(),
        role: role.into(),
        term: member.map(|member| member.term),
        last: member.and_then(|member| member.last),
        applied: member.and_then(|member| member.applied),
        foreign: status.foreign.map(|Foreign { group, node, kinship }| api::Foreign {
            group: group.to_string(),
            node: node.to_string(),
            kinship: match kinship {
                Kinship::Stranger => "stranger".into(),
                Kinship::Older => "older".into(),
                Kinship::Newer => "newer".into(),
            },
        }),
        recovering: status.recovering,
        stopped: member.and_then(|member| member.stopped.clone()),
    }
}

pub(crate) async fn manage(
    State(node): State<Node>,
    Json(request): Json<api::Manage>,
) -> Result<Json<Value>, Failure> {
    let realm = realm_in(&node, request.realm.as_deref())?;
    let id = |text: &str| text.parse::<NodeId>().map_err(Failure::invalid);
    let change = match (&request.add, &request.remove, request.transfer.as_deref()) {
        (Some(node), None, None) => macula::Manage::Add(id(node)?),
        (None, Some(node), None) => macula::Manage::Remove(id(node)?),
        (None, None, Some("any")) => macula::Manage::Transfer(None),
        (None, None, Some(node)) => macula::Manage::Transfer(Some(id(node)?)),
        _ => return Err(Failure::invalid("exactly one of `add`, `remove` and `transfer` is needed")),
    };
    node.manage_group(realm, change).await?;
    Ok(Json(Value::Null))
}

pub(crate) async fn abandon(
    State(node): State<Node>,
    Json(request): Json<api::InRealm>,
) -> Result<Json<api::Abandoned>, Failure> {
    let realm = realm_in(&node, request.realm.as_deref())?;
    Ok(Json(api::Abandoned { group: node.abandon_group(realm).await?.to_string() }))
}

pub(crate) async fn recover(
    State(node): State<Node>,
    Json(request): Json<api::Recover>,
) -> Result<Json<api::Recovered>, Failure> {
    let realm = realm_in(&node, request.realm.as_deref())?;
    let recovered = node.recover_group(realm, request.force).await?;
    Ok(Json(api::Recovered {
        replaced: recovered.replaced.to_string(),
        group: recovered.group.to_string(),
        epoch: recovered.epoch.0,
        last: recovered.last,
        uncertain: recovered.uncertain,
        lost: recovered.lost.iter().map(|voter| voter.node.to_string()).collect(),
    }))
}

/// Query of everything that is named.
#[derive(Debug, Deserialize)]
pub(crate) struct Named {
    name: String,
    realm: Option<String>,
    /// What a candidate says of itself.
    #[serde(default)]
    value: String,
}

/// Query of lists.
#[derive(Debug, Deserialize)]
pub(crate) struct Listed {
    realm: Option<String>,
    /// The last name of the page before.
    after: Option<String>,
}

/// A name from a query.
fn parsed<T: std::str::FromStr<Err = macula::NameError>>(name: Option<&str>) -> Result<Option<T>, Failure> {
    name.map(str::parse).transpose().map_err(|error| Error::Name(error).into())
}

pub(crate) async fn elections(
    State(node): State<Node>,
    Query(query): Query<Listed>,
) -> Result<Json<Vec<api::Election>>, Failure> {
    let realm = realm_in(&node, query.realm.as_deref())?;
    let found = node.elections(realm, parsed(query.after.as_deref())?).await?;
    let shown = |info: macula::ElectionInfo| api::Election {
        election: info.election.to_string(),
        leader: info.leader.owner.to_string(),
        value: api::Payload::show(&info.leader.value, ""),
        token: info.leader.token.to_string(),
        waiting: info.waiting,
    };
    Ok(Json(found.into_iter().map(shown).collect()))
}

/// What observers see.
fn view(view: &ElectionView) -> ElectionEvent {
    let leader = view.leader.as_ref();
    let shown = |leader: &Leader| api::Payload::show(&leader.value, "");
    ElectionEvent::View {
        is_leader: view.is_leader,
        leader: leader.map(|leader| leader.owner.to_string()),
        value: leader.map(shown),
        token: leader.map(|leader| leader.token.to_string()),
    }
}

pub(crate) async fn observe(
    State(node): State<Node>,
    Query(query): Query<Named>,
) -> Result<Response, Failure> {
    let election = node.election_in(realm_in(&node, query.realm.as_deref())?, &query.name)?;
    // So that the first line is not what nobody has asked for yet.
    election.get_leader().await?;
    let (lines, body) = lines();
    tokio::spawn(async move { tell(&election, &lines, node.closed()).await });
    Ok(body)
}

/// Writes each view, until the client or the node goes away.
async fn tell(election: &macula::Election, lines: &LineSender, down: tokio_util::sync::CancellationToken) {
    let mut changes = election.changes();
    loop {
        let next = tokio::select! {
            next = changes.next() => next,
            () = lines.closed() => return,
            () = down.cancelled() => return,
        };
        if send(lines, &view(&next)).await.is_none() {
            return;
        }
    }
}

/// Campaigns as long as the client stays.
pub(crate) async fn campaign(
    State(node): State<Node>,
    Query(query): Query<Named>,
) -> Result<Response, Failure> {
    let election = node.election_in(realm_in(&node, query.realm.as_deref())?, &query.name)?;
    let (lines, body) = lines();
    tokio::spawn(async move {
        match election.campaign(query.value).await {
            Ok(_) => tell(&election, &lines, node.closed()).await,
            Err(error) => {
                let _ = send(&lines, &ElectionEvent::Failed(Failure::from(error).into_info())).await;
            }
        }
        if let Err(error) = election.resign().await {
            tracing::debug!(%error, "could not resign; the node's session keeps the place");
        }
    });
    Ok(body)
}

pub(crate) async fn resign(
    State(node): State<Node>,
    Json(request): Json<Named>,
) -> Result<Json<Value>, Failure> {
    node.election_in(realm_in(&node, request.realm.as_deref())?, &request.name)?.resign().await?;
    Ok(Json(Value::Null))
}

pub(crate) async fn locks(
    State(node): State<Node>,
    Query(query): Query<Listed>,
) -> Result<Json<Vec<api::Lock>>, Failure> {
    let realm = realm_in(&node, query.realm.as_deref())?;
    let found = node.locks(realm, parsed(query.after.as_deref())?).await?;
    let shown = |info: macula::LockInfo| api::Lock {
        lock: info.lock.to_string(),
        mode: match info.mode {
            LockMode::Exclusive => "exclusive".into(),
            LockMode::Shared => "shared".into(),
        },
        holders: info.holders,
        waiting: info.waiting,
    };
    Ok(Json(found.into_iter().map(shown).collect()))
}

/// Query of `GET /v1/locks/hold`.
#[derive(Debug, Deserialize)]
pub(crate) struct HoldQuery {
    name: String,
    realm: Option<String>,
    #[serde(default)]
    shared: bool,
    /// How long to wait, in milliseconds; 0: not at all.
    wait_ms: Option<u64>,
}

/// Holds a lock as long as the client stays.
pub(crate) async fn hold(
    State(node): State<Node>,
    Query(query): Query<HoldQuery>,
) -> Result<Response, Failure> {
    let lock = node.lock_in(realm_in(&node, query.realm.as_deref())?, &query.name)?;
    let (lines, body) = lines();
    tokio::spawn(async move {
        let wait = query.wait_ms.map_or(LOCK_WAIT, Duration::from_millis);
        let mode = if query.shared { LockMode::Shared } else { LockMode::Exclusive };
        let acquiring = async {
            match (wait.is_zero(), mode) {
                (true, mode) => lock.try_lock(mode).await,
                (false, LockMode::Exclusive) => lock.acquire(wait).await,
                (false, LockMode::Shared) => lock.acquire_shared(wait).await,
            }
        };
        let acquired = tokio::select! {
            acquired = acquiring => acquired,
            () = lines.closed() => return,
        };
        match acquired {
            Ok(guard) => keep(guard, &lines).await,
            Err(error) => {
                let _ = send(&lines, &LockEvent::Failed(Failure::from(error).into_info())).await;
            }
        }
    });
    Ok(body)
}

async fn keep(guard: LockGuard, lines: &LineSender) {
    let held = LockEvent::Held { token: guard.token().to_string() };
    if send(lines, &held).await.is_some() {
        tokio::select! {
            () = guard.lost() => {
                let _ = send(lines, &LockEvent::Lost).await;
            }
            () = lines.closed() => {}
        }
    }
    if let Err(error) = guard.release().await {
        tracing::debug!(%error, "a lock could not be given back; it is free when the node's session ends");
    }
}

pub(crate) async fn append(
    State(node): State<Node>,
    Json(request): Json<api::Append>,
) -> Result<Json<api::Appended>, Failure> {
    let log = node.log_in(realm_in(&node, request.realm.as_deref())?, &request.log)?;
    let bytes = |entry: &api::Payload| entry.to_bytes().map(|(bytes, _)| bytes).map_err(Failure::invalid);
    let entries = request.entries.iter().map(bytes).collect::<Result<Vec<_>, _>>()?;
    let count = entries.len();
    Ok(Json(api::Appended { first: log.append_all(entries).await?.0, count }))
}

pub(crate) async fn logs(
    State(node): State<Node>,
    Query(query): Query<Listed>,
) -> Result<Json<Vec<api::Log>>, Failure> {
    let realm = realm_in(&node, query.realm.as_deref())?;
    let found = node.logs(realm, parsed(query.after.as_deref())?).await?;
    let shown = |info: macula::LogInfo| api::Log {
        log: info.log.to_string(),
        first: info.first.0,
        next: info.next.0,
        bytes: info.bytes,
    };
    Ok(Json(found.into_iter().map(shown).collect()))
}

/// Query of `GET /v1/logs/read` and `GET /v1/logs/tail`.
#[derive(Debug, Deserialize)]
pub(crate) struct ReadQuery {
    name: String,
    realm: Option<String>,
    #[serde(default)]
    from: u64,
}

fn entry(entry: &macula::LogEntry) -> api::LogEntry {
    api::LogEntry {
        offset: entry.offset.0,
        at_ms: entry.stamp.0,
        entry: api::Payload::show(&entry.entry, ""),
    }
}

pub(crate) async fn read(
    State(node): State<Node>,
    Query(query): Query<ReadQuery>,
) -> Result<Json<Vec<api::LogEntry>>, Failure> {
    let log = node.log_in(realm_in(&node, query.realm.as_deref())?, &query.name)?;
    let page = log.read(LogOffset(query.from)).await?;
    if page.log.is_none() {
        return Err(Failure::not_found(format!("there is no log `{}`", query.name)));
    }
    Ok(Json(page.entries.iter().map(entry).collect()))
}

pub(crate) async fn tail(
    State(node): State<Node>,
    Query(query): Query<ReadQuery>,
) -> Result<Response, Failure> {
    let log = node.log_in(realm_in(&node, query.realm.as_deref())?, &query.name)?;
    let mut tail = log.tail(LogOffset(query.from));
    let (lines, body) = lines();
    let down = node.closed();
    tokio::spawn(async move {
        loop {
            let next = tokio::select! {
                next = tail.next() => next,
                () = lines.closed() => return,
                () = down.cancelled() => return,
            };
            match next {
                Ok(next) => {
                    if send(&lines, &entry(&next)).await.is_none() {
                        return;
                    }
                }
                Err(Error::Coordination(
                    CoordinationError::Unavailable { .. } | CoordinationError::NoGroup { .. },
                )) => {
                    tokio::time::sleep(TAIL_PAUSE).await;
                }
                // It goes on further back, as its offsets tell.
                Err(Error::Coordination(error @ CoordinationError::LogRewound { .. })) => {
                    tracing::warn!(%error, "a tail goes back");
                }
                Err(error) => return tracing::debug!(%error, "a tail ended"),
            }
        }
    });
    Ok(body)
}
