//! Five nodes come and go for some seconds; the survivors always agree on who is there. The long version of this is
//! `cargo xtask chaos`.

// The lint lets tests unwrap, but not what they share.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;

use support::{NodeProcess, User, alive};

const SHORT: &[(&str, &str)] = &[
    ("MACULA_MEMBERSHIP_PROTOCOL_PERIOD", "100ms"),
    ("MACULA_MEMBERSHIP_SUSPECT_TIMEOUT", "400ms"),
    ("MACULA_QUIC_IDLE_TIMEOUT", "6s"),
    ("MACULA_QUIC_KEEP_ALIVE", "3s"),
];

struct Mesh {
    user: User,
    nodes: Vec<NodeProcess>,
}

impl Mesh {
    fn start(&mut self, name: &str, listen: &str, seed: Option<&str>) {
        let mut args = vec!["start", "--name", name, "--listen", listen, "-o", "ndjson"];
        args.extend(seed.iter().flat_map(|seed| ["--join", seed]));
        let node = self.user.launch(name, &args, SHORT);
        self.nodes.push(node);
    }

    fn join(&mut self, name: &str) {
        let seed = self.nodes.last().map(NodeProcess::addr);
        self.start(name, "127.0.0.1:0", seed.as_deref());
    }

    fn take(&mut self, name: &str) -> NodeProcess {
        let at = self.nodes.iter().position(|node| node.name == name).unwrap();
        self.nodes.remove(at)
    }

    fn node(&self, name: &str) -> &NodeProcess {
        self.nodes.iter().find(|node| node.name == name).unwrap()
    }

    /// Everybody sees everybody, and nobody else.
    fn agrees(&self) {
        self.agrees_without("");
    }

    /// The same, with one that cannot answer and is not there for the others.
    fn agrees_without(&self, absent: &str) {
        let there = || self.nodes.iter().filter(|node| node.name != absent);
        let expected: BTreeSet<String> = there().map(NodeProcess::id).collect();
        for node in there() {
            self.user.wait_for(&["--node", &node.name, "members"], "what all agree on", |members| {
                alive(members).into_iter().collect::<BTreeSet<_>>() == expected
            });
        }
    }

    /// What one publishes reaches all who subscribe, however often subscribers have died.
    fn delivers(&self, from: &str, to: &[&str]) {
        let mut subs: Vec<_> = to
            .iter()
            .map(|node| {
                self.user.stream(&["--node", node, "subscribe", "churn", "-o", "ndjson"], "subscribed")
            })
            .collect();
        self.user.wait_for(&["--node", from, "publish", "churn", "\"now\""], "sent to all", |sent| {
            sent["peers"].as_u64() >= Some(to.len() as u64)
        });
        subs.iter_mut().for_each(|sub| assert_eq!(sub.json()["payload"], "now"));
    }
}

#[test]
fn five_nodes_come_and_go_and_the_survivors_agree() {
    let mut mesh = Mesh { user: User::new(), nodes: Vec::new() };
    ["a", "b", "c", "d", "e"].iter().for_each(|name| mesh.join(name));
    mesh.agrees();
    mesh.delivers("a", &["b", "e"]);

    // Two die at once, one of them the seed of another.
    let (d, b) = (mesh.take("d"), mesh.take("b"));
    let (d_addr, d_id) = (d.addr(), d.id());
    d.kill();
    b.kill();
    mesh.agrees();
    mesh.delivers("a", &["c", "e"]);

    // One comes back as itself, another in its place with a new key.
    mesh.start("d", &d_addr, None);
    assert_eq!(mesh.node("d").id(), d_id);
    mesh.join("f");
    mesh.agrees();

    // One leaves and runs on; one is paused, and counts as dead.
    assert_eq!(mesh.user.ctl(&["--node", "e", "leave"]).code(), 0);
    let e = mesh.take("e");
    mesh.node("c").signal("STOP");
    mesh.agrees_without("c");
    mesh.delivers("d", &["a", "f"]);

    // Both come back, and one says goodbye for good.
    mesh.node("c").signal("CONT");
    let seed = mesh.node("a").addr();
    assert_eq!(mesh.user.ctl(&["--node", "e", "join", &seed]).code(), 0);
    mesh.nodes.push(e);
    let f = mesh.take("f");
    f.signal("TERM");
    assert_eq!(f.wait(), Some(0));
    mesh.agrees();
    mesh.delivers("c", &["a", "d", "e"]);
}
