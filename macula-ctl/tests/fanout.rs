//! One publisher and forty subscribers in processes of their own, with a threshold that makes them a tree: all get everything once and
//! in order, the publisher sends few copies, and the rest goes on when some are killed.

// The lint lets tests unwrap, but not what they share.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;

use support::{NodeProcess, Stream, User};

const SUBSCRIBERS: usize = 40;
const KILLED: [usize; 3] = [5, 17, 33];
const TOPIC: &str = "news.today";

/// A small directory, so that the connections are the tree's.
const ENV: [(&str, &str); 4] = [
    ("MACULA_PUBSUB_DIRECT_MAX", "10"),
    ("MACULA_ROUTING_K", "8"),
    ("MACULA_ROUTING_REFRESH_INTERVAL", "24h"),
    ("MACULA_QUIC_KEEP_ALIVE", "1s"),
];

struct Subscriber {
    node: NodeProcess,
    stream: Stream,
}

impl Subscriber {
    fn name(&self) -> &str {
        &self.node.name
    }
}

fn launch(user: &User, name: &str, seed: Option<&str>) -> NodeProcess {
    let mut args = vec!["start", "--name", name, "--listen", "127.0.0.1:0", "-o", "ndjson"];
    args.extend(seed.iter().flat_map(|seed| ["--join", seed]));
    user.launch(name, &args, &ENV)
}

fn publish(user: &User, number: u32) -> serde_json::Value {
    user.json(&["--node", "publisher", "publish", TOPIC, &number.to_string()])
}

#[test]
fn forty_processes_make_a_tree_and_go_on_when_three_are_killed() {
    let user = User::new();
    let publisher = launch(&user, "publisher", None);
    let seed = publisher.addr();
    let subscriber = |n: usize| {
        let node = launch(&user, &format!("n{n}"), Some(&seed));
        let args = ["--node", &node.name, "subscribe", "news.*", "-o", "ndjson"];
        let stream = user.stream(&args, "subscribed to news.*");
        Subscriber { node, stream }
    };
    let mut subscribers: Vec<Subscriber> = (0..SUBSCRIBERS).map(subscriber).collect();
    user.wait_for_members("publisher", SUBSCRIBERS + 1);

    // Until all take part, the publisher sends to the others itself.
    let mut published = 0;
    let mut most_hops = 0;
    // From this message on, the directory has named all of them.
    let mut first = None;
    user.until("the tree covers all", || {
        let reached = publish(&user, published);
        if first.is_none() && reached["peers"] == SUBSCRIBERS {
            first = Some(published);
        }
        published += 1;
        reached["by_trees"] == SUBSCRIBERS
    });
    let first = first.expect("all of them were sent to directly at first");
    let sent = user.metric("publisher", "macula_pubsub_sent_total", "");
    for _ in 0..20 {
        publish(&user, published);
        published += 1;
    }
    let copies = user.metric("publisher", "macula_pubsub_sent_total", "") - sent;
    assert!(copies <= 20.0 * 3.0, "the publisher sent {copies} copies of 20 messages");

    for n in KILLED.iter().rev() {
        subscribers.remove(*n).node.kill();
    }
    for _ in 0..20 {
        publish(&user, published);
        published += 1;
    }
    for subscriber in &mut subscribers {
        let mut number = first;
        while number < published {
            let message = subscriber.stream.json();
            if message["payload"].as_u64() >= Some(u64::from(first)) {
                assert_eq!(message["payload"], number, "{}", subscriber.name());
                number += 1;
            }
        }
        let trees = user.json(&["--node", subscriber.name(), "trees"]);
        let tree = &trees[0];
        assert_eq!(tree["pattern"], "news.*");
        let ids = ["eager", "lazy"].map(|kind| tree[kind].as_array().unwrap());
        let neighbours: BTreeSet<_> = ids.into_iter().flatten().filter_map(|id| id.as_str()).collect();
        assert!((1..=8).contains(&neighbours.len()), "{tree}");
        most_hops = most_hops.max(tree["hops"].as_u64().unwrap());
    }
    println!(
        "messages {first} to {published} to {} subscribers; at most {most_hops} hops",
        subscribers.len()
    );
    assert!((1..=12).contains(&most_hops), "{most_hops} hops");
    let shown = user.ctl(&["--node", "n0", "trees"]).stdout();
    assert!(shown.contains("PUSHES TO") && shown.contains("news.*"), "{shown}");
}
