//! A call's way to a provider: choose, connect, send, and try elsewhere only while it is certain that nothing ran.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use macula_dht::{Directory, Found};
use macula_proto::{NodeId, Timestamp};
use macula_transport::{StreamTx as _, Target, Transport, TransportError};
use tokio::time::timeout;

use crate::answers::{Answers, Ended, Event, Judge, LocalAnswers, RemoteAnswers};
use crate::limits::Limits;
use crate::message;
use crate::mux;
use crate::providers::Entry;
use crate::registry::Procedure;
use crate::roster::Penalty;
use crate::rpc::Inner;
use crate::running::{Incoming, Shape};
use crate::tracked::Tracked;
use crate::{Attempt, CallError, CallRequest, Candidate, Cause, PartSender, Strategy};

/// Providers that one call goes through at most, those that could not be reached included.
const CHOICES_MAX: usize = 16;

/// A call that a provider has taken.
pub(crate) struct Opened<T: Transport> {
    pub(crate) answers: Answers<T>,
    /// What the provider said first. For a call without progress this is its last word, and a reply.
    pub(crate) first: Event,
    pub(crate) tracked: Tracked,
    pub(crate) parts: Option<PartSender>,
}

/// One call, as it is tried at one provider after the other.
struct Ask<'a> {
    request: &'a CallRequest,
    procedure: Procedure,
    shape: Shape,
    limits: &'a Limits,
}

/// One provider to try.
struct Choice {
    id: NodeId,
    target: Target,
    /// Of its directory record.
    sequence: u64,
}

/// Providers in the order in which to try them, and what is remembered about them.
struct Plan {
    choices: Vec<Choice>,
    entry: Option<Arc<Entry>>,
}

impl<T: Transport, D: Directory> Inner<T, D> {
    /// Finds a provider that takes the call.
    pub(crate) async fn open(
        &self,
        request: &CallRequest,
        shape: Shape,
        limits: &Limits,
    ) -> Result<Opened<T>, CallError> {
        let procedure = Procedure { realm: request.realm.clone(), name: request.procedure.clone() };
        let ask = Ask { request, procedure, shape, limits };
        let mut tried = Vec::new();
        if self.begins_here(&ask) {
            let here = Plan { choices: vec![Choice::by_id(self.host.node)], entry: None };
            if let Some(done) = self.try_all(&ask, &here, &mut tried).await {
                return done;
            }
        }
        match self.plan(&ask, !tried.is_empty()).await {
            Ok(plan) => match self.try_all(&ask, &plan, &mut tried).await {
                Some(done) => done,
                None => Err(CallError::no_taker(request, tried)),
            },
            Err(error) if tried.is_empty() => Err(error),
            Err(_) => Err(CallError::no_taker(request, tried)),
        }
    }

    /// Whether this very node is asked first, without a look at the directory.
    fn begins_here(&self, ask: &Ask<'_>) -> bool {
        let local_first = self.strategy(ask) == Strategy::LocalFirst && ask.request.target.is_none();
        local_first && self.host.registry.get(&ask.procedure).is_some()
    }

    async fn plan(&self, ask: &Ask<'_>, tried_here: bool) -> Result<Plan, CallError> {
        if let Some(id) = ask.request.target {
            let entry = self.providers.cached(&ask.procedure, self.clock.now());
            let found = entry.as_ref().map(|entry| entry.current()).unwrap_or_default();
            return Ok(Plan { choices: vec![Choice::new(id, &found)], entry });
        }
        let entry = self.providers.entry(&ask.procedure);
        let found = match self.providers.found(&entry).await {
            Ok(found) => found,
            Err(_) if self.host.registry.get(&ask.procedure).is_some() => Arc::default(),
            Err(cause) => {
                return Err(CallError::Directory { procedure: ask.request.procedure.clone(), cause });
            }
        };
        let mut candidates = self.candidates(ask, &found, &entry, self.clock.now());
        candidates.retain(|candidate| !(tried_here && candidate.local));
        self.strategy(ask).order(&mut candidates, entry.next_turn(), &mut *self.rng.lock());
        let choices = candidates.iter().map(|candidate| Choice::new(candidate.id, &found)).collect();
        Ok(Plan { choices, entry: Some(entry) })
    }

    fn candidates(&self, ask: &Ask<'_>, found: &Found, entry: &Entry, now: Timestamp) -> Vec<Candidate> {
        let here = self.host.node;
        let rtts: BTreeMap<NodeId, Duration> = match self.strategy(ask) {
            Strategy::Nearest => self.transport.peers().into_iter().map(|peer| (peer.id, peer.rtt)).collect(),
            _ => BTreeMap::new(),
        };
        let roster = entry.roster.lock();
        let is_there = |id: NodeId| id != here && !self.liveness.has_left(&id);
        let remote = found.records.iter().filter(|record| is_there(record.announcer.id)).map(|record| {
            let id = record.announcer.id;
            Candidate {
                id,
                local: false,
                rtt: rtts.get(&id).copied(),
                load: roster.load(&id, now),
                penalised: self.liveness.is_gone(&id) || roster.is_penalised(&id, record.sequence, now),
            }
        });
        let local = self.host.registry.get(&ask.procedure).map(|offer| Candidate {
            id: here,
            local: true,
            rtt: None,
            load: offer.in_flight(),
            penalised: false,
        });
        remote.chain(local).collect()
    }

    /// Tries the plan's providers in order. `None`: none of them took the call, and it ran nowhere that counts.
    async fn try_all(
        &self,
        ask: &Ask<'_>,
        plan: &Plan,
        tried: &mut Vec<Attempt>,
    ) -> Option<Result<Opened<T>, CallError>> {
        let attempts_max = self.config.attempts_max.max(1);
        for (nth, choice) in plan.choices.iter().take(CHOICES_MAX).enumerate() {
            if tried.iter().filter(|attempt| attempt.cause.was_reached()).count() >= attempts_max {
                break;
            }
            if !tried.is_empty() {
                self.metrics.calls_retried.inc();
            }
            let others_left = nth + 1 < plan.choices.len().min(CHOICES_MAX);
            match self.try_one(ask, plan, choice, others_left).await {
                Ok(opened) => return Some(opened),
                Err(attempt) => tried.push(attempt),
            }
        }
        None
    }

    /// One provider: the call's outcome, or why another one may be tried.
    async fn try_one(
        &self,
        ask: &Ask<'_>,
        plan: &Plan,
        choice: &Choice,
        others_left: bool,
    ) -> Result<Result<Opened<T>, CallError>, Attempt> {
        let mut tracked = self.track(ask, plan, choice);
        // Boxed, so that its state is not moved about through all the layers of a call.
        let ended = match Box::pin(self.begin(ask, choice, others_left, &mut tracked)).await {
            Ok((answers, first, parts)) => return Ok(Ok(Opened { answers, first, tracked, parts })),
            Err(ended) => ended,
        };
        match ended {
            Ended::NotRun(cause) => {
                ask.limits.delivery.was_refused();
                tracked.refused(&cause);
                Err(tracked.attempt(cause))
            }
            Ended::Lost(cause) if ask.request.idempotent => {
                ask.limits.delivery.was_lost();
                tracked.failed();
                Err(tracked.attempt(Cause::Lost(cause)))
            }
            ended => Ok(Err(tracked.error(ended))),
        }
    }

    /// Hands the call to one provider and waits for its first word (without progress: its last).
    async fn begin(
        &self,
        ask: &Ask<'_>,
        choice: &Choice,
        others_left: bool,
        tracked: &mut Tracked,
    ) -> Result<(Answers<T>, Event, Option<PartSender>), Ended> {
        let judge = Judge { provider: choice.id, after: ask.limits.after };
        let (mut answers, parts) = if choice.id == self.host.node {
            self.begin_here(ask, judge)?
        } else {
            if !self.transport.is_connected(&choice.id) {
                // Boxed, so that who is connected does not carry its state.
                Box::pin(self.connect(ask, choice, others_left)).await?;
            }
            if let Some(event) = self.ask(ask, choice.id, judge).await {
                let Event::Done { load, .. } = &event else { return Ok((Answers::Spent, event, None)) };
                tracked.answered(*load);
                return match event {
                    Event::Done { outcome: Err(ended), .. } => Err(ended),
                    event => Ok((Answers::Spent, event, None)),
                };
            }
            self.begin_there(ask, choice.id, judge).await?
        };
        loop {
            let event = answers.next_event().await;
            let load = match &event {
                Event::Done { load, .. } => *load,
                _ => None,
            };
            tracked.answered(load);
            match event {
                Event::Done { outcome: Err(ended), .. } => return Err(ended),
                Event::Accepted | Event::Progress(_) if !ask.shape.streamed => {}
                event => return Ok((answers, event, parts)),
            }
        }
    }

    fn begin_here(&self, ask: &Ask<'_>, judge: Judge) -> Result<(Answers<T>, Option<PartSender>), Ended> {
        let incoming =
            Incoming::new(ask.request, ask.procedure.clone(), self.host.node, ask.limits, ask.shape);
        let mut running = self.host.start(incoming).map_err(|refused| judge.refused(refused))?;
        ask.limits.delivery.begins();
        let parts = PartSender::to_local(&mut running, ask.limits);
        Ok((Answers::Local(LocalAnswers { running, accepted: !ask.shape.streamed, judge }), parts))
    }

    async fn connect(&self, ask: &Ask<'_>, choice: &Choice, others_left: bool) -> Result<(), Ended> {
        let connecting = self.transport.connect(choice.target.clone());
        // Who is known to be gone is hardly there: the caller hears of that before the deadline.
        let connected = if others_left || self.liveness.is_gone(&choice.id) {
            let wait = self.config.connect_wait_max.min(ask.limits.remaining() / 2);
            timeout(wait, connecting).await.map_err(|_| Ended::NotRun(Cause::ConnectTimeout(wait)))?
        } else {
            connecting.await
        };
        match connected {
            Ok(_) => Ok(()),
            Err(error @ TransportError::NoAddress(_)) => {
                self.connect_by_directory(ask, choice.id, error).await
            }
            Err(error) => Err(Ended::NotRun(Cause::Unreachable(error))),
        }
    }

    /// A node that was called by its id, and of which nobody has told this node where it is: the directory may know,
    /// if it offers the procedure.
    async fn connect_by_directory(
        &self,
        ask: &Ask<'_>,
        id: NodeId,
        unknown: TransportError,
    ) -> Result<(), Ended> {
        let entry = self.providers.entry(&ask.procedure);
        let found = self.providers.found(&entry).await.unwrap_or_default();
        let connected = match found.by(&id) {
            Some(record) => self.transport.connect(Target::Contact(record.announcer.clone())).await,
            None => Err(unknown),
        };
        connected.map(drop).map_err(|error| Ended::NotRun(Cause::Unreachable(error)))
    }

    /// Makes a small call on the stream that it shares with others, and waits for its end. `None`: it needs a stream of its
    /// own, and has certainly not run.
    async fn ask(&self, ask: &Ask<'_>, provider: NodeId, judge: Judge) -> Option<Event> {
        let small = ask.request.payload.len() <= mux::PAYLOAD_BYTES_MAX;
        if !small || ask.shape.streamed || ask.shape.parts {
            return None;
        }
        let session = self.sessions.with(&provider, &self.transport, &self.metrics)?;
        let (body, payload) = (mux::call_body(ask.request), ask.request.payload.clone());
        ask.limits.delivery.begins();
        let asked = session.ask(body, payload, ask.limits.remaining(), ask.limits.patience.deadline)?;
        self.metrics.calls_shared.inc();
        judge.numbered(asked.await)
    }

    async fn begin_there(
        &self,
        ask: &Ask<'_>,
        provider: NodeId,
        judge: Judge,
    ) -> Result<(Answers<T>, Option<PartSender>), Ended> {
        let first = message::call_frame(ask.request, ask.limits.remaining(), ask.shape)
            .expect("a checked request keeps the limits of a frame");
        ask.limits.delivery.begins();
        // A stream that fails to open has not delivered its first frame. If the connection went just now, as an idle one
        // may at any time, a new one is worth a try.
        let opened = match self.transport.stream(provider, first.clone()).await {
            Err(TransportError::NotConnected(_)) => self.transport.stream(provider, first).await,
            opened => opened,
        };
        let (mut tx, rx) = opened.map_err(|error| Ended::NotRun(Cause::Unreachable(error)))?;
        let parts = if ask.shape.parts {
            Some(PartSender::remote(tx, ask.limits))
        } else {
            // The end leaves with the request. It fails if the provider reads no more, which is said where it answers.
            let _ = tx.finish();
            None
        };
        let remote = RemoteAnswers { rx, silent: true, judge, metrics: self.metrics.clone() };
        Ok((Answers::Remote(remote), parts))
    }

    fn track(&self, ask: &Ask<'_>, plan: &Plan, choice: &Choice) -> Tracked {
        let Some(entry) = plan.entry.as_ref().filter(|_| choice.id != self.host.node) else {
            return Tracked::untracked(choice.id);
        };
        let penalty = Penalty { base: self.config.penalty, max: self.config.penalty_max };
        let (clock, deadline) = (self.clock.clone(), ask.limits.patience.deadline);
        Tracked::new(choice.id, entry.clone(), choice.sequence, penalty, clock, deadline)
    }

    fn strategy(&self, ask: &Ask<'_>) -> Strategy {
        ask.request.strategy.unwrap_or(self.config.strategy)
    }
}

impl Choice {
    fn new(id: NodeId, found: &Found) -> Self {
        match found.by(&id) {
            Some(record) if !record.announcer.addrs.is_empty() => {
                Self { id, target: Target::Contact(record.announcer.clone()), sequence: record.sequence }
            }
            Some(record) => Self { sequence: record.sequence, ..Self::by_id(id) },
            None => Self::by_id(id),
        }
    }

    const fn by_id(id: NodeId) -> Self {
        Self { id, target: Target::Id(id), sequence: 0 }
    }
}
