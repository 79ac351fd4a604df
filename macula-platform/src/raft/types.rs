//! Which types openraft is used with.

use std::fmt;

use bytes::Bytes;
use macula_proto::NodeId;
use openraft::impls::leader_id_std;

use crate::objects::Answer;

/// A member of a group: a node, and which of its stores. A node that lost its store comes back as somebody else, because
/// a voter that forgot whom it voted for, or what it acknowledged, would break what Raft promises.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VoterId {
    /// The node.
    pub node: NodeId,
    /// Drawn when the store was made.
    pub storage: u64,
}

impl fmt::Display for VoterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:x}", self.node, self.storage)
    }
}

impl fmt::Debug for VoterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A command as it is in the log: encoded, so that it is neither encoded nor decoded on its way to the disk and to others.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proposal(pub(crate) Bytes);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a command of {} bytes", self.0.len())
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

openraft::declare_raft_types!(
    /// The types.
    pub(crate) Types:
        D = Proposal,
        R = Option<Answer>,
        NodeId = VoterId,
        Node = openraft::EmptyNode,
        LeaderId = leader_id_std::LeaderId<u64, VoterId>,
        AsyncRuntime = openraft_rt_tokio::TokioRuntime,
);

pub(crate) type Position = openraft::type_config::alias::LogIdOf<Types>;
pub(crate) type Ballot = openraft::type_config::alias::VoteOf<Types>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<Types>;
pub(crate) type Payload = openraft::type_config::alias::PayloadOf<Types>;
pub(crate) type Membership = openraft::Membership<VoterId, openraft::EmptyNode>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;
