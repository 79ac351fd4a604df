//! What the in-memory network does besides the conformance suite: faults on schedule, and the same again from the
//! same seed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use macula_proto::{Clock, Frame, FrameKind, NodeId, Timestamp, wire};
use macula_transport::memory::{Faults, MemoryConfig, MemoryNetwork, MemoryRx, MemoryTransport, MemoryTx};
use macula_transport::{
    CloseReason, Inbound, LaneId, PeerEvent, Refusal, StreamRx, Target, TokioClock, Transport, TransportError,
};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Up(NodeId),
    Down(NodeId, CloseReason),
    Datagram(u32),
    Lane(u32),
}

/// Writes down what comes in, and when. Holds streams for as long as they last.
#[derive(Clone)]
struct Recorder {
    clock: TokioClock,
    events: Arc<Mutex<Vec<(Timestamp, Event)>>>,
}

impl Recorder {
    fn note(&self, event: Event) {
        self.events.lock().push((self.clock.now(), event));
    }

    fn events(&self) -> Vec<Event> {
        self.events.lock().iter().map(|(_, event)| *event).collect()
    }

    fn downs(&self) -> Vec<CloseReason> {
        let reason = |event| if let Event::Down(_, reason) = event { Some(reason) } else { None };
        self.events().into_iter().filter_map(reason).collect()
    }
}

impl Inbound<MemoryTransport> for Recorder {
    fn on_peer(&self, event: PeerEvent) {
        match event {
            PeerEvent::Up(info) => self.note(Event::Up(info.id)),
            PeerEvent::Down { id, reason } => self.note(Event::Down(id, reason)),
            _ => {}
        }
    }

    fn on_datagram(&self, _from: NodeId, frame: Frame) {
        self.note(Event::Datagram(number(&frame)));
    }

    async fn on_lane(&self, _from: NodeId, _lane: LaneId, frame: Frame) {
        self.note(Event::Lane(number(&frame)));
    }

    async fn on_stream(&self, _from: NodeId, _first: Frame, _tx: MemoryTx, mut rx: MemoryRx) {
        while let Ok(Some(_)) = rx.recv().await {}
    }
}

struct Node {
    transport: MemoryTransport,
    seen: Recorder,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Node {
    fn id(&self) -> NodeId {
        self.transport.local().id
    }

    async fn connect(&self, to: &Self) -> Result<NodeId, TransportError> {
        self.transport.connect(Target::Contact(to.transport.local())).await.map(|info| info.id)
    }
}

fn start(network: &MemoryNetwork, config: impl Into<MemoryConfig>) -> Node {
    let transport = network.node(config);
    let seen = Recorder { clock: TokioClock::default(), events: Arc::default() };
    let stop = CancellationToken::new();
    let serving = tokio::spawn({
        let (transport, seen, stop) = (transport.clone(), seen.clone(), stop.clone());
        async move { transport.serve(seen, stop).await }
    });
    Node { transport, seen, stop, serving }
}

fn frame(n: u32, payload_bytes: usize) -> Frame {
    Frame::new(FrameKind::PUBLISH, &wire::LaneOpen { lane: n }, Bytes::from(vec![0; payload_bytes]))
        .expect("within the limits")
}

fn number(frame: &Frame) -> u32 {
    frame.header::<wire::LaneOpen>().expect("made by `frame`").lane
}

/// Under paused time: everything that can happen by then has happened.
async fn after(time: Duration) {
    tokio::time::sleep(time).await;
}

const SECOND: Duration = Duration::from_secs(1);

/// Everybody sends to everybody over a bad network, with a partition in the middle.
async fn stormy(seed: u64) -> Vec<Vec<(Timestamp, Event)>> {
    let network = MemoryNetwork::new(seed);
    let faults = Faults { loss: 0.1, duplication: 0.1, reordering: 0.1, ..Faults::wan() };
    network.set_faults(faults);
    let nodes: Vec<_> = (1..=5).map(|n| start(&network, n)).collect();
    network.introduce_all();
    for n in 0..20 {
        for from in &nodes {
            for to in nodes.iter().filter(|to| to.id() != from.id()) {
                if let Ok(lane) = from.transport.lane(to.id(), LaneId::DATA).await {
                    let _ = lane.try_send(frame(n, 500));
                    let _ = from.transport.datagram(to.id(), frame(n, 50));
                }
            }
        }
        match n {
            5 => network.partition_sides(&[nodes[0].id()], &[nodes[1].id(), nodes[2].id()]),
            18 => network.heal_all(),
            _ => {}
        }
        after(SECOND).await;
    }
    after(30 * SECOND).await;
    nodes.iter().map(|node| node.seen.events.lock().clone()).collect()
}

#[test]
fn the_same_seed_plays_the_same_again() {
    let play = |seed| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().start_paused(true).build().unwrap().block_on(stormy(seed))
    };
    let first = play(11);
    assert!(first.iter().flatten().count() > 500, "something goes on");
    assert!(first.iter().flatten().any(|(_, event)| matches!(event, Event::Down(_, CloseReason::TimedOut))));
    assert_eq!(first, play(11));
    assert_ne!(first, play(12));
}

#[tokio::test(start_paused = true)]
async fn latency_is_what_a_dial_and_a_frame_take() {
    let network = MemoryNetwork::new(1);
    network.set_faults(Faults { latency: Duration::from_millis(50), ..Faults::default() });
    let (a, b) = (start(&network, 1), start(&network, 2));
    let began = Instant::now();
    let info = a.transport.connect(Target::Contact(b.transport.local())).await.unwrap();
    assert_eq!(began.elapsed(), Duration::from_millis(200), "two round trips");
    assert_eq!(info.rtt, Duration::from_millis(100));
    let began = b.seen.clock.now();
    a.transport.datagram(b.id(), frame(1, 10)).unwrap();
    after(SECOND).await;
    let (at, event) = *b.seen.events.lock().last().unwrap();
    assert_eq!((at - began, event), (Duration::from_millis(50), Event::Datagram(1)));
}

#[tokio::test(start_paused = true)]
async fn each_direction_may_have_its_own_faults() {
    let network = MemoryNetwork::new(1);
    let (a, b) = (start(&network, 1), start(&network, 2));
    a.connect(&b).await.unwrap();
    let slow = Faults { latency: Duration::from_millis(70), ..Faults::default() };
    network.set_faults_between(a.id(), b.id(), slow);
    assert_eq!(a.transport.peers()[0].rtt, Duration::from_millis(70));
    let sent = a.seen.clock.now();
    a.transport.datagram(b.id(), frame(1, 10)).unwrap();
    b.transport.datagram(a.id(), frame(2, 10)).unwrap();
    after(SECOND).await;
    let arrived = |node: &Node| node.seen.events.lock().last().map(|(at, _)| *at - sent).unwrap();
    assert_eq!((arrived(&a), arrived(&b)), (Duration::ZERO, Duration::from_millis(70)));
    network.clear_faults_between(a.id(), b.id());
    assert_eq!(a.transport.peers()[0].rtt, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn datagrams_are_doubled_and_overtaken() {
    let network = MemoryNetwork::new(1);
    let (a, b) = (start(&network, 1), start(&network, 2));
    a.connect(&b).await.unwrap();
    network.set_faults(Faults { duplication: 0.2, reordering: 0.2, ..Faults::default() });
    for n in 0..500 {
        a.transport.datagram(b.id(), frame(n, 10)).unwrap();
        after(Duration::from_millis(1)).await;
    }
    after(SECOND).await;
    let datagram = |event| if let Event::Datagram(n) = event { Some(n) } else { None };
    let numbers: Vec<_> = b.seen.events().into_iter().filter_map(datagram).collect();
    assert!((550..650).contains(&numbers.len()), "{}", numbers.len());
    assert!(numbers.windows(2).any(|pair| pair[0] > pair[1]), "some are overtaken");
    let mut once = numbers;
    once.sort_unstable();
    once.dedup();
    assert_eq!(once, (0..500).collect::<Vec<_>>(), "none is lost");
}

#[tokio::test(start_paused = true)]
async fn bandwidth_limits_what_passes() {
    let network = MemoryNetwork::new(1);
    let (a, b) = (start(&network, 1), start(&network, 2));
    a.connect(&b).await.unwrap();
    network.set_faults(Faults { bandwidth_bytes_per_s: Some(100_000), ..Faults::default() });
    let lane = a.transport.lane(b.id(), LaneId::DATA).await.unwrap();
    let began = a.seen.clock.now();
    for n in 0..100 {
        lane.send(frame(n, 10_000)).await.unwrap();
    }
    after(20 * SECOND).await;
    let (at, last) = *b.seen.events.lock().last().unwrap();
    assert_eq!(last, Event::Lane(99));
    let took = at - began;
    assert!((10 * SECOND..=11 * SECOND).contains(&took), "1 MB at 100 kB/s: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_crash_is_silent_on_both_sides_until_the_peer_timeout() {
    let network = MemoryNetwork::new(1);
    let (a, b) = (start(&network, 1), start(&network, 2));
    a.connect(&b).await.unwrap();
    network.crash(b.id());
    b.serving.await.unwrap();
    assert_eq!(b.seen.events(), [Event::Up(a.id())], "the dead notice nothing");
    after(9 * SECOND).await;
    assert_eq!(a.transport.peers().len(), 1, "not noticed yet");
    after(2 * SECOND).await;
    assert_eq!(a.seen.downs(), [CloseReason::TimedOut]);

    // The address is free; the same node comes back.
    let again = start(&network, 2);
    again.connect(&a).await.unwrap();
    assert_eq!(a.transport.peers().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_restarts_before_anybody_noticed_replaces_its_old_connection() {
    let network = MemoryNetwork::new(1);
    let (a, b) = (start(&network, 1), start(&network, 2));
    a.connect(&b).await.unwrap();
    let instance = a.transport.peers()[0].instance;
    network.crash(b.id());
    let again = start(&network, 2);
    again.connect(&a).await.unwrap();
    after(Duration::from_millis(1)).await;
    let b = again.id();
    assert_eq!(a.seen.events(), [Event::Up(b), Event::Down(b, CloseReason::Lost), Event::Up(b)]);
    assert_ne!(a.transport.peers()[0].instance, instance);
    after(60 * SECOND).await;
    assert_eq!(a.seen.downs(), [CloseReason::Lost, CloseReason::Idle], "the old one's end is reported once");
}

#[tokio::test(start_paused = true)]
async fn a_stop_behind_a_partition_gives_up_in_time() {
    let network = MemoryNetwork::new(1);
    let (a, b) = (start(&network, 1), start(&network, 2));
    a.connect(&b).await.unwrap();
    let lane = a.transport.lane(b.id(), LaneId::DATA).await.unwrap();
    network.partition(a.id(), b.id());
    lane.send(frame(1, 10)).await.unwrap();
    let began = Instant::now();
    a.stop.cancel();
    a.serving.await.unwrap();
    assert_eq!(began.elapsed(), 5 * SECOND, "the drain timeout");
    assert_eq!(a.seen.downs(), [CloseReason::Shutdown]);
    after(11 * SECOND).await;
    assert_eq!(b.seen.downs(), [CloseReason::TimedOut], "nobody could tell it");
}

#[tokio::test(start_paused = true)]
async fn connections_in_use_are_neither_evicted_nor_idle() {
    let network = MemoryNetwork::new(1);
    let tight = MemoryConfig { connections_max: 1, ..MemoryConfig::from(1) };
    let (a, b, c) = (start(&network, tight), start(&network, 2), start(&network, 3));
    a.connect(&b).await.unwrap();
    let stream = a.transport.stream(b.id(), frame(1, 10)).await.unwrap();
    after(300 * SECOND).await;
    assert_eq!(a.transport.peers().len(), 1, "an open stream is use");
    let full = a.connect(&c).await;
    assert!(matches!(full, Err(TransportError::PoolFull(1))), "{full:?}");
    let full = c.connect(&a).await;
    assert!(matches!(full, Err(TransportError::Refused { refusal: Refusal::Full, .. })), "{full:?}");
    assert_eq!(a.transport.metrics().refusals(&Refusal::Full), 1);
    drop(stream);
    after(SECOND).await;
    c.connect(&a).await.unwrap();
    assert_eq!(a.seen.downs(), [CloseReason::Evicted]);
    assert_eq!(a.transport.metrics().connections(), 1);
    after(61 * SECOND).await;
    assert_eq!(a.seen.downs(), [CloseReason::Evicted, CloseReason::Idle]);
    assert_eq!(a.transport.metrics().connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn dials_fail_by_name() {
    let network = MemoryNetwork::new(1);
    let a = start(&network, 1);
    let nobody = "10.9.9.9:4000".parse().unwrap();
    let began = Instant::now();
    let outcome = a.transport.connect(Target::Addr(nobody)).await.map(|info| info.id);
    assert!(
        matches!(&outcome, Err(TransportError::Unreachable { addrs, .. }) if *addrs == [nobody]),
        "{outcome:?}"
    );
    assert_eq!(began.elapsed(), 5 * SECOND);
    let lane = a.transport.lane(a.id(), LaneId(8)).await.map(drop);
    assert!(matches!(lane, Err(TransportError::NoSuchLane(LaneId(8)))), "{lane:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_may_be_dialled_before_it_serves_and_the_dial_waits() {
    let network = MemoryNetwork::new(1);
    let a = start(&network, 1);
    let late = network.node(2);
    let target = Target::Contact(late.local());
    let dial = tokio::spawn({
        let transport = a.transport.clone();
        async move { transport.connect(target).await.map(|info| info.id) }
    });
    after(SECOND).await;
    let seen = Recorder { clock: TokioClock::default(), events: Arc::default() };
    tokio::spawn({
        let (late, seen) = (late.clone(), seen.clone());
        async move { late.serve(seen, CancellationToken::new()).await }
    });
    assert_eq!(dial.await.unwrap().unwrap(), late.local().id);
    assert_eq!(seen.events(), [Event::Up(a.id())]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_of_a_node_that_stopped() {
    let network = MemoryNetwork::new(1);
    let (a, b) = (start(&network, 1), start(&network, 2));
    a.connect(&b).await.unwrap();
    let lane = a.transport.lane(b.id(), LaneId::DATA).await.unwrap();
    lane.send(frame(1, 10)).await.unwrap();
    let (_tx, _rx) = a.transport.stream(b.id(), frame(1, 10)).await.unwrap();
    a.stop.cancel();
    a.serving.await.unwrap();
    let book = Arc::downgrade(a.transport.book());
    drop((a.transport, _tx, _rx));
    after(SECOND).await;
    assert_eq!(book.strong_count(), 0, "the endpoint is gone with its last handle");
    assert_eq!(Arc::strong_count(&a.seen.events), 1, "and so is the handler");
}
