//! The members of the mesh, and what this one says about itself.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::Response;
use macula::{Event, EventError, EventReceiver, MemberState, Node};
use serde::Deserialize;

use crate::api::{self, MemberEvent};
use crate::failure::Failure;
use crate::messages::{LineSender, lines, send};

/// Query of `GET /v1/members`.
#[derive(Debug, Deserialize)]
pub(crate) struct MembersQuery {
    #[serde(default)]
    all: bool,
}

pub(crate) async fn members(
    State(node): State<Node>,
    Query(query): Query<MembersQuery>,
) -> Json<Vec<api::Member>> {
    let mut rows = present(&node);
    if query.all {
        rows.extend(node.gone_members().iter().map(|member| shown(&node, member)));
    }
    Json(rows)
}

fn present(node: &Node) -> Vec<api::Member> {
    node.members().iter().map(|member| shown(node, member)).collect()
}

pub(crate) async fn events(State(node): State<Node>) -> Response {
    // Before the list is taken, so that no change falls between them.
    let mut events = node.member_events();
    let (lines, body) = lines();
    let down = node.closed();
    tokio::spawn(async move {
        // A client that does not read must not hold up the end of the node.
        tokio::select! {
            _ = forward(&node, &mut events, &lines) => {}
            () = down.cancelled() => {}
        }
    });
    body
}

/// Writes the members and what changes, until the client goes away. What a slow client does not take waits in the
/// receiver's bounded queue; what is lost there is counted, and the list sent again.
async fn forward(node: &Node, events: &mut EventReceiver, lines: &LineSender) -> Option<()> {
    send(lines, &MemberEvent::Members { members: present(node) }).await?;
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = lines.closed() => return None,
        };
        match event {
            Ok(event) => {
                if let Some(event) = named(&event, shown(node, event.member())) {
                    send(lines, &event).await?;
                }
            }
            Err(EventError::Lagged(lost)) => {
                send(lines, &MemberEvent::Lagged { lost }).await?;
                send(lines, &MemberEvent::Members { members: present(node) }).await?;
            }
            Err(_) => return None,
        }
    }
}

/// `None` for kinds of events that this API does not have.
fn named(event: &Event, member: api::Member) -> Option<MemberEvent> {
    Some(match event {
        Event::Joined(_) => MemberEvent::Joined(member),
        Event::Suspected(_) => MemberEvent::Suspected(member),
        Event::Refuted(_) => MemberEvent::Refuted(member),
        Event::Confirmed(_) => MemberEvent::Confirmed(member),
        Event::Left(_) => MemberEvent::Left(member),
        Event::Updated(_) => MemberEvent::Updated(member),
        _ => return None,
    })
}

fn shown(node: &Node, member: &macula::Member) -> api::Member {
    api::Member {
        id: member.contact.id.to_string(),
        addrs: member.contact.addrs.iter().map(ToString::to_string).collect(),
        state: member.state.to_string(),
        incarnation: member.incarnation.0,
        tags: macula::Tags::clone(&member.tags),
        is_self: member.contact.id == node.node_id(),
        since_s: node.since(member.since).as_secs(),
    }
}

/// Whether the node is in a mesh: see [`api::Mesh`].
pub(crate) fn mesh(node: &Node) -> api::Mesh {
    let members = node.members();
    let own = members.iter().find(|member| member.contact.id == node.node_id());
    match own {
        Some(own) if own.state == MemberState::Left => api::Mesh::Left,
        _ if members.len() < 2 => api::Mesh::Alone,
        _ => api::Mesh::Joined,
    }
}

pub(crate) async fn tags(State(node): State<Node>) -> Json<BTreeMap<String, String>> {
    Json(macula::Tags::clone(&node.tags()))
}

/// Answers with the tags after the change.
pub(crate) async fn change_tags(
    State(node): State<Node>,
    Json(change): Json<api::ChangeTags>,
) -> Result<Json<BTreeMap<String, String>>, Failure> {
    let before = node.tags();
    if let Some(missing) = change.remove.iter().find(|name| !before.contains_key(*name)) {
        return Err(Failure::not_found(format!("this node has no tag `{missing}`")));
    }
    node.change_tags(&change.set, &change.remove)?;
    Ok(tags(State(node)).await)
}
