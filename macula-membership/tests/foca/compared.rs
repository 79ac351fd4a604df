//! The two implementations on the same network, in figures: 32 nodes, 5 % of all packets lost.

use std::collections::BTreeSet;
use std::time::Duration;

use macula_membership::conformance::Harness;
use macula_membership::{Event, EventError, EventReceiver, Membership};
use macula_proto::NodeId;
use macula_transport::memory::{Faults, MemoryNetwork};
use macula_transport::{Target, TransportMetrics};
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use crate::cell::Cell;
use crate::pond::Pond;

const NODES: u8 = 32;
const KILLED: u8 = 5;
const PERIOD: Duration = Duration::from_secs(1);
/// Steady state is measured over so many periods.
const STEADY_PERIODS: u32 = 120;
/// How exactly times are measured.
const STEP: Duration = Duration::from_millis(20);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Prints the table; nothing is asserted about foca.
#[tokio::test(start_paused = true)]
async fn both_are_measured_on_the_same_network() {
    let ours = measure(&Cell::new(7)).await;
    // As long as ours suspects at least, with 32 members: 4 s times their decimal logarithm.
    let mut pond = Pond::new(7);
    pond.suspect_timeout = Duration::from_millis(6_020);
    let theirs = measure(&pond).await;
    println!("{}", table(&[("macula", &ours), ("foca", &theirs)]));
    assert_eq!(ours.wrongly_confirmed, 0);
    for [first, _, last] in &ours.confirmed_after {
        assert!(
            *first >= Duration::from_secs(4),
            "nobody is confirmed sooner than he could refute: {first:?}"
        );
        assert!(*last < Duration::from_secs(30), "{last:?}");
    }
    assert!(ours.joined_after < Duration::from_secs(20), "{:?}", ours.joined_after);
}

/// A mesh that can be measured.
trait Mesh: Harness {
    fn network(&self) -> &MemoryNetwork;
    /// The counters of all running nodes.
    fn metrics(&self) -> Vec<TransportMetrics>;
}

impl Mesh for Cell {
    fn network(&self) -> &MemoryNetwork {
        &self.network
    }

    fn metrics(&self) -> Vec<TransportMetrics> {
        self.running.lock().values().map(|running| running.transport.metrics().clone()).collect()
    }
}

impl Mesh for Pond {
    fn network(&self) -> &MemoryNetwork {
        &self.network
    }

    fn metrics(&self) -> Vec<TransportMetrics> {
        self.running.lock().values().map(|running| running.transport.metrics().clone()).collect()
    }
}

/// What was measured.
#[derive(Debug)]
struct Figures {
    /// From the moment at which all begin to join through one, until all see all.
    joined_after: Duration,
    /// For each kill: until the first, the median and the last survivor has confirmed it.
    confirmed_after: Vec<[Duration; 3]>,
    messages_per_node_and_period: f64,
    bytes_per_node_and_period: f64,
    dials_per_node_and_minute: f64,
    connections_per_node: f64,
    /// How often a living node was confirmed dead by another.
    wrongly_confirmed: usize,
}

/// What all nodes have counted.
#[derive(Clone, Copy, Default)]
struct Counted {
    frames: f64,
    bytes: f64,
    dials: f64,
}

async fn measure<M: Mesh>(mesh: &M) -> Figures {
    let faults =
        Faults { latency: Duration::from_millis(5), jitter: Duration::from_millis(5), ..Faults::default() };
    mesh.network().set_faults(Faults { loss: 0.05, ..faults });
    let mut nodes = Vec::new();
    for n in 1..=NODES {
        nodes.push(mesh.start(n).await);
    }
    let mut events: Vec<EventReceiver> = nodes.iter().map(Membership::subscribe).collect();
    let joined_after = join_all(&nodes).await;
    tokio::time::sleep(120 * PERIOD).await;

    let before = counted(mesh);
    tokio::time::sleep(STEADY_PERIODS * PERIOD).await;
    let after = counted(mesh);
    let connections: i64 = mesh.metrics().iter().map(TransportMetrics::connections).sum();

    let mut confirmed_after = Vec::new();
    let mut killed = BTreeSet::new();
    for n in 0..KILLED {
        let victim = nodes.remove(usize::from(n) + 1);
        killed.insert(victim.local().id());
        confirmed_after.push(kill(mesh, victim.local().id(), 2 * n + 2, &nodes).await);
        tokio::time::sleep(30 * PERIOD).await;
    }
    let share = |total: f64| total / f64::from(NODES) / f64::from(STEADY_PERIODS);
    Figures {
        joined_after,
        confirmed_after,
        messages_per_node_and_period: share(after.frames - before.frames),
        bytes_per_node_and_period: share(after.bytes - before.bytes),
        dials_per_node_and_minute: share(after.dials - before.dials) * 60.0,
        connections_per_node: connections as f64 / f64::from(NODES),
        wrongly_confirmed: events.iter_mut().map(|events| wrongly_confirmed(events, &killed)).sum(),
    }
}

async fn join_all<N: Membership>(nodes: &[N]) -> Duration {
    let begun = Instant::now();
    let seed = Target::Contact((*nodes[0].local().contact).clone());
    for node in &nodes[1..] {
        let (node, seed) = (node.clone(), seed.clone());
        tokio::spawn(async move { node.join(vec![seed]).await.expect("the seed is there") });
    }
    while nodes.iter().any(|node| node.members().len() < usize::from(NODES)) {
        assert!(begun.elapsed() < PATIENCE, "they do not all see each other");
        tokio::time::sleep(STEP).await;
    }
    begun.elapsed()
}

/// Kills one and waits until all `others` have noticed.
async fn kill<M: Mesh>(mesh: &M, id: NodeId, n: u8, others: &[M::Membership]) -> [Duration; 3] {
    let begun = Instant::now();
    mesh.crash(n).await;
    let mut noticed = vec![None; others.len()];
    while noticed.contains(&None) {
        assert!(begun.elapsed() < PATIENCE, "not everybody notices");
        tokio::time::sleep(STEP).await;
        for (other, at) in others.iter().zip(&mut noticed).filter(|(_, at)| at.is_none()) {
            if other.members().iter().all(|member| member.id() != id) {
                *at = Some(begun.elapsed());
            }
        }
    }
    let mut times: Vec<Duration> = noticed.into_iter().flatten().collect();
    times.sort_unstable();
    [times[0], times[times.len() / 2], times[times.len() - 1]]
}

fn wrongly_confirmed(events: &mut EventReceiver, killed: &BTreeSet<NodeId>) -> usize {
    let mut count = 0;
    loop {
        match events.try_recv() {
            Ok(Some(Event::Confirmed(member))) if !killed.contains(&member.id()) => count += 1,
            Ok(Some(_)) => {}
            // Closed: the queue of one that was killed.
            Ok(None) | Err(EventError::Closed) => return count,
            Err(error) => panic!("the queue was too short: {error}"),
        }
    }
}

fn counted(mesh: &impl Mesh) -> Counted {
    let mut sum = Counted::default();
    for metrics in mesh.metrics() {
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text takes anything");
        for line in text.lines() {
            let Some(value) = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()) else {
                continue;
            };
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            match name {
                "transport_frames_sent_total" => sum.frames += value,
                "transport_sent_bytes_total" => sum.bytes += value,
                "transport_handshakes_total" if line.contains("side=\"dialler\"") => sum.dials += value,
                _ => {}
            }
        }
    }
    sum
}

/// How a figure is written.
type Row = Box<dyn Fn(&Figures) -> String>;

/// The table of several implementations.
fn table(columns: &[(&str, &Figures)]) -> String {
    let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    let over_kills = |which: usize| {
        move |figures: &Figures| {
            let mut times: Vec<Duration> = figures.confirmed_after.iter().map(|times| times[which]).collect();
            times.sort_unstable();
            seconds(times[times.len() / 2])
        }
    };
    let rows: [(&str, Row); 9] = [
        ("all joined through one", Box::new(move |figures| seconds(figures.joined_after))),
        ("a kill confirmed by the first", Box::new(over_kills(0))),
        ("... by half of the others", Box::new(over_kills(1))),
        ("... by the last", Box::new(over_kills(2))),
        ("messages a node and period", Box::new(|f| format!("{:.1}", f.messages_per_node_and_period))),
        ("bytes a node and period", Box::new(|f| format!("{:.0}", f.bytes_per_node_and_period))),
        ("dials a node and minute", Box::new(|f| format!("{:.1}", f.dials_per_node_and_minute))),
        ("connections a node", Box::new(|f| format!("{:.1}", f.connections_per_node))),
        ("living nodes confirmed dead", Box::new(|f| f.wrongly_confirmed.to_string())),
    ];
    let line = |first: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!(" {cell:>10} |")).collect();
        format!("| {first:<30} |{cells}\n")
    };
    let header = format!("{NODES} nodes, 5 % loss, medians of {KILLED} kills");
    let mut text = line(&header, columns.iter().map(|(name, _)| (*name).to_owned()).collect());
    for (name, of) in &rows {
        text += &line(name, columns.iter().map(|(_, figures)| of(figures)).collect());
    }
    text
}
