//! What a member has to do beside replicating: the leader keeps sessions alive or ends them, looks after the members, has
//! entries of logs removed that got too old, and ends the pause after a recovery.

use std::sync::Arc;
use std::time::Duration;

use macula_proto::Timestamp;
use macula_transport::Transport;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::message::Manage;
use super::plant::Plant;
use super::seat::Seat;
use super::steward::{Step, Steward, Unwilling};
use crate::lease::{KeepAlive, Keeper, KeeperEffect, KeptAlive, RoundId, Ticket};
use crate::objects::limits::TTL_MAX;
use crate::objects::{Change, Command, SessionChange, SessionId};
use crate::raft::{Group, GroupError, GroupStatus};
use crate::{LogStore, VoterId};

/// How often the leader looks after the members.
const STEWARD_PERIOD: Duration = Duration::from_millis(250);

/// Between two tries of a new leader to hear from a majority.
const BARRIER_PAUSE: Duration = Duration::from_millis(10);

/// How long a planned change of leaders may take.
const TRANSFER_MAX: Duration = Duration::from_secs(2);

/// What a member's task is asked to do.
pub(crate) enum Duty {
    KeepAlive(KeepAlive, oneshot::Sender<KeptAlive>),
    /// Answered with whether the node is wanted; `None` if this member does not lead.
    Offer(VoterId, oneshot::Sender<Option<bool>>),
    Manage(Manage, oneshot::Sender<Result<(), ManageError>>),
}

/// Why an operator's change was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManageError {
    #[error("this member does not lead")]
    NotLeader,
    #[error(transparent)]
    Unwilling(#[from] Unwilling),
    #[error(transparent)]
    Group(GroupError),
    #[error("another change of the members is under way")]
    Busy,
    #[error("there is no other voter that lives and has the whole log")]
    NoSuccessor,
}

impl From<GroupError> for ManageError {
    fn from(error: GroupError) -> Self {
        match error {
            GroupError::NotLeader { .. } => Self::NotLeader,
            other => Self::Group(other),
        }
    }
}

/// What was done on the side.
enum Done {
    /// A round with a quorum, and whether it was one.
    Round(RoundId, bool),
    /// This member leads in that term, and has applied all that was committed before.
    Ready(u64, bool),
    /// A change of members is over.
    Step(Option<oneshot::Sender<Result<(), ManageError>>>, Result<(), GroupError>),
    /// The objects were told something.
    Proposed(Result<(), GroupError>),
}

/// A member's task.
pub(crate) struct Duties<T: Transport, S: LogStore> {
    seat: Arc<Seat<T, S>>,
    group: Group<S>,
    keeper: Keeper,
    steward: Steward,
    /// Who waits for the answer to a keep-alive, by ticket.
    waiting: std::collections::BTreeMap<Ticket, oneshot::Sender<KeptAlive>>,
    tickets: u64,
    work: JoinSet<Done>,
    /// The term in which this member leads, once it asked for a barrier in it.
    leading: Option<u64>,
    /// A change of members is under way.
    stepping: bool,
    /// Since when it leads with all that was committed before.
    serving_since: Option<Timestamp>,
    /// What is due by the clock is being proposed.
    deciding: bool,
}

impl<T: Transport, S: LogStore> Duties<T, S> {
    pub(crate) fn new(seat: Arc<Seat<T, S>>, group: Group<S>) -> Self {
        let config = &seat.around.config;
        let steward = Steward::new(config.voters, config.replace_after);
        Self {
            seat,
            group,
            keeper: Keeper::default(),
            steward,
            waiting: Default::default(),
            tickets: 0,
            work: JoinSet::new(),
            leading: None,
            stepping: false,
            serving_since: None,
            deciding: false,
        }
    }

    /// Runs until told to stop, or until this member's part in the group ends.
    pub(crate) async fn run(mut self, mut inbox: mpsc::Receiver<Duty>, stop: CancellationToken) {
        let mut changes = self.group.watch();
        let mut roles = self.group.roles();
        let mut period = tokio::time::interval(STEWARD_PERIOD);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.look_at_role();
        loop {
            let timer = self.until_deadline();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                change = changes.recv() => match change {
                    Ok(change) => self.on_change(&change),
                    Err(RecvError::Lagged(_)) => self.begin_to_lead_again(),
                    Err(RecvError::Closed) => return,
                },
                changed = roles.changed() => match changed {
                    true => self.look_at_role(),
                    false => return,
                },
                Some(done) = self.work.join_next() => match done {
                    Ok(done) => self.on_done(done),
                    Err(cause) => tracing::error!(%cause, "a duty failed"),
                },
                duty = inbox.recv() => match duty {
                    Some(duty) => self.on_duty(duty),
                    None => return,
                },
                () = timer => self.on_timeout(),
                _ = period.tick() => self.look_after_members(),
            }
        }
    }

    /// Sleeps until a session may be over.
    fn until_deadline(&self) -> impl Future<Output = ()> + use<T, S> {
        let now = self.seat.around.clock.now();
        let left = self.keeper.deadline().map(|deadline| deadline.since(now));
        async move {
            match left {
                // A little late, rather than twice.
                Some(left) => tokio::time::sleep(left + Duration::from_millis(1)).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Leads now, or no longer.
    fn look_at_role(&mut self) {
        let status = self.group.status();
        self.group.rest(status.is_alone() && !self.stepping);
        let leads = status.is_leader().then_some(status.term);
        if leads == self.leading {
            return;
        }
        self.leading = leads;
        self.stop_keeping();
        if let Some(term) = leads {
            tracing::info!(group = %status.group, term, "this node leads the group");
            self.barrier(term, Duration::ZERO);
        }
    }

    fn stop_keeping(&mut self) {
        self.serving_since = None;
        let mut out = Vec::new();
        self.keeper.stop(&mut out);
        self.carry_out(out);
    }

    /// So much changed that it is not known what: every session gets its full time.
    fn begin_to_lead_again(&mut self) {
        if let Some(term) = self.leading {
            self.stop_keeping();
            self.barrier(term, Duration::ZERO);
        }
    }

    fn barrier(&mut self, term: u64, pause: Duration) {
        let group = self.group.clone();
        self.work.spawn(async move {
            tokio::time::sleep(pause).await;
            Done::Ready(term, group.read_barrier().await.is_ok())
        });
    }

    fn on_change(&mut self, change: &Change) {
        let Change::Session { session, change, .. } = change else { return };
        match change {
            SessionChange::Opened { ttl } => {
                self.keeper.on_opened(self.seat.around.clock.now(), *session, *ttl);
            }
            SessionChange::Closed | SessionChange::Expired | SessionChange::Lost => {
                self.keeper.on_ended(*session);
            }
        }
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Round(round, confirmed) => {
                let mut out = Vec::new();
                self.keeper.on_round(round, confirmed, &mut out);
                self.carry_out(out);
            }
            Done::Ready(term, true) if self.leading == Some(term) => {
                let sessions: Vec<_> = self.group.look(|objects| objects.times_to_live().collect());
                let now = self.seat.around.clock.now();
                self.serving_since = Some(now);
                self.keeper.serve(now, sessions);
            }
            // Still the leader, as far as it knows, and without a majority: tried again until one of both is over.
            Done::Ready(term, false) if self.leading == Some(term) => self.barrier(term, BARRIER_PAUSE),
            Done::Ready(..) => {}
            Done::Step(asked, result) => {
                self.stepping = false;
                if let Err(cause) = &result {
                    tracing::debug!(%cause, "the members could not be changed");
                }
                if let Some(asked) = asked {
                    let _ = asked.send(result.map_err(ManageError::from));
                }
            }
            Done::Proposed(result) => {
                self.deciding = false;
                if let Err(cause) = result {
                    tracing::debug!(%cause, "what the leader decided was not committed");
                }
            }
        }
    }

    fn on_timeout(&mut self) {
        let mut out = Vec::new();
        self.keeper.on_timeout(self.seat.around.clock.now(), &mut out);
        self.carry_out(out);
    }

    fn carry_out(&mut self, effects: Vec<KeeperEffect>) {
        for effect in effects {
            match effect {
                KeeperEffect::Round(round) => {
                    let group = self.group.clone();
                    let skips = self.seat.around.config.has(Plant::KeepWithoutRound);
                    self.work.spawn(async move {
                        Done::Round(round, skips || group.read_barrier().await.is_ok())
                    });
                }
                KeeperEffect::Answer { ticket, answer } => {
                    if let Some(waiting) = self.waiting.remove(&ticket) {
                        let _ = waiting.send(answer);
                    }
                }
                KeeperEffect::Expire(sessions) => self.expire(sessions),
            }
        }
    }

    fn expire(&mut self, sessions: Vec<SessionId>) {
        tracing::debug!(count = sessions.len(), "sessions were silent for too long");
        self.propose(Command::Expire { sessions });
    }

    fn propose(&mut self, command: Command) {
        let group = self.group.clone();
        self.work.spawn(async move { Done::Proposed(group.propose(&command).await.map(drop)) });
    }

    fn on_duty(&mut self, duty: Duty) {
        match duty {
            Duty::KeepAlive(keep_alive, answer) => {
                self.tickets += 1;
                let ticket = Ticket(self.tickets);
                self.waiting.insert(ticket, answer);
                let mut out = Vec::new();
                self.keeper.on_keep_alive(self.seat.around.clock.now(), ticket, keep_alive, &mut out);
                self.carry_out(out);
            }
            Duty::Offer(voter, answer) => {
                let status = self.group.status();
                let now = self.seat.around.clock.now();
                let wanted = status.is_leader().then(|| self.steward.on_offer(now, voter, &status));
                let _ = answer.send(wanted);
            }
            Duty::Manage(manage, answer) => self.manage(manage, answer),
        }
    }

    fn manage(&mut self, manage: Manage, answer: oneshot::Sender<Result<(), ManageError>>) {
        let status = self.group.status();
        let peers = self.seat.around.peers.clone();
        let planned = if status.is_leader() {
            match manage {
                Manage::Add(node) => {
                    self.steward.invite(node, &status).map(|()| None).map_err(ManageError::from)
                }
                Manage::Remove(node) => {
                    let step = self.steward.remove(node, &status, |node| peers.is_gone(node));
                    step.map(Some).map_err(ManageError::from)
                }
                Manage::Transfer(to) => return self.transfer(to, &status, answer),
            }
        } else {
            Err(ManageError::NotLeader)
        };
        match planned {
            Ok(Some(_)) if self.stepping => {
                let _ = answer.send(Err(ManageError::Busy));
            }
            Ok(Some(step)) => self.step(step, Some(answer)),
            Ok(None) => {
                let _ = answer.send(Ok(()));
            }
            Err(cause) => {
                let _ = answer.send(Err(cause));
            }
        }
    }

    fn transfer(
        &mut self,
        to: Option<macula_proto::NodeId>,
        status: &GroupStatus,
        answer: oneshot::Sender<Result<(), ManageError>>,
    ) {
        let Some(successor) = self.successor(to, status) else {
            let _ = answer.send(Err(ManageError::NoSuccessor));
            return;
        };
        let group = self.group.clone();
        self.work
            .spawn(async move { Done::Step(Some(answer), group.transfer(successor, TRANSFER_MAX).await) });
        self.stepping = true;
    }

    /// The voter to hand over to: the one asked for, or the one that has most of the log.
    fn successor(&self, to: Option<macula_proto::NodeId>, status: &GroupStatus) -> Option<VoterId> {
        let peers = &self.seat.around.peers;
        let others = status.voters.iter().filter(|voter| **voter != status.me && !peers.is_gone(&voter.node));
        others
            .filter(|voter| to.is_none_or(|to| voter.node == to))
            .max_by_key(|voter| status.matched.get(voter).copied().flatten())
            .copied()
    }

    /// Plans the next change of members, and proposes what is due by the clock.
    fn look_after_members(&mut self) {
        if self.leading.is_none() {
            return;
        }
        let (around, status) = (&self.seat.around, self.group.status());
        if !self.stepping {
            let peers = around.peers.clone();
            if let Some(step) = self.steward.plan(around.clock.now(), &status, |node| peers.is_gone(node)) {
                self.step(step, None);
            }
        }
        if let Some(command) = self.due().filter(|_| !self.deciding) {
            self.deciding = true;
            self.propose(command);
        }
    }

    /// What it is time for: old entries of logs go, and a group that was recovered grants again.
    fn due(&self) -> Option<Command> {
        let clock = &self.seat.around.clock;
        let (trim_due, recovering) =
            self.group.look(|objects| (objects.trim_due(), objects.is_recovering().then(|| objects.epoch())));
        if let Some(epoch) = recovering {
            // Nobody of the old group was heard since, or it would not have been recovered; so all leases are over when the
            // longest is. Who begins to lead meanwhile begins to wait.
            let is_over = self.serving_since.is_some_and(|since| clock.now().since(since) >= TTL_MAX);
            return is_over.then_some(Command::Resume { epoch });
        }
        let stamp = clock.unix();
        trim_due.is_some_and(|due| due <= stamp).then_some(Command::Trim { stamp })
    }

    fn step(&mut self, step: Step, asked: Option<oneshot::Sender<Result<(), ManageError>>>) {
        tracing::info!(group = %self.group.id(), ?step, "the members change");
        self.stepping = true;
        let group = self.group.clone();
        self.work.spawn(async move {
            let made = match step {
                Step::AddLearner(learner) => group.add_learner(learner).await,
                Step::SetVoters(voters) => group.set_voters(voters).await,
                Step::RemoveLearners(learners) => group.remove_learners(learners).await,
            };
            Done::Step(asked, made)
        });
    }
}
