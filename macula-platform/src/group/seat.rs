//! A node's place in the group of one realm: a member, or somebody who knows where the members are.
//!
//! ```text
//!                  founds it                              offers itself, is wanted
//!   nothing known ───────────▶ member ◀──────────────────────────────┐
//!        │                        │ abandons its part                │
//!        │ is told                ▼                                  │
//!        └──────────────▶ knows who the members are ─────────────────┘
//! ```

use std::sync::Arc;

use bytes::Bytes;
use macula_proto::{Access, Action, Clock, Frame, Gate, NodeId, Realm};
use macula_transport::{ResetCode, StreamRx, StreamTx, Transport};
use parking_lot::Mutex;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{mpsc, oneshot, watch};

use super::config::{CoordinationConfig, Founding};
use super::duty::{Duty, ManageError};
use super::error::CoordinationError;
use super::message::{Ask, Manage, Outcome, Question, Told};
use super::part::{NO_STORAGE, Part};
use super::peers::Peers;
use super::plant::Plant;
use super::recover::{Foreign, Kinship};
use super::seen::{Look, PAGE_MAX, Seen};
use super::watching::Watchers;
use crate::lease::Kept;
use crate::objects::{Command, FencingToken, Objects};
use crate::raft::{Group, GroupError};
use crate::store::write_durably;
use crate::{GroupId, LogStore, VoterId};

/// Duties that wait for the member's task, at most.
const DUTIES_MAX: usize = 1_024;

/// Entries of a log on one page, in bytes.
const PAGE_BYTES: usize = 512 * 1024;

/// What a node needs to coordinate.
pub(crate) struct Surroundings<T, S> {
    pub(crate) transport: T,
    pub(crate) store: Arc<S>,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) gate: Arc<dyn Gate>,
    /// Where all chance comes from.
    pub(crate) seed: u64,
    pub(crate) config: CoordinationConfig,
}

/// One realm's seat.
pub(crate) struct Seat<T: Transport, S: LogStore> {
    pub(crate) realm: Realm,
    pub(crate) around: Surroundings<T, S>,
    rng: Mutex<StdRng>,
    state: Mutex<State<S>>,
    /// Counts what may interest those who wait for a group.
    changed: watch::Sender<u64>,
    /// Whether anybody needs the group.
    needed: watch::Sender<bool>,
    /// Held by whoever opens, ends or replaces this node's part.
    pub(super) moving: tokio::sync::Mutex<()>,
    /// Who watches here.
    pub(super) watchers: Watchers,
}

struct State<S: LogStore> {
    member: Option<Member<S>>,
    known: Option<Known>,
    /// Another group of the realm.
    foreign: Option<Foreign>,
    /// The group that this node is a member of was recovered without it: it serves nobody any more.
    superseded: bool,
    /// The number of this node's store, should it become a member.
    storage: u64,
}

/// This node's part in the group.
pub(crate) struct Member<S: LogStore> {
    pub(crate) group: Group<S>,
    pub(crate) duties: mpsc::Sender<Duty>,
    pub(crate) part: Arc<Part>,
}

impl<S: LogStore> Clone for Member<S> {
    fn clone(&self) -> Self {
        Self { group: self.group.clone(), duties: self.duties.clone(), part: self.part.clone() }
    }
}

/// What was told of the group by others.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) group: GroupId,
    pub(crate) voters: Vec<VoterId>,
    pub(crate) leader: Option<VoterId>,
    pub(crate) wanted: bool,
    pub(crate) replaces: Vec<GroupId>,
}

impl<S: LogStore> State<S> {
    /// Whether this node, no member itself, is to go over to another group than the one it knows: if that is what the one it
    /// knows has become, as one of its voters says.
    fn follows(&self, told_by: NodeId, kinship: Kinship) -> bool {
        let is_voter = |known: &Known| known.voters.iter().any(|voter| voter.node == told_by);
        self.member.is_none() && kinship == Kinship::Newer && self.known.as_ref().is_some_and(is_voter)
    }
}

impl<T: Transport, S: LogStore> Seat<T, S> {
    pub(crate) fn new(realm: Realm, around: Surroundings<T, S>) -> Arc<Self> {
        let mut rng = StdRng::seed_from_u64(around.seed);
        let storage = new_storage(&mut rng);
        let state = State { member: None, known: None, foreign: None, superseded: false, storage };
        let (rng, state) = (Mutex::new(rng), Mutex::new(state));
        let (changed, needed) = (watch::Sender::new(0), watch::Sender::new(false));
        Arc::new(Self {
            realm,
            around,
            rng,
            state,
            changed,
            needed,
            moving: Default::default(),
            watchers: Watchers::default(),
        })
    }

    /// The group is needed, here or elsewhere: who does not know it looks for it, and founds it if it may.
    pub(crate) fn need(&self) {
        self.needed.send_if_modified(|needed| !std::mem::replace(needed, true));
    }

    /// Waits until the group is needed.
    pub(crate) async fn until_needed(&self) {
        let mut needed = self.needed.subscribe();
        while !*needed.borrow_and_update() && needed.changed().await.is_ok() {}
    }

    /// A number that nobody drew before.
    pub(crate) fn draw(&self) -> u64 {
        self.rng.lock().random()
    }

    /// The number of a group that nobody founded before.
    pub(crate) fn draw_group(&self) -> GroupId {
        GroupId(self.rng.lock().random::<u128>().max(1))
    }

    /// Some of several, in no order.
    pub(crate) fn sample<E: Copy>(&self, of: &[E], count: usize) -> Vec<E> {
        of.sample(&mut *self.rng.lock(), count).copied().collect()
    }

    pub(crate) fn me(&self) -> NodeId {
        self.around.transport.local().id
    }

    pub(crate) fn my_voter(&self) -> VoterId {
        VoterId { node: self.me(), storage: self.state.lock().storage }
    }

    pub(crate) fn member(&self) -> Option<Member<S>> {
        self.state.lock().member.clone()
    }

    pub(crate) fn known(&self) -> Option<Known> {
        self.state.lock().known.clone()
    }

    pub(crate) fn foreign(&self) -> Option<Foreign> {
        self.state.lock().foreign
    }

    /// Whether this node's group was recovered without it, and as which.
    pub(crate) fn superseded(&self) -> Option<GroupId> {
        let state = self.state.lock();
        state.foreign.filter(|_| state.superseded).map(|foreign| foreign.group)
    }

    /// The group, as a member or as one who was told.
    pub(crate) fn group_id(&self) -> Option<GroupId> {
        let state = self.state.lock();
        state
            .member
            .as_ref()
            .map(|member| member.group.id())
            .or(state.known.as_ref().map(|known| known.group))
    }

    /// Told when something is known that was not known before.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Returns when the group is another one than at the call, or than the first one that is known after it.
    pub(crate) async fn until_elsewhere(&self) {
        let mut changed = self.changes();
        let mut first = self.group_id();
        loop {
            if changed.changed().await.is_err() {
                return std::future::pending().await;
            }
            let now = self.group_id();
            first = first.or(now);
            if now.is_some() && now != first {
                return;
            }
        }
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Becomes a member, again or for the first time: from then on this node answers for the group.
    pub(crate) async fn take_part(
        self: &Arc<Self>,
        part: Part,
    ) -> Result<(Group<S>, mpsc::Receiver<Duty>), CoordinationError> {
        // After a restart of its task there is one already. Two engines on one store would acknowledge what neither keeps.
        if let Some(before) = self.member() {
            before.group.stop().await;
        }
        write_durably(&*self.around.store, part.key, vec![part.write(&self.realm)]).await?;
        let me = VoterId { node: self.me(), storage: part.storage };
        let (transport, store) = (self.around.transport.clone(), self.around.store.clone());
        let timing = self.around.config.timing;
        let group = Group::open_under(part.key, part.group, me, transport, store, timing).await?;
        let (duties, inbox) = mpsc::channel(DUTIES_MAX);
        {
            let mut state = self.state.lock();
            state.storage = part.storage;
            state.member = Some(Member { group: group.clone(), duties, part: Arc::new(part) });
        }
        self.tell();
        Ok((group, inbox))
    }

    /// Is no member any more.
    pub(crate) fn leave(&self) {
        {
            let storage = new_storage(&mut self.rng.lock());
            let mut state = self.state.lock();
            *state = State { member: None, known: None, foreign: None, superseded: false, storage };
        }
        self.tell();
    }

    /// The part of this node in another group than before, which the same store holds now.
    pub(super) fn move_on(&self) {
        {
            let mut state = self.state.lock();
            *state =
                State { member: None, known: None, foreign: None, superseded: false, storage: state.storage };
        }
        self.tell();
    }

    fn parts(&self) -> Result<Vec<Part>, CoordinationError> {
        let mut parts = Vec::new();
        for (key, part) in self.around.store.groups()? {
            let part = Part::read(key, part, &self.realm)
                .map_err(|cause| CoordinationError::Protocol(cause.to_string()))?;
            parts.extend(part);
        }
        Ok(parts)
    }

    /// This node's part in the group of this realm that it was a member of when it last ran.
    pub(crate) fn stored_part(&self) -> Result<Option<Part>, CoordinationError> {
        Ok(self.parts()?.into_iter().find(|part| part.storage != NO_STORAGE))
    }

    /// Whether this node has given up its part in a group of this realm: it founds none any more.
    pub(crate) fn has_abandoned(&self) -> Result<bool, CoordinationError> {
        Ok(self.parts()?.iter().any(|part| part.storage == NO_STORAGE))
    }

    /// Takes in what a node told about the group.
    pub(crate) fn learn(&self, from: NodeId, told: &Told) {
        let Some(group) = told.group else { return };
        let mut state = self.state.lock();
        let (ours, ours_replaces) = match (&state.member, &state.known) {
            (Some(member), _) => (Some(member.group.id()), member.part.replaces.clone()),
            (None, Some(known)) => (Some(known.group), known.replaces.clone()),
            (None, None) => (None, Vec::new()),
        };
        if let Some(ours) = ours.filter(|ours| *ours != group) {
            let kinship = Kinship::of((ours, &ours_replaces), (group, &told.replaces));
            if !state.follows(from, kinship) {
                let foreign = Foreign { group, node: from, kinship };
                return self.note_foreign(&mut state, ours, foreign);
            }
            tracing::info!(realm = %self.realm, %ours, theirs = %group, "the group was recovered from a lost quorum");
        }
        if state.foreign.is_some_and(|foreign| foreign.node == from) {
            state.foreign = None;
        }
        let Told { voters, leader, wanted, replaces, .. } = told;
        let (voters, replaces) = (voters.clone(), replaces.clone());
        state.known = Some(Known { group, voters, leader: *leader, wanted: *wanted, replaces });
        drop(state);
        self.tell();
    }

    fn note_foreign(&self, state: &mut State<S>, ours: GroupId, foreign: Foreign) {
        if state.foreign.is_none_or(|known| known.group != foreign.group) {
            let Foreign { group: theirs, node, kinship } = foreign;
            tracing::warn!(realm = %self.realm, %ours, %theirs, %node, "{kinship}");
        }
        state.foreign = Some(foreign);
        let Some(member) = &state.member else { return };
        // Only a node that was in the group itself is believed, or any node of the realm could end a group.
        let is_member = {
            let status = member.group.status();
            status.voters.iter().chain(&status.learners).any(|voter| voter.node == foreign.node)
        };
        if foreign.kinship == Kinship::Newer && is_member && !state.superseded {
            let group = member.group.clone();
            state.superseded = true;
            tokio::spawn(async move { group.stop().await });
        }
    }

    /// What was told is of no use: its members do not answer.
    pub(crate) fn forget_known(&self) {
        self.state.lock().known = None;
    }

    /// The leader that was told of does not lead.
    pub(crate) fn forget_leader(&self) {
        if let Some(known) = &mut self.state.lock().known {
            known.leader = None;
        }
    }

    /// What this node can say about the group, beside an answer.
    pub(crate) fn told(&self, outcome: Outcome) -> Told {
        let mut told = Told {
            outcome,
            group: None,
            leader: None,
            voters: Vec::new(),
            wanted: false,
            storage: 0,
            text: String::new(),
            at: FencingToken::default(),
            replaces: Vec::new(),
            answer: Bytes::new(),
        };
        let state = self.state.lock();
        if let Some(member) = &state.member {
            told.at = member.group.look(|objects| FencingToken::new(objects.epoch(), objects.last_index()));
            let status = member.group.status();
            // Who has not been let in yet knows nobody.
            if !status.voters.is_empty() {
                told.wanted = status.voters.len() < self.around.config.voters;
                told.leader = status.leader;
                told.voters = status.voters.into_iter().collect();
                told.group = Some(member.group.id());
                told.replaces.clone_from(&member.part.replaces);
                return told;
            }
        }
        if let Some(known) = &state.known {
            told.group = Some(known.group);
            told.leader = known.leader;
            told.voters.clone_from(&known.voters);
            told.wanted = known.wanted;
            told.replaces.clone_from(&known.replaces);
        }
        told
    }

    /// Answers a question, this node's own or another's.
    pub(crate) async fn answer(&self, from: NodeId, ask: Ask) -> Told {
        if let Err(forbidden) = self.check(from, &ask.question) {
            return Told { text: forbidden, ..self.told(Outcome::Forbidden) };
        }
        if ask.question == Question::Where {
            return self.told_where();
        }
        let Some(member) = self.member() else {
            let outcome = if self.group_id().is_some() { Outcome::NotLeader } else { Outcome::NoGroup };
            return self.told(outcome);
        };
        if self.superseded().is_some() || ask.group.is_some_and(|group| group != member.group.id()) {
            return self.told(Outcome::OtherGroup);
        }
        match ask.question {
            Question::Where => self.told(Outcome::Done),
            Question::Request(request) => {
                let stamp = self.around.clock.unix();
                let proposed = member.group.propose(&Command::Asked { by: from, stamp, request }).await;
                self.outcome(proposed.map(|answer| answer.encode()))
            }
            Question::Look(look) => {
                let barrier = match self.around.config.has(Plant::ReadWithoutRound) {
                    true => Ok(()),
                    false => member.group.read_barrier().await,
                };
                let seen = barrier.and_then(|()| look_at(&member.group, &look));
                self.outcome(seen.map(|seen| seen.to_wire().encode_to_vec()))
            }
            Question::KeepAlive(keep_alive) => {
                match ask_duty(&member, |answer| Duty::KeepAlive(keep_alive, answer)).await {
                    Some(kept) if kept.outcome != Kept::NotLeader => {
                        Told { answer: kept.encode().into(), ..self.told(Outcome::Done) }
                    }
                    _ => self.told(Outcome::NotLeader),
                }
            }
            Question::Offer(voter) if voter.node != from => {
                Told { text: "an offer of somebody else".into(), ..self.told(Outcome::BadQuestion) }
            }
            Question::Offer(voter) => match ask_duty(&member, |answer| Duty::Offer(voter, answer)).await {
                Some(Some(wanted)) => Told { wanted, ..self.told(Outcome::Done) },
                _ => self.told(Outcome::NotLeader),
            },
            Question::Manage(manage) => self.manage(&member, manage).await,
        }
    }

    async fn manage(&self, member: &Member<S>, manage: Manage) -> Told {
        match ask_duty(member, |answer| Duty::Manage(manage, answer)).await {
            Some(Ok(())) => self.told(Outcome::Done),
            Some(Err(ManageError::NotLeader)) | None => self.told(Outcome::NotLeader),
            Some(Err(cause)) => Told { text: cause.to_string(), ..self.told(Outcome::Failed) },
        }
    }

    /// Whether a node may ask that.
    fn check(&self, from: NodeId, question: &Question) -> Result<(), String> {
        let action = match question {
            // Who the members are is no secret among the nodes of a realm, and they have to find each other.
            Question::Where => return Ok(()),
            Question::Offer(_) | Question::Manage(_) => Action::Govern,
            Question::Request(_) | Question::KeepAlive(_) | Question::Look(_) => Action::Coordinate,
        };
        let access = Access { peer: from, realm: &self.realm, action };
        self.around.gate.check(access).map_err(|forbidden| forbidden.to_string())
    }

    /// Somebody looks for the group; or for others that might found one.
    fn told_where(&self) -> Told {
        let told = self.told(Outcome::Done);
        let may_found =
            self.around.config.founding != Founding::Others && self.has_abandoned().is_ok_and(|has| !has);
        let founds = may_found && told.group.is_none() && self.member().is_none();
        Told { storage: if founds { self.my_voter().storage } else { NO_STORAGE }, ..told }
    }

    fn outcome(&self, done: Result<Vec<u8>, GroupError>) -> Told {
        match done {
            Ok(answer) => Told { answer: answer.into(), ..self.told(Outcome::Done) },
            Err(GroupError::NotLeader { .. }) => self.told(Outcome::NotLeader),
            Err(GroupError::Unknown) => self.told(Outcome::Unknown),
            Err(GroupError::NoQuorum) => self.told(Outcome::NoQuorum),
            Err(GroupError::Stopped(_)) => self.told(Outcome::NotLeader),
            Err(other) => Told { text: other.to_string(), ..self.told(Outcome::Failed) },
        }
    }

    /// Serves a stream that is about this realm's group.
    pub(crate) async fn serve_ask(&self, from: NodeId, ask: Ask, tx: &mut impl StreamTx) {
        self.need();
        let told = self.answer(from, ask).await;
        match told.to_frame() {
            Ok(frame) => {
                if tx.send(frame).await.is_ok() {
                    let _ = tx.finish();
                }
            }
            Err(cause) => {
                tracing::error!(%cause, "an answer that does not fit a frame");
                tx.reset(ResetCode::PROTOCOL);
            }
        }
    }

    /// Asks another node, once.
    pub(crate) async fn ask_node(&self, node: NodeId, ask: &Ask) -> Result<Told, CoordinationError> {
        let broken = |cause: &dyn std::fmt::Display| CoordinationError::Protocol(cause.to_string());
        let frame = ask.to_frame().map_err(|cause| broken(&cause))?;
        let stream = self.around.transport.stream(node, frame).await;
        let (mut tx, mut rx) = stream.map_err(|cause| broken(&cause))?;
        tx.finish().map_err(|cause| broken(&cause))?;
        let frame = rx.recv().await.map_err(|cause| broken(&cause))?;
        let frame: Frame = frame.ok_or_else(|| broken(&"the stream ended without an answer"))?;
        let told = Told::from_frame(&frame).map_err(|cause| broken(&cause))?;
        self.learn(node, &told);
        Ok(told)
    }
}

/// The number of a store; see [`VoterId`].
fn new_storage(rng: &mut StdRng) -> u64 {
    rng.random::<u64>().max(NO_STORAGE + 1)
}

/// Hands a duty to the member's task; `None` if it does not run.
async fn ask_duty<S: LogStore, A>(
    member: &Member<S>,
    duty: impl FnOnce(oneshot::Sender<A>) -> Duty,
) -> Option<A> {
    let (answer, answered) = oneshot::channel();
    member.duties.send(duty(answer)).await.ok()?;
    answered.await.ok()
}

/// What is to be seen now.
fn look_at<S: LogStore>(group: &Group<S>, look: &Look) -> Result<Seen, GroupError> {
    if let Look::LogEntries { log, from } = look {
        let Some(log) = group.look(|objects| objects.log(log)) else { return Ok(Seen::default()) };
        let from = (*from).max(log.first);
        let mut entries = group.log_entries(log.id, from, log.next, PAGE_BYTES)?;
        entries.truncate(PAGE_MAX);
        return Ok(Seen { logs: vec![log], entries, ..Seen::default() });
    }
    Ok(group.look(|objects| look_at_objects(objects, look)))
}

fn look_at_objects(objects: &Objects, look: &Look) -> Seen {
    let mut seen = Seen::default();
    match look {
        Look::Election(name) => seen.elections = objects.election(name).into_iter().collect(),
        Look::Elections(after) => seen.elections = objects.elections(after.as_ref(), PAGE_MAX),
        Look::Candidates(name) => seen.candidates = objects.candidates(name, 0, PAGE_MAX),
        Look::Lock(name) => seen.locks = objects.lock(name).into_iter().collect(),
        Look::Locks(after) => seen.locks = objects.locks(after.as_ref(), PAGE_MAX),
        Look::LockRequests(name) => seen.requests = objects.lock_requests(name, 0, PAGE_MAX),
        Look::Log(name) => seen.logs = objects.log(name).into_iter().collect(),
        Look::Logs(after) => seen.logs = objects.logs(after.as_ref(), PAGE_MAX),
        Look::LogEntries { .. } => {}
        Look::Sessions(after) => seen.sessions = objects.sessions(*after, PAGE_MAX),
    }
    seen
}
