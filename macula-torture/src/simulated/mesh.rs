//! Services, the network between them, and what goes wrong with both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use macula_platform::{
    Coordination, CoordinationConfig, CoordinationEnvironment, Founding, MemoryFaults, MemoryStore, Peers,
    Plant,
};
use macula_proto::{AllowAll, Clock, Frame, Liveness, NodeId, Realm, Timestamp, UnixMillis};
use macula_transport::memory::{Faults, MemoryNetwork, MemoryRx, MemoryTransport, MemoryTx};
use macula_transport::{Inbound, LaneId, PeerEvent, Transport};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::work::{self, Desk, Worker};
use crate::record::{Line, Record};
use crate::resource::Visit;

pub(crate) type Service = Coordination<MemoryTransport, MemoryStore>;

/// How long membership takes to notice that somebody is gone.
const NOTICED: Duration = Duration::from_secs(3);

/// Jumps back must not lead below the clock's start.
const START: Duration = Duration::from_secs(1_000_000);

/// Something that goes wrong with a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mishap {
    /// It is killed, and what was not synced is lost.
    Kill,
    /// All are.
    KillAll,
    /// It neither sends nor hears, and then all at once.
    Pause,
    Partition,
    OneWay,
    /// The whole network is slow, and loses and doubles.
    Rough,
    Clock,
    /// Its disk fails, and it is started again.
    Disk,
}

impl Mishap {
    pub(crate) const ALL: [Self; 8] = [
        Self::Kill,
        Self::KillAll,
        Self::Pause,
        Self::Partition,
        Self::OneWay,
        Self::Rough,
        Self::Clock,
        Self::Disk,
    ];

    pub(crate) fn draw(rng: &mut StdRng) -> Self {
        Self::ALL[rng.random_range(0..Self::ALL.len())]
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::KillAll => "kill all",
            Self::Pause => "pause",
            Self::Partition => "partition",
            Self::OneWay => "one-way",
            Self::Rough => "rough",
            Self::Clock => "clock",
            Self::Disk => "disk",
        }
    }
}

/// A clock that drifts and jumps. Clones are the same clock.
#[derive(Clone)]
struct NodeClock {
    begun: Instant,
    ppm: i64,
    offset_millis: Arc<AtomicI64>,
}

impl Clock for NodeClock {
    fn now(&self) -> Timestamp {
        let passed = self.begun.elapsed();
        let drift = passed * u32::try_from(self.ppm.unsigned_abs()).unwrap_or(0) / 1_000_000;
        let passed = if self.ppm < 0 { passed.saturating_sub(drift) } else { passed + drift };
        let offset = self.offset_millis.load(Relaxed);
        let by = Duration::from_millis(offset.unsigned_abs());
        let now = START + passed;
        Timestamp::from_start(if offset < 0 { now.saturating_sub(by) } else { now + by })
    }

    fn unix(&self) -> UnixMillis {
        UnixMillis(u64::try_from(self.now().since_start().as_millis()).unwrap_or(u64::MAX))
    }
}

#[derive(Clone, Default)]
struct Handler(Arc<OnceLock<Service>>);

impl Inbound<MemoryTransport> for Handler {
    fn on_peer(&self, _event: PeerEvent) {}
    fn on_datagram(&self, _from: NodeId, _frame: Frame) {}
    async fn on_lane(&self, _from: NodeId, _lane: LaneId, _frame: Frame) {}
    async fn on_stream(&self, from: NodeId, first: Frame, tx: MemoryTx, rx: MemoryRx) {
        if let Some(service) = self.0.get() {
            service.on_stream(from, first, tx, rx).await;
        }
    }
}

/// What membership says, to one node.
#[derive(Clone)]
struct Around {
    me: NodeId,
    all: Arc<Mutex<Members>>,
}

/// Who was ever there, and who was killed when.
#[derive(Default)]
struct Members {
    nodes: BTreeSet<NodeId>,
    killed: BTreeMap<NodeId, Instant>,
}

impl Members {
    fn is_gone(&self, id: &NodeId) -> bool {
        self.killed.get(id).is_some_and(|killed| killed.elapsed() >= NOTICED)
    }
}

impl Liveness for Around {
    fn is_gone(&self, id: &NodeId) -> bool {
        self.all.lock().is_gone(id)
    }
}

impl Peers for Around {
    fn others(&self, _realm: &Realm) -> Vec<NodeId> {
        let all = self.all.lock();
        all.nodes.iter().filter(|node| **node != self.me && !all.is_gone(node)).copied().collect()
    }
}

struct Place {
    /// Known once it was started.
    id: NodeId,
    disk: MemoryStore,
    clock: NodeClock,
    lives: u64,
    running: Option<Running>,
}

struct Running {
    service: Service,
    task: JoinHandle<()>,
    network_stop: CancellationToken,
    served: JoinHandle<()>,
    workers: JoinSet<()>,
}

/// All of them.
pub(crate) struct Mesh {
    network: MemoryNetwork,
    all: Arc<Mutex<Members>>,
    places: Vec<Place>,
    record: Record,
    desk: Desk,
    seed: u64,
    plant: Option<Plant>,
}

impl Mesh {
    pub(crate) fn new(seed: u64, count: usize, plant: Option<Plant>) -> Self {
        let network = MemoryNetwork::new(seed);
        network.set_faults(Faults::lan());
        let mut rng = StdRng::seed_from_u64(!seed);
        let place = |_| Place {
            id: NodeId::from_bytes([0; 32]),
            disk: MemoryStore::default(),
            clock: NodeClock {
                begun: Instant::now(),
                ppm: rng.random_range(-20_000..20_000),
                offset_millis: Arc::default(),
            },
            lives: 0,
            running: None,
        };
        let places = (0..count).map(place).collect();
        let (record, desk) = (Record::in_memory(), Desk::default());
        let mut mesh = Self { network, all: Arc::default(), places, record, desk, seed, plant };
        (0..count).for_each(|at| mesh.start(at));
        mesh
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    fn id(&self, at: usize) -> NodeId {
        self.places[at].id
    }

    fn start(&mut self, at: usize) {
        let place = &mut self.places[at];
        place.lives += 1;
        let transport = self.network.node(at as u8 + 1);
        let me = transport.local().id;
        place.id = me;
        self.network.introduce_all();
        {
            let mut all = self.all.lock();
            all.nodes.insert(me);
            all.killed.remove(&me);
        }
        let (handler, network_stop) = (Handler::default(), CancellationToken::new());
        let served = tokio::spawn({
            let (transport, handler, stop) = (transport.clone(), handler.clone(), network_stop.clone());
            async move { transport.serve(handler, stop).await }
        });
        let environment = CoordinationEnvironment {
            transport,
            store: Arc::new(place.disk.clone()),
            peers: Arc::new(Around { me, all: self.all.clone() }),
            clock: Arc::new(place.clock.clone()),
            gate: Arc::new(AllowAll),
            seed: self.seed.wrapping_mul(1_000).wrapping_add(place.lives * 10 + at as u64),
        };
        let founding = if at == 0 { Founding::Alone } else { Founding::Others };
        let config = CoordinationConfig { founding, plant: self.plant, ..CoordinationConfig::default() };
        let service = Service::new(environment, [Realm::default()], &config);
        service.need();
        // It was made just now.
        let _ = handler.0.set(service.clone());
        let task = tokio::spawn({
            let service = service.clone();
            async move { service.run(CancellationToken::new()).await }
        });
        let mut workers = JoinSet::new();
        let (record, desk, lives) = (self.record.clone(), self.desk.clone(), place.lives);
        work::begin(
            &Worker { service: service.clone(), number: at as u64, lives, record, desk },
            &mut workers,
        );
        place.running = Some(Running { service, task, network_stop, served, workers });
    }

    async fn kill(&mut self, at: usize) {
        let Some(running) = self.places[at].running.take() else { return };
        let Running { service, task, network_stop, served, mut workers } = running;
        let id = service.me();
        self.network.crash(id);
        workers.abort_all();
        task.abort();
        network_stop.cancel();
        service.crash().await;
        // It ends with its transport.
        let _ = served.await;
        while workers.join_next().await.is_some() {}
        self.places[at].disk.power_cut();
        self.places[at].disk.set_faults(MemoryFaults::default());
        self.all.lock().killed.insert(id, Instant::now());
    }

    /// Something begins to go wrong.
    pub(crate) async fn begin(&mut self, mishap: Mishap, victim: usize, rng: &mut StdRng) {
        let id = self.id(victim);
        let others: Vec<NodeId> =
            (0..self.len()).map(|at| self.id(at)).filter(|other| *other != id).collect();
        match mishap {
            Mishap::Kill => self.kill(victim).await,
            Mishap::KillAll => {
                for at in 0..self.len() {
                    self.kill(at).await;
                }
            }
            Mishap::Pause => self.network.pause(id),
            Mishap::Partition => self.network.partition_sides(&[id], &others),
            Mishap::OneWay => {
                let hears = rng.random_bool(0.5);
                for other in others {
                    let (from, to) = if hears { (id, other) } else { (other, id) };
                    self.network.partition_one_way(from, to);
                }
            }
            Mishap::Rough => self.network.set_faults(Faults {
                latency: Duration::from_millis(rng.random_range(1..30)),
                jitter: Duration::from_millis(rng.random_range(0..60)),
                loss: rng.random_range(0.0..0.3),
                duplication: 0.1,
                reordering: 0.1,
                bandwidth_bytes_per_s: None,
            }),
            Mishap::Clock => {
                let by = rng.random_range(-3_000..5_000);
                self.places[victim].clock.offset_millis.fetch_add(by, Relaxed);
            }
            Mishap::Disk => {
                self.places[victim].disk.set_faults(MemoryFaults { fails: true, ..MemoryFaults::default() });
            }
        }
    }

    /// It is mended.
    pub(crate) async fn end(&mut self, mishap: Mishap, victim: usize) {
        match mishap {
            Mishap::Kill | Mishap::KillAll => self.start_all(),
            Mishap::Pause => self.network.resume(self.id(victim)),
            Mishap::Partition | Mishap::OneWay => self.network.heal_all(),
            Mishap::Rough => self.network.set_faults(Faults::lan()),
            Mishap::Clock => {}
            Mishap::Disk => {
                self.kill(victim).await;
                self.start_all();
            }
        }
    }

    fn start_all(&mut self) {
        for at in 0..self.len() {
            if self.places[at].running.is_none() {
                self.start(at);
            }
        }
    }

    /// Everything is as it should be.
    pub(crate) fn mend(&mut self) {
        for at in 0..self.len() {
            self.network.resume(self.id(at));
        }
        self.network.heal_all();
        self.network.set_faults(Faults::lan());
        self.start_all();
    }

    pub(crate) fn has_three_voters(&self) -> bool {
        let voters = |place: &Place| place.running.as_ref()?.service.status().pop()?.member;
        self.places.iter().filter_map(voters).any(|member| member.voters.len() == 3 && !member.is_changing)
    }

    /// Waits until something is so.
    pub(crate) async fn until(&self, patience: Duration, is_so: impl Fn(&Self) -> bool) -> bool {
        let waiting = async {
            while !is_so(self) {
                // tidy: allow(sleep): paused time; looks again
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(patience, waiting).await.is_ok()
    }

    /// All nodes read the log to its end.
    pub(crate) async fn read_all(&self, patience: Duration) -> bool {
        let reading = async {
            for (at, place) in (0..).zip(&self.places) {
                let Some(running) = &place.running else { continue };
                work::read_all(&running.service, &self.record, at).await;
            }
        };
        timeout(patience, reading).await.is_ok()
    }

    /// Ends all, and returns what they did.
    pub(crate) async fn stop(mut self) -> (Vec<Line>, Vec<Visit>) {
        for at in 0..self.len() {
            self.kill(at).await;
        }
        (self.record.take(), self.desk.visits())
    }
}
