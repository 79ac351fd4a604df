//! The handle: what the node and its transport talk to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use macula_proto::{Clock, Contact, Frame, NodeId, Signer, Timestamp, Verifier};
use macula_transport::{PeerEvent, ResetCode, StreamTx as _, Target, Transport, TransportError};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, broadcast, watch};
use tokio::task::JoinSet;

use crate::driver::SwimDriver;
use crate::effect::{Effect, Effects};
use crate::exchange;
use crate::inbox::{Errand, Inbox, Input};
use crate::machine::{Machine, MachineParts};
use crate::member::check_tags;
use crate::metrics::{Refused, SwimMetrics};
use crate::{
    EventReceiver, Incarnation, Joined, Member, MemberState, Membership, MembershipError, SeedFailure,
    SwimConfig, SyncError, Tags, TagsError,
};

/// Most seeds that are remembered.
const SEEDS_MAX: usize = 16;

/// How often an exchange with a seed is tried that answers, but is too busy for it.
const JOIN_ATTEMPTS: u32 = 4;

/// How long an exchange with one seed waits for that with another.
const JOIN_TURN: Duration = Duration::from_secs(1);

/// SWIM over a transport. Cheap to clone; all clones are the same node.
///
/// It does nothing by itself: somebody runs a [`SwimDriver`], and routes what the transport delivers to
/// [`on_datagram`](Self::on_datagram), [`on_stream`](Self::on_stream) and [`on_peer`](Self::on_peer).
pub struct Swim<T: Transport> {
    pub(crate) shared: Arc<Shared<T>>,
}

impl<T: Transport> Clone for Swim<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<T: Transport> std::fmt::Debug for Swim<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Swim({}, {} members)", self.shared.id.short(), self.shared.metrics.members.get())
    }
}

/// What all clones share.
pub(crate) struct Shared<T> {
    pub(crate) id: NodeId,
    pub(crate) transport: T,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: SwimConfig,
    pub(crate) metrics: SwimMetrics,
    pub(crate) inbox: Inbox,
    /// Rung when an input came or a timer may have moved.
    pub(crate) wake: Notify,
    machine: Mutex<Machine>,
    /// The version of the machine's list; the snapshot may be older, until somebody asks for it.
    version: AtomicU64,
    snapshot: ArcSwap<Snapshot>,
    events: broadcast::Sender<crate::Event>,
    departed: watch::Sender<bool>,
    pub(crate) seeds: Mutex<Vec<Target>>,
    /// Held by the exchange with a seed that is under way: the next one then only has to bring what differs.
    joining: tokio::sync::Mutex<()>,
    /// Exchanges that others asked for.
    answering: Semaphore,
}

/// The members at one version of the list, in order of id.
struct Snapshot {
    version: u64,
    members: Arc<[Member]>,
}

/// What a [`Swim`] may be given besides the necessary.
#[derive(Clone, Debug, Default)]
pub struct SwimOptions {
    /// The knobs; must be [valid](SwimConfig::validate).
    pub config: SwimConfig,
    /// The first tags.
    pub tags: Tags,
    /// The smallest incarnation to begin with: one that was saved, plus one. The wall clock counts if it says more.
    pub incarnation_min: Incarnation,
}

impl<T: Transport> Swim<T> {
    /// A membership that knows only this node, and its first driver.
    ///
    /// `signer` must be the key of the transport's identity; `seed` feeds all random choices.
    pub fn new(
        transport: T,
        config: SwimConfig,
        signer: Arc<dyn Signer>,
        verifier: Arc<dyn Verifier>,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> (Self, SwimDriver<T>) {
        let options = SwimOptions { config, ..SwimOptions::default() };
        Self::with_options(transport, options, signer, verifier, clock, seed).expect("no tags break no rule")
    }

    /// As [`new`](Self::new), with tags and a saved incarnation.
    ///
    /// # Errors
    /// [`TagsError`] if the tags break a rule.
    pub fn with_options(
        transport: T,
        options: SwimOptions,
        signer: Arc<dyn Signer>,
        verifier: Arc<dyn Verifier>,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> Result<(Self, SwimDriver<T>), TagsError> {
        let SwimOptions { config, tags, incarnation_min } = options;
        check_tags(&tags)?;
        let metrics = SwimMetrics::default();
        let parts = MachineParts {
            config: config.clone(),
            contact: transport.local(),
            tags,
            incarnation_min,
            signer,
            verifier,
            metrics: metrics.clone(),
            unix: clock.unix(),
            seed,
        };
        let machine = Machine::new(parts, clock.now());
        let version = machine.version();
        let snapshot = Snapshot { version, members: Arc::new([machine.local()]) };
        let shared = Shared {
            id: machine.id(),
            transport,
            inbox: Inbox::new(config.queue_max),
            wake: Notify::new(),
            machine: Mutex::new(machine),
            version: AtomicU64::new(version),
            snapshot: ArcSwap::from_pointee(snapshot),
            events: broadcast::channel(config.events_max).0,
            departed: watch::channel(false).0,
            seeds: Mutex::default(),
            joining: tokio::sync::Mutex::default(),
            answering: Semaphore::new(config.syncs_max),
            metrics,
            clock,
            config,
        };
        let swim = Self { shared: Arc::new(shared) };
        let driver = swim.driver();
        Ok((swim, driver))
    }

    /// Another driver, to take over from one that ended. All state is kept; run only one at a time.
    pub fn driver(&self) -> SwimDriver<T> {
        SwimDriver::new(self.clone())
    }

    /// What is counted.
    pub fn metrics(&self) -> &SwimMetrics {
        &self.shared.metrics
    }

    /// Those who are known to be dead or to have left, until they are forgotten. It stops the machine for as long as it
    /// takes to look through the list.
    pub fn gone(&self) -> BTreeMap<NodeId, MemberState> {
        self.shared.machine.lock().gone().collect()
    }

    /// The same, with what is still known of them, in order of id. Whoever left has no addresses and tags any more.
    pub fn gone_members(&self) -> Vec<Member> {
        let mut gone: Vec<Member> = self.shared.machine.lock().gone_members().collect();
        gone.sort_unstable_by_key(Member::id);
        gone
    }

    /// Another process with this node's key, if it was heard of within the last minute: the others see only one of the two.
    pub fn rival(&self) -> Option<Arc<Contact>> {
        self.shared.machine.lock().rival(self.shared.clock.now())
    }

    /// A frame of this layer arrived as a datagram. Does not block; a full queue drops and counts it.
    pub fn on_datagram(&self, from: NodeId, frame: Frame) {
        if self.shared.inbox.push_datagram(from, frame) {
            self.shared.wake.notify_one();
        } else {
            self.shared.metrics.refuse(Refused::QueueFull);
        }
    }

    /// A connection came or went. Does not block.
    pub fn on_peer(&self, event: &PeerEvent) {
        let input = match event {
            PeerEvent::Up(peer) => Input::LinkUp(peer.id),
            PeerEvent::Down { id, .. } => Input::LinkDown(*id),
            _ => return,
        };
        self.shared.inbox.push_link(input);
        self.shared.wake.notify_one();
    }

    /// A peer opened a stream whose first frame is of this layer. Returns when the stream is done.
    pub async fn on_stream(&self, from: NodeId, first: Frame, mut tx: T::Tx, mut rx: T::Rx) {
        let Ok(_permit) = self.shared.answering.try_acquire() else {
            self.shared.metrics.refuse(Refused::Overloaded);
            tx.reset(ResetCode::OVERLOADED);
            return;
        };
        let patience = self.shared.config.stream_timeout;
        let answer = exchange::answer(&self.shared, from, &first, &mut tx, &mut rx);
        let outcome = tokio::time::timeout(patience, answer).await;
        if let Ok(Err(SyncError::Protocol(_))) = outcome {
            self.shared.metrics.refuse(Refused::Garbage);
            tx.reset(ResetCode::PROTOCOL);
        }
    }
}

impl<T: Transport> Membership for Swim<T> {
    fn local(&self) -> Member {
        self.shared.machine.lock().local()
    }

    fn members(&self) -> Arc<[Member]> {
        self.shared.members()
    }

    fn subscribe(&self) -> EventReceiver {
        EventReceiver::from(self.shared.events.subscribe())
    }

    async fn join(&self, mut seeds: Vec<Target>) -> Result<Joined, MembershipError> {
        seeds.truncate(SEEDS_MAX);
        self.shared.remember(&seeds);
        self.shared.departed.send_replace(false);
        self.shared.turn(|machine, now, _| machine.rejoin(now));
        let mut attempts = JoinSet::new();
        for target in seeds {
            let shared = self.shared.clone();
            attempts.spawn(async move { (join_through(&shared, target.clone()).await, target) });
        }
        let mut failures = Vec::new();
        while let Some(done) = attempts.join_next().await {
            match done {
                Ok((Ok(()), _)) => {
                    attempts.detach_all();
                    return Ok(Joined { seeds: 1, members: self.members().len() });
                }
                Ok((Err(SyncError::Transport(TransportError::Myself)), _)) | Err(_) => {}
                Ok((Err(cause), target)) => failures.push(SeedFailure { target, cause }),
            }
        }
        if failures.is_empty() {
            return Ok(Joined { seeds: 0, members: self.members().len() });
        }
        Err(MembershipError::Unreachable(failures))
    }

    async fn leave(&self, patience: Duration) -> Result<(), MembershipError> {
        let mut departed = self.shared.departed.subscribe();
        self.shared.turn(Machine::leave);
        match tokio::time::timeout(patience, departed.wait_for(|departed| *departed)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(MembershipError::GoodbyeUnheard(patience)),
        }
    }

    fn set_tags(&self, tags: Tags) -> Result<(), MembershipError> {
        Ok(self.shared.turn(|machine, now, out| machine.set_tags(now, tags, out))?)
    }
}

impl<T: Transport> Shared<T> {
    /// Lets the machine do something, and does what it wants done. The lock is held throughout, so that versions, events
    /// and packets leave in the machine's order; nothing in here waits.
    pub(crate) fn turn<R>(&self, act: impl FnOnce(&mut Machine, Timestamp, &mut Effects) -> R) -> R {
        let mut machine = self.machine.lock();
        let mut out = Effects::new();
        let result = act(&mut machine, self.clock.now(), &mut out);
        self.publish(&machine);
        for effect in out {
            self.perform(effect);
        }
        self.wake.notify_one();
        result
    }

    /// When the machine's next timer is due.
    pub(crate) fn deadline(&self) -> Timestamp {
        self.machine.lock().deadline()
    }

    /// The first message of an exchange.
    pub(crate) fn begin_sync(&self) -> crate::SyncMessage {
        self.machine.lock().begin_sync()
    }

    fn publish(&self, machine: &Machine) {
        self.metrics.suspects.set(machine.suspects_len() as i64);
        self.metrics.local_health.set(machine.health_score().into());
        self.metrics.members.set(if machine.has_left() { 1 } else { machine.members_len() as i64 });
        self.version.store(machine.version(), Ordering::Release);
    }

    /// The members by now. Sorting thousands at each change would cost more than all else that the machine does, so it
    /// is done when somebody asks.
    fn members(&self) -> Arc<[Member]> {
        let snapshot = self.snapshot.load();
        if snapshot.version == self.version.load(Ordering::Acquire) {
            return snapshot.members.clone();
        }
        let machine = self.machine.lock();
        let version = machine.version();
        let mut members: Vec<Member> =
            if machine.has_left() { vec![machine.local()] } else { machine.members().collect() };
        drop(machine);
        members.sort_unstable_by_key(Member::id);
        let members: Arc<[Member]> = members.into();
        self.snapshot.store(Arc::new(Snapshot { version, members: members.clone() }));
        members
    }

    fn perform(&self, effect: Effect) {
        match effect {
            Effect::Send { to, packet } => {
                // A datagram may be lost; one that cannot even be sent is no different, but a link that the
                // machine believes in and the transport does not have is a link lost.
                let sent = packet.to_frame().map(|frame| self.transport.datagram(to, frame));
                if matches!(sent, Ok(Err(TransportError::NotConnected(_)))) {
                    self.inbox.push_link(Input::LinkDown(to));
                }
            }
            Effect::Connect(contact) => self.inbox.push_errand(Errand::Dial(contact)),
            Effect::Sync(contact) => self.inbox.push_errand(Errand::Sync(contact)),
            Effect::RetrySeeds => self.inbox.push_errand(Errand::RetrySeeds),
            Effect::Event(event) => {
                tracing::debug!(?event, "membership");
                // Nobody listening is fine.
                let _ = self.events.send(event);
            }
            Effect::Departed => {
                self.departed.send_replace(true);
            }
        }
    }

    fn remember(&self, seeds: &[Target]) {
        let mut known = self.seeds.lock();
        for seed in seeds {
            if !known.contains(seed) && known.len() < SEEDS_MAX {
                known.push(seed.clone());
            }
        }
    }
}

/// Connects to a seed and exchanges member lists with it, after those that answered sooner, unless they take long. A seed
/// that is there but too busy is asked again.
pub(crate) async fn join_through<T: Transport>(shared: &Shared<T>, seed: Target) -> Result<(), SyncError> {
    let patience = shared.config.stream_timeout;
    let connect = tokio::time::timeout(patience, shared.transport.connect(seed));
    let peer = connect.await.map_err(|_| SyncError::TimedOut(patience))??;
    let _turn = tokio::time::timeout(JOIN_TURN, shared.joining.lock()).await;
    let mut pause = Duration::from_millis(250);
    for _ in 1..JOIN_ATTEMPTS {
        match exchange::ask(shared, peer.id).await {
            Err(SyncError::Stream(_)) => tokio::time::sleep(pause).await,
            outcome => return outcome,
        }
        pause *= 2;
    }
    exchange::ask(shared, peer.id).await
}
