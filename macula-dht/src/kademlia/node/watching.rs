//! This node's own watches: looked up once, pushed to by the holders, looked up again now and then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use macula_proto::{Contact, Distance, Key, NodeId, Timestamp};

use super::super::lookup::{Goal, Outcome};
use super::super::record::SignedRecord;
use super::announcing::{is_wanted, reach};
use super::finding::{GoalIs, PATHS_MAX, unreachable};
use super::{Effect, Node, Now, Timer, merge, to_found};
use crate::Found;

/// A newcomer seldom comes alone.
const REWATCH_DELAY: Duration = Duration::from_millis(100);

/// However many newcomers there are, a key is not looked up again more often than so.
const REWATCH_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Before the first retry of a failed lookup; it doubles with each failure.
const RETRY_INTERVAL_MIN: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Watched {
    /// The newest of each announcer, withdrawals included.
    records: BTreeMap<NodeId, Arc<SignedRecord>>,
    /// Announcers of these that this node knows to be gone, with the sequence number known then: holders that have not heard
    /// of it yet go on naming them.
    lost: BTreeMap<NodeId, u64>,
    /// Announcers heard of since the lookup under way began: its answers may be older than that.
    pushed: BTreeSet<NodeId>,
    /// How many more there seemed to be than the last lookup was given.
    unseen: usize,
    holders: BTreeMap<NodeId, Contact>,
    /// How far the farthest holder is from the key; `None` while there is room for more.
    reach: Option<Distance>,
    is_looking: bool,
    /// Holders appeared or went while a lookup was under way.
    is_due_again: bool,
    is_ready: bool,
    failures: u32,
    looked_up: Timestamp,
}

impl Node {
    /// Watches `key`: looks it up and goes on showing changes in [`Effect::Watched`], until [`unwatch`](Self::unwatch).
    /// Watching what is watched shows the last answer again.
    pub fn watch(&mut self, now: Now, key: Key, out: &mut Vec<Effect>) {
        if self.watched.entry(key).or_default().is_ready {
            self.show(now, &key, out);
        } else {
            self.look_up_watched(now, key, out);
        }
    }

    /// Nobody watches `key` any more. Its holders learn it when they push, or when the watch lapses.
    pub fn unwatch(&mut self, key: &Key) {
        self.watched.remove(key);
        self.timers.cancel(Timer::Renew(*key));
    }

    /// How many keys are watched.
    pub fn watch_count(&self) -> usize {
        self.watched.len()
    }

    pub(super) fn renew(&mut self, now: Now, key: Key, out: &mut Vec<Effect>) {
        if self.is_busy() && self.watched.get(&key).is_some_and(|watched| watched.is_ready) {
            self.backlog.insert(Timer::Renew(key));
            return;
        }
        self.look_up_watched(now, key, out);
    }

    /// Watches that belong at the newcomer are registered there soon.
    pub(super) fn rewatch_at(&mut self, now: Now, contact: &Contact) {
        for (key, watched) in &mut self.watched {
            if is_wanted(key, contact, &watched.holders, watched.reach) {
                watched.is_due_again = watched.is_looking;
                self.timers.set_by(Timer::Renew(*key), watched.next_lookup(now));
            }
        }
    }

    pub(super) fn rewatch_without(&mut self, now: Now, id: &NodeId) {
        for (key, watched) in &mut self.watched {
            if watched.holders.remove(id).is_some() {
                watched.reach = None;
                watched.is_due_again = watched.is_looking;
                self.timers.set_by(Timer::Renew(*key), watched.next_lookup(now));
            }
        }
    }

    /// What a node announced is shown no longer, whatever holders say, unless it announces again.
    pub(super) fn hide_watched(&mut self, announcer: &NodeId, now: Now, out: &mut Vec<Effect>) {
        let changed = change(&mut self.watched, |watched| {
            let sequence = watched.records.get(announcer).map(|record| record.body().sequence);
            sequence.map(|sequence| watched.lost.insert(*announcer, sequence)).is_some()
        });
        changed.iter().for_each(|key| self.show(now, key, out));
    }

    /// What a node announced in a run that is over is not shown any more.
    pub(super) fn forget_watched(&mut self, announcer: &NodeId, now: Now, out: &mut Vec<Effect>) {
        let changed = change(&mut self.watched, |watched| {
            let is_past = |record: &Arc<SignedRecord>| self.lives.is_past(record.body());
            watched.records.get(announcer).is_some_and(is_past) && watched.records.remove(announcer).is_some()
        });
        changed.iter().for_each(|key| self.show(now, key, out));
    }

    /// What a node announced counts again.
    pub(super) fn show_watched(&mut self, announcer: &NodeId, now: Now, out: &mut Vec<Effect>) {
        let changed = change(&mut self.watched, |watched| watched.lost.remove(announcer).is_some());
        changed.iter().for_each(|key| self.show(now, key, out));
    }

    /// A record changed: whoever watches its key here sees it when this returns and the effects are carried out.
    /// Says whether the key is watched.
    pub(super) fn apply_to_watch(
        &mut self,
        now: Now,
        record: &Arc<SignedRecord>,
        out: &mut Vec<Effect>,
    ) -> bool {
        let (key, announcer) = (record.body().key, record.body().announcer.id);
        let records_max = 2 * self.config.quotas.per_key;
        let Some(watched) = self.watched.get_mut(&key) else { return false };
        let held = watched.records.get(&announcer);
        let is_news = held.is_none_or(|held| held.body().sequence < record.body().sequence);
        let has_room = held.is_some() || watched.records.len() < records_max;
        if is_news && has_room {
            watched.records.insert(announcer, record.clone());
            watched.pushed.insert(announcer);
            if watched.is_ready {
                self.show(now, &key, out);
            }
        }
        true
    }

    /// The record that a watch shows (or would show, were it not withdrawn).
    pub(super) fn record_watched(&self, key: &Key, announcer: &NodeId) -> Option<&Arc<SignedRecord>> {
        self.watched.get(key)?.records.get(announcer)
    }

    pub(super) fn watch_found(&mut self, now: Now, key: Key, outcome: Outcome, out: &mut Vec<Effect>) {
        let wanted = self.config.watch_holders;
        let local = self.local_records(&key);
        let cache_ttl = self.config.cache_ttl;
        let pause = self.jitter(cache_ttl);
        let Some(watched) = self.watched.get_mut(&key) else { return };
        watched.is_looking = false;
        watched.looked_up = now.at;
        let again = std::mem::take(&mut watched.is_due_again);
        if outcome.answered == 0 {
            watched.failures += 1;
            let retry = RETRY_INTERVAL_MIN * (1 << watched.failures.min(10));
            self.timers.set(Timer::Renew(key), now.at + retry.min(cache_ttl));
            self.show_failure(now, key, &outcome, out);
            return;
        }
        watched.failures = 0;
        watched.is_ready = true;
        watched.unseen = outcome.unseen;
        // What the holders did not mention is gone, except what was pushed while they were asked.
        let pushed = std::mem::take(&mut watched.pushed);
        watched.records.retain(|announcer, _| pushed.contains(announcer));
        merge(&mut watched.records, outcome.records);
        merge(&mut watched.records, local);
        watched.lost.retain(|announcer, _| watched.records.contains_key(announcer));
        watched.holders = outcome.closest.into_iter().map(|contact| (contact.id, contact)).collect();
        watched.reach = reach(&key, &watched.holders, wanted);
        let at = if again { watched.next_lookup(now) } else { now.at + pause };
        self.timers.set(Timer::Renew(key), at);
        self.show(now, &key, out);
    }

    fn look_up_watched(&mut self, now: Now, key: Key, out: &mut Vec<Effect>) {
        let local = self.local_records(&key);
        let is_alone = self.table.is_empty();
        let Some(watched) = self.watched.get_mut(&key) else { return };
        if watched.is_looking {
            return;
        }
        if is_alone {
            // The first contact brings the lookup; till then this is all there is.
            merge(&mut watched.records, local);
            watched.is_ready = true;
            self.show(now, &key, out);
            return;
        }
        watched.is_looking = true;
        watched.pushed.clear();
        let hints = watched.holders.values().cloned().collect();
        let goal = Goal {
            records: true,
            watch: Some(self.config.watch_lapse),
            paths: self.config.paths.clamp(1, PATHS_MAX),
            ..self.goal(now, key, self.config.watch_holders.max(1))
        };
        let background = self.watched.get(&key).is_some_and(|watched| watched.is_ready);
        self.start(now, goal, hints, GoalIs::Watch { key, background }, out);
    }

    fn show(&mut self, now: Now, key: &Key, out: &mut Vec<Effect>) {
        if let Some(watched) = self.watched.get(key) {
            let found = watched.found(now);
            out.push(Effect::Watched { key: *key, found: Ok(found) });
        }
    }

    /// An answer shown before stays, as far as it has not expired; without one, the own records are better than none.
    fn show_failure(&mut self, now: Now, key: Key, outcome: &Outcome, out: &mut Vec<Effect>) {
        let local = self.local_records(&key);
        let Some(watched) = self.watched.get_mut(&key) else { return };
        merge(&mut watched.records, local);
        if watched.is_ready || !watched.found(now).records.is_empty() {
            watched.is_ready = true;
            self.show(now, &key, out);
        } else {
            out.push(Effect::Watched { key, found: Err(unreachable(outcome)) });
        }
    }
}

/// Changes watches; returns the keys of those that did and are to be shown again.
fn change(watches: &mut BTreeMap<Key, Watched>, mut change: impl FnMut(&mut Watched) -> bool) -> Vec<Key> {
    let changed =
        watches.iter_mut().filter_map(|(key, watched)| (change(watched) && watched.is_ready).then_some(*key));
    changed.collect()
}

impl Watched {
    /// What is shown.
    fn found(&self, now: Now) -> Found {
        let is_there = |record: &&Arc<SignedRecord>| {
            let body = record.body();
            let lost = self.lost.get(&body.announcer.id);
            body.lasting || lost.is_none_or(|sequence| body.sequence > *sequence)
        };
        to_found(self.records.values().filter(is_there), now.unix, self.unseen)
    }

    /// The next lookup that newcomers or losses call for.
    fn next_lookup(&self, now: Now) -> Timestamp {
        (now.at + REWATCH_DELAY).max(self.looked_up + REWATCH_INTERVAL_MIN)
    }
}
