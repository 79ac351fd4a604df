//! Twelve processes: strangers find each other through the directory, and nobody else gets a copy.

mod support;

use support::{NodeProcess, User};

const NODES: usize = 12;

/// A small directory (each record on three nodes, not on all twelve) and short periods.
const SPARSE: &[(&str, &str)] = &[
    ("MACULA_ROUTING_K", "3"),
    ("MACULA_ROUTING_ALPHA", "2"),
    ("MACULA_MEMBERSHIP_PROTOCOL_PERIOD", "200ms"),
    ("MACULA_QUIC_IDLE_TIMEOUT", "3s"),
    ("MACULA_QUIC_KEEP_ALIVE", "1s"),
];

#[test]
fn strangers_find_each_other_and_the_unconcerned_get_no_copy() {
    let user = User::new();
    let mut nodes: Vec<NodeProcess> = Vec::new();
    for n in 0..NODES {
        let name = format!("n{n}");
        let mut args = vec!["start", "--name", &name, "--listen", "127.0.0.1:0", "-o", "ndjson"];
        // Each knows only its predecessor: the mesh is a chain of introductions.
        let seed = nodes.last().map(NodeProcess::addr);
        if let Some(seed) = &seed {
            args.extend(["--join", seed]);
        }
        let node = user.launch(&name, &args, SPARSE);
        nodes.push(node);
    }
    for node in &nodes {
        user.wait_for_members(&node.name, NODES);
    }

    let publisher = "n2";
    let subscribers = ["n9", "n11"];
    let mut exact = user.stream(
        &["--node", subscribers[0], "subscribe", "factory.line1.temperature", "-o", "ndjson"],
        "subscribed",
    );
    let mut pattern =
        user.stream(&["--node", subscribers[1], "subscribe", "factory.#", "-o", "ndjson"], "subscribed");
    const MESSAGES: usize = 20;
    for n in 0..MESSAGES {
        let published =
            user.json(&["--node", publisher, "publish", "factory.line1.temperature", &n.to_string()]);
        assert_eq!(published["peers"], 2, "message {n}");
    }
    for n in 0..MESSAGES {
        assert_eq!(exact.json()["payload"], n);
        assert_eq!(pattern.json()["payload"], n);
    }

    let publish_frames = |node: &NodeProcess, direction: &str| {
        user.metric(&node.name, &format!("macula_transport_frames_{direction}"), "PUBLISH")
    };
    for node in &nodes {
        let received = publish_frames(node, "received");
        let expected = if subscribers.contains(&node.name.as_str()) { MESSAGES as f64 } else { 0.0 };
        assert_eq!(received, expected, "copies that reached {}", node.name);
    }
    let sent: f64 = nodes.iter().map(|node| publish_frames(node, "sent")).sum();
    assert_eq!(sent, 2.0 * MESSAGES as f64, "one copy a subscribing node, all from the publisher");

    // Nobody is connected to everybody: what the directory and the join opened closes when it is idle.
    for node in &nodes {
        let peers = user.wait_for(&["--node", &node.name, "peers"], "a sparse mesh", |peers| {
            peers.as_array().is_some_and(|peers| peers.len() < NODES - 2)
        });
        println!("{}: {} connections", node.name, peers.as_array().unwrap().len());
    }
}
