//! One group, as one of its members sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use macula_proto::{Frame, NodeId};
use macula_transport::{StreamRx, StreamTx, Transport};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{
    ChangeMembershipError, ClientWriteError, Fatal, InitializeError, LinearizableReadError, RaftError,
};
use openraft::raft::ReadPolicy;
use openraft::{ChangeMembers, EmptyNode, SnapshotPolicy};
use tokio::sync::broadcast;

use super::log::RaftLog;
use super::network::Links;
use super::server;
use super::state::{LogEntries, LogEntry, State, View};
use super::types::{Proposal, Types, VoterId};
use crate::objects::codec::millis;
use crate::objects::{Answer, Change, Command, LogId, LogOffset, Objects};
use crate::{GroupId, LogStore, StoreError};

/// How fast a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The leader says so often that it is there.
    pub heartbeat: Duration,
    /// A follower that hears nothing for so long, or up to twice as long, stands for election.
    pub election_timeout: Duration,
}

impl Timing {
    /// For nodes in one place: a leader that dies is replaced in about a third of a second.
    pub const LAN: Self =
        Self { heartbeat: Duration::from_millis(30), election_timeout: Duration::from_millis(90) };

    /// For nodes far apart: in about two seconds.
    pub const WAN: Self =
        Self { heartbeat: Duration::from_millis(200), election_timeout: Duration::from_millis(700) };
}

impl Default for Timing {
    fn default() -> Self {
        Self::LAN
    }
}

/// Entries of the log between one image of the objects and the next.
const ENTRIES_AN_IMAGE: u64 = 10_000;

/// Entries that stay in the log behind an image, for followers that are a little behind.
const ENTRIES_KEPT: u64 = 2_000;

/// Entries in one message, at most.
const ENTRIES_A_MESSAGE: u64 = 1_024;

/// How long an image may take to reach a follower.
const IMAGE_MAX: Duration = Duration::from_secs(120);

/// Requests between the callers and the group; who brings more waits.
const REQUESTS_MAX: u64 = 4_096;

/// Why a group did not do what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// Another member leads, or none at the moment. Nothing was done.
    #[error("this node does not lead the group{}", .leader.map(|leader| format!("; {} does", leader.node)).unwrap_or_default())]
    NotLeader {
        /// Who does, if it is known.
        leader: Option<VoterId>,
    },
    /// The leader lost its place before the command was committed: it may be done, or not. To ask again is safe, for the
    /// objects recognise what they have done.
    #[error("the leader lost its place meanwhile: whether it was done is not known")]
    Unknown,
    /// A majority did not answer in time.
    #[error("a majority of the voters did not answer")]
    NoQuorum,
    /// The members are being changed already, or the change is not one that a group can make.
    #[error("the members cannot be changed so: {0}")]
    Members(String),
    /// The group was founded before.
    #[error("the group was founded before")]
    Founded,
    /// This node's part in the group has ended: its disk failed, or it is shutting down.
    #[error("this node takes no part in the group any more: {0}")]
    Stopped(String),
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Fatal<Types>> for GroupError {
    fn from(cause: Fatal<Types>) -> Self {
        Self::Stopped(cause.to_string())
    }
}

impl From<RaftError<Types, ClientWriteError<Types>>> for GroupError {
    fn from(error: RaftError<Types, ClientWriteError<Types>>) -> Self {
        match error {
            RaftError::Fatal(fatal) => fatal.into(),
            RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
                Self::NotLeader { leader: to.leader_id }
            }
            RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => Self::Unknown,
            RaftError::APIError(ClientWriteError::ChangeMembershipError(cause)) => cause.into(),
            RaftError::APIError(other) => Self::Members(other.to_string()),
        }
    }
}

impl<L, N> From<ChangeMembershipError<L, N>> for GroupError
where
    L: openraft::vote::RaftCommittedLeaderId,
    N: openraft::NodeId,
{
    fn from(cause: ChangeMembershipError<L, N>) -> Self {
        Self::Members(cause.to_string())
    }
}

impl From<RaftError<Types, LinearizableReadError<Types>>> for GroupError {
    fn from(error: RaftError<Types, LinearizableReadError<Types>>) -> Self {
        match error {
            RaftError::Fatal(fatal) => fatal.into(),
            RaftError::APIError(LinearizableReadError::ForwardToLeader(to)) => {
                Self::NotLeader { leader: to.leader_id }
            }
            RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => Self::NoQuorum,
        }
    }
}

impl From<RaftError<Types, InitializeError<Types>>> for GroupError {
    fn from(error: RaftError<Types, InitializeError<Types>>) -> Self {
        match error {
            RaftError::Fatal(fatal) => fatal.into(),
            RaftError::APIError(InitializeError::NotAllowed(_)) => Self::Founded,
            RaftError::APIError(InitializeError::NotInMembers(cause)) => Self::Members(cause.to_string()),
        }
    }
}

/// What a member knows of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// Which group.
    pub group: GroupId,
    /// This member.
    pub me: VoterId,
    /// Who leads, as far as this member knows.
    pub leader: Option<VoterId>,
    /// The term: how many times somebody stood for election, about.
    pub term: u64,
    /// Who votes.
    pub voters: BTreeSet<VoterId>,
    /// Who only follows.
    pub learners: BTreeSet<VoterId>,
    /// Two sets of voters are in charge, as the voters are being changed.
    pub is_changing: bool,
    /// Who votes once that is complete; the same as `voters` if nothing is changing.
    pub next_voters: BTreeSet<VoterId>,
    /// The last entry of the log here.
    pub last: Option<u64>,
    /// The last entry that was applied here.
    pub applied: Option<u64>,
    /// The last entry that is part of the image on the disk.
    pub image: Option<u64>,
    /// At the leader: up to which entry each of the others has the log.
    pub matched: BTreeMap<VoterId, Option<u64>>,
    /// Why this node takes no part any more.
    pub stopped: Option<String>,
}

impl GroupStatus {
    /// Whether this member leads and there is no other.
    pub fn is_alone(&self) -> bool {
        self.is_leader() && self.voters.len() == 1 && self.learners.is_empty() && !self.is_changing
    }

    /// Whether this member leads, as far as it knows. A leader that is cut off learns late that it is none any more.
    pub fn is_leader(&self) -> bool {
        self.leader == Some(self.me)
    }
}

/// Changes of roles, see [`Group::roles`].
pub struct Roles(
    openraft::type_config::alias::WatchReceiverOf<Types, openraft::metrics::RaftServerMetrics<Types>>,
);

impl Roles {
    /// Waits for the next change; `false` when the member has stopped.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

/// A member of a group. Clones are the same member.
///
/// # Guarantees
/// What [`propose`](Self::propose) has answered is on the disks of a majority and is never lost; it was applied once, at one
/// place in an order that is the same for all members.
pub struct Group<S: LogStore> {
    id: GroupId,
    me: VoterId,
    raft: openraft::Raft<Types, State<S>>,
    view: Arc<View>,
    log_entries: LogEntries<S>,
}

impl<S: LogStore> Clone for Group<S> {
    fn clone(&self) -> Self {
        let Self { id, me, raft, view, log_entries } = self;
        let (raft, view, log_entries) = (raft.clone(), view.clone(), log_entries.clone());
        Self { id: *id, me: *me, raft, view, log_entries }
    }
}

fn config(id: GroupId, timing: Timing) -> Result<openraft::Config, GroupError> {
    let config = openraft::Config {
        cluster_name: id.to_string(),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election_timeout),
        election_timeout_max: millis(timing.election_timeout * 2),
        install_snapshot_timeout: millis(IMAGE_MAX),
        max_payload_entries: ENTRIES_A_MESSAGE,
        // Who lags behind further than the log reaches back gets an image.
        replication_lag_threshold: ENTRIES_AN_IMAGE + ENTRIES_KEPT,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(ENTRIES_AN_IMAGE),
        max_in_snapshot_log_to_keep: ENTRIES_KEPT,
        purge_batch_size: 256,
        api_channel_size: Some(REQUESTS_MAX),
        // A node that comes back from behind a cut would depose a leader that the others follow.
        enable_pre_vote: Some(true),
        // What was committed last is written without waiting for the disk, so a restarted leader asks the others first.
        enable_leader_restore: Some(false),
        ..openraft::Config::default()
    };
    config.validate().map_err(|cause| GroupError::Stopped(cause.to_string()))
}

impl<S: LogStore> Group<S> {
    /// Takes part again, or for the first time: reads what is on the disk, and waits for the others or for
    /// [`found`](Self::found).
    ///
    /// # Errors
    /// [`GroupError::Store`], [`GroupError::Stopped`].
    pub async fn open<T: Transport>(
        id: GroupId,
        me: VoterId,
        transport: T,
        store: Arc<S>,
        timing: Timing,
    ) -> Result<Self, GroupError> {
        Self::open_under(id, id, me, transport, store, timing).await
    }

    /// The same, of a group that is kept under another's number: the one that it was before a recovery.
    ///
    /// # Errors
    /// The same.
    pub(crate) async fn open_under<T: Transport>(
        key: GroupId,
        id: GroupId,
        me: VoterId,
        transport: T,
        store: Arc<S>,
        timing: Timing,
    ) -> Result<Self, GroupError> {
        let log = RaftLog::open(key, store.clone())?;
        let state = State::new(key, store);
        let (view, log_entries) = (state.view(), state.log_entries());
        let links = Links { group: id, me, transport, log_entries: log_entries.clone() };
        let raft = openraft::Raft::new(me, Arc::new(config(id, timing)?), links, log, state).await?;
        Ok(Self { id, me, raft, view, log_entries })
    }

    /// Which group.
    pub const fn id(&self) -> GroupId {
        self.id
    }

    /// This member.
    pub const fn me(&self) -> VoterId {
        self.me
    }

    /// Makes these members the first voters. Only on members that never heard of each other in this group, and only with the
    /// same voters everywhere; on one of them is enough.
    ///
    /// # Errors
    /// [`GroupError::Founded`], [`GroupError::Members`] without this member among them.
    pub async fn found(&self, voters: BTreeSet<VoterId>) -> Result<(), GroupError> {
        Ok(self
            .raft
            .initialize(voters.into_iter().map(|voter| (voter, EmptyNode {})).collect::<BTreeMap<_, _>>())
            .await?)
    }

    /// Has a command committed and applied, and returns what came of it.
    ///
    /// # Errors
    /// [`GroupError::NotLeader`]: nothing was done. [`GroupError::Unknown`]: nobody knows.
    pub async fn propose(&self, command: &Command) -> Result<Answer, GroupError> {
        let written = self.raft.client_write(Proposal(command.encode().into())).await?;
        written.data.ok_or_else(|| GroupError::Stopped("a command without an answer".into()))
    }

    /// Waits until this member, the leader, has applied all that was committed when it was asked, having made sure that
    /// it leads. What is read then is as if read from a single copy.
    ///
    /// # Errors
    /// [`GroupError::NotLeader`], [`GroupError::NoQuorum`].
    pub async fn read_barrier(&self) -> Result<(), GroupError> {
        self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await?;
        Ok(())
    }

    /// Looks at the objects as this member knows them now: perhaps not the newest, unless after
    /// [`read_barrier`](Self::read_barrier).
    pub fn look<R>(&self, at: impl FnOnce(&Objects) -> R) -> R {
        at(&self.view.objects.read())
    }

    /// All changes from now on, as this member learns of them. Who lags behind too far is told so, and should
    /// [`look`](Self::look) again.
    pub fn watch(&self) -> broadcast::Receiver<Change> {
        self.view.watch()
    }

    /// Entries of an application's log from `from` to below `end`: as many as fit `bytes_max`, but one at least.
    ///
    /// # Errors
    /// [`GroupError::Store`].
    pub fn log_entries(
        &self,
        log: LogId,
        from: LogOffset,
        end: LogOffset,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, GroupError> {
        Ok(self.log_entries.read_entries(log, from.0, end.0, bytes_max)?)
    }

    /// Whether this member may do without its timer, for there is nobody but itself: no heartbeat to send, and no leader to wait
    /// for. Any change of members wakes it.
    pub(crate) fn rest(&self, rests: bool) {
        self.raft.runtime_config().tick(!rests);
    }

    /// Lets a node follow the group, without a vote.
    ///
    /// # Errors
    /// [`GroupError::NotLeader`], [`GroupError::Members`] while another change is under way.
    pub async fn add_learner(&self, learner: VoterId) -> Result<(), GroupError> {
        self.rest(false);
        self.raft.add_learner(learner, EmptyNode {}, false).await?;
        Ok(())
    }

    /// Makes these the voters, all of them being voters or learners now. Who loses its vote is a member no more.
    ///
    /// # Errors
    /// [`GroupError::NotLeader`], [`GroupError::Members`], [`GroupError::Unknown`].
    pub async fn set_voters(&self, voters: BTreeSet<VoterId>) -> Result<(), GroupError> {
        self.rest(false);
        self.raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), false).await?;
        // If the leader changes half-way, the two sets of voters stay until somebody makes the second step.
        if self.status().is_changing {
            return Err(GroupError::Members(
                "the change is not complete: both the old and the new voters decide".into(),
            ));
        }
        Ok(())
    }

    /// Removes members that have no vote.
    ///
    /// # Errors
    /// [`GroupError::NotLeader`], [`GroupError::Members`].
    pub async fn remove_learners(&self, learners: BTreeSet<VoterId>) -> Result<(), GroupError> {
        self.raft.change_membership(ChangeMembers::RemoveNodes(learners), false).await?;
        Ok(())
    }

    /// Asks another voter to take over, and returns once somebody else leads.
    ///
    /// # Errors
    /// [`GroupError::NotLeader`] if this member does not lead, [`GroupError::NoQuorum`] if nobody took over within `patience`.
    pub async fn transfer(&self, to: VoterId, patience: Duration) -> Result<(), GroupError> {
        let status = self.status();
        if !status.is_leader() {
            return Err(GroupError::NotLeader { leader: status.leader });
        }
        self.raft.trigger().transfer_leader(to).await?;
        let me = self.me;
        let led_by_another = self
            .raft
            .wait(Some(patience))
            .metrics(|metrics| metrics.current_leader.is_some_and(|leader| leader != me), "another leader")
            .await;
        led_by_another.map(drop).map_err(|_| GroupError::NoQuorum)
    }

    /// Writes an image of the objects now, so that the log can be shortened.
    ///
    /// # Errors
    /// [`GroupError::Stopped`].
    pub async fn write_image(&self) -> Result<(), GroupError> {
        Ok(self.raft.trigger().snapshot().await?)
    }

    /// Removes the entries of this member's log up to `through` that are part of its image: else a part of them stays for a
    /// while, for followers that are a little behind.
    ///
    /// # Errors
    /// [`GroupError::Stopped`].
    pub async fn shorten_log(&self, through: u64) -> Result<(), GroupError> {
        Ok(self.raft.trigger().purge_log(through).await?)
    }

    /// What this member knows of the group now.
    pub fn status(&self) -> GroupStatus {
        // Cloned at once: whoever holds the borrow holds up the engine.
        let metrics = self.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let index = |position: Option<super::types::Position>| position.map(|position| position.index);
        let matched = metrics.replication.unwrap_or_default();
        GroupStatus {
            group: self.id,
            me: self.me,
            leader: metrics.current_leader,
            term: metrics.current_term,
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            is_changing: membership.get_joint_config().len() > 1,
            next_voters: membership.get_joint_config().last().cloned().unwrap_or_default(),
            last: metrics.last_log_index,
            applied: index(metrics.last_applied),
            image: index(metrics.snapshot),
            matched: matched.into_iter().map(|(voter, position)| (voter, index(position))).collect(),
            stopped: metrics.running_state.err().map(|cause| cause.to_string()),
        }
    }

    /// Tells when this member's role changes, or who leads, or who the members are.
    pub fn roles(&self) -> Roles {
        Roles(self.raft.server_metrics())
    }

    /// Waits until `is_so` of the group's status, as this member sees it. `None` if it is not within `patience`, or this
    /// member stops.
    pub async fn wait_until(
        &self,
        patience: Duration,
        is_so: impl Fn(&GroupStatus) -> bool,
    ) -> Option<GroupStatus> {
        let mut metrics = self.raft.metrics();
        let waiting = async {
            loop {
                let status = self.status();
                if is_so(&status) {
                    return Some(status);
                }
                metrics.changed().await.ok()?;
            }
        };
        tokio::time::timeout(patience, waiting).await.ok().flatten()
    }

    /// Which group a stream is for that was opened with this frame; `None` if it is none of Raft's.
    pub fn asked(first: &Frame) -> Option<GroupId> {
        server::group_asked(first).ok().flatten()
    }

    /// Serves a stream that another member opened with one of Raft's frames.
    pub async fn serve(&self, from: NodeId, first: Frame, mut tx: impl StreamTx, mut rx: impl StreamRx) {
        let kind = first.kind();
        let served = server::serve(&self.raft, &self.log_entries, from, first, &mut tx, &mut rx).await;
        if let Err(cause) = served {
            tracing::debug!(peer = %from, %kind, %cause, "a stream of the group ended early");
            tx.reset(cause.code());
            rx.stop(cause.code());
        }
    }

    /// Takes no part any more. What was acknowledged stays on the disk.
    pub async fn stop(&self) {
        if self.raft.shutdown().await.is_err() {
            tracing::error!(group = %self.id, "the group's engine panicked");
        }
    }
}
