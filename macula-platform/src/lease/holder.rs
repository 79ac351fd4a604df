//! At the node that has the session: for how long it may rely on it.

use std::collections::VecDeque;
use std::time::Duration;

use macula_proto::Timestamp;

use super::message::{KeepAlive, Kept, KeptAlive};
use crate::objects::SessionId;

/// Keep-alives whose answers are still taken; older ones come too late to be of use.
const SENT_MAX: usize = 16;

/// A keep-alive goes each third of the time to live, so that two may be lost.
const SENDS_OF_TTL: u32 = 3;

/// Without an answer, one goes each ninth.
const RETRIES_OF_TTL: u32 = 9;

/// How far a holder trusts clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HolderConfig {
    /// How much faster than the holder's clock the leader's may run, in thousandths of the time to live. Default: 100.
    ///
    /// Crystals differ by 0.01 %, and the kernel slews by 0.05 %; but chrony slews by up to 8.3 %, when a clock is far off
    /// and must not be stepped. A tenth covers that at one end, and half of it at both.
    pub drift_permille: u32,
    /// What is taken off beside that, for the time between reading a clock and acting on it. Default: 10 ms, a scheduling
    /// delay of an ordinary kernel.
    pub margin: Duration,
}

impl Default for HolderConfig {
    fn default() -> Self {
        Self { drift_permille: 100, margin: Duration::from_millis(10) }
    }
}

impl HolderConfig {
    /// For how long after a keep-alive was sent the session may be relied on, if it was answered.
    pub fn span(&self, ttl: Duration) -> Duration {
        let drift = ttl.saturating_mul(self.drift_permille) / 1000;
        ttl.saturating_sub(drift).saturating_sub(self.margin)
    }
}

/// For how long a session may be relied on. It is small and plain, so that whoever asks often keeps a copy; each new one
/// comes as [`HolderEffect::Lease`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lease {
    from: Timestamp,
    until: Timestamp,
}

impl Lease {
    /// Whether it is valid `now`. A clock that has gone back makes it invalid.
    pub fn valid(&self, now: Timestamp) -> bool {
        self.from <= now && now < self.until
    }

    /// When it ends, if nothing renews it.
    pub const fn until(&self) -> Timestamp {
        self.until
    }

    /// The same with another end.
    pub(crate) const fn ending_at(self, until: Timestamp) -> Self {
        Self { until, ..self }
    }
}

/// Why a session is lost for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// The leader says that it is over.
    Ended,
    /// No answer for so long that it is over, or will be: no more keep-alives go out, so that others get what it holds
    /// even if only the answers were lost.
    Unanswered,
}

/// What the holder wants done, and what changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HolderEffect {
    /// Send this to the group's leader.
    Send(KeepAlive),
    /// The lease has another end.
    Lease(Lease),
    /// The lease ended, for now: an answer may still renew it.
    Lapsed,
    /// The session is lost. Nothing follows.
    Lost(Loss),
}

/// Keeps one session alive from the node that has it.
///
/// ```text
///            no answer until the lease ends               no answer for one more TTL
///  valid ───────────────────────────────────▶ lapsed ───────────────────────────────────▶ lost
///    ▲                                          │  │                                       ▲
///    └───────────── an answer: alive ───────────┘  └──────── an answer: ended ─────────────┘ (from valid as well)
/// ```
///
/// Call [`on_timeout`](Self::on_timeout) at [`deadline`](Self::deadline). The clock may stop and jump: forwards, the lease
/// just ends; backwards, it is void as soon as that is seen – by any call, or by asking [`valid`](Holder::valid) – and until a
/// keep-alive that was sent later is answered. What nobody can see is a clock that goes back and catches up between two calls:
/// take one that never does, such as `CLOCK_BOOTTIME`.
#[derive(Debug)]
pub struct Holder {
    config: HolderConfig,
    session: SessionId,
    ttl: Duration,
    lease: Lease,
    lapsed: bool,
    lost: bool,
    /// The last number, and what was sent when.
    number: u64,
    sent: VecDeque<(u64, Timestamp)>,
    next_send: Timestamp,
    give_up: Timestamp,
}

impl Holder {
    /// The session was opened by a request that was sent at `sent` – if it was sent several times, at the first time – on
    /// the holder's clock; it is `now`. The answer must be the one to that request: a late answer about a session of before
    /// says nothing about this time.
    pub fn new(
        config: HolderConfig,
        session: SessionId,
        ttl: Duration,
        sent: Timestamp,
        now: Timestamp,
    ) -> Self {
        // A clock that has gone back since then tells nothing.
        let went_back = now < sent;
        let until = if went_back { Timestamp::ZERO } else { sent + config.span(ttl) };
        Self {
            config,
            session,
            ttl,
            lease: Lease { from: now, until },
            lapsed: false,
            lost: false,
            number: 0,
            sent: VecDeque::new(),
            next_send: if went_back { now } else { sent + ttl / SENDS_OF_TTL },
            give_up: until.max(now) + ttl,
        }
    }

    /// The session.
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// The present lease.
    pub const fn lease(&self) -> Lease {
        self.lease
    }

    /// Whether the session may be relied on `now`.
    pub fn valid(&self, now: Timestamp) -> bool {
        !self.lost && self.lease.valid(now)
    }

    /// Whether the session is lost for good.
    pub const fn is_lost(&self) -> bool {
        self.lost
    }

    /// When to call [`on_timeout`](Self::on_timeout).
    pub fn deadline(&self) -> Option<Timestamp> {
        let next = self.next_send.min(self.give_up);
        let lapse = if self.lapsed { next } else { self.lease.until };
        (!self.lost).then(|| next.min(lapse))
    }

    /// It is `now`.
    pub fn on_timeout(&mut self, now: Timestamp, out: &mut Vec<HolderEffect>) {
        self.look_at_clock(now, out);
        if self.lost {
            return;
        }
        if now >= self.give_up {
            return self.lose(Loss::Unanswered, out);
        }
        if now >= self.next_send {
            self.send(now, out);
        }
    }

    /// An answer came; whose and when does not matter.
    pub fn on_answer(&mut self, now: Timestamp, answer: KeptAlive, out: &mut Vec<HolderEffect>) {
        self.look_at_clock(now, out);
        if self.lost || answer.to.session != self.session {
            return;
        }
        let Some(at) = self.sent.iter().position(|(number, _)| *number == answer.to.number) else { return };
        let Some((_, sent)) = self.sent.remove(at) else { return };
        match answer.outcome {
            Kept::Alive => self.renew(now, sent, out),
            Kept::Ended => self.lose(Loss::Ended, out),
            Kept::NotLeader | Kept::Busy => self.next_send = self.next_send.min(now + self.retry()),
        }
    }

    fn retry(&self) -> Duration {
        self.ttl / RETRIES_OF_TTL
    }

    fn send(&mut self, now: Timestamp, out: &mut Vec<HolderEffect>) {
        self.number += 1;
        self.sent.push_back((self.number, now));
        if self.sent.len() > SENT_MAX {
            self.sent.pop_front();
        }
        self.next_send = now + self.retry();
        out.push(HolderEffect::Send(KeepAlive { session: self.session, number: self.number }));
    }

    fn renew(&mut self, now: Timestamp, sent: Timestamp, out: &mut Vec<HolderEffect>) {
        let until = sent + self.config.span(self.ttl);
        if until <= self.lease.until {
            return;
        }
        self.lease.until = until;
        self.give_up = until + self.ttl;
        self.next_send = (sent + self.ttl / SENDS_OF_TTL).max(now);
        self.lapsed = now >= until;
        out.push(HolderEffect::Lease(self.lease));
    }

    fn lose(&mut self, loss: Loss, out: &mut Vec<HolderEffect>) {
        self.lost = true;
        self.void(out);
        out.push(HolderEffect::Lost(loss));
    }

    /// Whatever was counted is worth nothing.
    fn void(&mut self, out: &mut Vec<HolderEffect>) {
        self.lease.until = Timestamp::ZERO;
        self.sent.clear();
        out.push(HolderEffect::Lease(self.lease));
    }

    fn look_at_clock(&mut self, now: Timestamp, out: &mut Vec<HolderEffect>) {
        if now < self.lease.from && !self.lost {
            self.void(out);
            self.next_send = now;
            self.give_up = now + self.ttl;
        }
        self.lease.from = now;
        if now >= self.lease.until && !self.lapsed && !self.lost {
            self.lapsed = true;
            out.push(HolderEffect::Lapsed);
        }
    }
}

#[cfg(test)]
#[path = "holder_test.rs"]
mod tests;
