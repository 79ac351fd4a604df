//! The thread that a node lives on: one current-thread runtime for its sockets, timers and tasks.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use macula_dht::KademliaConfig;
use macula_dht::kademlia::SubnetLimits;
use macula_membership::SwimConfig;
use macula_platform::{CoordinationConfig, Founding, RedbStore, StoreMetrics, StoreOptions, Timing};
use macula_proto::{AllowAll, Capabilities, Clock, Gate, NodeId, Signer};
use macula_pubsub::PubSubConfig;
use macula_rpc::RpcConfig;
use macula_transport::{AddressBook, BindError, Identity, QuicConfig, QuicTransport, TokioClock, Trust};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::boot_clock::BootClock;
use crate::bootstrap::{PeersFile, SeedList, SeedOrigin, TableFile};
use crate::config::{Config, GroupTiming, Origin};
use crate::core::{Core, CoreConfig, Environment, task};
use crate::data_dir::{DataDir, Places};
use crate::join::{KeptFiles, Presence};
use crate::node::Inner;
use crate::supervisor::{RestartPolicy, Supervisor, SupervisorMetrics};
use crate::{Node, StartError, tags};

/// Most nodes whose addresses are remembered.
const BOOK_NODES_MAX: usize = 65_536;

/// Without a configured port, so many are tried from the default one on.
const PORTS_TRIED: u16 = 100;

/// Without a shutdown, and without a thread that could just end, tasks may take so long to stop.
const STOP: Duration = Duration::from_secs(1);

/// What is left on the runtime when the node is down may take so long to end.
const LEFTOVERS: Duration = Duration::from_millis(200);

/// What is not in the configuration.
pub(crate) struct Extras {
    /// Whether identity and peers are kept in the data directory.
    pub(crate) kept: bool,
    pub(crate) gate: Arc<dyn Gate>,
    /// Whether the node lives on the runtime that starts it, and has no thread of its own.
    pub(crate) here: bool,
    #[cfg(feature = "testing")]
    pub(crate) injected: crate::testing::Injected,
}

impl Extras {
    pub(crate) fn kept() -> Self {
        Self {
            kept: true,
            gate: Arc::new(AllowAll),
            here: false,
            #[cfg(feature = "testing")]
            injected: Default::default(),
        }
    }
}

/// Starts the thread and waits until the node is up.
pub(crate) async fn start(config: Config, extras: Extras) -> Result<Node, StartError> {
    if extras.here {
        return start_here(config, extras);
    }
    let (ready, is_ready) = oneshot::channel();
    let handlers_on = Handle::try_current().ok();
    let name = format!("macula-{}", config.node.name);
    let body = move || live(config, extras, handlers_on, ready);
    thread::Builder::new().name(name).spawn(body).map_err(StartError::Thread)?;
    let died = || StartError::Thread(io::Error::other("the node's thread died while starting"));
    is_ready.await.unwrap_or_else(|_| Err(died()))
}

/// Starts the node on the current runtime. When the last `Node` is dropped without a shutdown, its tasks are stopped.
fn start_here(config: Config, extras: Extras) -> Result<Node, StartError> {
    let over = CancellationToken::new();
    let inner = open(config, extras, None, over.clone())?;
    let (closed, supervisor) = (inner.closed.clone(), inner.supervisor.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = closed.cancelled() => {}
            () = over.cancelled() => {
                supervisor.stop(STOP).await;
            }
        }
    });
    Ok(Node::from_inner(inner))
}

fn live(
    config: Config,
    extras: Extras,
    handlers_on: Option<Handle>,
    ready: oneshot::Sender<Result<Node, StartError>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // Nobody waiting any more is fine: then nobody misses the error.
            let _ = ready.send(Err(StartError::Thread(error)));
            return;
        }
    };
    runtime.block_on(async {
        // Ends with the shutdown, or when the last `Node` is dropped.
        let over = CancellationToken::new();
        match open(config, extras, handlers_on, over.clone()) {
            Ok(inner) => {
                let closed = inner.closed.clone();
                if ready.send(Ok(Node::from_inner(inner))).is_ok() {
                    tokio::select! {
                        () = closed.cancelled() => {}
                        () = over.cancelled() => {}
                    }
                }
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        }
    });
    runtime.shutdown_timeout(LEFTOVERS);
}

/// Opens everything, in the order in which each needs the one before.
fn open(
    config: Config,
    mut extras: Extras,
    handlers_on: Option<Handle>,
    over: CancellationToken,
) -> Result<Inner, StartError> {
    config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    let places = Places::from_environment();
    let data = extras.kept.then(|| places.data_dir(&config).and_then(DataDir::open)).transpose()?;
    let identity = identity(&config, data.as_ref())?;
    let id = identity.id();
    config.check_id(id)?;
    let signer: Arc<dyn Signer> = Arc::new(identity.secret().clone());
    let clock = Arc::new(TokioClock::default());
    let book = Arc::new(AddressBook::new(BOOK_NODES_MAX));
    let transport = bind(&config, &extras, identity, &book)?;

    let seed = rand::random();
    let store_metrics = StoreMetrics::default();
    let env = Environment {
        signer,
        clock: clock.clone(),
        store: Arc::new(store(data.as_ref(), &mut extras, store_metrics.clone())?),
        boot_clock: boot_clock(&extras, &clock),
        gate: extras.gate.clone(),
        seed,
        epoch: rand::random(),
    };
    let coordination = coordination_config(&config, &extras, id, data.is_some());
    let core = Core::new(transport, book, core_config(&config, coordination, seed, handlers_on)?, env);
    tags::apply(&core, &config.node.tags);
    let kept = data.as_ref().map(kept_files);
    let presence =
        Arc::new(Presence::new(core.clone(), clock.clone(), seeds(&config), kept, seed.wrapping_add(2)));

    let mut registry = Registry::with_prefix("macula");
    core.transport.metrics().register(&mut registry);
    core.register_metrics(&mut registry);
    store_metrics.register(registry.sub_registry_with_prefix("group"));
    let supervision = SupervisorMetrics::default();
    supervision.register(&mut registry);
    let policy = RestartPolicy {
        restarts_max: config.supervision.restarts_max,
        window: config.supervision.restart_window,
        ..RestartPolicy::default()
    };
    let supervisor = Supervisor::new(policy, clock.clone(), seed.wrapping_add(3), supervision);
    spawn(&core, &presence, &supervisor);
    tracing::info!(%id, name = %config.node.name, listen = %core.transport.local_addr(), "node is up");

    Ok(Inner {
        admin_socket: places.admin_socket(&config)?,
        changing: Mutex::new(()),
        config: ArcSwap::from_pointee(config),
        core,
        presence,
        supervisor,
        registry,
        clock,
        data,
        started: Instant::now(),
        runtime: Handle::current(),
        closed: CancellationToken::new(),
        _thread: over.drop_guard(),
        shutdown: tokio::sync::Mutex::new(()),
    })
}

fn kept_files(data: &DataDir) -> KeptFiles {
    KeptFiles { peers: PeersFile::new(data.peers_file()), table: TableFile::new(data.table_file()) }
}

fn spawn(core: &Core<QuicTransport>, presence: &Arc<Presence<QuicTransport>>, supervisor: &Supervisor) {
    let presence = presence.clone();
    core.spawn(supervisor)
        .and_then(|()| supervisor.spawn(task::BOOTSTRAP, move |stop| presence.clone().keep(stop)))
        .expect("the supervisor is new, and every task has a name of its own");
}

/// Reads or makes the key: see `quic.key_file`.
fn identity(config: &Config, data: Option<&DataDir>) -> Result<Identity, StartError> {
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|cause| StartError::File { path: path.to_owned(), cause })
    };
    match (&config.quic.cert_file, &config.quic.key_file, data) {
        (Some(chain), Some(key), _) => Ok(Identity::from_pem(&read(chain)?, &read(key)?)?),
        (_, Some(key), _) => Ok(Identity::load_or_create(key)?),
        (_, None, Some(data)) => Ok(Identity::load_or_create(data.key_file())?),
        (_, None, None) => Ok(Identity::generate()),
    }
}

fn bind(
    config: &Config,
    extras: &Extras,
    identity: Identity,
    book: &Arc<AddressBook>,
) -> Result<QuicTransport, StartError> {
    let mut quic = QuicConfig::new(identity, config.node.address);
    quic.advertise.clone_from(&config.node.advertise);
    quic.realms.clone_from(&config.node.realms);
    quic.capabilities = Capabilities::DIRECTORY.with(Capabilities::NUMBERED_CALLS);
    quic.trust = trust(config)?;
    quic.alpn.clone_from(&config.quic.alpn);
    quic.connections_max = config.quic.connections_max;
    quic.idle = config.quic.idle_timeout;
    quic.keep_alive = config.quic.keep_alive;
    quic.dead_after = config.quic.keep_alive * 5 / 2;
    quic.handshake_timeout = config.quic.handshake_timeout;
    quic.first_frame_timeout = config.quic.stream_timeout;
    quic.mtu_max = config.quic.mtu_max;
    #[cfg(feature = "testing")]
    quic.line_faults.clone_from(&extras.injected.line_faults);
    let chosen = config.entry("node.address").is_ok_and(|entry| entry.origin != Origin::Default);
    if chosen {
        return Ok(QuicTransport::bind(quic, book.clone())?);
    }
    if !extras.kept {
        quic.listen.set_port(0);
        return Ok(QuicTransport::bind(quic, book.clone())?);
    }
    first_free_port(&quic, book)
}

/// Nobody chose a port: several nodes on one machine take one after the other.
fn first_free_port(quic: &QuicConfig, book: &Arc<AddressBook>) -> Result<QuicTransport, StartError> {
    let first = quic.listen;
    for port in first.port()..first.port().saturating_add(PORTS_TRIED) {
        let mut quic = quic.clone();
        quic.listen = SocketAddr::new(first.ip(), port);
        match QuicTransport::bind(quic, book.clone()) {
            Err(BindError::InUse(_)) => {}
            bound => return Ok(bound?),
        }
    }
    Err(StartError::NoPort { first, last: SocketAddr::new(first.ip(), first.port() + PORTS_TRIED - 1) })
}

fn trust(config: &Config) -> Result<Trust, StartError> {
    let read = |path: &std::path::PathBuf| {
        std::fs::read(path).map_err(|cause| StartError::File { path: path.clone(), cause })
    };
    let Some(authorities) = &config.quic.ca_file else { return Ok(Trust::Open) };
    let revoked = config.quic.crl_file.as_ref().map(read).transpose()?.unwrap_or_default();
    Ok(Trust::authority_from_pem(&read(authorities)?, &revoked).map_err(BindError::Trust)?)
}

fn core_config(
    config: &Config,
    coordination: CoordinationConfig,
    seed: u64,
    handlers_on: Option<Handle>,
) -> Result<CoreConfig, StartError> {
    let swim = SwimConfig {
        protocol_period: config.membership.protocol_period,
        probe_timeout: config.membership.protocol_period / 2,
        indirect_count: config.membership.indirect_count,
        suspect_timeout: config.membership.suspect_timeout,
        ..SwimConfig::default()
    };
    swim.validate()?;
    let directory = KademliaConfig {
        k: config.routing.k,
        alpha: config.routing.alpha,
        alpha_max: KademliaConfig::default().alpha_max.min(config.routing.k).max(config.routing.alpha),
        paths: config.routing.paths,
        subnets: SubnetLimits::of_table(config.routing.subnet_max),
        refresh_interval: config.routing.refresh_interval,
        republish_interval: config.pubsub.announce_interval,
        record_ttl: config.pubsub.announce_interval * 3,
        ..KademliaConfig::default()
    };
    let pubsub = PubSubConfig {
        realms: config.node.realms.iter().cloned().collect(),
        cache_ttl: config.pubsub.cache_ttl,
        max_cache_size: config.pubsub.max_cache_size.try_into().unwrap_or(std::num::NonZeroUsize::MIN),
        direct_max: config.pubsub.direct_max,
        trees_max: config.pubsub.trees_max,
        ..PubSubConfig::default()
    };
    let rpc = RpcConfig {
        timeout: config.rpc.default_timeout,
        strategy: config.rpc.routing_strategy.into(),
        answers_age_max: config.rpc.cache_age_max,
        answers_bytes_max: config.rpc.cache_bytes_max,
        seed: seed.wrapping_add(4),
        handlers_on,
        ..RpcConfig::default()
    };
    Ok(CoreConfig { swim, directory, pubsub, rpc, coordination, realms: config.node.realms.clone() })
}

/// The clock that leases are counted on.
fn boot_clock(_extras: &Extras, clock: &TokioClock) -> Arc<dyn Clock> {
    #[cfg(feature = "testing")]
    if let Some(clock) = &_extras.injected.boot_clock {
        return clock.clone();
    }
    Arc::new(BootClock(*clock))
}

/// Where groups are kept: in the data directory, or nowhere.
fn store(
    data: Option<&DataDir>,
    _extras: &mut Extras,
    metrics: StoreMetrics,
) -> Result<RedbStore, StartError> {
    let options = StoreOptions::default();
    #[cfg(feature = "testing")]
    if let Some(open) = _extras.injected.store.take() {
        return Ok(open(options, metrics)?);
    }
    Ok(match data {
        Some(data) => RedbStore::open(&data.groups_file(), options, metrics)?,
        None => RedbStore::in_memory(options, metrics),
    })
}

/// Who founds a group, and whether this node may be a voter.
fn coordination_config(config: &Config, _extras: &Extras, me: NodeId, kept: bool) -> CoordinationConfig {
    let platform = &config.platform;
    let founders: BTreeSet<NodeId> = platform.founders.iter().copied().collect();
    let founding = match (founders.is_empty(), config.bootstrap.seeds.is_empty()) {
        (false, _) if founders.contains(&me) => Founding::With(founders),
        (true, true) => Founding::Alone,
        _ => Founding::Others,
    };
    CoordinationConfig {
        founding,
        voters: platform.voters,
        eligible: platform.eligible && kept,
        replace_after: platform.replace_after,
        session_ttl: platform.session_ttl,
        timing: match platform.timing {
            GroupTiming::Lan => Timing::LAN,
            GroupTiming::Wan => Timing::WAN,
        },
        #[cfg(feature = "testing")]
        plant: _extras.injected.plant,
        ..CoordinationConfig::default()
    }
}

fn seeds(config: &Config) -> SeedList {
    let origin = match config.entry("bootstrap.seeds").map(|entry| entry.origin) {
        Ok(Origin::Env(_)) => SeedOrigin::Environment,
        _ => SeedOrigin::Config,
    };
    let mut list = SeedList::new();
    for seed in &config.bootstrap.seeds {
        // The configuration allows no more seeds than the list holds.
        if let Err(error) = list.add(seed.clone(), origin) {
            tracing::warn!(%error, %seed, "a seed is left out");
        }
    }
    list
}
