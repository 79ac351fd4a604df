//! What members say about themselves, and what others see of them.

// The lint lets tests unwrap, but not what they share.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::User;

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
