//! Those who lead, and those who have sessions.

use std::time::Duration;

use macula_platform::lease::{Holder, HolderConfig, HolderEffect, Keeper, KeptAlive};
use macula_platform::{FencingToken, Nonce, RequestId, SessionId};
use macula_proto::Timestamp;

use crate::clock::DriftingClock;
use crate::findings::Plant;
use crate::world::TTL;

/// A voter that leads, or believes so.
pub(crate) struct Voter {
    pub(crate) keeper: Keeper,
    pub(crate) clock: DriftingClock,
    /// The term it serves in.
    pub(crate) term: u64,
    /// When its timer fires, in true time.
    pub(crate) timer: Option<u64>,
}

impl Voter {
    pub(crate) fn new(clock: DriftingClock) -> Self {
        Self { keeper: Keeper::default(), clock, term: 0, timer: None }
    }
}

/// A node with a session that campaigns.
pub(crate) struct Client {
    pub(crate) clock: DriftingClock,
    pub(crate) phase: Phase,
    pub(crate) nonce: Nonce,
    /// Which voter it asks.
    pub(crate) target: usize,
    pub(crate) paused_until: u64,
    pub(crate) timer: Option<u64>,
    /// The election was granted to the session that it has.
    pub(crate) granted: Option<FencingToken>,
    /// The lease as a wrong implementation would count it.
    from_reply: Timestamp,
}

pub(crate) enum Phase {
    /// Asked for a session, first at `sent`; asks again at `again`.
    Opening { sent: Timestamp, again: Timestamp },
    /// Has a session, and campaigns at `campaign` if it has not yet.
    Open { holder: Box<Holder>, campaign: Option<Timestamp> },
}

pub(crate) const CAMPAIGN: RequestId = RequestId(1);

fn config(plant: Plant) -> HolderConfig {
    match plant {
        Plant::NoMargin => HolderConfig { drift_permille: 0, margin: Duration::ZERO },
        Plant::Nothing | Plant::CountedFromReply | Plant::NoRound | Plant::NoFreshStart => {
            HolderConfig::default()
        }
    }
}

impl Client {
    pub(crate) fn new(clock: DriftingClock) -> Self {
        let start = clock.at(0);
        let phase = Phase::Opening { sent: start, again: start };
        Self {
            clock,
            phase,
            nonce: Nonce(0),
            target: 0,
            paused_until: 0,
            timer: None,
            granted: None,
            from_reply: Timestamp::ZERO,
        }
    }

    pub(crate) fn session(&self) -> Option<SessionId> {
        match &self.phase {
            Phase::Open { holder, .. } => Some(holder.session()),
            Phase::Opening { .. } => None,
        }
    }

    /// Begins anew with another session.
    pub(crate) fn reopen(&mut self, now: Timestamp) {
        self.nonce.0 += 1;
        self.granted = None;
        self.phase = Phase::Opening { sent: now, again: now };
    }

    pub(crate) fn opened(&mut self, now: Timestamp, session: SessionId, plant: Plant) {
        if let Phase::Opening { sent, .. } = self.phase {
            let holder = Box::new(Holder::new(config(plant), session, TTL, sent, now));
            self.from_reply = now + config(plant).span(TTL);
            self.phase = Phase::Open { holder, campaign: Some(now) };
        }
    }

    pub(crate) fn answered(&mut self, now: Timestamp, answer: KeptAlive, plant: Plant) -> Vec<HolderEffect> {
        let Phase::Open { holder, .. } = &mut self.phase else { return Vec::new() };
        let mut out = Vec::new();
        holder.on_answer(now, answer, &mut out);
        if out.iter().any(|effect| matches!(effect, HolderEffect::Lease(_))) && !holder.is_lost() {
            self.from_reply = now + config(plant).span(TTL);
        }
        out
    }

    /// Whether it relies on its session at true time `now`.
    pub(crate) fn relies(&self, now: u64, plant: Plant) -> bool {
        let Phase::Open { holder, .. } = &self.phase else { return false };
        let local = self.clock.at(now);
        match plant {
            Plant::CountedFromReply => !holder.is_lost() && local < self.from_reply,
            Plant::Nothing | Plant::NoRound | Plant::NoFreshStart | Plant::NoMargin => holder.valid(local),
        }
    }

    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        match &self.phase {
            Phase::Opening { again, .. } => Some(*again),
            Phase::Open { holder, campaign } => holder.deadline().into_iter().chain(*campaign).min(),
        }
    }
}
