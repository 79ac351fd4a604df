//! Who subscribes to a topic, cached: routes, the watches that keep them true, and the links that they share.
//!
//! ```text
//!   (realm, topic) ─▶ Route ─▶ Watch of the topic's key      ┐ shared between
//!                       │      Watch of each prefix's key    ┘ topics
//!                       └────▶ peers, as of the sum of the watches' generations
//! ```
//!
//! A reading is good while that sum stands; a change at any key makes the next publish read again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use dashmap::DashMap;
use macula_dht::{Directory, DirectoryError, Found, Watch};
use macula_proto::{Contact, Gate, Key, Liveness, Name, NodeId, Realm, Timestamp};
use parking_lot::{Mutex, MutexGuard};
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use crate::Pattern;
use crate::fanout::TreeKey;
use crate::interest;
use crate::link::{Link, LinkLimits};
use crate::metrics::PubSubMetrics;
use crate::quick::Template;
use crate::reading::{self, Reading, Roster, Wanted};

/// The part of a full cache that goes at once, so that finding the oldest costs little per topic.
const EVICTED_SHARE: usize = 16;

pub(crate) struct Routes<D> {
    directory: D,
    liveness: Arc<dyn Liveness>,
    cache: DashMap<(Realm, Name), Arc<Route>>,
    watches: Mutex<BTreeMap<Key, Weak<Watch>>>,
    links: Mutex<BTreeMap<NodeId, Weak<Link>>>,
    me: NodeId,
    routes_max: usize,
    link_limits: LinkLimits,
    resent: Counter,
    /// No route that was given up has used a sequence number above this. New routes begin here, so that numbers
    /// of a topic never go back.
    sequence_floor: AtomicU64,
    /// Counts changes of policy and of who is gone, which make every reading old.
    outside_generation: AtomicU64,
    /// See [`PubSubConfig::direct_max`](crate::PubSubConfig::direct_max); no trees before it is set.
    direct_max: AtomicUsize,
    /// The patterns that had a tree when they were last read.
    crowded: Mutex<BTreeSet<TreeKey>>,
}

/// What is known of one topic.
pub(crate) struct Route {
    realm: Realm,
    topic: Name,
    watches: Vec<Arc<Watch>>,
    reading: ArcSwapOption<Reading>,
    order: Mutex<Order>,
    /// When it was last used, in nanoseconds on the injected clock.
    used: AtomicU64,
    /// It was used after that.
    touched: AtomicBool,
    /// Every look-up succeeded once.
    complete: AtomicBool,
}

/// Held while a message gets its number and its place in every queue.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) last_sequence: u64,
    retired: bool,
    /// What the last plain message's header looked like.
    pub(crate) template: Option<Template>,
    /// As of this generation of the local table, this node has no subscriber of its own.
    pub(crate) alone_at: Option<u64>,
}

/// A cached topic, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteInfo {
    /// In which realm.
    pub realm: Realm,
    /// The topic.
    pub topic: Name,
    /// Remote nodes that want it, as far as is known; in order of id.
    pub peers: Vec<NodeId>,
    /// The number of the last message that this node published on it.
    pub last_sequence: u64,
    /// How long ago that was.
    pub idle: Duration,
}

impl<D: Directory> Routes<D> {
    pub(crate) fn new(
        directory: D,
        liveness: Arc<dyn Liveness>,
        me: NodeId,
        routes_max: usize,
        link_limits: LinkLimits,
        resent: Counter,
    ) -> Self {
        Self {
            directory,
            liveness,
            cache: DashMap::new(),
            watches: Mutex::default(),
            links: Mutex::default(),
            me,
            routes_max,
            link_limits,
            resent,
            sequence_floor: AtomicU64::new(0),
            outside_generation: AtomicU64::new(0),
            direct_max: AtomicUsize::new(usize::MAX),
            crowded: Mutex::default(),
        }
    }

    /// The topic's route, which is made if there is none.
    pub(crate) fn get(
        &self,
        realm: &Realm,
        topic: &Name,
        now: Timestamp,
        metrics: &PubSubMetrics,
    ) -> Arc<Route> {
        let name = (realm.clone(), topic.clone());
        if let Some(route) = self.cache.get(&name) {
            route.used.store(nanos(now), Ordering::Relaxed);
            return route.clone();
        }
        let made = Arc::new(self.make(realm, topic, now));
        // Of two that were made at once, the first stays. The floor is read within the entry's lock: a predecessor
        // that is gone from the cache has raised it by then.
        let insert = || {
            made.order.lock().last_sequence = self.sequence_floor.load(Ordering::Acquire);
            made
        };
        let route = self.cache.entry(name).or_insert_with(insert).clone();
        metrics.route_misses.inc();
        if self.cache.len() > self.routes_max {
            self.evict_oldest(now, metrics);
        }
        metrics.route_cache.set(self.cache.len() as i64);
        route
    }

    /// Who wants the topic now.
    pub(crate) fn read(&self, route: &Route, gate: &dyn Gate, metrics: &PubSubMetrics) -> Arc<Reading> {
        // Taken before the records are read: a change in between makes this reading old at once.
        let generation = self.generation(route);
        if let Some(reading) = route.reading.load_full()
            && reading.generation == generation
        {
            return reading;
        }
        let reading = Arc::new(self.subscribers(route, generation, gate, metrics));
        route.reading.store(Some(reading.clone()));
        reading
    }

    /// Makes every reading old.
    pub(crate) fn outdate(&self) {
        self.outside_generation.fetch_add(1, Ordering::Release);
    }

    /// Gives up routes that were not used for `ttl`, and what only they needed.
    pub(crate) fn sweep(&self, now: Timestamp, ttl: Duration, metrics: &PubSubMetrics) {
        self.cache.iter().for_each(|entry| entry.value().look(now));
        if let Some(oldest) = now.since_start().checked_sub(ttl) {
            self.retire_until(nanos(Timestamp::from_start(oldest)), metrics);
        }
        self.watches.lock().retain(|_, watch| watch.strong_count() > 0);
        self.links.lock().retain(|_, link| link.strong_count() > 0);
    }

    pub(crate) fn infos(&self, now: Timestamp, gate: &dyn Gate, metrics: &PubSubMetrics) -> Vec<RouteInfo> {
        let routes: Vec<Arc<Route>> = self.cache.iter().map(|entry| entry.value().clone()).collect();
        let info = |route: &Arc<Route>| RouteInfo {
            realm: route.realm.clone(),
            topic: route.topic.clone(),
            peers: self.read(route, gate, metrics).peers(),
            last_sequence: route.order.lock().last_sequence,
            idle: Duration::from_nanos(nanos(now).saturating_sub(route.last_used(now))),
        };
        let mut infos: Vec<RouteInfo> = routes.iter().map(info).collect();
        infos.sort_by(|a, b| (&a.realm, &a.topic).cmp(&(&b.realm, &b.topic)));
        infos
    }

    fn make(&self, realm: &Realm, topic: &Name, now: Timestamp) -> Route {
        let keys = interest::resolved_at(realm, topic);
        Route {
            realm: realm.clone(),
            topic: topic.clone(),
            watches: keys.into_iter().map(|key| self.watch(key)).collect(),
            reading: ArcSwapOption::empty(),
            order: Mutex::new(Order { last_sequence: 0, retired: false, template: None, alone_at: None }),
            used: AtomicU64::new(nanos(now)),
            touched: AtomicBool::new(false),
            complete: AtomicBool::new(false),
        }
    }

    fn watch(&self, key: Key) -> Arc<Watch> {
        let mut watches = self.watches.lock();
        if let Some(watch) = watches.get(&key).and_then(Weak::upgrade) {
            return watch;
        }
        let watch = Arc::new(self.directory.watch(key));
        watches.insert(key, Arc::downgrade(&watch));
        watch
    }

    fn generation(&self, route: &Route) -> u64 {
        let changes: u64 = route.watches.iter().map(|watch| watch.generation()).sum();
        changes + self.outside_generation.load(Ordering::Acquire)
    }

    fn subscribers(
        &self,
        route: &Route,
        generation: u64,
        gate: &dyn Gate,
        metrics: &PubSubMetrics,
    ) -> Reading {
        let mut peers = BTreeMap::new();
        let topic = (&route.realm, &route.topic);
        for watch in &route.watches {
            for record in &watch.current().records {
                let id = record.announcer.id;
                if id != self.me && !self.liveness.is_gone(&id) {
                    reading::collect(record, topic, gate, metrics, &mut peers);
                }
            }
        }
        let mut reading = Reading::new(generation, route.unnamed());
        let trees = self.trees(&route.realm, &peers);
        let key = |pattern: &Pattern| TreeKey { realm: route.realm.clone(), pattern: pattern.clone() };
        let roster = |pattern| Arc::new(Roster::new(key(pattern), &peers, |contact| self.link(contact)));
        reading.trees = trees.iter().map(roster).collect();
        for wanted in peers.into_values() {
            reading.add(&self.link(&wanted.contact), wanted, &trees);
        }
        reading
    }

    /// The patterns that so many want that they make trees.
    fn trees(&self, realm: &Realm, peers: &BTreeMap<NodeId, Wanted>) -> BTreeSet<Pattern> {
        let direct_max = self.direct_max.load(Ordering::Relaxed);
        let mut crowded = self.crowded.lock();
        let key = |pattern: &Pattern| TreeKey { realm: realm.clone(), pattern: pattern.clone() };
        let trees = reading::crowded(peers, direct_max, |pattern| crowded.contains(&key(pattern)));
        let wanted: BTreeSet<&Pattern> = peers.values().flat_map(Wanted::patterns).collect();
        for pattern in wanted {
            if trees.contains(pattern) {
                crowded.insert(key(pattern));
            } else {
                crowded.remove(&key(pattern));
            }
        }
        // Bounded like the routes. What is forgotten only makes a tree begin later.
        while crowded.len() > self.routes_max {
            crowded.pop_first();
        }
        trees
    }

    /// From now on, patterns with more subscribers than this make trees.
    pub(crate) fn set_direct_max(&self, direct_max: usize) {
        self.direct_max.store(direct_max, Ordering::Relaxed);
        self.outdate();
    }

    /// Whether a node is known to be gone.
    pub(crate) fn is_gone(&self, id: &NodeId) -> bool {
        self.liveness.is_gone(id)
    }

    /// Looks up who wants a pattern.
    pub(crate) async fn find(&self, tree: &TreeKey) -> Result<Found, DirectoryError> {
        self.directory.find(interest::announced_at(&tree.realm, &tree.pattern)).await
    }

    pub(crate) fn link(&self, contact: &Contact) -> Arc<Link> {
        let mut links = self.links.lock();
        if let Some(link) = links.get(&contact.id).and_then(Weak::upgrade) {
            if !contact.addrs.is_empty() {
                link.learn(contact);
            }
            return link;
        }
        let link = Arc::new(Link::new(contact.clone(), self.link_limits, self.resent.clone()));
        links.insert(contact.id, Arc::downgrade(&link));
        link
    }

    fn evict_oldest(&self, now: Timestamp, metrics: &PubSubMetrics) {
        let mut used: Vec<u64> = self.cache.iter().map(|entry| entry.value().last_used(now)).collect();
        let share = used.len() / EVICTED_SHARE;
        let (_, &mut oldest, _) = used.select_nth_unstable(share);
        self.retire_until(oldest, metrics);
    }

    /// Gives up the routes last used at `oldest` or before.
    fn retire_until(&self, oldest: u64, metrics: &PubSubMetrics) {
        let idle = |route: &Route| route.used.load(Ordering::Relaxed) <= oldest;
        let retired: Vec<Arc<Route>> =
            self.cache.iter().map(|entry| entry.value().clone()).filter(|route| idle(route)).collect();
        for route in &retired {
            self.retire(route);
        }
        metrics.route_evictions.inc_by(retired.len() as u64);
        metrics.route_cache.set(self.cache.len() as i64);
    }

    fn retire(&self, route: &Arc<Route>) {
        let mut order = route.order.lock();
        order.retired = true;
        self.sequence_floor.fetch_max(order.last_sequence, Ordering::AcqRel);
        drop(order);
        self.forget(route);
    }

    /// Takes a retired route out of the cache, unless its successor is already there.
    pub(crate) fn forget(&self, route: &Arc<Route>) {
        let name = (route.realm.clone(), route.topic.clone());
        self.cache.remove_if(&name, |_, current| Arc::ptr_eq(current, route));
    }
}

impl Route {
    /// Waits until it is known who subscribes, at most until `deadline`. Returns how many look-ups did not succeed.
    pub(crate) async fn ready(&self, deadline: Instant) -> usize {
        if self.complete.load(Ordering::Acquire) {
            return 0;
        }
        let (mut failed, mut alone) = (0, false);
        for watch in &self.watches {
            match tokio::time::timeout_at(deadline, watch.ready()).await {
                Ok(Ok(_)) => {}
                // A node that has met nobody has nobody to miss.
                Ok(Err(DirectoryError::NoPeers)) => alone = true,
                Ok(Err(_)) | Err(_) => failed += 1,
            }
        }
        self.complete.store(failed == 0 && !alone, Ordering::Release);
        failed
    }

    pub(crate) const fn realm(&self) -> &Realm {
        &self.realm
    }

    pub(crate) const fn topic(&self) -> &Name {
        &self.topic
    }

    /// Whether it is known who subscribes, and the route stands.
    pub(crate) fn is_ready(&self) -> bool {
        self.complete.load(Ordering::Acquire) && !self.order.lock().retired
    }

    /// Whether everybody who subscribes is known.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// Notes that it is used. The clock is not read for each message: see [`last_used`](Self::last_used).
    pub(crate) fn touch(&self) {
        if !self.touched.load(Ordering::Relaxed) {
            self.touched.store(true, Ordering::Relaxed);
        }
    }

    /// When it was last used, in nanoseconds: where that was after the latest look, now.
    fn last_used(&self, now: Timestamp) -> u64 {
        self.look(now);
        self.used.load(Ordering::Relaxed)
    }

    fn look(&self, now: Timestamp) {
        if self.touched.swap(false, Ordering::Relaxed) {
            self.used.store(nanos(now), Ordering::Relaxed);
        }
    }

    fn unnamed(&self) -> usize {
        let found = self.watches.iter().map(|watch| watch.current());
        found.map(|found| found.estimate.saturating_sub(found.records.len())).sum()
    }

    /// The right to send the next message; `None` if this route was given up meanwhile.
    pub(crate) fn order(&self) -> Option<MutexGuard<'_, Order>> {
        let order = self.order.lock();
        (!order.retired).then_some(order)
    }
}

fn nanos(at: Timestamp) -> u64 {
    u64::try_from(at.since_start().as_nanos()).unwrap_or(u64::MAX)
}
