//! Whom to dial, and when: a pure plan.
//!
//! ```text
//!            no member                     far fewer members than before
//!   Alone ◀──────────────  (any mood)  ──────────────────────────▶ Shrunk ──┐
//!     │  a member                                                    │ ▲    │ as many again, or small
//!     └───────────────────────────▶ Joined ◀─────────────────────────┘ └────┘ for so long that it is normal
//! ```
//!
//! Alone, seeds and the peers of the last run are tried with growing pauses. Later, seeds alone: often while the
//! mesh looks as if it had lost a part, now and then otherwise, since two halves that have forgotten each other
//! notice nothing by themselves.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use macula_proto::{NodeId, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Seed;

/// The tempo of a [`BootstrapPlan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanConfig {
    /// Pause after the first failure of a target; doubles with each further one. Default 500 ms.
    pub backoff_min: Duration,
    /// Longest such pause while alone or shrunk. Default 30 s.
    pub backoff_max: Duration,
    /// A seed that answered is tried again after this long if the node is still alone. Default 5 s.
    pub alone_interval: Duration,
    /// How often seeds are tried while the mesh looks smaller than before. Default 30 s.
    pub shrunk_interval: Duration,
    /// How often seeds are tried otherwise; also the longest pause for one that was never reached. Default 10 min.
    pub joined_interval: Duration,
    /// A mesh that stays small for so long counts as normal. Default 15 min.
    pub shrunk_for: Duration,
    /// Targets that are tried at once. Default 4.
    pub attempts_max: usize,
    /// An attempt that nobody reported on for so long counts as failed. Default 2 min.
    pub attempt_timeout: Duration,
}

impl Default for PlanConfig {
    fn default() -> Self {
        Self {
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
            alone_interval: Duration::from_secs(5),
            shrunk_interval: Duration::from_secs(30),
            joined_interval: Duration::from_secs(600),
            shrunk_for: Duration::from_secs(900),
            attempts_max: 4,
            attempt_timeout: Duration::from_secs(120),
        }
    }
}

/// Someone worth dialling. Seeds come before peers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum BootstrapTarget {
    /// A seed: resolve it, and dial what comes out.
    Seed(Seed),
    /// A peer of the last run; its addresses are in the address book.
    Peer(NodeId),
}

impl fmt::Display for BootstrapTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seed(seed) => write!(f, "seed {seed}"),
            Self::Peer(id) => write!(f, "{}, a peer of the last run", id.short()),
        }
    }
}

/// How the mesh looks from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// No other member.
    Alone,
    /// More than a quarter of the members have gone lately.
    Shrunk,
    /// Nothing unusual.
    Joined,
}

/// Decides whom to dial. Call order: [`poll`](Self::poll) at each [`deadline`](Self::deadline) and after anything
/// else; for each target that comes out, exactly one of [`on_success`](Self::on_success) and
/// [`on_failure`](Self::on_failure); [`on_members`](Self::on_members) whenever the membership changes.
///
/// ```
/// use macula::bootstrap::{BootstrapPlan, BootstrapTarget, PlanConfig};
/// use macula_proto::Timestamp;
///
/// let seed = BootstrapTarget::Seed("seed.example.org:4000".parse()?);
/// let mut plan = BootstrapPlan::new(PlanConfig::default(), 7);
/// plan.add(Timestamp::ZERO, seed.clone());
/// let mut out = vec![];
/// plan.poll(Timestamp::ZERO, &mut out);
/// assert_eq!(out, [seed.clone()]);
/// plan.on_failure(Timestamp::ZERO, &seed);
/// assert!(plan.deadline() > Some(Timestamp::ZERO));
/// # Ok::<(), macula::bootstrap::SeedError>(())
/// ```
#[derive(Debug)]
pub struct BootstrapPlan {
    config: PlanConfig,
    targets: BTreeMap<BootstrapTarget, Attempts>,
    /// Counts additions: targets that are due together are tried in this order.
    added: u64,
    members: usize,
    /// The most members lately.
    members_before: usize,
    shrunk_since: Option<Timestamp>,
    rng: StdRng,
}

#[derive(Debug)]
struct Attempts {
    order: u64,
    failures: u32,
    due: Timestamp,
    /// Since when an attempt is under way.
    under_way: Option<Timestamp>,
}

impl BootstrapPlan {
    /// A plan of a node that is alone and knows nobody.
    pub fn new(config: PlanConfig, seed: u64) -> Self {
        Self {
            config,
            targets: BTreeMap::new(),
            added: 0,
            members: 0,
            members_before: 0,
            shrunk_since: None,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Adds a target, due at once; says whether it was new. The caller bounds how many it adds: see
    /// [`SEEDS_MAX`](super::SEEDS_MAX) and [`PEERS_MAX`](super::PEERS_MAX).
    pub fn add(&mut self, now: Timestamp, target: BootstrapTarget) -> bool {
        if self.targets.contains_key(&target) {
            return false;
        }
        let attempts = Attempts { order: self.added, failures: 0, due: now, under_way: None };
        self.targets.insert(target, attempts);
        self.added += 1;
        true
    }

    /// Removes a target; says whether it was there. A report on it that is still to come is ignored.
    pub fn remove(&mut self, target: &BootstrapTarget) -> bool {
        self.targets.remove(target).is_some()
    }

    /// There are so many other members alive.
    pub fn on_members(&mut self, now: Timestamp, members: usize) {
        let before = self.mood();
        self.members = members;
        self.members_before = self.members_before.max(members);
        self.shrunk_since = match (self.looks_shrunk(), self.shrunk_since) {
            (false, _) => None,
            (true, since) => since.or(Some(now)),
        };
        match (before, self.mood()) {
            (Mood::Alone, _) | (_, Mood::Joined) | (Mood::Shrunk, Mood::Shrunk) => {}
            (_, Mood::Alone) => self.hurry(now, self.config.backoff_min),
            (_, Mood::Shrunk) => self.hurry(now, self.config.shrunk_interval),
        }
    }

    /// The target was reached.
    pub fn on_success(&mut self, now: Timestamp, target: &BootstrapTarget) {
        let pause = match self.mood() {
            Mood::Alone => self.config.alone_interval,
            Mood::Shrunk => self.config.shrunk_interval,
            Mood::Joined => self.config.joined_interval,
        };
        self.report(now, target, pause, |_| 0);
    }

    /// The target was not reached.
    pub fn on_failure(&mut self, now: Timestamp, target: &BootstrapTarget) {
        let Some(attempts) = self.targets.get(target) else { return };
        let doubled = 1u32.checked_shl(attempts.failures).unwrap_or(u32::MAX);
        let pause_max = match self.mood() {
            Mood::Alone | Mood::Shrunk => self.config.backoff_max,
            Mood::Joined => self.config.joined_interval,
        };
        let pause = self.config.backoff_min.saturating_mul(doubled).min(pause_max);
        self.report(now, target, pause, |failures| failures.saturating_add(1));
    }

    /// Puts into `out` whom to dial now.
    pub fn poll(&mut self, now: Timestamp, out: &mut Vec<BootstrapTarget>) {
        if self.shrunk_since.is_some_and(|since| now.since(since) >= self.config.shrunk_for) {
            (self.shrunk_since, self.members_before) = (None, self.members);
        }
        for target in self.lost(now) {
            self.on_failure(now, &target);
        }
        let under_way = self.targets.values().filter(|attempts| attempts.under_way.is_some()).count();
        let mood = self.mood();
        let is_due = |target: &BootstrapTarget, attempts: &Attempts| {
            attempts.under_way.is_none() && attempts.due <= now && worth_trying(mood, target)
        };
        let mut due: Vec<_> =
            self.targets.iter_mut().filter(|(target, attempts)| is_due(target, attempts)).collect();
        due.sort_by_key(|(target, attempts)| (is_peer(target), attempts.due, attempts.order));
        for (target, attempts) in due.into_iter().take(self.config.attempts_max.saturating_sub(under_way)) {
            attempts.under_way = Some(now);
            out.push(target.clone());
        }
    }

    /// When to call [`poll`](Self::poll) next, if nothing happens before.
    pub fn deadline(&self) -> Option<Timestamp> {
        let mood = self.mood();
        let under_way = self.targets.values().filter_map(|attempts| attempts.under_way);
        let full = under_way.clone().count() >= self.config.attempts_max;
        let lost = under_way.map(|since| since + self.config.attempt_timeout);
        let waiting = self
            .targets
            .iter()
            .filter(|(target, attempts)| !full && attempts.under_way.is_none() && worth_trying(mood, target));
        let normal = self.shrunk_since.map(|since| since + self.config.shrunk_for);
        waiting.map(|(_, attempts)| attempts.due).chain(lost).chain(normal).min()
    }

    /// How the mesh looks.
    pub fn mood(&self) -> Mood {
        match self.members {
            0 => Mood::Alone,
            _ if self.shrunk_since.is_some() => Mood::Shrunk,
            _ => Mood::Joined,
        }
    }

    /// In a large mesh some come and go all the time, so a few do not count.
    fn looks_shrunk(&self) -> bool {
        self.members.saturating_mul(4) < self.members_before.saturating_mul(3)
    }

    /// Everything is due within `span`: not at once, since the others noticed the same thing at the same time.
    fn hurry(&mut self, now: Timestamp, span: Duration) {
        for attempts in self.targets.values_mut() {
            attempts.failures = 0;
            attempts.due = attempts.due.min(now + span.mul_f64(self.rng.random_range(0.0..=1.0)));
        }
    }

    fn report(
        &mut self,
        now: Timestamp,
        target: &BootstrapTarget,
        pause: Duration,
        failures: fn(u32) -> u32,
    ) {
        let pause = pause.mul_f64(self.rng.random_range(0.5..=1.0));
        let Some(attempts) = self.targets.get_mut(target) else { return };
        attempts.failures = failures(attempts.failures);
        attempts.due = now + pause;
        attempts.under_way = None;
    }

    fn lost(&self, now: Timestamp) -> Vec<BootstrapTarget> {
        let lost = |since: Timestamp| now.since(since) >= self.config.attempt_timeout;
        let lost = self.targets.iter().filter(|(_, attempts)| attempts.under_way.is_some_and(lost));
        lost.map(|(target, _)| target.clone()).collect()
    }
}

/// Peers of the last run are as good as seeds when there is nobody else; later membership knows better.
fn worth_trying(mood: Mood, target: &BootstrapTarget) -> bool {
    mood == Mood::Alone || !is_peer(target)
}

fn is_peer(target: &BootstrapTarget) -> bool {
    matches!(target, BootstrapTarget::Peer(_))
}

#[cfg(test)]
#[path = "plan_test.rs"]
mod tests;
