//! Nodes that are killed, paused and started again, in real processes.

// The lint lets tests unwrap, but not what they share.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::{NodeProcess, User, alive};

/// Short periods: a death is confirmed in some seconds.
const SHORT: &[(&str, &str)] = &[
    ("MACULA_MEMBERSHIP_PROTOCOL_PERIOD", "100ms"),
    ("MACULA_MEMBERSHIP_SUSPECT_TIMEOUT", "400ms"),
    ("MACULA_QUIC_IDLE_TIMEOUT", "6s"),
    ("MACULA_QUIC_KEEP_ALIVE", "3s"),
];

fn launch(user: &User, name: &str, listen: &str, seed: Option<&str>) -> NodeProcess {
    let mut args = vec!["start", "--name", name, "--listen", listen, "-o", "ndjson"];
    args.extend(seed.iter().flat_map(|seed| ["--join", seed]));
    user.launch(name, &args, SHORT)
}

/// Three nodes that know each other.
fn three(user: &User) -> [NodeProcess; 3] {
    let a = launch(user, "a", "127.0.0.1:0", None);
    let b = launch(user, "b", "127.0.0.1:0", Some(&a.addr()));
    let c = launch(user, "c", "127.0.0.1:0", Some(&a.addr()));
    ["a", "b", "c"].iter().for_each(|node| user.wait_for_members(node, 3));
    [a, b, c]
}

/// Waits until the file of known peers names somebody.
fn wait_for_peers_on_disk(user: &User, name: &str, id: &str) {
    let path = user.home().join(".local/state/macula").join(name).join("peers.json");
    user.until(&format!("{name} has written {id} to its peers"), || {
        std::fs::read_to_string(&path).is_ok_and(|peers| peers.contains(id))
    });
}

fn state_of(members: &Value, id: &str) -> Option<String> {
    let rows = members.as_array().unwrap();
    rows.iter().find(|row| row["id"] == id).map(|row| row["state"].as_str().unwrap().to_owned())
}

#[test]
fn a_killed_node_comes_back_as_itself_without_seeds() {
    let user = User::new();
    let [a, b, c] = three(&user);
    wait_for_peers_on_disk(&user, "c", &a.id());
    let (id, addr) = (c.id(), c.addr());
    c.kill();
    user.wait_for_members("a", 2);
    user.wait_for_members("b", 2);

    let c = launch(&user, "c", &addr, None);
    assert_eq!(c.id(), id, "the identity is kept, and the dead process's lock is no obstacle");
    for node in [&a, &b, &c] {
        user.wait_for_members(&node.name, 3);
    }
    let mut sub = user.stream(&["--node", "c", "subscribe", "x.y", "-o", "ndjson"], "subscribed");
    user.wait_for(&["--node", "a", "publish", "x.y", "1"], "reaching c", |sent| sent["peers"] == 1);
    assert_eq!(sub.json()["payload"], 1);
}

#[test]
fn a_mesh_in_which_all_were_killed_comes_together_again_without_seeds() {
    let user = User::new();
    let [a, b, c] = three(&user);
    let ids = [a.id(), b.id(), c.id()];
    wait_for_peers_on_disk(&user, "a", &ids[2]);
    wait_for_peers_on_disk(&user, "b", &ids[2]);
    wait_for_peers_on_disk(&user, "c", &ids[1]);
    let addrs = [a.addr(), b.addr(), c.addr()];
    [a, b, c].into_iter().for_each(NodeProcess::kill);
    let again: Vec<_> =
        ["a", "b", "c"].iter().zip(&addrs).map(|(name, addr)| launch(&user, name, addr, None)).collect();
    for (node, id) in again.iter().zip(&ids) {
        assert_eq!(node.id(), *id);
        user.wait_for_members(&node.name, 3);
    }
}

#[test]
fn a_publisher_goes_on_while_its_subscribers_node_dies_and_returns() {
    let user = User::new();
    let [a, b, c] = three(&user);
    wait_for_peers_on_disk(&user, "c", &a.id());
    let mut at_b = user.stream(&["--node", "b", "subscribe", "ticks", "-o", "ndjson"], "subscribed");
    let mut at_c = user.stream(&["--node", "c", "subscribe", "ticks", "-o", "ndjson"], "subscribed");
    let mut tick = 0;
    let mut publish = |user: &User| {
        tick += 1;
        let sent = user.json(&["--node", "a", "publish", "ticks", &tick.to_string()]);
        (tick, sent)
    };
    let (first, sent) = publish(&user);
    assert_eq!((sent["peers"].clone(), at_b.json()["payload"].clone(), at_c.json()["payload"].clone()), {
        (json!(2), json!(first), json!(first))
    });

    let addr = c.addr();
    c.kill();
    // Dead or not yet known to be: no publication fails, and the living miss none.
    for _ in 0..20 {
        let (n, sent) = publish(&user);
        assert!(sent["peers"].as_u64() >= Some(1), "{sent}");
        assert_eq!(at_b.json()["payload"], n);
    }
    user.wait_for_members("a", 2);
    user.until("nothing is sent to the dead", || {
        let (n, sent) = publish(&user);
        assert_eq!(at_b.json()["payload"], n);
        sent["peers"] == 1 && sent["dropped"] == 0 && sent["failed"] == 0
    });
    user.wait_for(&["--node", "a", "peers"], "the connection is closed", |peers| {
        peers.as_array().unwrap().len() == 1
    });
    let _c = launch(&user, "c", &addr, None);
    user.wait_for_members("a", 3);
    // Subscriptions are the application's: it makes them again, as this one does.
    let mut at_c = user.stream(&["--node", "c", "subscribe", "ticks", "-o", "ndjson"], "subscribed");
    user.until("both get it again", || {
        let (n, sent) = publish(&user);
        assert_eq!(at_b.json()["payload"], n);
        sent["peers"] == 2
    });
    let first_seen = at_c.json()["payload"].as_u64().unwrap();
    let (n, _) = publish(&user);
    let all: Vec<_> = (first_seen + 1..=n).map(|_| at_c.json()["payload"].as_u64().unwrap()).collect();
    assert_eq!(all, (first_seen + 1..=n).collect::<Vec<_>>(), "in order, none missing, none twice");
    drop(b);
}

#[test]
fn a_procedure_goes_with_the_client_that_serves_it() {
    let user = User::new();
    let [_a, _b, _c] = three(&user);
    let script = user.script("yes.sh", "#!/bin/sh\necho true\n");
    let exec = script.to_str().unwrap();
    let serving = user.stream(&["--node", "b", "serve", "x.yes", "--exec", exec], "serving x.yes");
    assert_eq!(user.json(&["--node", "a", "call", "x.yes"])["payload"], true);
    assert_eq!(user.json(&["--node", "b", "registrations"])[0]["procedure"], "x.yes");
    // Dropping kills it with SIGKILL.
    drop(serving);
    user.wait_for(&["--node", "b", "registrations"], "empty", |rows| rows == &json!([]));
    user.until("nobody offers it any more", || user.ctl(&["--node", "a", "call", "x.yes"]).code() == 4);
}

#[test]
fn calls_fail_over_to_a_living_provider_after_a_kill() {
    let user = User::new();
    let [_a, b, c] = three(&user);
    let script = user.script("who.sh", "#!/bin/sh\necho \"\\\"$1\\\"\"\n");
    let exec = script.to_str().unwrap();
    let serve = |node: &str| {
        let args = ["--node", node, "serve", "x.who", "--exec", exec, "--", node];
        user.stream(&args, "serving x.who")
    };
    let (_at_b, _at_c) = (serve("b"), serve("c"));
    user.json(&["--node", "a", "call", "x.who"]);
    c.kill();
    // A call that may have run at the dead provider is reported, not repeated. Once its connection counts as dead
    // (two and a half keep-alives), all calls go to the other.
    let mut in_a_row = 0;
    user.until("calls go to the living provider alone", || {
        let call = user.ctl(&["--node", "a", "call", "x.who", "--idempotent", "--timeout", "500ms"]);
        assert!([0, 3, 5].contains(&call.code()), "{}", call.stderr());
        in_a_row = if call.code() == 0 { in_a_row + 1 } else { 0 };
        assert!(call.code() != 0 || call.stdout().trim() == "\"b\"" || in_a_row < 6, "{}", call.stdout());
        in_a_row == 6
    });
    drop(b);
}

#[test]
fn a_paused_node_is_confirmed_dead_and_is_back_everywhere_when_it_goes_on() {
    let user = User::new();
    let [a, b, c] = three(&user);
    let before = user.json(&["--node", "a", "members"]);
    let incarnation = |members: &Value| {
        let rows = members.as_array().unwrap();
        rows.iter().find(|row| row["id"] == c.id()).unwrap()["incarnation"].as_u64().unwrap()
    };
    c.signal("STOP");
    for node in [&a, &b] {
        user.wait_for(&["--node", &node.name, "members"], "without c", |members| {
            !alive(members).contains(&c.id())
                && state_of(members, &c.id()).is_none_or(|state| state == "dead")
        });
    }
    c.signal("CONT");
    for node in [&a, &b, &c] {
        user.wait_for_members(&node.name, 3);
    }
    let after = user.json(&["--node", "a", "members"]);
    assert!(incarnation(&after) > incarnation(&before), "it refuted its own death: {after:#}");
    let mut sub = user.stream(&["--node", "c", "subscribe", "x", "-o", "ndjson"], "subscribed");
    user.wait_for(&["--node", "a", "publish", "x", "1"], "reaching c", |sent| sent["peers"] == 1);
    assert_eq!(sub.json()["payload"], 1);
}

#[test]
fn stop_ends_the_process_whatever_its_clients_do() {
    let user = User::new();
    let [_a, b, _c] = three(&user);
    let script = user.script("hang.sh", "#!/bin/sh\nexec sleep 600\n");
    let exec = script.to_str().unwrap();
    let _serving = user.stream(&["--node", "b", "serve", "x.hang", "--exec", exec], "serving x.hang");
    let _subscribed = user.stream(&["--node", "b", "subscribe", "#"], "subscribed");
    let mut call = user.command(&["--node", "a", "call", "x.hang", "--timeout", "120s"]).spawn().unwrap();
    user.wait_for(&["--node", "b", "registrations"], "at work", |rows| rows[0]["in_flight"] == 1);
    let begun = std::time::Instant::now();
    b.signal("TERM");
    assert_eq!(b.wait(), Some(0));
    assert!(begun.elapsed().as_secs() < 20, "each stage has its deadline: {:?}", begun.elapsed());
    // The caller is told; it does not wait for its own deadline.
    assert!(!call.wait().unwrap().success());
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
    assert!(!Path::new(&user.home().join("run/macula/b.sock")).exists(), "the socket's file is gone");
}
