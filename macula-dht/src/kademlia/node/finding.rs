//! Lookups: started, driven, ended; bootstrap and refresh are made of them.

use std::sync::Arc;
use std::time::Duration;

use macula_proto::{Contact, Key, NodeId, Timestamp};

use super::super::lookup::{Answer, Goal, Lookup, Outcome};
use super::super::message::{Findings, Request};
use super::super::record::SignedRecord;
use super::{
    BUSY_PAUSE, Done, Effect, LOOK_AROUND_GROWTH, LOOK_AROUNDS_PER_REFRESH, LookupId, Node, Now, Op, Purpose,
    StoringId, Timer, merge, to_found,
};
use crate::{DirectoryError, Found};

/// Most records taken from one answer: more than fit one.
const ANSWER_RECORDS_MAX: usize = 1_024;

/// Buckets filled in a bootstrap: a mesh of 2^32 nodes has no deeper ones that are not neighbours anyway.
const BOOTSTRAP_BUCKETS_MAX: usize = 32;

/// Disjoint paths of a lookup.
pub(in super::super) const PATHS_MAX: usize = 8;

#[derive(Debug)]
pub(super) struct Running {
    lookup: Lookup,
    goal_is: GoalIs,
}

/// Who waits for a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GoalIs {
    Find(Op),
    Nodes(Op),
    Trace(Op),
    Announce { storing: StoringId, background: bool },
    Watch { key: Key, background: bool },
    Refresh,
    Bootstrap,
}

#[derive(Debug, Default)]
pub(super) struct Bootstrap {
    ops: Vec<Op>,
    pending: usize,
    /// How many of the far buckets, nearest first, are still to be looked into; `None` until the neighbourhood is known.
    left: Option<usize>,
}

/// Far buckets that a bootstrap looks into at a time. What one lookup brings may spare the next.
const FILLS_AT_A_TIME: usize = 3;

impl Node {
    /// Looks up the records at `key` over so many ways without a common node; `None`: as many as
    /// [configured](super::super::KademliaConfig::paths). Ends in [`Done::Found`].
    pub fn find(&mut self, now: Now, op: Op, key: Key, paths: Option<usize>, out: &mut Vec<Effect>) {
        if self.table.is_empty() {
            let found = to_found(self.local_records(&key).values(), now.unix, 0);
            let outcome = if found.records.is_empty() { Err(DirectoryError::NoPeers) } else { Ok(found) };
            out.push(Effect::Done { op, outcome: Done::Found(outcome) });
            return;
        }
        let paths = paths.unwrap_or(self.config.paths).clamp(1, PATHS_MAX);
        // Several that agree prove nothing where some may be hostile.
        let agree = (paths == 1).then_some(self.config.agree.max(1));
        let goal = Goal { records: true, agree, paths, ..self.goal(now, key, self.config.k) };
        self.start(now, goal, Vec::new(), GoalIs::Find(op), out);
    }

    /// Looks up the k nodes closest to `key`. Ends in [`Done::Nodes`].
    pub fn find_node(&mut self, now: Now, op: Op, key: Key, out: &mut Vec<Effect>) {
        if self.table.is_empty() {
            out.push(Effect::Done { op, outcome: Done::Nodes(Err(DirectoryError::NoPeers)) });
            return;
        }
        let goal = self.goal(now, key, self.config.k);
        self.start(now, goal, Vec::new(), GoalIs::Nodes(op), out);
    }

    /// Looks up the records at `key`, hears out all of the closest, and tells who said what. Ends in [`Done::Traced`].
    pub fn trace(&mut self, now: Now, op: Op, key: Key, out: &mut Vec<Effect>) {
        if self.table.is_empty() {
            out.push(Effect::Done { op, outcome: Done::Traced(Err(DirectoryError::NoPeers)) });
            return;
        }
        let paths = self.config.paths.clamp(1, PATHS_MAX);
        let goal = Goal { records: true, paths, ..self.goal(now, key, self.config.k) };
        self.start(now, goal, Vec::new(), GoalIs::Trace(op), out);
    }

    /// Fills the table: looks up this node itself, then something in each bucket farther away, until that is half full:
    /// whoever else belongs there asks this node in time, or is found with the next refresh. Needs a contact.
    /// Ends in [`Done::Bootstrapped`].
    pub fn bootstrap(&mut self, now: Now, op: Op, out: &mut Vec<Effect>) {
        if self.table.is_empty() {
            out.push(Effect::Done { op, outcome: Done::Bootstrapped(Err(DirectoryError::NoPeers)) });
            return;
        }
        self.bootstrap_alone(now, out);
        if let Some(bootstrap) = &mut self.bootstrap {
            bootstrap.ops.push(op);
        }
    }

    /// Bootstraps without anybody waiting for it.
    pub(super) fn bootstrap_alone(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self.bootstrap.is_some() {
            return;
        }
        self.bootstrap = Some(Bootstrap { pending: 1, ..Bootstrap::default() });
        let goal = self.goal(now, self.local.id.into(), self.config.k);
        self.start(now, goal, Vec::new(), GoalIs::Bootstrap, out);
    }

    /// Looks something up in each bucket where nothing was for long.
    pub(super) fn refresh_stale(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self.table.is_empty() {
            return;
        }
        let age = now.at.since_start();
        let Some(since) = age.checked_sub(self.config.refresh_interval) else { return };
        for at in self.table.stale(Timestamp::from_start(since)) {
            if self.is_busy() {
                self.timers.set_by(Timer::Upkeep, now.at + BUSY_PAUSE);
                return;
            }
            self.metrics.buckets_refreshed.inc();
            tracing::debug!(target: "macula::routing", event = "bucket refreshed", bucket = at);
            self.look_into_bucket(now, at, self.config.k, GoalIs::Refresh, out);
        }
    }

    /// Looks the own neighbourhood up again: soon after a bootstrap, because whoever came at the same time was not known yet
    /// and whoever named the neighbours then may have been hostile; later with each refresh. Always over a second path, from
    /// those known for longest.
    pub(super) fn look_around(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.look_around_after =
            (self.look_around_after * LOOK_AROUND_GROWTH).min(self.config.refresh_interval);
        let pause = self.jitter(self.look_around_after);
        self.timers.set(Timer::Neighbours, now.at + pause);
        if !self.table.is_empty() {
            let paths = self.config.paths.clamp(2, PATHS_MAX);
            // Both paths together bring twice as many as wanted.
            let goal = Goal { paths, ..self.goal(now, self.local.id.into(), self.config.k.div_ceil(2)) };
            self.start(now, goal, Vec::new(), GoalIs::Refresh, out);
        }
    }

    pub(super) fn goal(&self, now: Now, target: Key, want: usize) -> Goal {
        Goal {
            target,
            want,
            records: false,
            watch: None,
            agree: None,
            paths: 1,
            subnets: self.config.subnets,
            alpha: self.config.alpha,
            alpha_max: self.config.alpha_max,
            requests_max: self.config.lookup_requests_max,
            hops_max: self.config.hops_max,
            deadline: now.at + self.config.lookup_timeout,
        }
    }

    /// Starts a lookup from the table and `hints`.
    pub(super) fn start(
        &mut self,
        now: Now,
        goal: Goal,
        hints: Vec<Contact>,
        goal_is: GoalIs,
        out: &mut Vec<Effect>,
    ) {
        self.metrics.lookups_started.inc();
        tracing::debug!(target: "macula::routing", event = "lookup started", key = %goal.target, ?goal_is);
        self.table.looked_up(now.at, &goal.target);
        let starts = self.starts(&goal, hints);
        let id = LookupId(self.number());
        self.timers.set(Timer::Lookup(id), goal.deadline);
        self.running
            .insert(id, Running { lookup: Lookup::new(now.at, self.local.id, goal, starts), goal_is });
        self.drive(now, id, out);
    }

    /// Where its paths start. The first does at the closest contacts and `hints`. Whoever surrounds a key, or this node,
    /// has all of those; so the second starts at those known for longest, which a node's seeds are among, and the others
    /// anywhere.
    fn starts(&mut self, goal: &Goal, hints: Vec<Contact>) -> Vec<Vec<Contact>> {
        let count = goal.want.max(self.config.k);
        let mut closest = self.table.closest(&goal.target, count, false);
        if closest.len() < self.config.alpha {
            // Better those that failed lately than nobody: the trouble may have been this node's own.
            closest = self.table.closest(&goal.target, count, true);
        }
        closest.extend(hints);
        let mut starts = vec![closest];
        for path in 1..goal.paths {
            let start = if path == 1 {
                self.table.eldest(goal.alpha)
            } else {
                self.table.drawn(count, &mut self.rng)
            };
            starts.push(start);
        }
        starts
    }

    /// Asks whoever is next, or ends the lookup.
    pub(super) fn drive(&mut self, now: Now, id: LookupId, out: &mut Vec<Effect>) {
        let hedge_after = self.pace.hedge_after();
        let Some(running) = self.running.get_mut(&id) else { return };
        let mut asks = Vec::new();
        running.lookup.poll(now.at, hedge_after, &mut asks);
        let deadline = running.lookup.goal().deadline;
        let next =
            running.lookup.next_hedge(now.at, hedge_after).map_or(deadline, |hedge| hedge.min(deadline));
        let is_done = asks.is_empty() && running.lookup.is_done(now.at);
        if is_done || now.at >= deadline {
            self.finish(now, id, out);
            return;
        }
        self.timers.set(Timer::Lookup(id), next);
        for (to, find) in asks {
            self.send(now, to, Request::Find(find), Purpose::Lookup(id), self.config.request_timeout, out);
        }
    }

    pub(super) fn lookup_answered(
        &mut self,
        now: Now,
        id: LookupId,
        from: &NodeId,
        found: Findings,
        out: &mut Vec<Effect>,
    ) {
        let Some(running) = self.running.get(&id) else { return };
        let key = running.lookup.goal().target;
        let records = self.checked(now, id, &key, &found);
        let contacts = found.contacts;
        let answer = Answer { contacts, records, estimate: found.estimate, more: found.more };
        if let Some(running) = self.running.get_mut(&id) {
            running.lookup.answered(now.at, from, answer);
        }
        self.settle_lookup(now, id, out);
    }

    pub(super) fn lookup_failed(&mut self, now: Now, id: LookupId, peer: &NodeId, out: &mut Vec<Effect>) {
        if let Some(running) = self.running.get_mut(&id) {
            running.lookup.failed(now.at, peer);
            self.settle_lookup(now, id, out);
        }
    }

    /// Whether maintenance has enough under way.
    pub(super) fn is_busy(&self) -> bool {
        let is_background = |running: &&Running| match running.goal_is {
            GoalIs::Refresh | GoalIs::Bootstrap => true,
            GoalIs::Announce { background, .. } | GoalIs::Watch { background, .. } => background,
            GoalIs::Find(_) | GoalIs::Nodes(_) | GoalIs::Trace(_) => false,
        };
        self.running.values().filter(is_background).count() >= self.config.background_max
    }

    /// An answer may end the lookup at once, whatever else could still be asked.
    fn settle_lookup(&mut self, now: Now, id: LookupId, out: &mut Vec<Effect>) {
        match self.running.get(&id) {
            Some(running) if running.lookup.is_done(now.at) => self.finish(now, id, out),
            Some(_) => self.drive(now, id, out),
            None => {}
        }
    }

    /// The valid records of an answer. An envelope that was checked before is not checked again.
    fn checked(&self, now: Now, id: LookupId, key: &Key, found: &Findings) -> Vec<Arc<SignedRecord>> {
        let mut records = Vec::new();
        for envelope in found.records.iter().take(ANSWER_RECORDS_MAX) {
            let Ok(body) = SignedRecord::peek(envelope) else {
                self.metrics.garbage.inc();
                continue;
            };
            let announcer = body.announcer.id;
            let in_lookup = self.running.get(&id).and_then(|running| running.lookup.record_of(&announcer));
            let known = [in_lookup, self.record_watched(key, &announcer), self.store.get(key, &announcer)];
            let same = known.into_iter().flatten().find(|record| record.envelope() == envelope);
            let record = match same {
                Some(record) => Ok(record.clone()),
                None => SignedRecord::open(&*self.verifier, envelope.clone()).map(Arc::new),
            };
            match record {
                Ok(record) if record.body().key == *key => {
                    if self.counts(now, &record) {
                        records.push(record);
                    }
                }
                Ok(_) | Err(_) => {
                    self.metrics.garbage.inc();
                }
            }
        }
        records
    }

    fn finish(&mut self, now: Now, id: LookupId, out: &mut Vec<Effect>) {
        self.timers.cancel(Timer::Lookup(id));
        let Some(running) = self.running.remove(&id) else { return };
        let outcome = running.lookup.finish(now.at);
        self.metrics.lookups_completed.inc();
        self.metrics.lookup_hops.observe(f64::from(outcome.trace.hops));
        self.metrics.lookup_seconds.observe(outcome.trace.took.as_secs_f64());
        self.metrics.peers_hedged.inc_by(outcome.hedged as u64);
        tracing::debug!(
            target: "macula::routing",
            event = "lookup completed",
            key = %outcome.trace.key,
            hops = outcome.trace.hops,
            asked = outcome.asked,
            took = ?outcome.trace.took,
        );
        match running.goal_is {
            GoalIs::Find(op) => {
                let found = self.found(now, &outcome);
                out.push(Effect::Done { op, outcome: Done::Found(found) });
            }
            GoalIs::Nodes(op) => {
                let nodes =
                    if outcome.answered == 0 { Err(unreachable(&outcome)) } else { Ok(outcome.trace) };
                out.push(Effect::Done { op, outcome: Done::Nodes(nodes) });
            }
            GoalIs::Trace(op) => {
                let traced = self.found(now, &outcome).map(|found| (outcome.trace, found));
                out.push(Effect::Done { op, outcome: Done::Traced(traced) });
            }
            GoalIs::Announce { storing, .. } => self.store_at(now, storing, outcome, out),
            GoalIs::Watch { key, .. } => self.watch_found(now, key, outcome, out),
            GoalIs::Refresh => {}
            GoalIs::Bootstrap => self.bootstrap_step(now, out),
        }
        self.catch_up(now, out);
    }

    fn found(&self, now: Now, outcome: &Outcome) -> Result<Found, DirectoryError> {
        let mut records = outcome.records.clone();
        merge(&mut records, self.local_records(&outcome.trace.key));
        let found = to_found(records.values(), now.unix, outcome.unseen);
        if outcome.answered == 0 && found.records.is_empty() {
            return Err(unreachable(outcome));
        }
        Ok(found)
    }

    fn bootstrap_step(&mut self, now: Now, out: &mut Vec<Effect>) {
        let Some(bootstrap) = &mut self.bootstrap else { return };
        bootstrap.pending -= 1;
        if self.fill_on(now, out) {
            return;
        }
        self.look_around_after = self.config.refresh_interval / LOOK_AROUNDS_PER_REFRESH;
        self.timers.set_by(Timer::Neighbours, now.at + self.look_around_after);
        let ops = self.bootstrap.take().map(|bootstrap| bootstrap.ops).unwrap_or_default();
        let contacts = self.table.len();
        out.extend(ops.into_iter().map(|op| Effect::Done { op, outcome: Done::Bootstrapped(Ok(contacts)) }));
    }

    /// Looks into the next far buckets that are not half full; `false` if there is nothing more to wait for.
    fn fill_on(&mut self, now: Now, out: &mut Vec<Effect>) -> bool {
        // The last bucket is this node's own neighbourhood: the first lookup was for that.
        let far_buckets = (self.table.bucket_count() - 1).min(BOOTSTRAP_BUCKETS_MAX);
        let half = self.config.k.div_ceil(2);
        loop {
            let Some(bootstrap) = &mut self.bootstrap else { return false };
            let left = bootstrap.left.get_or_insert(far_buckets);
            if bootstrap.pending >= FILLS_AT_A_TIME || *left == 0 {
                return bootstrap.pending > 0;
            }
            *left -= 1;
            let at = *left;
            let missing = half.saturating_sub(self.table.bucket_len(at));
            if missing > 0 {
                bootstrap.pending += 1;
                self.look_into_bucket(now, at, missing, GoalIs::Bootstrap, out);
            }
        }
    }

    fn look_into_bucket(&mut self, now: Now, at: usize, want: usize, goal_is: GoalIs, out: &mut Vec<Effect>) {
        let random = self.random_bytes();
        let target = self.table.target_in(at, random);
        let goal = self.goal(now, target, want);
        self.start(now, goal, Vec::new(), goal_is, out);
    }
}

/// Nodes were known, but none answered.
pub(super) fn unreachable(outcome: &Outcome) -> DirectoryError {
    DirectoryError::Unreachable { asked: outcome.asked, waited: rounded(outcome.trace.took) }
}

fn rounded(took: Duration) -> Duration {
    Duration::from_millis(u64::try_from(took.as_millis()).unwrap_or(u64::MAX))
}
