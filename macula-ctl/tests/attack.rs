//! A running node is attacked from outside; it goes on serving its peers, in bounded memory.

// The lint lets tests unwrap, but not what they share.
#![allow(clippy::unwrap_used)]

mod support;

#[path = "attack/hostile.rs"]
mod hostile;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hostile::{Client, Ending};
use support::{NodeProcess, Stream, User};

/// How much an attack may add to the memory of a node, in KiB: room for a hundred connections with their windows.
const GROWTH_KIB_MAX: u64 = 96 * 1024;

/// How long a publication may take from one process to another while under attack; alone it takes some 30 ms, most
/// of them for starting `macula_ctl`.
const LATENCY_MAX: Duration = Duration::from_secs(2);

/// Short deadlines for peers that say nothing.
const SHORT: &[(&str, &str)] = &[
    ("MACULA_QUIC_HANDSHAKE_TIMEOUT", "1s"),
    ("MACULA_QUIC_STREAM_TIMEOUT", "1s"),
    ("MACULA_LOG_LEVEL", "warn"),
];

/// A node under attack, and a peer that listens to it.
struct Target {
    user: User,
    node: NodeProcess,
    _peer: NodeProcess,
    heard: Stream,
    said: u64,
}

impl Target {
    fn new() -> Self {
        let user = User::new();
        let launch = |name: &str, seed: Option<&str>| {
            let mut args = vec!["start", "--name", name, "--listen", "127.0.0.1:0", "-o", "ndjson"];
            args.extend(seed.iter().flat_map(|seed| ["--join", seed]));
            user.launch(name, &args, SHORT)
        };
        let node = launch("node", None);
        let peer = launch("peer", Some(&node.addr()));
        user.wait_for_members("node", 2);
        let heard = user.stream(&["--node", "peer", "subscribe", "x", "-o", "ndjson"], "subscribed");
        let mut target = Self { user, node, _peer: peer, heard, said: 0 };
        target.latency(5);
        target
    }

    fn addr(&self) -> SocketAddr {
        self.node.addr().parse().unwrap()
    }

    /// The longest of some publications, each of which arrives.
    fn latency(&mut self, count: u64) -> Duration {
        let one = |target: &mut Self| {
            let begun = Instant::now();
            target.said += 1;
            let sent = target.user.json(&["publish", "x", &target.said.to_string()]);
            assert_eq!(sent["peers"], 1, "{sent}");
            assert_eq!(target.heard.json()["payload"], target.said);
            begun.elapsed()
        };
        (0..count).map(|_| one(self)).max().unwrap()
    }

    /// Resident memory in KiB.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.node.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    fn count(&self, name: &str, filter: &str) -> f64 {
        self.user.metric("node", &format!("macula_transport_{name}_total"), filter)
    }

    /// Attacks on a thread of its own, while publications go on.
    fn under(&mut self, what: &str, attack: impl FnOnce(SocketAddr) + Send + 'static) {
        let (before, calm) = (self.memory(), self.latency(5));
        let addr = self.addr();
        let attack = std::thread::spawn(move || attack(addr));
        let (mut highest, mut longest) = (before, Duration::ZERO);
        while !attack.is_finished() {
            longest = longest.max(self.latency(1));
            highest = highest.max(self.memory());
        }
        attack.join().unwrap();
        longest = longest.max(self.latency(3));
        highest = highest.max(self.memory());
        println!(
            "{what}: publications took {calm:?} before, at most {longest:?} during; memory {before} KiB before, at most {highest} KiB"
        );
        assert!(longest < LATENCY_MAX, "{what}: a publication took {longest:?}");
        assert!(highest < before + GROWTH_KIB_MAX, "{what}: {before} KiB became {highest} KiB");
    }
}

/// Runs clients on a runtime of their own.
fn run(attack: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(attack);
}

async fn all<T: Send + 'static>(
    attacks: impl Iterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let mut tasks: tokio::task::JoinSet<T> = attacks.collect();
    let mut outcomes = Vec::new();
    while let Some(done) = tasks.join_next().await {
        outcomes.push(done.unwrap());
    }
    outcomes
}

#[test]
fn a_flood_of_packets_that_mean_nothing() {
    let mut target = Target::new();
    target.under("noise for 3 s from 64 ports", |addr| {
        let sent = hostile::garbage(addr, Duration::from_secs(3));
        assert!(sent > 1_000, "{sent}");
        println!("{sent} packets of noise");
    });
    target.under("10,000 packets like Initials", |addr| hostile::initials(addr, 10_000));
    assert_eq!(target.count("handshakes", "ok"), 1.0, "nobody came in");
}

#[test]
fn handshakes_that_lead_nowhere() {
    let mut target = Target::new();
    for (what, ending) in [("broken off", Ending::BrokenOff), ("left hanging", Ending::Hanging)] {
        target.under(&format!("10,000 handshakes begun and {what}"), move |addr| {
            (0..200).for_each(|_| hostile::begin_handshakes(addr, 50, ending));
        });
    }
    let failed = |target: &Target| target.count("handshakes", "failed");
    let before = failed(&target);
    target.under("50 clients that say nothing after TLS", |addr| {
        run(async move {
            let silent = all((0..50).map(|_| async move {
                let client = Client::new();
                let connection = client.connect(addr).await?;
                connection.closed().await;
                Some(())
            }));
            assert!(silent.await.iter().filter(|ended| ended.is_some()).count() > 10, "the node ends them");
        });
    });
    let user = &target.user;
    user.until("failed handshakes are counted", || failed(&target) >= before + 10.0);
}

#[test]
fn hellos_that_are_none_are_counted() {
    let mut target = Target::new();
    target.under("noise and giants as hello", |addr| {
        run(async move {
            let ended = all((0..60).map(|n| async move {
                let client = Client::new();
                let connection = client.connect(addr).await?;
                let (mut tx, _rx) = connection.open_bi().await.ok()?;
                let noise = hostile::Noise::new(n).bytes(2_000);
                let hello = match n % 3 {
                    0 => noise.as_slice(),
                    1 => hostile::GIANT[0],
                    _ => hostile::GIANT[1],
                };
                let _ = tx.write_all(hello).await;
                connection.closed().await;
                Some(())
            }));
            assert!(ended.await.iter().filter(|ended| ended.is_some()).count() > 20, "the node ends them");
        });
    });
    assert!(target.count("dropped", "bad_frame") >= 10.0);
    assert!(target.count("handshakes", "failed") >= 20.0);
    assert_eq!(target.user.json(&["peers"]).as_array().unwrap().len(), 1, "none of them is a peer");
}

#[test]
fn a_peer_that_was_let_in_and_misbehaves() {
    let mut target = Target::new();
    target.under("5,000 streams begun and abandoned, by each of 4 peers", |addr| {
        run(async move {
            let held = all((0..4).map(|_| async move {
                let client = Client::new();
                let (connection, _tx, _rx) = client.enter(addr).await.unwrap();
                hostile::abandon_streams(&connection, 5_000).await
            }));
            let held = held.await;
            assert!(held.iter().any(|held| *held > 0), "{held:?}");
        });
    });
    target.under("giant frames on lanes and streams, and noise", |addr| {
        run(async move {
            all((0..40).map(|n| async move {
                let client = Client::new();
                let (connection, _tx, _rx) = client.enter(addr).await?;
                let (mut uni, (mut bi, _)) =
                    (connection.open_uni().await.ok()?, connection.open_bi().await.ok()?);
                let noise = hostile::Noise::new(n).bytes(3_000);
                let _ = uni.write_all(if n % 2 == 0 { hostile::GIANT[0] } else { &noise }).await;
                let _ = bi.write_all(if n % 2 == 0 { &noise } else { hostile::GIANT[1] }).await;
                let _ = connection.send_datagram(noise[..500].to_vec().into());
                tokio::time::timeout(Duration::from_secs(2), connection.closed()).await.ok()
            }))
            .await;
        });
    });
    assert!(target.count("dropped", "bad_frame") >= 10.0);
    assert!(target.count("dropped", "silent_stream") >= 1.0);
}

#[test]
fn more_strangers_than_there_are_places() {
    let mut target = Target::new();
    target.under("150 strangers come in and stay for 3 s", |addr| {
        run(async move {
            let entered = all((0..150).map(|_| async move {
                let client = Client::new();
                let place = client.enter(addr).await?;
                let _ = tokio::time::timeout(Duration::from_secs(3), place.0.closed()).await;
                Some(())
            }));
            assert!(entered.await.iter().flatten().count() > 50);
        });
    });
    let connections = target.user.json(&["peers"]).as_array().unwrap().len();
    assert!(connections <= 100, "{connections} connections");
}
