//! A handler is never run twice for one call, its caller gets one outcome, and that is true – whatever fails, at
//! whichever point of the call's way: every one is tried, under every strategy, for calls of every shape.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use macula_dht::{MemoryDirectory, MemoryDirectoryNetwork};
use macula_proto::{AllowAll, Gate, NodeId, Realm, Unwatched};
use macula_transport::HangUp;
use macula_transport::memory::{Faults, MemoryNetwork, MemoryTransport};
use parking_lot::Mutex;
use proptest::prelude::{ProptestConfig, Strategy as _, prop};
use proptest::{prop_assert, proptest};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::mesh_test::{DenyCalls, start};
use crate::observed_test::{Observed, Points, Stall};
use crate::{
    Call, CallError, CallRequest, HandlerError, Procedures, RegisterOptions, Registration, Reply, Rpc,
    RpcConfig, Strategy,
};

type Node = Rpc<Observed, MemoryDirectory>;

/// What happens at the point, to the provider that it is about where nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    CallDropped,
    CallCancelled,
    CallerCrash,
    /// The connection is closed, as an idle one may be at any time.
    HangUp,
    Crash,
    CrashOfAll,
    /// A crash, and another process in its place at once.
    Restart,
    Partition,
    RequestsLost,
    AnswersLost,
    Pause,
    UnregisterAll,
    Drain,
    DrainAll,
    /// What is done at the point takes longer than the caller waits.
    Stall,
}

const FAULTS: [Fault; 15] = [
    Fault::CallDropped,
    Fault::CallCancelled,
    Fault::CallerCrash,
    Fault::HangUp,
    Fault::Crash,
    Fault::CrashOfAll,
    Fault::Restart,
    Fault::Partition,
    Fault::RequestsLost,
    Fault::AnswersLost,
    Fault::Pause,
    Fault::UnregisterAll,
    Fault::Drain,
    Fault::DrainAll,
    Fault::Stall,
];

/// How long partitions and pauses last: the call outlives the one, and not the other.
const LASTS: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(30)];

impl Fault {
    fn durations(self) -> &'static [Duration] {
        match self {
            Self::Partition | Self::RequestsLost | Self::AnswersLost | Self::Pause => &LASTS,
            _ => &LASTS[..1],
        }
    }
}

/// What the caller's own node does with the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Local {
    /// It does not offer the procedure.
    Absent,
    Refuses,
    Serves,
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    /// Small: it shares a stream, which has to be opened for it.
    Unary,
    /// The same, on a stream that is open.
    Later,
    /// Too large to share one.
    Large,
    Streamed,
    Duplex,
}

const SHAPES: [Shape; 5] = [Shape::Unary, Shape::Later, Shape::Large, Shape::Streamed, Shape::Duplex];

#[derive(Clone, Debug)]
struct Scenario {
    strategy: Strategy,
    local: Local,
    shape: Shape,
    idempotent: bool,
    blows: Vec<Blow>,
}

/// A fault at a point.
#[derive(Clone, Copy, Debug)]
struct Blow {
    fault: Fault,
    lasts: Duration,
    /// The number of the point.
    point: usize,
}

impl Scenario {
    fn has(&self, fault: Fault) -> bool {
        self.blows.iter().any(|blow| blow.fault == fault)
    }
}

const TIMEOUT: Duration = Duration::from_secs(2);
const LATENCY: Duration = Duration::from_millis(5);
const CALLER: u8 = 9;
const PARTS: usize = 2;

struct World {
    network: MemoryNetwork,
    directory: MemoryDirectoryNetwork,
    points: Arc<Points>,
    stop: CancellationToken,
    /// By number, the caller among them.
    nodes: Mutex<BTreeMap<u8, (NodeId, MemoryTransport, Node)>>,
    offers: Mutex<Vec<Registration>>,
    runs: Arc<AtomicUsize>,
    finished: Arc<AtomicUsize>,
}

impl World {
    fn add(&self, n: u8, gate: Arc<dyn Gate>) -> Node {
        let inner = self.network.node(n);
        let contact = macula_transport::Transport::local(&inner);
        let id = contact.id;
        let directory = self.directory.directory_of(contact);
        let transport = Observed::new(inner.clone(), self.points.clone());
        let config = RpcConfig::default();
        let node = start(transport, directory, gate, Arc::new(Unwatched), config, &self.stop);
        self.nodes.lock().insert(n, (id, inner, node.clone()));
        node
    }

    async fn offer(&self, me: NodeId, node: &Node) {
        let (points, runs, finished) = (self.points.clone(), self.runs.clone(), self.finished.clone());
        let handler = move |call: Call| {
            runs.fetch_add(1, Ordering::Relaxed);
            work(call, me, points.clone(), finished.clone())
        };
        let name = "work".parse().unwrap();
        let offer = node.register(Realm::default(), name, RegisterOptions::default(), handler).await;
        // A node that was told to drain meanwhile takes no more.
        self.offers.lock().extend(offer);
    }

    fn number(&self, id: NodeId) -> u8 {
        let nodes = self.nodes.lock();
        nodes.iter().find(|(_, node)| node.0 == id).map(|(n, _)| *n).unwrap()
    }

    fn node(&self, id: NodeId) -> Node {
        let n = self.number(id);
        self.nodes.lock()[&n].2.clone()
    }

    fn id(&self, n: u8) -> NodeId {
        self.nodes.lock()[&n].0
    }

    fn all(&self) -> Vec<Node> {
        self.nodes.lock().values().map(|(_, _, node)| node.clone()).collect()
    }

    /// Brings about what lasts for a while, then ends it.
    fn for_a_while(self: &Arc<Self>, lasts: Duration) {
        let world = self.clone();
        tokio::spawn(async move {
            sleep(lasts).await;
            world.network.heal_all();
            let ids: Vec<NodeId> = world.nodes.lock().values().map(|node| node.0).collect();
            ids.into_iter().for_each(|id| world.network.resume(id));
        });
    }

    fn drain(&self, node: Node) {
        tokio::spawn(async move { node.drain().await });
    }

    fn restart(self: &Arc<Self>, id: NodeId) {
        let n = self.number(id);
        self.network.crash(id);
        if n == CALLER {
            return;
        }
        let (world, node) = (self.clone(), self.add(n, Arc::new(AllowAll)));
        tokio::spawn(async move { world.offer(id, &node).await });
    }

    fn hit(self: &Arc<Self>, blow: Blow, call: &CallHandles, provider: NodeId) -> Stall {
        let caller = self.id(CALLER);
        match blow.fault {
            Fault::CallDropped => call.task.lock().as_ref().unwrap().abort(),
            Fault::CallCancelled => call.cancel.cancel(),
            Fault::CallerCrash => self.network.crash(caller),
            Fault::HangUp => {
                let transport = self.nodes.lock()[&CALLER].1.clone();
                transport.hang_up(&provider);
            }
            Fault::Crash => self.network.crash(provider),
            Fault::CrashOfAll => [1, 2].into_iter().for_each(|n| self.network.crash(self.id(n))),
            Fault::Restart => self.restart(provider),
            Fault::Partition => self.network.partition(caller, provider),
            Fault::RequestsLost => self.network.partition_one_way(caller, provider),
            Fault::AnswersLost => self.network.partition_one_way(provider, caller),
            Fault::Pause => self.network.pause(provider),
            Fault::UnregisterAll => drop(std::mem::take(&mut *self.offers.lock())),
            Fault::Drain => self.drain(self.node(provider)),
            Fault::DrainAll => self.all().into_iter().for_each(|node| self.drain(node)),
            Fault::Stall => return Some(TIMEOUT * 3),
        }
        self.for_a_while(blow.lasts);
        None
    }
}

async fn work(
    mut call: Call,
    me: NodeId,
    points: Arc<Points>,
    finished: Arc<AtomicUsize>,
) -> Result<Reply, HandlerError> {
    points.pass(me).await;
    for n in 0..PARTS {
        call.progress(n.to_string()).await?;
    }
    while call.next_part().await.is_some() {}
    sleep(LATENCY).await;
    points.pass(me).await;
    finished.fetch_add(1, Ordering::Relaxed);
    Ok("done".into())
}

/// What a call can be ended with.
struct CallHandles {
    task: Mutex<Option<AbortHandle>>,
    cancel: CancellationToken,
}

/// What one scenario came to.
#[derive(Debug)]
struct Seen {
    /// `None` if the caller dropped the call.
    outcome: Option<Result<Reply, CallError>>,
    took: Duration,
    runs: usize,
    finished: usize,
    /// How many of the points the call got to.
    blows: usize,
}

async fn play(scenario: Scenario) -> Seen {
    let network = MemoryNetwork::new(1);
    network.set_faults(Faults { latency: LATENCY, ..Faults::default() });
    let world = Arc::new(World {
        network,
        directory: MemoryDirectoryNetwork::default(),
        points: Arc::default(),
        stop: CancellationToken::new(),
        nodes: Mutex::default(),
        offers: Mutex::default(),
        runs: Arc::default(),
        finished: Arc::default(),
    });
    for n in [1, 2] {
        let provider = world.add(n, Arc::new(AllowAll));
        world.offer(world.id(n), &provider).await;
    }
    let gate: Arc<dyn Gate> =
        if scenario.local == Local::Refuses { Arc::new(DenyCalls) } else { Arc::new(AllowAll) };
    let caller = world.add(CALLER, gate);
    if scenario.local != Local::Absent {
        world.offer(world.id(CALLER), &caller).await;
    }
    if let Shape::Later = scenario.shape {
        for n in [1, 2] {
            let nothing = CallRequest::new("nothing".parse().unwrap()).to(world.id(n));
            caller.call(nothing).await.expect_err("nobody offers it");
        }
    }
    let handles = Arc::new(CallHandles { task: Mutex::default(), cancel: CancellationToken::new() });
    let caller_id = world.id(CALLER);
    for blow in scenario.blows.clone() {
        let (hit, at) = (world.clone(), handles.clone());
        let action = move |peer: NodeId| {
            // At a provider a point is about the caller: whom it hits there is the provider with the call.
            let provider = if peer == caller_id { hit.serving() } else { peer };
            hit.hit(blow, &at, provider)
        };
        world.points.plan(blow.point, Box::new(action));
    }
    let planned = world.points.left();
    world.points.count();
    let begun = Instant::now();
    let call = tokio::spawn(make(caller.clone(), scenario.clone(), handles.cancel.clone()));
    *handles.task.lock() = Some(call.abort_handle());
    let outcome = outcome(call).await;
    let took = begun.elapsed();
    // Whatever is still under way arrives now.
    sleep(Duration::from_secs(120)).await;
    for node in world.all() {
        assert_eq!(node.metrics().handlers_in_flight.get(), 0, "a handler runs on: {scenario:?}");
    }
    assert_eq!(caller.metrics().calls_in_flight.get(), 0, "{scenario:?}");
    let shares = matches!(scenario.shape, Shape::Unary | Shape::Later);
    assert!(shares || caller.metrics().calls_shared.get() == 0, "{scenario:?}");
    world.stop.cancel();
    let (runs, finished) = (world.runs.load(Ordering::Relaxed), world.finished.load(Ordering::Relaxed));
    Seen { outcome, took, runs, finished, blows: planned - world.points.left() }
}

impl World {
    /// The node that runs a handler, else the first provider.
    fn serving(&self) -> NodeId {
        let nodes = self.nodes.lock();
        let serving = nodes.values().find(|(_, _, node)| node.metrics().handlers_in_flight.get() > 0);
        serving.map_or(nodes[&1].0, |node| node.0)
    }
}

async fn outcome(call: JoinHandle<Result<Reply, CallError>>) -> Option<Result<Reply, CallError>> {
    match call.await {
        Ok(outcome) => Some(outcome),
        Err(error) if error.is_cancelled() => None,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

async fn make(caller: Node, scenario: Scenario, cancel: CancellationToken) -> Result<Reply, CallError> {
    let request = CallRequest::new("work".parse().unwrap())
        .strategy(scenario.strategy)
        .timeout(TIMEOUT)
        .idempotent(scenario.idempotent)
        .cancelled_by(cancel);
    let (parts, mut results) = match scenario.shape {
        Shape::Unary | Shape::Later => return caller.call(request).await,
        Shape::Large => return caller.call(request.payload(vec![7; 20_000])).await,
        Shape::Streamed => (None, caller.call_stream(request).await?),
        Shape::Duplex => {
            let (parts, results) = caller.call_duplex(request).await?;
            (Some(parts), results)
        }
    };
    if let Some(mut parts) = parts {
        for n in 0..PARTS {
            // Why it fails is what the results say.
            let _ = parts.send(n.to_string()).await;
        }
        parts.finish();
    }
    for n in 0..PARTS {
        match results.next().await? {
            Some(part) => assert_eq!(part.payload, n.to_string(), "parts in order, none lost, none twice"),
            None => panic!("the handler is done, and part {n} is missing"),
        }
    }
    results.reply().await
}

/// Whether the caller's outcome is true, whatever the number of runs.
fn check_truth(scenario: &Scenario, seen: &Seen) {
    let said = || format!("{scenario:?}: {seen:?}");
    assert!(seen.took <= TIMEOUT + Duration::from_millis(1), "the caller waits too long: {}", said());
    let Some(outcome) = &seen.outcome else {
        return assert!(scenario.has(Fault::CallDropped), "no outcome: {}", said());
    };
    let error = match outcome {
        Ok(reply) => {
            assert_eq!(reply.payload, "done", "{}", said());
            return assert!(seen.finished >= 1, "a reply from nowhere: {}", said());
        }
        Err(error) => error,
    };
    assert!(seen.runs == 0 || error.may_have_run(), "it ran, although: {error}: {}", said());
    let explained = match error {
        CallError::Deadline { .. } => seen.took >= TIMEOUT,
        CallError::Cancelled { .. } => scenario.has(Fault::CallCancelled),
        CallError::UnknownProcedure { .. } => seen.blows > 0 && scenario.has(Fault::UnregisterAll),
        CallError::Forbidden { .. } => scenario.local == Local::Refuses && seen.blows > 0,
        CallError::NoProviderReachable { .. } | CallError::Lost { .. } => seen.blows > 0,
        _ => false,
    };
    assert!(explained, "not what happened: {error}: {}", said());
}

fn run(scenario: &Scenario) -> Seen {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(play(scenario.clone()))
}

/// Plays every fault at every point of the call, in calls of every shape; returns how often a handler ran more than once.
fn walk(strategy: Strategy, local: Local, idempotent: bool) -> usize {
    let (mut played, mut repeated) = (0, 0);
    for shape in SHAPES {
        for fault in FAULTS {
            for lasts in fault.durations() {
                for point in 0.. {
                    let blows = vec![Blow { fault, lasts: *lasts, point }];
                    let scenario = Scenario { strategy, local, shape, idempotent, blows };
                    let seen = run(&scenario);
                    check_truth(&scenario, &seen);
                    if seen.runs > 1 {
                        assert!(idempotent, "it ran {} times: {scenario:?}: {seen:?}", seen.runs);
                        repeated += 1;
                    }
                    if seen.blows == 0 {
                        assert!(matches!(seen.outcome, Some(Ok(_))), "{scenario:?}: {seen:?}");
                        assert!(point >= 2, "a call has more points than that: {scenario:?}");
                        break;
                    }
                    played += 1;
                }
            }
        }
    }
    assert!(played > 50, "only {played} scenarios");
    println!("{strategy:?}, {local:?}: {played} faults, {repeated} with more than one run");
    repeated
}

#[test]
fn local_first_where_this_node_serves() {
    walk(Strategy::LocalFirst, Local::Serves, false);
}

#[test]
fn local_first_where_this_node_refuses() {
    walk(Strategy::LocalFirst, Local::Refuses, false);
}

#[test]
fn round_robin() {
    walk(Strategy::RoundRobin, Local::Absent, false);
}

#[test]
fn random() {
    walk(Strategy::Random, Local::Absent, false);
}

#[test]
fn nearest() {
    walk(Strategy::Nearest, Local::Absent, false);
}

#[test]
fn least_loaded() {
    walk(Strategy::LeastLoaded, Local::Refuses, false);
}

fn blow() -> impl proptest::strategy::Strategy<Value = Blow> {
    (0..FAULTS.len(), 0..LASTS.len(), 0_usize..24).prop_map(|(fault, lasts, point)| Blow {
        fault: FAULTS[fault],
        lasts: LASTS[lasts],
        point,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn several_faults_in_one_call(
        blows in prop::collection::vec(blow(), 2..5),
        strategy in 0_usize..3,
        shape in 0..SHAPES.len(),
    ) {
        let (strategy, local) = [
            (Strategy::RoundRobin, Local::Absent),
            (Strategy::LocalFirst, Local::Refuses),
            (Strategy::LeastLoaded, Local::Serves),
        ][strategy];
        let shape = SHAPES[shape];
        let scenario = Scenario { strategy, local, shape, idempotent: false, blows };
        let seen = run(&scenario);
        check_truth(&scenario, &seen);
        prop_assert!(seen.runs <= 1, "it ran {} times: {:?}", seen.runs, seen);
    }
}

/// The walk sees what it is there to see: a call that is tried elsewhere after it may have run does run twice.
#[test]
fn calls_that_may_run_twice_do() {
    assert!(walk(Strategy::RoundRobin, Local::Absent, true) > 0);
}
