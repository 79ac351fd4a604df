//! Questions about a realm's group, and what is told in return, as frames.

use bytes::Bytes;
use macula_proto::{Frame, FrameKind, NodeId, ProtoError, Realm, RealmError, decode, wire};
use prost::Message as _;

use super::part::{names_in, names_out};
use super::seen::{Look, Seen};
use crate::lease::KeepAlive;
use crate::objects::codec::id_out;
use crate::objects::{CodecError, FencingToken, Request};
use crate::raft::codec::{self as raft, group_of, group_parts, voter_in, voter_out};
use crate::{GroupId, VoterId};

/// Voters that are told of, at most.
const VOTERS_MAX: usize = 16;

/// Why a frame is no question, or no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MessageError {
    #[error(transparent)]
    Proto(#[from] ProtoError),
    #[error(transparent)]
    Message(#[from] macula_proto::MessageError),
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error(transparent)]
    Raft(#[from] raft::CodecError),
    #[error(transparent)]
    Realm(#[from] RealmError),
    #[error("{0}")]
    Wrong(&'static str),
}

/// What a node is asked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Question {
    /// Which group, and who is in it?
    Where,
    /// Do this.
    Request(Request),
    /// A session lives.
    KeepAlive(KeepAlive),
    /// What is there?
    Look(Look),
    /// The asker would be a member.
    Offer(VoterId),
    /// An operator wants this.
    Manage(Manage),
}

/// A change of members that an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manage {
    /// This node shall follow, and have a vote once it has caught up.
    Add(NodeId),
    /// This node shall be a member no more.
    Remove(NodeId),
    /// This voter shall lead; `None`: any other than the one that does.
    Transfer(Option<NodeId>),
}

/// A question about a realm's group.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ask {
    pub(crate) realm: Realm,
    /// The group that is meant; `None`: whichever the node knows.
    pub(crate) group: Option<GroupId>,
    pub(crate) question: Question,
}

/// How a question was answered.
pub(crate) type Outcome = wire::GroupOutcome;

/// What a node says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    pub(crate) outcome: Outcome,
    /// The group that it knows.
    pub(crate) group: Option<GroupId>,
    pub(crate) leader: Option<VoterId>,
    pub(crate) voters: Vec<VoterId>,
    /// More voters are wanted.
    pub(crate) wanted: bool,
    /// Its empty store, where it may found a group.
    pub(crate) storage: u64,
    pub(crate) text: String,
    /// The last command that it has applied.
    pub(crate) at: FencingToken,
    /// What that group was before recoveries, the last one first.
    pub(crate) replaces: Vec<GroupId>,
    pub(crate) answer: Bytes,
}

const fn some_group(high: u64, low: u64) -> Option<GroupId> {
    let group = group_of(high, low);
    if group.0 == 0 { None } else { Some(group) }
}

impl Ask {
    pub(crate) fn to_frame(&self) -> Result<Frame, ProtoError> {
        use wire::GroupQuestion as Kind;
        let (question, payload) = match &self.question {
            Question::Where => (Kind::Where, Vec::new()),
            Question::Request(request) => (Kind::Request, request.encode()),
            Question::KeepAlive(keep_alive) => (Kind::KeepAlive, keep_alive.encode()),
            Question::Look(look) => (Kind::Look, look.to_wire().encode_to_vec()),
            Question::Offer(voter) => (Kind::Offer, voter_out(voter).encode_to_vec()),
            Question::Manage(manage) => (Kind::Manage, manage.to_wire().encode_to_vec()),
        };
        let (group_high, group_low) = self.group.map_or((0, 0), group_parts);
        let realm = self.realm.to_wire();
        let header = wire::GroupAsk { realm, group_high, group_low, question: question.into() };
        Frame::new(FrameKind::GROUP_ASK, &header, payload.into())
    }

    pub(crate) fn from_frame(frame: &Frame) -> Result<Self, MessageError> {
        use wire::GroupQuestion as Kind;
        let header: wire::GroupAsk = frame.header()?;
        let payload = frame.payload().clone();
        let question = match header.question() {
            Kind::Where => Question::Where,
            Kind::Request => Question::Request(Request::decode(payload)?),
            Kind::KeepAlive => Question::KeepAlive(KeepAlive::decode(payload)?),
            Kind::Look => Question::Look(Look::from_wire(decode(payload)?)?),
            Kind::Offer => Question::Offer(voter_in(Some(decode(payload)?))?),
            Kind::Manage => Question::Manage(Manage::from_wire(decode(payload)?)?),
            Kind::Unspecified => return Err(MessageError::Wrong("a question of an unknown kind")),
        };
        let group = some_group(header.group_high, header.group_low);
        Ok(Self { realm: Realm::from_wire(&header.realm)?, group, question })
    }
}

impl Told {
    pub(crate) fn to_frame(&self) -> Result<Frame, ProtoError> {
        let (group_high, group_low) = self.group.map_or((0, 0), group_parts);
        let header = wire::GroupTold {
            outcome: self.outcome.into(),
            group_high,
            group_low,
            leader: self.leader.as_ref().map(voter_out),
            voters: self.voters.iter().take(VOTERS_MAX).map(voter_out).collect(),
            wanted: self.wanted,
            text: self.text.chars().take(256).collect(),
            storage: self.storage,
            at: Some(self.at.to_wire()),
            replaces: names_out(&self.replaces),
        };
        Frame::new(FrameKind::GROUP_TOLD, &header, self.answer.clone())
    }

    pub(crate) fn from_frame(frame: &Frame) -> Result<Self, MessageError> {
        if frame.kind() != FrameKind::GROUP_TOLD {
            return Err(MessageError::Wrong("an answer of another kind"));
        }
        let header: wire::GroupTold = frame.header()?;
        if header.voters.len() > VOTERS_MAX {
            return Err(MessageError::Wrong("more than 16 voters"));
        }
        let outcome = header.outcome();
        let voters =
            header.voters.into_iter().map(|voter| voter_in(Some(voter))).collect::<Result<_, _>>()?;
        Ok(Self {
            outcome,
            group: some_group(header.group_high, header.group_low),
            leader: header.leader.map(|leader| voter_in(Some(leader))).transpose()?,
            voters,
            wanted: header.wanted,
            storage: header.storage,
            text: header.text.chars().take(256).collect(),
            at: FencingToken::from_wire(header.at),
            replaces: names_in(header.replaces),
            answer: frame.payload().clone(),
        })
    }

    /// What was seen, if that was asked.
    pub(crate) fn seen(&self) -> Result<Seen, MessageError> {
        Seen::from_wire(decode(self.answer.clone())?)
    }
}

impl Manage {
    fn to_wire(&self) -> wire::GroupManage {
        use wire::group_manage::Change;
        let change = match self {
            Self::Add(node) => Change::Add(id_out(node)),
            Self::Remove(node) => Change::Remove(id_out(node)),
            Self::Transfer(node) => Change::Transfer(node.as_ref().map_or_else(Bytes::new, id_out)),
        };
        wire::GroupManage { change: Some(change) }
    }

    fn from_wire(manage: wire::GroupManage) -> Result<Self, MessageError> {
        use wire::group_manage::Change;
        Ok(match manage.change.ok_or(MessageError::Wrong("no change of members"))? {
            Change::Add(node) => Self::Add(node_in(&node)?),
            Change::Remove(node) => Self::Remove(node_in(&node)?),
            Change::Transfer(node) if node.is_empty() => Self::Transfer(None),
            Change::Transfer(node) => Self::Transfer(Some(node_in(&node)?)),
        })
    }
}

/// A node's id.
pub(super) fn node_in(bytes: &Bytes) -> Result<NodeId, MessageError> {
    Ok(NodeId::try_from(bytes.as_ref()).map_err(CodecError::from)?)
}
