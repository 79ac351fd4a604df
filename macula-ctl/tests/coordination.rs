//! Elections, locks and logs between real processes, with deaths.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its own functions too")]

mod support;

use serde_json::{Value, json};
use support::{NodeProcess, User};

/// Nodes of these names in one mesh; the first founds the group, and all become voters as soon as it is needed.
fn voters(user: &User, names: &[&str]) -> Vec<NodeProcess> {
    let first = user.start(names[0], &[]);
    let join = first.addr();
    let mut nodes = vec![first];
    nodes.extend(names[1..].iter().map(|name| user.start(name, &["--join", &join])));
    names.iter().for_each(|name| user.wait_for_members(name, names.len()));
    for name in names {
        let appended = user.json(&["--node", name, "log", "append", "warm-up", name]);
        assert_eq!(appended["count"], 1);
    }
    user.wait_for(&["--node", names[0], "raft", "status"], "all vote", |groups| {
        groups[0]["voters"].as_array().unwrap().len() == names.len()
    });
    nodes
}

/// The names of the nodes, and which of them leads the group.
fn group_leader<'a>(user: &User, names: &[&'a str]) -> &'a str {
    let leads = |name: &&&str| user.json(&["--node", name, "raft", "status"])[0]["role"] == "leader";
    names.iter().find(leads).expect("somebody leads")
}

#[test]
fn what_a_log_acknowledged_survives_kill_9_of_each_node_in_turn() {
    let user = User::new();
    let names = ["a", "b", "c"];
    let mut nodes = voters(&user, &names);
    let mut expected = Vec::new();
    let mut tail = user.stream(&["--node", "a", "log", "tail", "orders", "-o", "ndjson"], "");
    let append = |node: &str, expected: &mut Vec<Value>| {
        let entry = format!("entry {}", expected.len());
        let appended = user.json(&["--node", node, "log", "append", "orders", &entry]);
        assert_eq!(appended["first"], expected.len(), "each once, in order");
        expected.push(json!(entry));
    };
    for name in names {
        append(name, &mut expected);
    }
    let read: Vec<Value> = (0..3).map(|_| tail.json()["payload"].clone()).collect();
    assert_eq!(read, expected);
    drop(tail);
    for at in 0..names.len() {
        let addr = nodes[(at + 1) % names.len()].addr();
        nodes.remove(at).kill();
        let others: Vec<_> = names.iter().filter(|name| **name != names[at]).collect();
        for name in &others {
            append(name, &mut expected);
        }
        nodes.insert(at, user.start(names[at], &["--join", &addr]));
        append(names[at], &mut expected);
    }
    for name in names {
        let read = user.json(&["--node", name, "log", "read", "orders"]);
        let read: Vec<_> = read.as_array().unwrap().iter().map(|entry| entry["payload"].clone()).collect();
        assert_eq!(read, expected, "at {name}");
    }
}

#[test]
fn the_next_candidate_leads_when_the_first_is_killed_and_tokens_grow() {
    let user = User::new();
    let names = ["a", "b", "c"];
    let mut nodes = voters(&user, &names);
    // Not on the group's leader, so that it is the holder's death alone that is seen.
    let leader = group_leader(&user, &names);
    let others: Vec<&str> = names.into_iter().filter(|name| *name != leader).collect();
    let campaign = |node: &str| {
        user.stream(
            &["--node", node, "election", "campaign", "matchmaking", "--value", node, "-o", "ndjson"],
            "",
        )
    };
    let leads = |stream: &mut support::Stream| loop {
        let view = stream.json();
        if view["is_leader"] == true {
            return view["token"].as_str().unwrap().parse::<macula::FencingToken>().unwrap();
        }
    };
    let mut first = campaign(others[0]);
    let token = leads(&mut first);
    let mut second = campaign(others[1]);
    user.wait_for(&["--node", leader, "election", "list"], "one waits", |elections| {
        elections[0]["waiting"] == 1
    });
    let mut observer =
        user.stream(&["--node", leader, "election", "observe", "matchmaking", "-o", "ndjson"], "");
    assert_eq!(observer.json()["value"]["payload"], others[0]);
    let at = names.iter().position(|name| *name == others[0]).unwrap();
    nodes.remove(at).kill();
    assert!(leads(&mut second) > token);
    while observer.json()["value"]["payload"] != others[1] {}
    // And it hands over in order when it is told to stop.
    second.signal("INT");
    user.wait_for(&["--node", leader, "election", "list"], "nobody leads", |elections| {
        elections == &json!([])
    });
}

#[test]
fn a_lock_runs_one_program_at_a_time_and_each_finds_a_larger_token() {
    let user = User::new();
    let names = ["a", "b", "c"];
    let _nodes = voters(&user, &names);
    let file = user.home().join("tokens");
    let script = user.script(
        "job.sh",
        &format!(
            "#!/bin/sh\nmkdir {0}.busy || exit 9\necho $MACULA_LOCK_TOKEN >> {0}\nrmdir {0}.busy\n",
            file.display()
        ),
    );
    let script = script.display().to_string();
    std::thread::scope(|scope| {
        for name in names {
            let (user, script) = (&user, &script);
            scope.spawn(move || {
                for _ in 0..5 {
                    let run = user.ctl(&["--node", name, "lock", "run", "inventory", "--", script]);
                    assert_eq!(run.code(), 0, "{}", run.stderr());
                }
            });
        }
    });
    let tokens: Vec<macula::FencingToken> =
        std::fs::read_to_string(&file).unwrap().lines().map(|token| token.parse().unwrap()).collect();
    assert_eq!(tokens.len(), 15);
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    let held = user.script("held.sh", "#!/bin/sh\necho held\nexec tail -f /dev/null\n").display().to_string();
    let holder = user.stream(&["--node", "a", "lock", "run", "inventory", "--", &held], "");
    user.wait_for(&["--node", "b", "lock", "list"], "it is held", |locks| locks[0]["holders"] == 1);
    let refused = user.ctl(&["--node", "b", "lock", "run", "inventory", "--try", "--", &script]);
    assert_eq!(refused.code(), 9, "{}", refused.stderr());
    drop(holder);
    user.wait_for(&["--node", "b", "lock", "list"], "it is free", |locks| locks == &json!([]));
}

#[test]
fn two_nodes_that_were_each_started_alone_say_so_when_they_meet() {
    let user = User::new();
    let (a, b) = (user.start("a", &[]), user.start("b", &[]));
    for name in ["a", "b"] {
        assert_eq!(user.json(&["--node", name, "log", "append", "notes", name])["first"], 0);
    }
    let joined = user.ctl(&["--node", "b", "join", &a.addr()]);
    assert_eq!(joined.code(), 0, "{}", joined.stderr());
    let foreign = |name: &str, other: &str| {
        user.wait_for(&["--node", name, "raft", "status"], "the other group is seen", |groups| {
            groups[0]["foreign"]["node"] == other
        })
    };
    foreign("a", &b.id());
    let status = foreign("b", &a.id());
    let health = user.json(&["--node", "b", "status"])["health"].to_string();
    assert!(health.contains("two groups"), "{health}");
    let abandoned = user.ctl(&["--node", "b", "raft", "abandon"]);
    assert_eq!(abandoned.code(), 0);
    assert!(abandoned.stderr().contains(status[0]["group"].as_str().unwrap()), "{}", abandoned.stderr());
    user.wait_for(&["--node", "b", "raft", "status"], "it knows the other's group", |groups| {
        groups[0]["group"] == status[0]["foreign"]["group"]
    });
    let read = user.json(&["--node", "b", "log", "read", "notes"]);
    assert_eq!(read[0]["payload"], "a");
}
