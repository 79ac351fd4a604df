//! What members say about themselves, and what others see of them.

// The lint lets tests unwrap, but not what they share.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};
use support::User;

/// Sends a request by hand; HTTP/1.0, so that the answer ends with the connection.
fn request(socket: &Path, head: &str, body: &str) -> BufReader<UnixStream> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let kind = "Content-Type: application/json";
    write!(stream, "{head} HTTP/1.0\r\nHost: n\r\n{kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        .unwrap();
    BufReader::new(stream)
}

/// The row of a member, as a node sees it.
fn row<'a>(members: &'a Value, id: &str) -> Option<&'a Value> {
    members.as_array().unwrap().iter().find(|row| row["id"] == id)
}

#[test]
fn tags_are_seen_by_other_nodes_and_follow_changes() {
    let user = User::new();
    let a = user.start("a", &["--tag", "zone=eu-west", "--tag", "role=edge"]);
    let _b = user.start("b", &["--join", &a.addr()]);
    let seen = |tags: Value| {
        let is_so = |members: &Value| row(members, &a.id()).is_some_and(|row| row["tags"] == tags);
        user.wait_for(&["--node", "b", "members"], &format!("tagged {tags}"), is_so);
    };
    seen(json!({ "zone": "eu-west", "role": "edge" }));
    let table = user.ctl(&["--node", "b", "members"]).stdout();
    assert!(table.contains("role=edge,zone=eu-west"), "{table}");

    let set = user.ctl(&["--node", "a", "tags", "set", "zone=eu-north", "rack=7"]);
    assert_eq!(set.code(), 0, "{}", set.stderr());
    seen(json!({ "zone": "eu-north", "role": "edge", "rack": "7" }));
    let left = user.json(&["--node", "a", "tags", "remove", "role", "rack"]);
    assert_eq!(left, json!([{ "name": "zone", "value": "eu-north" }]));
    seen(json!({ "zone": "eu-north" }));
    assert_eq!(user.json(&["--node", "a", "tags", "list"]), left);
    let entry = user.json(&["--node", "a", "config", "get", "node.tags"]);
    assert_eq!(
        (&entry["value"], &entry["source"]),
        (&json!(["zone=eu-north"]), &json!("changed at run time"))
    );
    assert_eq!(user.ctl(&["--node", "a", "config", "set", "node.tags", "k=1,l=2"]).code(), 0);
    seen(json!({ "k": "1", "l": "2" }));
}

#[test]
fn tags_that_break_a_rule_are_refused_and_change_nothing() {
    let user = User::new();
    let _a = user.start("a", &["--tag", "zone=eu-west"]);
    let (too_long, comma) = (format!("zone={}", "x".repeat(509)), "zone=a,b");
    for (args, code, rule) in [
        (&["set", too_long.as_str()][..], 2, "names and values must have at most 512 bytes in all"),
        (&["set", "role=edge", comma], 2, "',' is not allowed in the value of `zone`"),
        (&["set", "my zone=x"], 2, "' ' is not allowed in the name of `my zone=x`"),
        (&["set", "zone"], 2, "a tag is written as name=value"),
        (&["remove", "zone", "role"], 4, "this node has no tag `role`"),
        (&["set"], 2, "<NAME=VALUE>"),
    ] {
        let outcome = user.ctl(&[&["--node", "a", "tags"], args].concat());
        assert_eq!(outcome.code(), code, "{args:?}: {}", outcome.stderr());
        assert!(outcome.stderr().contains(rule), "{args:?}: {}", outcome.stderr());
    }
    assert_eq!(user.json(&["--node", "a", "tags", "list"]), json!([{ "name": "zone", "value": "eu-west" }]));
    let start = user.ctl(&["start", "--name", "b", "--tag", "a=1", "--tag", "a=2"]);
    assert_eq!(start.code(), 2, "{}", start.stderr());
    assert!(start.stderr().contains("no name may stand twice"), "{}", start.stderr());
}

#[test]
fn a_node_that_left_says_so() {
    let user = User::new();
    let a = user.start("a", &[]);
    assert_eq!(user.json(&["--node", "a", "status"])["mesh"], "alone");
    let _b = user.start("b", &["--join", &a.addr()]);
    user.wait_for_members("a", 2);
    user.wait_for(&["--node", "b", "status"], "joined", |status| status["mesh"] == "joined");
    // Long enough to tell the time since the start from that since the goodbye.
    user.wait_for(&["--node", "b", "status"], "up for 3 s", |status| status["uptime_s"].as_u64() >= Some(3));
    assert_eq!(user.ctl(&["--node", "b", "leave"]).code(), 0);
    let status = user.json(&["--node", "b", "status"]);
    assert_eq!((&status["mesh"], &status["members"]), (&json!("left"), &json!(1)));
    let shown = user.ctl(&["--node", "b", "status"]).stdout();
    assert!(shown.contains("left; `macula_ctl join ADDR`"), "{shown}");
    let own = user.json(&["--node", "b", "members"])[0].clone();
    let uptime = user.json(&["--node", "b", "status"])["uptime_s"].as_u64().unwrap();
    assert_eq!(own["state"], "left");
    assert!(own["since_s"].as_u64().unwrap() + 2 < uptime, "{own}: up for {uptime} s");
    assert_eq!(user.ctl(&["--node", "b", "join", &a.addr()]).code(), 0);
    assert_eq!(user.json(&["--node", "b", "status"])["mesh"], "joined");
}

#[test]
fn members_are_watched_as_they_come_and_go() {
    let user = User::new();
    let a = user.start("a", &[]);
    let mut watch = user.stream(&["--node", "a", "members", "--watch", "-o", "ndjson"], "watching");
    let mut table = user.stream(&["--node", "a", "members", "--watch"], "watching");
    let first = watch.json();
    assert_eq!((&first["event"], &first["members"][0]["is_self"]), (&json!("members"), &json!(true)));
    assert!(table.line().trim_start().starts_with("ID "), "the list comes first");
    assert!(table.line().contains("(this node)"));
    let b = user.start("b", &["--join", &a.addr()]);
    let c = user.start("c", &["--join", &a.addr()]);
    let (b_id, c_id) = (b.id(), c.id());
    let mut until = |event: &str, id: &str| loop {
        let seen = watch.json();
        if seen["event"] == event && seen["id"] == id {
            return seen;
        }
    };
    until("joined", &b_id);
    user.wait_for_members("b", 3);
    assert_eq!(user.ctl(&["--node", "b", "tags", "set", "zone=x"]).code(), 0);
    assert_eq!(until("updated", &b_id)["tags"]["zone"], "x");
    assert_eq!(user.ctl(&["--node", "b", "stop"]).code(), 0);
    assert_eq!(until("left", &b_id)["state"], "left");
    c.kill();
    until("suspected", &c_id);
    assert_eq!(until("confirmed", &c_id)["state"], "dead");

    let short: String = c_id.chars().take(10).collect();
    let dead = std::iter::repeat_with(|| table.line()).find(|line| line.starts_with("confirmed dead"));
    assert!(dead.as_ref().is_some_and(|line| line.contains(&short)), "{dead:?}");

    assert_eq!(user.json(&["--node", "a", "members"]).as_array().unwrap().len(), 1);
    let all = user.json(&["--node", "a", "members", "--all"]);
    let states = [&b_id, &c_id].map(|id| row(&all, id).map(|row| row["state"].clone()));
    assert_eq!(states, [Some(json!("left")), Some(json!("dead"))], "{all:#}");
    assert_eq!(row(&all, &b_id).unwrap()["addrs"], json!([b.addr()]), "where it was last");
    assert_eq!(user.ctl(&["members", "--all", "--watch"]).code(), 2);
}

#[test]
fn a_watcher_that_does_not_read_is_told_how_much_it_missed() {
    let user = User::new();
    let node = user.start("node", &[]);
    let mut idle = request(&node.socket(), "GET /v1/members/events", "");
    let mut line = String::new();
    while !line.starts_with('{') {
        line.clear();
        assert_ne!(idle.read_line(&mut line).unwrap(), 0);
    }
    const CHANGES: u64 = 6_000;
    let filler = "x".repeat(500);
    for n in 1..=CHANGES {
        let body = json!({ "set": { "n": n.to_string(), "f": filler } }).to_string();
        let mut answer = String::new();
        request(&node.socket(), "PATCH /v1/tags", &body).read_to_string(&mut answer).unwrap();
        assert!(answer.contains("200 OK"), "{answer}");
    }
    let (mut got, mut lost, mut lists) = (0, 0, 0);
    while got + lost < CHANGES {
        line.clear();
        assert_ne!(idle.read_line(&mut line).unwrap(), 0);
        let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
        match event["event"].as_str() {
            Some("updated") => got += 1,
            Some("lagged") => lost += event["lost"].as_u64().unwrap(),
            Some("members") => {
                lists += 1;
                assert_eq!(event["members"][0]["tags"]["n"], CHANGES.to_string(), "the list is fresh");
            }
            _ => {}
        }
    }
    assert_eq!(got + lost, CHANGES, "{got} read, {lost} reported as lost");
    assert!(lost > 0 && lists > 0, "{lost} lost, {lists} lists");
}

#[test]
fn two_processes_with_one_key_are_noticed() {
    let user = User::new();
    let hub = user.start("hub", &[]);
    let keys = [user.home().join("a"), user.home().join("b")];
    let start = |n: usize| {
        let name = ["a", "b"][n];
        user.start(name, &["--data-dir", keys[n].to_str().unwrap(), "--join", &hub.addr()])
    };
    let a = start(0);
    user.wait_for_members("hub", 2);
    std::fs::create_dir(&keys[1]).unwrap();
    std::fs::copy(keys[0].join("node.key"), keys[1].join("node.key")).unwrap();
    let b = start(1);
    assert_eq!(a.id(), b.id());
    // Whichever of the two is outbid first notices first.
    let health = |node: &str| user.json(&["--node", node, "status"])["health"].as_str().unwrap().to_owned();
    let mut degraded = String::new();
    user.until("one of them says so", || {
        let told = ["a", "b"].into_iter().find(|node| health(node).starts_with("degraded"));
        degraded = told.unwrap_or_default().to_owned();
        told.is_some()
    });
    let (health, other) = (health(&degraded), if degraded == "a" { &b } else { &a });
    assert!(health.contains("another process uses this node's key"), "{health}");
    assert!(health.contains(&other.addr()), "{health}: not {}", other.addr());
    assert!(user.metric(&degraded, "macula_membership_contested_total", "") >= 1.0);
    assert_eq!(user.json(&["--node", "hub", "status"])["health"], "healthy");
}
