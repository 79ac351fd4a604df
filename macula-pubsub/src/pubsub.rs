//! [`PubSub`]: one node's topics over a transport and a directory.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use macula_dht::{Directory, DirectoryError};
use macula_proto::{Access, Action, Clock, Forbidden, Gate, Liveness, Name, NodeId, Realm, Signer, Verifier};
use macula_transport::Transport;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::acks::{Awaited, Remembered};
use crate::announce::Announcer;
use crate::fanout::{Fanout, TreeInfo};
use crate::heard::Heard;
use crate::interest::Interests;
use crate::link::LinkLimits;
use crate::local::{LocalTable, Subscriber};
use crate::mailbox::Mailbox;
use crate::retained::RetainedTable;
use crate::route::Routes;
use crate::subscription::{Home, Left};
use crate::window::Window;
use crate::{
    Acknowledged, Bus, Pattern, Payload, PubSubConfig, PubSubMetrics, PublishError, PublishOptions,
    Published, RouteInfo, SubscribeError, SubscribeOptions, Subscription, SubscriptionInfo,
};

/// The window is split by publisher, so that connections do not wait for each other.
pub(crate) const WINDOW_SHARDS: usize = 16;

/// How often idle routes are looked for, as a part of their time to live.
const SWEEPS_PER_TTL: u32 = 4;

/// One node's topics. Cheap to clone; all clones are the same node.
///
/// Whoever owns it must do three things: give it every frame of its service
/// ([`on_lane_frame`](Self::on_lane_frame)) and say when none is at hand ([`on_lane_pause`](Self::on_lane_pause)), [`run`](Self::run) it in one task, and
/// [`replay`](Self::replay) after the directory was restarted.
pub struct PubSub<T: Transport, D: Directory> {
    pub(crate) inner: Arc<Inner<T, D>>,
}

pub(crate) struct Inner<T: Transport, D: Directory> {
    pub(crate) transport: T,
    pub(crate) me: NodeId,
    pub(crate) epoch: u64,
    pub(crate) gate: Arc<dyn Gate>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: PubSubConfig,
    pub(crate) metrics: PubSubMetrics,
    pub(crate) local: LocalTable,
    pub(crate) directory: D,
    pub(crate) announcer: Arc<Announcer<D, Interests>>,
    pub(crate) retained: Arc<Announcer<D, RetainedTable>>,
    pub(crate) routes: Routes<D>,
    pub(crate) windows: [Mutex<Window>; WINDOW_SHARDS],
    pub(crate) heard: Heard,
    /// Mailboxes whose subscribers are to be woken up at the next pause; each at most once.
    pub(crate) owed: Mutex<Vec<Arc<Mailbox>>>,
    pub(crate) awaited: Arc<Awaited>,
    pub(crate) remembered: Arc<Remembered>,
    pub(crate) tasks: TaskTracker,
    /// Trees, if this node can sign for them.
    pub(crate) fanout: OnceLock<Fanout>,
}

impl<T: Transport, D: Directory> PubSub<T, D> {
    /// The topics of the node that `transport` and `directory` belong to.
    ///
    /// `epoch` must be drawn anew for each call: subscribers tell by it that message numbers begin anew.
    pub fn new(
        transport: T,
        directory: D,
        gate: Arc<dyn Gate>,
        liveness: Arc<dyn Liveness>,
        clock: Arc<dyn Clock>,
        epoch: u64,
        config: PubSubConfig,
    ) -> Self {
        let me = transport.local().id;
        let metrics = PubSubMetrics::default();
        let limits = LinkLimits {
            waiting_bytes_max: config.link_queue_bytes,
            unacked_bytes_max: config.unacked_bytes,
            dial_timeout: config.dial_timeout,
        };
        let resent = metrics.resent.clone();
        let inner = Inner {
            me,
            epoch,
            local: LocalTable::new(config.subscriptions_max),
            announcer: Arc::new(Announcer::new(directory.clone(), metrics.announce_failures.clone())),
            retained: Arc::new(Announcer::new(directory.clone(), metrics.announce_failures.clone())),
            directory: directory.clone(),
            routes: Routes::new(directory, liveness, me, config.max_cache_size.get(), limits, resent),
            windows: std::array::from_fn(|_| Mutex::new(Window::new(config.window_topics / WINDOW_SHARDS))),
            heard: Heard::new(),
            owed: Mutex::default(),
            awaited: Arc::default(),
            remembered: Arc::default(),
            tasks: TaskTracker::new(),
            fanout: OnceLock::new(),
            transport,
            gate,
            clock,
            config,
            metrics,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Takes part in [trees](crate::tree), as publisher and as subscriber, from now on. What others forward has to be signed;
    /// `seed` is for random choices. Without this, every message is sent to each node directly. Call it once, before use.
    #[must_use]
    pub fn with_trees(self, signer: Arc<dyn Signer>, verifier: Arc<dyn Verifier>, seed: u64) -> Self {
        // A second call changes nothing.
        let _ = self.inner.fanout.set(Fanout::new(signer, verifier, seed));
        self.inner.routes.set_direct_max(self.inner.config.direct_max);
        self
    }

    /// Subscribes to a topic or a family of topics.
    ///
    /// Returns once the directory's holders have the interest and each publisher that watches it knows, or its
    /// watch lapsed ([`Subscription::announced`] says how many did). From then on nothing is missed that such a
    /// publisher sends; one that publishes the topic for the first time looks the interest up before it sends.
    /// If this node has the same interest announced already, this returns at once with what became of that.
    ///
    /// # Errors
    /// [`SubscribeError`]; after an error there is no subscription. Dropping the future undoes it too.
    pub async fn subscribe(
        &self,
        realm: &Realm,
        pattern: Pattern,
        options: SubscribeOptions,
    ) -> Result<Subscription, SubscribeError> {
        let inner = &self.inner;
        if !inner.config.realms.contains(realm) {
            return Err(SubscribeError::NotInRealm(realm.clone()));
        }
        inner.check(realm, Action::Subscribe(pattern.as_str()))?;
        let subscriber = inner.local.add(realm, pattern, &options)?;
        inner.metrics.subscriptions_added.inc();
        inner.metrics.subscriptions.inc();
        let Some(key) = inner.announcer.add(realm, &subscriber.want) else {
            inner.forget(&subscriber);
            return Err(SubscribeError::GroupsAnnounced(subscriber.want.pattern.clone()));
        };
        // From here on, dropping the handle undoes everything.
        let mut subscription = Subscription::new(subscriber, inner.clone());
        subscription.announced = inner.announcer.sync(key).await?;
        Ok(subscription)
    }

    /// Publishes with the default options.
    ///
    /// # Errors
    /// As [`publish_with`](Self::publish_with).
    pub async fn publish(
        &self,
        realm: &Realm,
        topic: &Name,
        payload: Payload,
    ) -> Result<Published, PublishError> {
        self.publish_with(realm, topic, payload, PublishOptions::default()).await
    }

    /// Takes back what `Subscription`s that were dropped left announced, and gives up idle routes, until `stop`.
    /// Then every subscription ends, and this node's records are withdrawn, as far as
    /// [`shutdown_timeout`](PubSubConfig::shutdown_timeout) allows; its retained values stay until they expire. Run it in one task; it may be started again
    /// if that task died.
    pub async fn run(&self, stop: CancellationToken) {
        let inner = &self.inner;
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = inner.announcer.maintain() => {}
            () = inner.retained.maintain() => {}
            () = inner.sweep() => {}
            () = inner.tell_publishers() => {}
            () = inner.tend_trees() => {}
        }
        inner.leave_trees();
        inner.local.close();
        inner.tell_waiting_publishers();
        let farewell = async {
            inner.announcer.withdraw_all().await;
            inner.tasks.close();
            inner.tasks.wait().await;
        };
        if tokio::time::timeout(inner.config.shutdown_timeout, farewell).await.is_err() {
            tracing::debug!("some interests were not withdrawn in time; they expire");
        }
    }

    /// Announces every live subscription and every retained value again, for a directory that was restarted.
    ///
    /// # Errors
    /// The first failure. The rest was tried, and what failed is tried again by [`run`](Self::run).
    pub async fn replay(&self) -> Result<(), DirectoryError> {
        let retained = self.inner.retained.replay().await;
        self.inner.announcer.replay().await.and(retained)
    }

    /// What the gate answers has changed: routes are read again before they are used.
    pub fn policy_changed(&self) {
        self.inner.routes.outdate();
    }

    /// Somebody is gone, or back: routes are read again before they are used. Nothing is sent to those who are gone.
    pub fn liveness_changed(&self) {
        self.inner.routes.outdate();
        self.inner.forget_the_gone();
    }

    /// The trees in which this node takes part, in order of realm and pattern.
    pub fn trees(&self) -> Vec<TreeInfo> {
        self.inner.trees()
    }

    /// The live subscriptions, in order of id.
    pub fn subscriptions(&self) -> Vec<SubscriptionInfo> {
        self.inner.local.infos()
    }

    /// The topics with a cached route, in order of realm and topic.
    pub fn routes(&self) -> Vec<RouteInfo> {
        let inner = &self.inner;
        inner.routes.infos(inner.clock.now(), inner.gate.as_ref(), &inner.metrics)
    }

    /// What is counted.
    pub fn metrics(&self) -> &PubSubMetrics {
        &self.inner.metrics
    }
}

impl<T: Transport, D: Directory> Inner<T, D> {
    /// Asks the gate about this node itself.
    pub(crate) fn check(&self, realm: &Realm, action: Action<'_>) -> Result<(), Forbidden> {
        self.gate.check(Access { peer: self.me, realm, action })
    }

    /// Delivers nothing more to a subscriber; says whether it was there.
    fn forget(&self, subscriber: &Subscriber) -> bool {
        let was_there = self.local.remove(subscriber);
        if was_there {
            self.heard.clear();
            self.metrics.subscriptions_removed.inc();
            self.metrics.subscriptions.dec();
        }
        was_there
    }

    async fn sweep(&self) {
        let every = (self.config.cache_ttl / SWEEPS_PER_TTL).max(Duration::from_millis(10));
        loop {
            tokio::time::sleep(every).await;
            self.routes.sweep(self.clock.now(), self.config.cache_ttl, &self.metrics);
        }
    }
}

impl<T: Transport, D: Directory> Home for Inner<T, D> {
    fn leave(&self, subscriber: &Subscriber) {
        if self.forget(subscriber) {
            self.announcer.remove(&subscriber.realm, &subscriber.want);
        }
    }

    fn left<'a>(&'a self, subscriber: &'a Subscriber) -> Left<'a> {
        let key = crate::interest::announced_at(&subscriber.realm, &subscriber.want.pattern);
        Box::pin(async move { self.announcer.sync(key).await.map(|_| ()) })
    }
}

impl<T: Transport, D: Directory> Bus for PubSub<T, D> {
    async fn subscribe(
        &self,
        realm: &Realm,
        pattern: Pattern,
        options: SubscribeOptions,
    ) -> Result<Subscription, SubscribeError> {
        Self::subscribe(self, realm, pattern, options).await
    }

    async fn publish_with(
        &self,
        realm: &Realm,
        topic: &Name,
        payload: Payload,
        options: PublishOptions,
    ) -> Result<Published, PublishError> {
        Self::publish_with(self, realm, topic, payload, options).await
    }

    async fn publish_acknowledged(
        &self,
        realm: &Realm,
        topic: &Name,
        payload: Payload,
        options: PublishOptions,
        within: Duration,
    ) -> Result<Acknowledged, PublishError> {
        Self::publish_acknowledged(self, realm, topic, payload, options, within).await
    }
}

impl<T: Transport, D: Directory> Clone for PubSub<T, D> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<T: Transport, D: Directory> std::fmt::Debug for PubSub<T, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PubSub(of {})", self.inner.me.short())
    }
}
