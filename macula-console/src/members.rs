//! The members of the mesh, and what this one says about itself.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use macula::{MemberState, Node};

use crate::api;
use crate::failure::Failure;

pub(crate) async fn members(State(node): State<Node>) -> Json<Vec<api::Member>> {
    Json(node.members().iter().map(|member| shown(&node, member)).collect())
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
