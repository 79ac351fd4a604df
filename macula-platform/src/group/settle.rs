//! How a node gets its place: it goes on where it stopped, founds a group, or finds the one that there is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use macula_proto::{NodeId, Timestamp};
use macula_transport::Transport;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::config::Founding;
use super::duty::Duties;
use super::error::CoordinationError;
use super::message::{Ask, Outcome, Question, Told};
use super::part::{NO_STORAGE, Part};
use super::recover::Kinship;
use super::seat::{Known, Seat};
use crate::raft::{Group, GroupStatus};
use crate::store::write_durably;
use crate::{GroupId, LogStore, VoterId, Write};

/// Nodes that are asked at once for the group.
const ASKED_AT_ONCE: usize = 4;

/// How long one of them may take.
const WHERE_MAX: Duration = Duration::from_secs(1);

/// Between two looks for the group, while there is none.
const SEARCH_PAUSE: Duration = Duration::from_millis(100);

/// The same after a while in vain.
const SEARCH_PAUSE_MAX: Duration = Duration::from_secs(2);

/// Between two offers of a node that would be a member.
const OFFER_PAUSE: Duration = Duration::from_secs(2);

/// Between two looks for another group of the same realm.
const FOREIGN_PAUSE: Duration = Duration::from_secs(10);

/// The tasks of a member; they end when it is dropped.
pub(crate) struct Running<S: LogStore> {
    pub(crate) group: Group<S>,
    duties: JoinHandle<()>,
    _stop: DropGuard,
}

impl<T: Transport, S: LogStore> Seat<T, S> {
    /// Keeps the place until told to stop. A node that is no member yet does nothing before the group is needed. In the end a leader
    /// hands over, so that nobody has to notice that it is gone.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut running = None;
        let mut pause = SEARCH_PAUSE;
        let mut looked_around = self.around.clock.now();
        if !matches!(self.stored_part(), Ok(Some(_))) {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.until_needed() => {}
            }
        }
        while !stop.is_cancelled() {
            if running.as_ref().is_some_and(|running: &Running<S>| self.has_ended(running)) {
                running = None;
            }
            let worked = match &running {
                Some(running) => self.go_on(running, &mut looked_around).await,
                None => self.settle().await.map(|settled| running = settled),
            };
            if let Err(cause) = worked {
                tracing::warn!(realm = %self.realm, %cause, "no place in the realm's group yet");
            }
            pause = match (&running, self.known()) {
                (Some(_), _) => OFFER_PAUSE,
                (None, Some(known)) if !known.wanted || !self.around.config.eligible => FOREIGN_PAUSE,
                (None, _) => (pause * 2).min(SEARCH_PAUSE_MAX),
            };
            let mut changed = self.changes();
            changed.mark_unchanged();
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                _ = changed.changed(), if running.is_none() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        if let Some(running) = running {
            self.hand_over(&running).await;
        }
    }

    /// A member goes on offering itself until it has a vote, and looks for other groups now and then.
    async fn go_on(
        &self,
        running: &Running<S>,
        looked_around: &mut Timestamp,
    ) -> Result<(), CoordinationError> {
        let status = running.group.status();
        let votes = status.voters.contains(&status.me);
        if !votes && self.around.config.eligible {
            let told = self.ask(Question::Offer(status.me), WHERE_MAX).await;
            // Others were faster.
            let is_unwanted = |told: Told| told.outcome == Outcome::Done && !told.wanted;
            // Or the group was recovered before it let this node in: there is nothing to lose here.
            let is_over = self.foreign().is_some_and(|foreign| foreign.kinship == Kinship::Newer);
            if status.voters.is_empty() && (is_over || told.is_ok_and(is_unwanted)) {
                self.abandon().await?;
            }
        }
        let now = self.around.clock.now();
        if now.since(*looked_around) >= FOREIGN_PAUSE {
            *looked_around = now;
            self.look_around(self.who_may_know(&status)).await;
        }
        Ok(())
    }

    /// The group's engine stopped, or this node's part was given up.
    fn has_ended(&self, running: &Running<S>) -> bool {
        let gone = self.member().is_none_or(|member| member.group.id() != running.group.id());
        gone || running.duties.is_finished()
    }

    async fn settle(self: &Arc<Self>) -> Result<Option<Running<S>>, CoordinationError> {
        let _moving = self.moving.lock().await;
        if self.superseded().is_some() {
            return Ok(None);
        }
        if let Some(part) = self.stored_part()? {
            return self.become_member(part).await.map(Some);
        }
        let may_found = !self.has_abandoned()?;
        let others = self.some_others(ASKED_AT_ONCE);
        let told = self.look_around(others).await;
        if let Some(known) = self.known() {
            let me = self.my_voter();
            if known.voters.contains(&me) {
                let part = Part::new(known.group, me.storage, known.replaces);
                return self.become_member(part).await.map(Some);
            }
            return self.offer(known).await;
        }
        match &self.around.config.founding {
            Founding::With(nodes) if may_found => self.found_with(nodes, told).await,
            Founding::Alone if may_found => self.found_alone(&told).await,
            Founding::With(_) | Founding::Alone | Founding::Others => Ok(None),
        }
    }

    /// Those with whom a group is to be founded, or a few of all.
    fn some_others(&self, count: usize) -> BTreeSet<NodeId> {
        let me = self.me();
        match &self.around.config.founding {
            Founding::With(nodes) if self.group_id().is_none() => {
                nodes.iter().filter(|node| **node != me).copied().collect()
            }
            _ => {
                let others = self.around.peers.others(&self.realm);
                self.sample(&others, count).into_iter().collect()
            }
        }
    }

    /// Whom a member asks now and then, to notice that there is another group: anybody, one who was in it, and one of the
    /// other members, which may have been recovered without this one.
    fn who_may_know(&self, status: &GroupStatus) -> BTreeSet<NodeId> {
        let mut asked = self.some_others(1);
        asked.extend(self.foreign().map(|foreign| foreign.node));
        let members = status.voters.iter().chain(&status.learners).map(|voter| voter.node);
        let members: Vec<NodeId> = members.filter(|node| *node != self.me()).collect();
        asked.extend(self.sample(&members, 1));
        asked
    }

    /// Asks nodes which group they know.
    async fn look_around(&self, asked: BTreeSet<NodeId>) -> Vec<(NodeId, Told)> {
        let ask = self.question(Question::Where);
        let asking = asked.into_iter().map(|node| {
            let ask = &ask;
            async move {
                let told = tokio::time::timeout(WHERE_MAX, self.ask_node(node, ask)).await;
                Some((node, told.ok()?.ok()?))
            }
        });
        join_all(asking).await.into_iter().flatten().collect()
    }

    pub(crate) fn question(&self, question: Question) -> Ask {
        Ask { realm: self.realm.clone(), group: None, question }
    }

    /// Founds a group alone, unless there is somebody around who may do so as well and has a lower id: it was asked just now,
    /// and so knows that the group is needed.
    async fn found_alone(
        self: &Arc<Self>,
        told: &[(NodeId, Told)],
    ) -> Result<Option<Running<S>>, CoordinationError> {
        let me = self.my_voter();
        if told.iter().any(|(node, told)| told.storage != NO_STORAGE && *node < me.node) {
            return Ok(None);
        }
        self.found([me].into()).await.map(Some)
    }

    /// Founds a group with others, once all of them have said that they have empty stores: whoever has the lowest id does it, and
    /// the others hear of it.
    async fn found_with(
        self: &Arc<Self>,
        nodes: &BTreeSet<NodeId>,
        told: Vec<(NodeId, Told)>,
    ) -> Result<Option<Running<S>>, CoordinationError> {
        let me = self.my_voter();
        if nodes.first() != Some(&me.node) {
            return Ok(None);
        }
        let ready = told.into_iter().filter(|(_, told)| told.group.is_none() && told.storage != 0);
        let voters: BTreeSet<VoterId> =
            ready.map(|(node, told)| VoterId { node, storage: told.storage }).chain([me]).collect();
        let named: BTreeSet<NodeId> = voters.iter().map(|voter| voter.node).collect();
        if named != *nodes {
            return Ok(None);
        }
        self.found(voters).await.map(Some)
    }

    async fn found(self: &Arc<Self>, voters: BTreeSet<VoterId>) -> Result<Running<S>, CoordinationError> {
        let group = self.draw_group();
        let running = self.become_member(Part::new(group, self.my_voter().storage, Vec::new())).await?;
        running.group.found(voters).await?;
        tracing::info!(realm = %self.realm, %group, "founded the realm's group");
        Ok(running)
    }

    async fn become_member(self: &Arc<Self>, part: Part) -> Result<Running<S>, CoordinationError> {
        let (group, inbox) = self.take_part(part).await?;
        let stop = CancellationToken::new();
        let duties = Duties::new(self.clone(), group.clone()).run(inbox, stop.clone());
        Ok(Running { group, duties: tokio::spawn(duties), _stop: stop.drop_guard() })
    }

    /// Offers itself to the group's leader, if more voters are wanted; a member once it is told that it is.
    async fn offer(self: &Arc<Self>, known: Known) -> Result<Option<Running<S>>, CoordinationError> {
        if !self.around.config.eligible {
            return Ok(None);
        }
        let me = self.my_voter();
        let told = match self.ask(Question::Offer(me), WHERE_MAX).await {
            Ok(told) => told,
            // Whoever knows no better is asked again.
            Err(_) if !known.wanted => return Ok(None),
            Err(cause) => return Err(cause),
        };
        if told.outcome != Outcome::Done || !told.wanted {
            return Ok(None);
        }
        // Between question and answer it may have become another one.
        let group = told.group.unwrap_or(known.group);
        let replaces = if group == known.group { known.replaces } else { told.replaces };
        self.become_member(Part::new(group, me.storage, replaces)).await.map(Some)
    }

    /// Gives up this node's part in the group, with all that is in its store, and founds no other one: it joins the one that
    /// there is. What the other members have stays.
    pub(crate) async fn abandon(&self) -> Result<GroupId, CoordinationError> {
        let _moving = self.moving.lock().await;
        let member = self.member().ok_or_else(|| CoordinationError::NoMember(self.realm.clone()))?;
        let group = member.group.id();
        member.group.stop().await;
        let nothing = vec![Write::Forget, Part::none(&self.realm)];
        write_durably(&*self.around.store, member.part.key, nothing).await?;
        // Another store than before: what this one acknowledged is gone.
        self.leave();
        Ok(group)
    }

    async fn hand_over(&self, running: &Running<S>) {
        let status = running.group.status();
        if status.is_leader() && status.voters.len() > 1 {
            let handed = self
                .answer(self.me(), self.question(Question::Manage(super::message::Manage::Transfer(None))));
            let _ = tokio::time::timeout(WHERE_MAX, handed).await;
        }
        running.group.stop().await;
    }
}
