//! One node of the mesh, as a pure machine: time, messages and commands in, effects out.
//!
//! Call order: [`Node::new`]; then any of the commands and `on_…` in any order, each with the time; whenever
//! [`Node::deadline`] has come, [`Node::on_timeout`]. Every method may append to `out`: carry the effects out in that
//! order before the next call.

mod announcing;
mod effect;
mod finding;
mod pace;
mod serving;
mod watching;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use macula_proto::{Contact, Gate, Key, NodeId, Signer, Timers, Timestamp, UnixMillis, Verifier};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::config::KademliaConfig;
use super::lives::Lives;
use super::message::{Find, Request, Response};
use super::metrics::DhtMetrics;
use super::record::SignedRecord;
use super::skew::Skew;
use super::store::Store;
use super::table::{Heard, Table, TableSnapshot};
use super::watchers::Watchers;
use crate::Found;

pub use effect::{Done, Effect, Failure, Now, Op, ReplyTo, RequestId};

use announcing::{Own, Storing};
use finding::{Bootstrap, Running};
use pace::Pace;
use serving::{Handover, Push, Then};
use watching::Watched;

/// One node's directory.
pub struct Node {
    local: Contact,
    config: KademliaConfig,
    signer: Arc<dyn Signer>,
    verifier: Arc<dyn Verifier>,
    gate: Arc<dyn Gate>,
    metrics: DhtMetrics,
    rng: StdRng,
    table: Table,
    store: Store,
    watchers: Watchers,
    lives: Lives,
    skew: Skew,
    own: BTreeMap<Key, Own>,
    watched: BTreeMap<Key, Watched>,
    running: BTreeMap<LookupId, Running>,
    storing: BTreeMap<StoringId, Storing>,
    pushes: BTreeMap<PushId, Push>,
    handovers: BTreeMap<NodeId, Handover>,
    requests: BTreeMap<RequestId, Sent>,
    bootstrap: Option<Bootstrap>,
    /// Until the own neighbourhood is looked up again.
    look_around_after: Duration,
    /// Contacts by hearsay that are to be probed, and those being probed.
    hearsay: VecDeque<Contact>,
    probing: BTreeSet<NodeId>,
    timers: Timers<Timer>,
    /// Maintenance that is due but waits until less of it is under way.
    backlog: BTreeSet<Timer>,
    pace: Pace,
    last_sequence: u64,
    last_number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LookupId(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct StoringId(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PushId(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// A request was not answered.
    Request(RequestId),
    /// A lookup's peer is slow, or its time is over.
    Lookup(LookupId),
    /// Watchers did not acknowledge in time.
    Push(PushId),
    /// An own record is to be announced again.
    Republish(Key),
    /// A watch is to be looked up again.
    Renew(Key),
    /// A held record is past its time.
    Expire,
    /// The own neighbourhood is to be looked up again.
    Neighbours,
    /// Stale buckets are to be refreshed, lapsed watches forgotten.
    Upkeep,
}

#[derive(Debug)]
struct Sent {
    to: Contact,
    at: Timestamp,
    purpose: Purpose,
}

/// Whose request it is.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    Lookup(LookupId),
    Store(StoringId),
    Push { push: PushId, key: Key },
    Handover,
    Probe,
}

/// Contacts by hearsay that may wait.
const HEARSAY_MAX: usize = 256;

/// Probes under way at a time.
const PROBING_MAX: usize = 16;

/// Between one upkeep and the next, in parts of the refresh interval.
const UPKEEPS_PER_REFRESH: u32 = 8;

/// After a bootstrap, until the own neighbourhood is looked up again, in parts of the refresh interval: 15 s by default.
const LOOK_AROUNDS_PER_REFRESH: u32 = 60;

/// How much longer it is each time until the next one.
const LOOK_AROUND_GROWTH: u32 = 4;

/// When stale buckets are due but too much maintenance is under way already.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

impl Node {
    /// A node that knows nobody yet. `seed` is for its random choices.
    #[allow(clippy::too_many_arguments)] // Its whole world, given once.
    pub fn new(
        now: Now,
        local: Contact,
        config: KademliaConfig,
        signer: Arc<dyn Signer>,
        verifier: Arc<dyn Verifier>,
        gate: Arc<dyn Gate>,
        metrics: DhtMetrics,
        seed: u64,
    ) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut node = Self {
            table: Table::new(local.id, &config, rng.random()),
            store: Store::new(local.id, config.quotas, config.subnets),
            watchers: Watchers::new(config.quotas),
            pace: Pace::new(config.hedge_max),
            look_around_after: config.refresh_interval / LOOK_AROUNDS_PER_REFRESH,
            rng,
            local,
            config,
            signer,
            verifier,
            gate,
            metrics,
            lives: Lives::default(),
            skew: Skew::default(),
            own: BTreeMap::new(),
            watched: BTreeMap::new(),
            running: BTreeMap::new(),
            storing: BTreeMap::new(),
            pushes: BTreeMap::new(),
            handovers: BTreeMap::new(),
            requests: BTreeMap::new(),
            bootstrap: None,
            hearsay: VecDeque::new(),
            probing: BTreeSet::new(),
            timers: Timers::default(),
            backlog: BTreeSet::new(),
            last_sequence: 0,
            last_number: 0,
        };
        node.set_upkeep(now);
        node
    }

    /// This node, as it tells others.
    pub fn local(&self) -> &Contact {
        &self.local
    }

    /// The routing table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The records held for others.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The routing table, for people.
    pub fn snapshot(&self, now: Now) -> TableSnapshot {
        self.table.snapshot(now.at)
    }

    /// When [`on_timeout`](Self::on_timeout) is next wanted.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.timers.next()
    }

    /// This node is reached elsewhere from now on: its records must say so.
    pub fn set_local(&mut self, now: Now, local: Contact) {
        if self.local == local {
            return;
        }
        self.local = local;
        let keys: Vec<Key> = self.own.keys().copied().collect();
        for key in keys {
            self.timers.set_by(Timer::Republish(key), now.at);
        }
    }

    /// A contact by hearsay. It gets into the table once it answered.
    pub fn add_contact(&mut self, now: Now, contact: Contact, out: &mut Vec<Effect>) {
        let is_known = contact.id == self.local.id
            || contact.addrs.is_empty()
            || self.table.get(&contact.id).is_some()
            || self.probing.contains(&contact.id);
        if is_known {
            return;
        }
        if self.probing.len() < PROBING_MAX {
            self.probe(now, contact, out);
        } else if self.hearsay.len() < HEARSAY_MAX {
            self.hearsay.push_back(contact);
        } else {
            self.metrics.overloads.inc();
        }
    }

    /// A contact is at the other end of a live, authenticated connection.
    pub fn peer_up(&mut self, now: Now, contact: Contact, out: &mut Vec<Effect>) {
        self.heard(now, contact, None, out);
    }

    /// A node is known to be gone: membership says so, not just a connection that was closed. Nobody is told any more
    /// what it announced.
    pub fn peer_lost(&mut self, now: Now, id: &NodeId, out: &mut Vec<Effect>) {
        self.table.remove(id);
        self.store.hide(id);
        self.hide_watched(id, now, out);
        self.watchers.forget(id);
        self.handovers.remove(id);
        self.hearsay.retain(|contact| contact.id != *id);
        let asked: Vec<RequestId> =
            self.requests.iter().filter(|(_, sent)| sent.to.id == *id).map(|(id, _)| *id).collect();
        for request in asked {
            self.on_failure(now, request, Failure::Peer, out);
        }
        self.replace_holder(now, id);
        self.gauge();
    }

    #[cfg(test)]
    pub(super) fn set_life(&mut self, life: u64) {
        self.config.life = life;
    }

    /// A node is in this run of its process, as membership says: what it announced in earlier ones counts for nothing.
    pub fn peer_is(&mut self, now: Now, id: &NodeId, life: u64, out: &mut Vec<Effect>) {
        if self.lives.set(*id, life) {
            self.store.forget(id, |body| self.lives.is_past(body));
            self.forget_watched(id, now, out);
            self.gauge();
        }
    }

    /// A node that was gone is back: what it announced counts again, and whoever watches is told.
    pub fn peer_back(&mut self, now: Now, id: &NodeId, out: &mut Vec<Effect>) {
        self.show_watched(id, now, out);
        let records = self.store.show(id);
        if !records.is_empty() {
            self.tell_watchers(now, &records, Then::Nothing, out);
        }
    }

    /// A peer asks. `sender` is where it says it can be asked in turn.
    pub fn on_request(
        &mut self,
        now: Now,
        from: NodeId,
        sender: Option<Contact>,
        request: Request,
        to: ReplyTo,
        out: &mut Vec<Effect>,
    ) {
        // Nobody speaks for another's address.
        let sender = sender.filter(|sender| sender.id == from && !sender.addrs.is_empty());
        if let Some(sender) = sender.clone() {
            self.heard(now, sender, None, out);
        }
        match request {
            Request::Find(find) => self.on_find(now, from, sender, find, to, out),
            Request::Store(records) => self.on_store(now, records, to, out),
            Request::Notify(records) => self.on_notify(now, records, to, out),
        }
        self.gauge();
    }

    /// A peer answered.
    pub fn on_response(&mut self, now: Now, id: RequestId, response: Response, out: &mut Vec<Effect>) {
        let Some(sent) = self.take_request(id) else { return };
        let took = now.at - sent.at;
        self.pace.sample(took);
        self.heard(now, sent.to.clone(), Some(took), out);
        if let Response::Found(found) = &response {
            self.heard_time(now, sent.to.id, found.unix);
        }
        match (sent.purpose, response) {
            (Purpose::Lookup(lookup), Response::Found(found)) => {
                self.lookup_answered(now, lookup, &sent.to.id, found, out);
            }
            (Purpose::Store(storing), Response::Stored(stored)) => {
                self.store_answered(now, storing, sent.to, stored, out);
            }
            (Purpose::Push { push, key }, Response::Notified(unwatched)) => {
                if unwatched.contains(&key) {
                    self.watchers.remove(&key, &sent.to.id);
                }
                self.push_settled(now, push, id, true, out);
            }
            (Purpose::Handover, Response::Stored(_)) => self.hand_over_next(now, &sent.to, out),
            (Purpose::Probe, Response::Found(_)) => {}
            (purpose, _) => {
                self.metrics.garbage.inc();
                self.request_failed(now, id, &sent.to, purpose, out);
            }
        }
        self.probe_next(now, out);
        self.gauge();
    }

    /// A peer will not answer.
    pub fn on_failure(&mut self, now: Now, id: RequestId, failure: Failure, out: &mut Vec<Effect>) {
        let Some(sent) = self.take_request(id) else { return };
        match failure {
            Failure::Peer => {
                self.metrics.requests_failed.inc();
                self.table.failed(&sent.to.id, sent.at);
            }
            Failure::Local => {
                self.metrics.overloads.inc();
            }
        }
        self.request_failed(now, id, &sent.to, sent.purpose, out);
        self.probe_next(now, out);
        self.gauge();
    }

    /// The deadline has come.
    pub fn on_timeout(&mut self, now: Now, out: &mut Vec<Effect>) {
        while let Some(timer) = self.timers.pop(now.at) {
            self.fire(now, timer, out);
        }
        self.gauge();
    }

    /// The contacts as bytes to keep on disk.
    pub fn save_table(&self) -> Bytes {
        self.table.save()
    }

    /// Somebody was heard from, by an answer or over an authenticated connection.
    fn heard(&mut self, now: Now, contact: Contact, rtt: Option<Duration>, out: &mut Vec<Effect>) {
        self.probing.remove(&contact.id);
        self.peer_back(now, &contact.id, out);
        if contact.addrs.is_empty() {
            return;
        }
        let buckets = self.table.bucket_count();
        match self.table.heard(now.at, contact.clone(), rtt) {
            Heard::Added => self.new_contact(now, &contact, out),
            Heard::Drawn => {
                self.metrics.contacts_drawn.inc();
                self.new_contact(now, &contact, out);
            }
            Heard::SubnetFull => {
                self.metrics.contacts_crowded.inc();
            }
            Heard::Waiting { oldest } => {
                let is_silent = now.at.since(oldest.seen) >= self.config.probe_after;
                if is_silent && self.probing.len() < PROBING_MAX && !self.probing.contains(&oldest.contact.id)
                {
                    self.probe(now, oldest.contact, out);
                }
            }
            Heard::Updated | Heard::Myself => {}
        }
        let split = self.table.bucket_count() - buckets;
        if split > 0 {
            self.metrics.buckets_split.inc_by(split as u64);
            tracing::debug!(target: "macula::routing", event = "bucket split", buckets = buckets + split);
        }
    }

    /// Whatever should be near a newcomer goes there soon.
    fn new_contact(&mut self, now: Now, contact: &Contact, out: &mut Vec<Effect>) {
        if self.table.len() == 1 {
            self.bootstrap_alone(now, out);
        }
        self.spread_to(now, contact);
        self.rewatch_at(now, contact);
        self.hand_over_to(now, contact, out);
    }

    fn probe(&mut self, now: Now, contact: Contact, out: &mut Vec<Effect>) {
        self.probing.insert(contact.id);
        let find = Find { key: self.local.id.into(), records: false, watch: None, after: None };
        self.send(now, contact, Request::Find(find), Purpose::Probe, self.config.request_timeout, out);
    }

    fn probe_next(&mut self, now: Now, out: &mut Vec<Effect>) {
        while self.probing.len() < PROBING_MAX
            && let Some(next) = self.hearsay.pop_front()
        {
            self.add_contact(now, next, out);
        }
    }

    fn send(
        &mut self,
        now: Now,
        to: Contact,
        request: Request,
        purpose: Purpose,
        timeout: Duration,
        out: &mut Vec<Effect>,
    ) -> RequestId {
        let id = RequestId(self.number());
        self.requests.insert(id, Sent { to: to.clone(), at: now.at, purpose });
        self.timers.set(Timer::Request(id), now.at + timeout);
        self.metrics.requests_sent.inc();
        out.push(Effect::Send { id, to, request, timeout });
        id
    }

    fn take_request(&mut self, id: RequestId) -> Option<Sent> {
        self.timers.cancel(Timer::Request(id));
        self.requests.remove(&id)
    }

    fn request_failed(
        &mut self,
        now: Now,
        id: RequestId,
        to: &Contact,
        purpose: Purpose,
        out: &mut Vec<Effect>,
    ) {
        match purpose {
            Purpose::Lookup(lookup) => self.lookup_failed(now, lookup, &to.id, out),
            Purpose::Store(storing) => self.store_failed(now, storing, out),
            Purpose::Push { push, key } => {
                // It registers again with its next refresh, if it still lives.
                self.watchers.remove(&key, &to.id);
                self.push_settled(now, push, id, false, out);
            }
            Purpose::Handover => {
                self.handovers.remove(&to.id);
            }
            Purpose::Probe => {
                self.probing.remove(&to.id);
            }
        }
    }

    fn fire(&mut self, now: Now, timer: Timer, out: &mut Vec<Effect>) {
        match timer {
            Timer::Request(id) => self.on_failure(now, id, Failure::Peer, out),
            Timer::Lookup(id) => self.drive(now, id, out),
            Timer::Push(id) => self.push_over(now, id, out),
            Timer::Republish(key) => self.republish(now, key, out),
            Timer::Renew(key) => self.renew(now, key, out),
            Timer::Expire => self.expire(now),
            Timer::Neighbours => self.look_around(now, out),
            Timer::Upkeep => self.upkeep(now, out),
        }
    }

    /// A lookup has ended: maintenance that had to wait for that goes on.
    fn catch_up(&mut self, now: Now, out: &mut Vec<Effect>) {
        while !self.is_busy()
            && let Some(next) = self.backlog.pop_first()
        {
            self.fire(now, next, out);
        }
    }

    fn expire(&mut self, now: Now) {
        self.store.expire(now.at);
        if let Some(next) = self.store.next_expiry() {
            self.timers.set(Timer::Expire, next);
        }
    }

    fn upkeep(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.watchers.expire(now.at);
        self.refresh_stale(now, out);
        self.set_upkeep(now);
    }

    /// A little different for each node, so that they do not all refresh at once.
    fn set_upkeep(&mut self, now: Now) {
        let pause = self.jitter(self.config.refresh_interval / UPKEEPS_PER_REFRESH);
        self.timers.set_by(Timer::Upkeep, now.at + pause);
    }

    /// Between 80 % and 100 % of `interval`.
    fn jitter(&mut self, interval: Duration) -> Duration {
        interval * self.rng.random_range(800..=1000) / 1000
    }

    /// What this node itself holds or announces at a key, the newest of each announcer.
    fn local_records(&self, key: &Key) -> BTreeMap<NodeId, Arc<SignedRecord>> {
        let mut records: BTreeMap<_, _> =
            self.store.shown_at(key).map(|record| (record.body().announcer.id, record.clone())).collect();
        if let Some(own) = self.own.get(key) {
            records.insert(self.local.id, own.record.clone());
        }
        records
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn random_bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    fn gauge(&self) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.table_size.set(count(self.table.len()));
        self.metrics.records_held.set(count(self.store.len()));
        self.metrics.watches_held.set(count(self.watchers.len()));
        self.metrics.records_announced.set(count(self.own.len()));
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.local.id)
            .field("contacts", &self.table.len())
            .field("records", &self.store.len())
            .finish_non_exhaustive()
    }
}

/// The newest of two sets of records, by announcer.
fn merge(into: &mut BTreeMap<NodeId, Arc<SignedRecord>>, from: BTreeMap<NodeId, Arc<SignedRecord>>) {
    for (announcer, record) in from {
        let is_news = |held: &Arc<SignedRecord>| held.body().sequence < record.body().sequence;
        if into.get(&announcer).is_none_or(is_news) {
            into.insert(announcer, record);
        }
    }
}

/// What users see of a set of records, when `unseen` more were not given.
fn to_found<'a>(
    records: impl Iterator<Item = &'a Arc<SignedRecord>>,
    unix: UnixMillis,
    unseen: usize,
) -> Found {
    let live = records.filter(|record| !record.remaining(unix).is_zero());
    let records: Vec<_> = live.filter_map(|record| record.to_record()).collect();
    Found { estimate: records.len() + unseen, records }
}
