//! At the group's leader: which sessions live, and which are over.

use std::collections::BTreeMap;
use std::time::Duration;

use macula_proto::{Timers, Timestamp};

use super::message::{KeepAlive, Kept, KeptAlive};
use crate::objects::SessionId;
use crate::objects::limits::EXPIRE_MAX;

/// Most keep-alives that wait for a round; beyond, they are answered with [`Kept::Busy`] at once.
pub const KEEP_ALIVES_MAX: usize = 65_536;

/// How soon the end of a session is proposed again, if it was not committed.
const PROPOSE_AGAIN: Duration = Duration::from_secs(1);

/// So often the keeper looks at the clock, while it keeps any session.
const LOOK_PERIOD: Duration = Duration::from_millis(20);

/// What counts of the time between two looks, at most. A clock that jumps between two looks so ends a session by this much too
/// early, and holders take off more than twice that for drift.
pub const STEP_MAX: Duration = Duration::from_millis(40);

/// A round with a quorum: the leader asks the voters whether it is still their leader.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RoundId(pub u64);

/// Where an answer goes: whoever brings a keep-alive chooses it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// What the keeper wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeeperEffect {
    /// Begin a round with a quorum *now*, and say what came of it with [`Keeper::on_round`]. A read index will do, if it
    /// contacts the voters after this moment; a leader's own lease will not.
    Round(RoundId),
    /// Answer a keep-alive.
    Answer {
        /// Which one.
        ticket: Ticket,
        /// The answer.
        answer: KeptAlive,
    },
    /// Propose [`Command::Expire`](crate::Command::Expire) for these sessions, at most
    /// [`EXPIRE_MAX`].
    Expire(Vec<SessionId>),
}

/// Keeps the sessions of a group alive at its leader, and says when they are over.
///
/// ```text
///          serve (the first commit of the own term)
///  idle ─────────────────────────────────────────────▶ serving ──▶ keep-alives, rounds, expiry
///    ▲                                                    │
///    └──────────────── stop (no longer the leader) ───────┘   everything is forgotten
/// ```
///
/// Call [`on_timeout`](Self::on_timeout) at [`deadline`](Self::deadline). Ten thousand sessions cost a map and an ordered
/// set; a keep-alive costs one look-up, and a timer is moved only when it fires too early.
///
/// Silence is counted only while the keeper could have heard somebody: it looks at the clock every 20 ms, and of a longer
/// time between two looks only [`STEP_MAX`] counts, whether its process was paused or its clock jumped.
#[derive(Debug, Default)]
pub struct Keeper {
    serving: Option<Serving>,
    /// Rounds are never numbered anew, so that a late result of an earlier term is known as such.
    rounds: u64,
    pace: Pace,
}

/// A clock that goes on while somebody looks.
#[derive(Debug, Default)]
struct Pace {
    /// What the real clock showed at the last look.
    looked: Timestamp,
    /// What this one shows since.
    shows: Timestamp,
}

impl Pace {
    fn look(&mut self, now: Timestamp) -> Timestamp {
        self.shows = self.shows + now.since(self.looked).min(STEP_MAX);
        self.looked = now;
        self.shows
    }

    /// When the real clock is to be looked at, for something that is due on this one.
    fn when(&self, due: Timestamp) -> Timestamp {
        self.looked + due.since(self.shows).min(LOOK_PERIOD)
    }
}

#[derive(Debug, Default)]
struct Serving {
    sessions: BTreeMap<SessionId, KeptSession>,
    timers: Timers<SessionId>,
    /// Came after the present round began.
    arrived: Vec<(Ticket, KeepAlive)>,
    round: Option<Round>,
}

#[derive(Debug)]
struct KeptSession {
    ttl: Duration,
    deadline: Timestamp,
    /// Its end has been proposed; there is no way back.
    expiring: bool,
}

#[derive(Debug)]
struct Round {
    id: RoundId,
    keep_alives: Vec<(Ticket, KeepAlive)>,
}

impl Keeper {
    /// The node leads, and the first command of its own term is committed and applied: every session gets its full time to
    /// live. Not before: only then are all sessions known, and is it certain that no later leader is at work.
    pub fn serve(&mut self, now: Timestamp, sessions: impl IntoIterator<Item = (SessionId, Duration)>) {
        let mut serving = Serving::default();
        let now = self.pace.look(now);
        for (session, ttl) in sessions {
            serving.keep(now, session, ttl);
        }
        self.serving = Some(serving);
    }

    /// The node leads no longer, or does not know. All who wait are told so, and all is forgotten.
    pub fn stop(&mut self, out: &mut Vec<KeeperEffect>) {
        let Some(serving) = self.serving.take() else { return };
        let in_round = serving.round.into_iter().flat_map(|round| round.keep_alives);
        for (ticket, to) in in_round.chain(serving.arrived) {
            out.push(KeeperEffect::Answer { ticket, answer: KeptAlive { to, outcome: Kept::NotLeader } });
        }
    }

    /// Whether it serves.
    pub const fn is_serving(&self) -> bool {
        self.serving.is_some()
    }

    /// A command that opened the session was applied, or one that would have, had it not been open.
    pub fn on_opened(&mut self, now: Timestamp, session: SessionId, ttl: Duration) {
        let now = self.pace.look(now);
        if let Some(serving) = &mut self.serving {
            serving.keep(now, session, ttl);
        }
    }

    /// A command that ended the session was applied.
    pub fn on_ended(&mut self, session: SessionId) {
        if let Some(serving) = &mut self.serving {
            serving.sessions.remove(&session);
            serving.timers.cancel(session);
        }
    }

    /// A keep-alive arrived, just now.
    pub fn on_keep_alive(
        &mut self,
        now: Timestamp,
        ticket: Ticket,
        to: KeepAlive,
        out: &mut Vec<KeeperEffect>,
    ) {
        let mut refuse =
            |outcome| out.push(KeeperEffect::Answer { ticket, answer: KeptAlive { to, outcome } });
        let now = self.pace.look(now);
        let Some(serving) = &mut self.serving else { return refuse(Kept::NotLeader) };
        if serving.arrived.len() >= KEEP_ALIVES_MAX {
            return refuse(Kept::Busy);
        }
        // Even if it never gets an answer, its node was heard: the session was not silent.
        if let Some(session) = serving.sessions.get_mut(&to.session).filter(|session| !session.expiring) {
            session.deadline = session.deadline.max(now + session.ttl);
        }
        serving.arrived.push((ticket, to));
        self.begin_round(out);
    }

    /// What came of a round: `confirmed` if a quorum said, after the round began, that this node is still its leader.
    pub fn on_round(&mut self, id: RoundId, confirmed: bool, out: &mut Vec<KeeperEffect>) {
        let Some(serving) = &mut self.serving else { return };
        let Some(round) = serving.round.take_if(|round| round.id == id) else { return };
        for (ticket, to) in round.keep_alives {
            let alive = || serving.sessions.get(&to.session).is_some_and(|session| !session.expiring);
            let outcome = match confirmed {
                true if alive() => Kept::Alive,
                true => Kept::Ended,
                false => Kept::NotLeader,
            };
            out.push(KeeperEffect::Answer { ticket, answer: KeptAlive { to, outcome } });
        }
        self.begin_round(out);
    }

    /// It is `now`: looks at the clock, and ends sessions that were silent for too long.
    pub fn on_timeout(&mut self, now: Timestamp, out: &mut Vec<KeeperEffect>) {
        let now = self.pace.look(now);
        let Some(serving) = &mut self.serving else { return };
        let mut over = Vec::new();
        while let Some(id) = serving.timers.pop(now) {
            let Some(session) = serving.sessions.get_mut(&id) else { continue };
            if !session.expiring && session.deadline > now {
                serving.timers.set(id, session.deadline);
                continue;
            }
            session.expiring = true;
            serving.timers.set(id, now + PROPOSE_AGAIN);
            over.push(id);
        }
        out.extend(over.chunks(EXPIRE_MAX).map(|sessions| KeeperEffect::Expire(sessions.to_vec())));
    }

    /// When to call [`on_timeout`](Self::on_timeout).
    pub fn deadline(&self) -> Option<Timestamp> {
        self.serving.as_ref()?.timers.next().map(|due| self.pace.when(due))
    }

    fn begin_round(&mut self, out: &mut Vec<KeeperEffect>) {
        let Some(serving) = &mut self.serving else { return };
        if serving.round.is_some() || serving.arrived.is_empty() {
            return;
        }
        self.rounds += 1;
        let id = RoundId(self.rounds);
        serving.round = Some(Round { id, keep_alives: std::mem::take(&mut serving.arrived) });
        out.push(KeeperEffect::Round(id));
    }
}

impl Serving {
    fn keep(&mut self, now: Timestamp, id: SessionId, ttl: Duration) {
        let deadline = now + ttl;
        let session = self.sessions.entry(id).or_insert(KeptSession { ttl, deadline, expiring: false });
        if !session.expiring {
            session.deadline = session.deadline.max(deadline);
            self.timers.set(id, session.deadline);
        }
    }
}

#[cfg(test)]
#[path = "keeper_test.rs"]
mod tests;
