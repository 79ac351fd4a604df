//! Recovery from a lost quorum: what an operator orders when a majority of a group's voters is gone for good.
//!
//! ```text
//!   member of the old group ── its engine stops ── one write ──▶ only member of a new group, which says what it replaces
//!                                                                      │ no session for TTL_MAX: leases run out
//!                                                                      ▼
//!                                                              grants as any other group
//! ```
//!
//! A member of the old group that comes back keeps to it, and serves nobody once one of its own fellow members tells it that
//! the group was recovered: until then its tokens are older than those of the new group, which resources refuse.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use macula_proto::NodeId;
use macula_transport::Transport;

use super::error::CoordinationError;
use super::message::Question;
use super::seat::Seat;
use super::seen::Look;
use crate::objects::Epoch;
use crate::raft::{GroupStatus, recovery};
use crate::{GroupId, LogStore, VoterId};

/// In terms of the group's own timing: so many election timeouts may pass until it counts as one without a leader.
const ELECTIONS: u32 = 8;

/// How long the new group may take to get its leader, which is this node.
const LEADS_WITHIN: Duration = Duration::from_secs(10);

/// How another group of the same realm relates to the one that this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinship {
    /// Both were founded.
    Stranger,
    /// It is what this node's group was before it was recovered: somebody kept to it.
    Older,
    /// It is what this node's group has become when it was recovered without this node.
    Newer,
}

impl Kinship {
    /// Of theirs to ours, each with the groups that it replaces.
    pub(super) fn of(ours: (GroupId, &[GroupId]), theirs: (GroupId, &[GroupId])) -> Self {
        match (theirs.1.contains(&ours.0), ours.1.contains(&theirs.0)) {
            (true, _) => Self::Newer,
            (false, true) => Self::Older,
            (false, false) => Self::Stranger,
        }
    }
}

/// What it means, and what to do.
impl fmt::Display for Kinship {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stranger => {
                "two groups were founded in this realm; they are never merged. To give up the one on a node, with all that is \
                 in it: macula_ctl raft abandon"
            }
            Self::Older => {
                "the group was recovered from a lost quorum, and a node keeps to the group of before. On that node, to give up \
                 what it has and join this one: macula_ctl raft abandon"
            }
            Self::Newer => {
                "the group was recovered from a lost quorum without this node, which serves it no more. To give up what this \
                 node has and join the recovered one: macula_ctl raft abandon"
            }
        })
    }
}

/// Another group of the same realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Which one.
    pub group: GroupId,
    /// A node that belongs to it.
    pub node: NodeId,
    /// How it relates to this node's.
    pub kinship: Kinship,
}

/// What a recovery made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The group that is no more.
    pub replaced: GroupId,
    /// The group that this node is the only member of.
    pub group: GroupId,
    /// Its epoch: all its fencing tokens are larger than those of before.
    pub epoch: Epoch,
    /// The last entry of the log that this member had. What was behind it is lost.
    pub last: u64,
    /// So many of its entries were not known to be committed. They are kept all the same, for they may have been
    /// acknowledged.
    pub uncertain: u64,
    /// The voters that the old group had beside this one.
    pub lost: Vec<VoterId>,
}

impl<T: Transport, S: LogStore> Seat<T, S> {
    /// See [`Coordination::recover`](super::Coordination::recover).
    pub(crate) async fn recover(self: &Arc<Self>, force: bool) -> Result<Recovered, CoordinationError> {
        let member = self.member().ok_or_else(|| CoordinationError::NoMember(self.realm.clone()))?;
        let status = member.group.status();
        if status.voters.is_empty() {
            return Err(CoordinationError::Unwilling("this node was not let into the group yet".into()));
        }
        if !force {
            self.refuse_unless_lost(&status).await?;
        }
        let recovered = {
            let _moving = self.moving.lock().await;
            let member = self.member().ok_or_else(|| CoordinationError::NoMember(self.realm.clone()))?;
            member.group.stop().await;
            let part = member.part.recovered_as(self.draw_group());
            // The seconds make the epochs of members that are recovered one after the other differ, whatever each knows.
            let epoch = Epoch(self.around.clock.unix().0 / 1_000);
            let (store, written) = (&self.around.store, part.write(&self.realm));
            let rebuilt = recovery::rebuild(store, part.key, status.me, epoch, written).await?;
            self.move_on();
            Recovered {
                replaced: member.part.group,
                group: part.group,
                epoch: rebuilt.epoch,
                last: rebuilt.last,
                uncertain: rebuilt.uncertain,
                lost: status.voters.iter().filter(|voter| **voter != status.me).copied().collect(),
            }
        };
        tracing::warn!(realm = %self.realm, ?recovered, "the group was recovered from a lost quorum, as ordered");
        // What was written stands, even if this takes longer.
        let _ = tokio::time::timeout(LEADS_WITHIN, self.until_leading(recovered.group)).await;
        Ok(recovered)
    }

    async fn refuse_unless_lost(&self, status: &GroupStatus) -> Result<(), CoordinationError> {
        let unwilling = |why: String| Err(CoordinationError::Unwilling(why));
        if let Some(group) = self.superseded() {
            return unwilling(format!("the group was recovered already, as {group}"));
        }
        let patience = self.around.config.timing.election_timeout * ELECTIONS;
        match self.ask(Question::Look(Look::Sessions(None)), patience).await {
            Ok(_) => return unwilling("the group has a leader that a majority follows".into()),
            Err(CoordinationError::Unavailable { .. } | CoordinationError::NoGroup { .. }) => {}
            Err(other) => return Err(other),
        }
        let peers = &self.around.peers;
        let lives = |voter: &&VoterId| voter.node == status.me.node || !peers.is_gone(&voter.node);
        let (living, voters) = (status.voters.iter().filter(lives).count(), status.voters.len());
        if living * 2 > voters {
            return unwilling(format!(
                "{living} of the {voters} voters seem to run: a majority, which elects a leader by itself. If they lost what \
                 they had, or are another's by now, the recovery has to be forced"
            ));
        }
        Ok(())
    }

    async fn until_leading(&self, group: GroupId) {
        let mut changed = self.changes();
        let member = loop {
            if let Some(member) = self.member().filter(|member| member.group.id() == group) {
                break member;
            }
            if changed.changed().await.is_err() {
                return;
            }
        };
        member.group.wait_until(LEADS_WITHIN, GroupStatus::is_leader).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinship_is_told_by_what_each_replaces() {
        let [a, b, c] = [1, 2, 3].map(GroupId);
        assert_eq!(Kinship::of((a, &[]), (b, &[])), Kinship::Stranger);
        assert_eq!(Kinship::of((a, &[]), (b, &[a])), Kinship::Newer);
        assert_eq!(Kinship::of((b, &[a]), (a, &[])), Kinship::Older);
        assert_eq!(Kinship::of((a, &[]), (c, &[b, a])), Kinship::Newer, "twice recovered");
        assert_eq!(Kinship::of((b, &[a]), (c, &[a])), Kinship::Stranger, "recovered on two sides");
    }
}
