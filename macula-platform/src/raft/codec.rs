//! Raft's values as wire messages, and back.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, Bytes, BytesMut};
use macula_proto::{MessageError, NodeId, decode, wire};
use openraft::entry::RaftEntry as _;
use openraft::vote::RaftLeaderId as _;
use openraft::{EmptyNode, EntryPayload};
use prost::Message;

use super::types::{
    Ballot, Entry, Membership, Payload, Position, Proposal, SnapshotMeta, StoredMembership, VoterId,
};
use crate::GroupId;
use crate::objects::codec::id_out;

/// While the voters change there are two sets of them, and never more.
const SETS_MAX: usize = 2;

/// Why a message is no word of Raft.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("a frame without the payload that it should have: {0}")]
    Payload(&'static str),
    #[error("`{0}` is missing")]
    Missing(&'static str),
    #[error("a voter without a node id of 32 bytes")]
    Voter,
    #[error("a membership in which {0}")]
    Membership(&'static str),
    #[error("an entry that is a command and a membership")]
    Entry,
}

pub(crate) const fn group_parts(group: GroupId) -> (u64, u64) {
    ((group.0 >> 64) as u64, group.0 as u64)
}

pub(crate) const fn group_of(high: u64, low: u64) -> GroupId {
    GroupId(((high as u128) << 64) | low as u128)
}

pub(crate) fn voter_out(voter: &VoterId) -> wire::RaftVoter {
    wire::RaftVoter { node: id_out(&voter.node), storage: voter.storage }
}

pub(crate) fn voter_in(voter: Option<wire::RaftVoter>) -> Result<VoterId, CodecError> {
    let voter = voter.ok_or(CodecError::Missing("voter"))?;
    let node = NodeId::try_from(voter.node.as_ref()).map_err(|_| CodecError::Voter)?;
    Ok(VoterId { node, storage: voter.storage })
}

pub(crate) fn ballot_out(ballot: &Ballot) -> wire::RaftBallot {
    let voter = Some(voter_out(&ballot.leader_id.voted_for));
    wire::RaftBallot { term: ballot.leader_id.term, voter, elected: ballot.committed }
}

pub(crate) fn ballot_in(ballot: Option<wire::RaftBallot>) -> Result<Ballot, CodecError> {
    let wire::RaftBallot { term, voter, elected } = ballot.ok_or(CodecError::Missing("ballot"))?;
    let voter = voter_in(voter)?;
    Ok(if elected { Ballot::new_committed(term, voter) } else { Ballot::new(term, voter) })
}

pub(crate) fn position_out(log_id: &Position) -> wire::RaftPosition {
    wire::RaftPosition { term: log_id.leader_id.term, index: log_id.index }
}

pub(crate) fn position_in(position: wire::RaftPosition) -> Position {
    let leader = openraft::impls::leader_id_std::LeaderId::new(position.term, NOBODY).to_committed();
    Position::new(leader, position.index)
}

/// Whose term it was does not matter once an entry is in the log.
const NOBODY: VoterId = VoterId { node: NodeId::from_bytes([0; 32]), storage: 0 };

pub(crate) fn membership_out(membership: &Membership) -> wire::RaftMembership {
    let sets = membership.get_joint_config();
    let bits = |voter: &VoterId| {
        sets.iter().enumerate().filter(|(_, set)| set.contains(voter)).fold(0, |bits, (n, _)| bits | (1 << n))
    };
    let member = |voter: &VoterId| wire::RaftMember { voter: Some(voter_out(voter)), sets: bits(voter) };
    wire::RaftMembership { members: membership.nodes().map(|(voter, _)| member(voter)).collect() }
}

pub(crate) fn membership_in(membership: Bytes) -> Result<Membership, CodecError> {
    let wire::RaftMembership { members } = decode(membership)?;
    let mut sets: Vec<BTreeSet<VoterId>> = Vec::new();
    let mut nodes = BTreeMap::new();
    for wire::RaftMember { voter, sets: bits } in members {
        let voter = voter_in(voter)?;
        if bits >> SETS_MAX != 0 {
            return Err(CodecError::Membership("there are more than two sets of voters"));
        }
        for set in (0..SETS_MAX).filter(|set| bits & (1 << set) != 0) {
            sets.resize_with(sets.len().max(set + 1), BTreeSet::new);
            sets[set].insert(voter);
        }
        if nodes.insert(voter, EmptyNode {}).is_some() {
            return Err(CodecError::Membership("somebody is twice"));
        }
    }
    Membership::new(sets, nodes).map_err(|_| CodecError::Membership("a set of voters is empty"))
}

/// An entry's bytes: on the disk as on the wire.
pub(crate) fn entry_out(entry: &Entry) -> wire::RaftEntry {
    let (leader, index) = entry.log_id_parts();
    let (command, members) = match &entry.payload {
        EntryPayload::Blank => (None, None),
        EntryPayload::Normal(proposal) => (Some(proposal.0.clone()), None),
        EntryPayload::Membership(membership) => {
            (None, Some(membership_out(membership).encode_to_vec().into()))
        }
    };
    wire::RaftEntry { term: leader.term, index, command, members }
}

pub(crate) fn entry_in(bytes: Bytes) -> Result<Entry, CodecError> {
    let wire::RaftEntry { term, index, command, members } = decode(bytes)?;
    let payload: Payload = match (command, members) {
        (None, None) => EntryPayload::Blank,
        (Some(command), None) => EntryPayload::Normal(Proposal(command)),
        (None, Some(members)) => EntryPayload::Membership(membership_in(members)?),
        (Some(_), Some(_)) => return Err(CodecError::Entry),
    };
    Ok(Entry::new(position_in(wire::RaftPosition { term, index }), payload))
}

/// Entries one after the other, as the payload of a frame.
pub(crate) fn entries_out(entries: &[Entry]) -> Bytes {
    let mut out = BytesMut::new();
    for entry in entries {
        // A buffer that grows has room for everything.
        let _ = entry_out(entry).encode_length_delimited(&mut out);
    }
    out.freeze()
}

pub(crate) fn entries_in(mut payload: Bytes) -> Result<Vec<Entry>, CodecError> {
    const CUT_OFF: CodecError = CodecError::Payload("an entry is cut off");
    let mut entries = Vec::new();
    while payload.has_remaining() {
        let length = prost::decode_length_delimiter(&mut payload).map_err(|_| CUT_OFF)?;
        if length > payload.len() {
            return Err(CUT_OFF);
        }
        entries.push(entry_in(payload.split_to(length))?);
    }
    Ok(entries)
}

/// An image's place, and the objects in it, as they are kept on the disk and sent.
pub(crate) fn image_out(meta: &SnapshotMeta, objects: Bytes) -> wire::RaftImage {
    let members = membership_out(meta.last_membership.membership()).encode_to_vec().into();
    wire::RaftImage {
        last: meta.last_log_id.as_ref().map(position_out),
        members_at: meta.last_membership.log_id().as_ref().map(position_out),
        members,
        objects,
    }
}

pub(crate) fn image_in(image: wire::RaftImage) -> Result<(SnapshotMeta, Bytes), CodecError> {
    let members = membership_in(image.members)?;
    let last_membership = StoredMembership::new(image.members_at.map(position_in), members);
    Ok((SnapshotMeta { last_log_id: image.last.map(position_in), last_membership }, image.objects))
}
