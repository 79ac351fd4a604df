//! A group that lost its quorum, between real processes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its own functions too")]

mod support;

use macula::FencingToken;
use serde_json::{Value, json};
use support::{NodeProcess, User};

const NAMES: [&str; 3] = ["a", "b", "c"];

fn voters(user: &User) -> Vec<NodeProcess> {
    let first = user.start("a", &[]);
    let join = first.addr();
    let mut nodes = vec![first];
    nodes.extend(NAMES[1..].iter().map(|name| user.start(name, &["--join", &join])));
    NAMES.iter().for_each(|name| user.wait_for_members(name, 3));
    user.json(&["--node", "a", "log", "append", "warm-up", "a"]);
    all_vote(user, "a");
    nodes
}

fn all_vote(user: &User, node: &str) {
    user.wait_for(&["--node", node, "raft", "status"], "all vote", |groups| {
        groups[0]["voters"].as_array().unwrap().len() == 3
    });
}

fn status(user: &User, node: &str) -> Value {
    user.json(&["--node", node, "raft", "status"])[0].clone()
}

fn entries(user: &User, node: &str, log: &str) -> Vec<Value> {
    let read = user.json(&["--node", node, "log", "read", log]);
    read.as_array().unwrap().iter().map(|entry| entry["payload"].clone()).collect()
}

/// Runs a program under the lock, and returns the token that it found.
fn token(user: &User, node: &str) -> FencingToken {
    let file = user.home().join("token");
    let text = format!("#!/bin/sh\necho $MACULA_LOCK_TOKEN > {}\n", file.display());
    let script = user.script("token.sh", &text).display().to_string();
    let run = user.ctl(&["--node", node, "lock", "run", "inventory", "--", &script]);
    assert_eq!(run.code(), 0, "{}", run.stderr());
    std::fs::read_to_string(file).unwrap().trim().parse().unwrap()
}

#[test]
fn the_last_voter_goes_on_with_everything_and_those_who_come_join_it() {
    let user = User::new();
    let mut nodes = voters(&user);
    let mut expected = Vec::new();
    for number in 0..12 {
        let entry = format!("entry {number}");
        user.json(&["--node", NAMES[number % 3], "log", "append", "orders", &entry]);
        expected.push(json!(entry));
    }
    let before = token(&user, "c");
    let held = user.script("held.sh", "#!/bin/sh\nexec tail -f /dev/null\n").display().to_string();
    let holder = user.stream(&["--node", "b", "lock", "run", "other", "--", &held], "");
    user.wait_for(&["--node", "a", "lock", "list"], "it is held", |locks| locks[0]["holders"] == 1);
    user.until("all have applied the same", || {
        let applied = NAMES.map(|name| status(&user, name)["applied"].clone());
        applied.iter().all(|index| *index == applied[0])
    });
    let group = status(&user, "a")["group"].as_str().unwrap().to_owned();
    let well = user.ctl(&["--node", "a", "raft", "recover", "--yes"]);
    assert_ne!(well.code(), 0, "nothing is lost: {}", well.stdout());

    // Two of three are gone; one of them with its disk.
    nodes.drain(1..).for_each(NodeProcess::kill);
    drop(holder);
    std::fs::remove_dir_all(user.home().join(".local/state/macula/b")).unwrap();
    user.wait_for_members("a", 1);
    let unconfirmed = user.ctl(&["--node", "a", "raft", "recover"]);
    assert_eq!(unconfirmed.code(), 2, "{}", unconfirmed.stderr());
    let other = user.ctl(&["--node", "a", "raft", "recover", "--yes", "--group", "0123"]);
    assert_eq!(other.code(), 2, "{}", other.stderr());
    let recovered = user.json(&["--node", "a", "raft", "recover", "--yes", "--group", &group]);
    assert_eq!(recovered["replaced"], group.as_str());
    assert_eq!(recovered["lost"].as_array().unwrap().len(), 2);
    assert_eq!(entries(&user, "a", "orders"), expected);
    assert_eq!(user.json(&["--node", "a", "log", "append", "orders", "goes on"])["first"], 12);
    assert_eq!(status(&user, "a")["recovering"], true);

    // One comes new, one with the old group on its disk.
    let join = nodes[0].addr();
    nodes.push(user.start("b", &["--join", &join]));
    nodes.push(user.start("c", &["--join", &join]));
    let kinship = |node: &str, kinship: &str| {
        user.wait_for(&["--node", node, "raft", "status"], kinship, |groups| {
            groups[0]["foreign"]["kinship"] == kinship
        })
    };
    kinship("c", "newer");
    assert_eq!(kinship("a", "older")[0]["foreign"]["node"], nodes[2].id());
    let health = user.json(&["--node", "c", "status"])["health"].to_string();
    assert!(health.contains("recovered from a lost quorum without this node"), "{health}");
    assert_ne!(user.ctl(&["--node", "c", "log", "append", "orders", "no"]).code(), 0, "it serves nobody");
    assert_eq!(user.ctl(&["--node", "c", "raft", "abandon"]).code(), 0);
    all_vote(&user, "a");
    let after = token(&user, "b");
    assert!(after > before, "{after} after {before}");
    assert_eq!(after.epoch.0, recovered["epoch"].as_u64().unwrap());
    expected.push(json!("goes on"));
    for name in NAMES {
        assert_eq!(entries(&user, name, "orders"), expected, "at {name}");
    }
    let stored = status(&user, "c");
    assert_eq!((&stored["group"], &stored["foreign"]), (&recovered["group"], &Value::Null));
    // The first of them dies, and the others go on without it.
    nodes.remove(0).kill();
    assert_eq!(user.json(&["--node", "c", "log", "append", "orders", "without a"])["first"], 13);
}
