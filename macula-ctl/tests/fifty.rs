//! Fifty processes on one machine: ten are killed at once and started again, and what all of that costs in connections
//! and handshakes stays within the budget that the documentation of `macula-membership` states.

// The lint lets tests unwrap, but not what they share.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use support::{NodeProcess, User, alive};

const NODES: usize = 50;
const KILLED: usize = 10;

const PERIOD: Duration = Duration::from_millis(500);
const IDLE: Duration = Duration::from_secs(3);
/// A small directory that looks after itself rarely, so that the connections are membership's.
const COMMON: [(&str, &str); 7] = [
    ("MACULA_ROUTING_REFRESH_INTERVAL", "24h"),
    ("MACULA_ROUTING_K", "5"),
    ("MACULA_ROUTING_ALPHA", "2"),
    ("MACULA_MEMBERSHIP_PROTOCOL_PERIOD", "500ms"),
    ("MACULA_MEMBERSHIP_SUSPECT_TIMEOUT", "2s"),
    ("MACULA_QUIC_IDLE_TIMEOUT", "3s"),
    ("MACULA_QUIC_KEEP_ALIVE", "1s"),
];

/// A dead member is probed by one of its three predecessors within three periods, and nobody has reached it one and a half
/// later; the suspicion lasts 2 s times the decimal logarithm of 50 if its predecessors agree, and six times as long
/// if they are dead as well.
const CONFIRMED_PERIODS_MAX: f64 = 4.5 + 6.0 * 6.8;

/// News of who started reaches all within three periods. The rest is for ten joins at once on a busy machine, and for
/// asking fifty nodes one after the other.
const RETURNED_PERIODS_MAX: f64 = 10.0;

/// How long steady state is watched.
const WATCHED: Duration = Duration::from_secs(6);

/// Dials a node and second in steady state: a random member every 16 periods, a list exchanged every half a minute.
const DIALS_PER_SECOND: f64 = 1.0 / (16.0 * 0.5) + 1.0 / 30.0;

/// Links a node: its neighbours on three rings, to either side; and what it and others dialled, until that is idle.
const LINKS: f64 = 6.0 + 2.0 * 3.0 * DIALS_PER_SECOND;

struct Mesh {
    user: User,
    env: Vec<(&'static str, &'static str)>,
    nodes: Vec<NodeProcess>,
}

/// What the nodes have counted.
struct Sample {
    at: Instant,
    dials: f64,
    connections: Vec<f64>,
}

impl Mesh {
    fn new(env: &[(&'static str, &'static str)]) -> Self {
        Self { user: User::new(), env: [&COMMON, env].concat(), nodes: Vec::new() }
    }

    /// Starts a node that joins through the first one.
    fn start(&mut self, name: &str, listen: &str) {
        let seed = self.nodes.first().map(NodeProcess::addr);
        let mut args = vec!["start", "--name", name, "--listen", listen, "-o", "ndjson"];
        args.extend(seed.iter().flat_map(|seed| ["--join", seed]));
        let node = self.user.launch(name, &args, &self.env);
        self.nodes.push(node);
    }

    fn ids(&self) -> BTreeSet<String> {
        self.nodes.iter().map(NodeProcess::id).collect()
    }

    /// Waits until each node sees exactly the nodes that run; says how long the first and the last took.
    fn agrees(&self, since: Instant) -> (Duration, Duration) {
        let expected = self.ids();
        let mut waiting: Vec<&NodeProcess> = self.nodes.iter().collect();
        let mut first = None;
        self.user.until("all agree on who is there", || {
            waiting.retain(|node| {
                let members = serde_json::from_str(&get(node, "/v1/members")).unwrap();
                alive(&members).into_iter().collect::<BTreeSet<_>>() != expected
            });
            first = first.or((waiting.len() < self.nodes.len()).then(|| since.elapsed()));
            waiting.is_empty()
        });
        (first.unwrap_or_default(), since.elapsed())
    }

    fn sample(&self) -> Sample {
        let (mut dials, mut connections) = (0.0, Vec::new());
        for node in &self.nodes {
            let text = get(node, "/metrics");
            dials += metric(&text, "macula_transport_handshakes_total{side=\"dialler\"");
            connections.push(metric(&text, "macula_transport_connections "));
        }
        Sample { at: Instant::now(), dials, connections }
    }

    /// Watches for a while, and checks the budget of steady state.
    fn is_within_budget(&self, when: &str, pool: f64) {
        let before = self.sample();
        // tidy: allow(sleep): a rate needs a time over which it is measured
        std::thread::sleep(WATCHED);
        let after = self.sample();
        let count = self.nodes.len() as f64;
        let rate = (after.dials - before.dials) / count / (after.at - before.at).as_secs_f64();
        let mean = after.connections.iter().sum::<f64>() / count;
        let most = after.most();
        println!(
            "{when}: {rate:.3} dials a node and second (budget {DIALS_PER_SECOND:.3}), {mean:.1} links a node (budget \
             {LINKS:.1}), at most {most}"
        );
        assert!(rate <= 1.5 * DIALS_PER_SECOND, "{when}: {rate:.3} dials a node and second");
        assert!(mean <= 1.5 * LINKS, "{when}: {mean:.1} links a node");
        assert!(most <= pool.min(3.0 * LINKS), "{when}: {most} links at one node");
    }
}

impl Sample {
    fn most(&self) -> f64 {
        self.connections.iter().copied().fold(0.0, f64::max)
    }
}

/// Asks a node's socket; HTTP/1.0, so that the answer ends with the connection.
fn get(node: &NodeProcess, path: &str) -> String {
    let mut stream = UnixStream::connect(node.socket()).unwrap();
    stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: n\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{path}: {head}");
    body.to_owned()
}

/// The sum of all lines that begin so.
fn metric(text: &str, begins: &str) -> f64 {
    let lines = text.lines().filter(|line| line.starts_with(begins));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn in_periods(time: Duration) -> f64 {
    time.as_secs_f64() / PERIOD.as_secs_f64()
}

/// Fifty join through one; ten die and come back; steady state is checked before and after.
fn fifty_come_ten_die_and_return(pool: &'static str) {
    let mut mesh = Mesh::new(&[("MACULA_QUIC_CONNECTIONS_MAX", pool)]);
    let pool: f64 = pool.parse().unwrap();
    let begun = Instant::now();
    (0..NODES).for_each(|n| mesh.start(&format!("n{n}"), "127.0.0.1:0"));
    let started = begun.elapsed();
    let (_, all) = mesh.agrees(begun);
    let joined = mesh.sample();
    let (dials, most) = (joined.dials / NODES as f64, joined.most());
    println!(
        "{NODES} started after {started:.1?}, all see all after {all:.1?}; {dials:.1} dials a node so far, at most {most} links"
    );

    // tidy: allow(sleep): what joining opened closes when it has been idle for so long
    std::thread::sleep(2 * IDLE);
    mesh.is_within_budget("steady", pool);

    // Among them the one through which all joined.
    let names: Vec<String> = (0..KILLED).map(|n| format!("n{}", n * NODES / KILLED)).collect();
    let (killed, left): (Vec<_>, Vec<_>) =
        std::mem::take(&mut mesh.nodes).into_iter().partition(|node| names.contains(&node.name));
    mesh.nodes = left;
    let again: Vec<(String, String)> = killed.iter().map(|node| (node.name.clone(), node.addr())).collect();
    let ids: BTreeSet<String> = killed.iter().map(NodeProcess::id).collect();
    let at = Instant::now();
    killed.into_iter().for_each(NodeProcess::kill);
    let (first, last) = mesh.agrees(at);
    println!(
        "{KILLED} killed: the first knows after {first:.1?} ({:.0} periods), the last after {last:.1?} ({:.0})",
        in_periods(first),
        in_periods(last)
    );
    assert!(in_periods(last) <= CONFIRMED_PERIODS_MAX, "{last:?}");

    let at = Instant::now();
    again.iter().for_each(|(name, addr)| mesh.start(name, addr));
    let started = Instant::now();
    let (_, all) = mesh.agrees(started);
    println!(
        "{KILLED} started again in {:.1?}; {all:.1?} later ({:.1} periods) all see all",
        started - at,
        in_periods(all)
    );
    assert!(in_periods(all) <= RETURNED_PERIODS_MAX, "{all:?}");
    assert!(ids.is_subset(&mesh.ids()), "they came back as themselves");
    // tidy: allow(sleep): what joining opened closes when it has been idle for so long
    std::thread::sleep(2 * IDLE);
    mesh.is_within_budget("after all that", pool);
}

#[test]
fn fifty_nodes_stay_within_their_budget_while_ten_die_and_return() {
    fifty_come_ten_die_and_return("100");
}

#[test]
fn fifty_nodes_make_do_with_twenty_connections_each() {
    fifty_come_ten_die_and_return("20");
}
