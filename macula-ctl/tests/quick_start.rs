//! The README's quick start, in real processes.

mod support;

use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use support::{User, alive};

#[test]
fn two_nodes_meet_publish_and_call() {
    let user = User::new();
    let a = user.start("node", &[]);
    let b = user.start("b", &["--join", &a.addr()]);
    user.wait_for_members("node", 2);
    user.wait_for_members("b", 2);
    let members = user.json(&["members"]);
    assert!(alive(&members).contains(&b.id()));

    let mut sub = user.stream(
        &["--node", "b", "subscribe", "be.cortexiq.home.*", "-o", "ndjson"],
        "subscribed to be.cortexiq.home.*",
    );
    let published = user.json(&["publish", "be.cortexiq.home.kitchen", r#"{"foo":"bar"}"#]);
    let reached = json!({
        "peers": 1, "local": 0, "dropped": 0, "failed": 0, "unnamed": 0, "groups": 0, "unserved": 0,
        "by_trees": 0
    });
    assert_eq!(published, reached);
    let message = sub.json();
    assert_eq!(message["topic"], "be.cortexiq.home.kitchen");
    assert_eq!(message["payload"], json!({ "foo": "bar" }));
    assert_eq!(message["publisher"], a.id());
    let subscriptions = user.json(&["--node", "b", "subscriptions"]);
    assert_eq!(subscriptions[0]["pattern"], "be.cortexiq.home.*");

    let add = user.script("add.sh", "#!/bin/sh\nset -- $(tr -cs 0-9 ' ')\nexpr $1 + $2\n");
    let _serving = user.stream(
        &["--node", "b", "serve", "be.cortexiq.test.add", "--exec", add.to_str().unwrap()],
        "serving be.cortexiq.test.add",
    );
    let called = user.ctl(&["call", "be.cortexiq.test.add", r#"{"a":1,"b":2}"#]);
    assert_eq!((called.code(), called.stdout().trim()), (0, "3"), "{}", called.stderr());
    let registrations = user.json(&["--node", "b", "registrations"]);
    assert_eq!(registrations[0]["procedure"], "be.cortexiq.test.add");

    let table = user.ctl(&["routing-table"]);
    assert!(table.stdout().contains(&b.id()[..10]), "{}", table.stdout());
    assert_eq!(user.ctl(&["stop"]).code(), 0);
    assert_eq!(a.wait(), Some(0));
    user.wait_for_members("b", 1);
}

#[test]
fn a_running_node_joins_later_and_leaves_at_once() {
    let user = User::new();
    let a = user.start("a", &[]);
    let _b = user.start("b", &[]);
    let joined = user.json(&["--node", "b", "join", &a.addr()]);
    assert_eq!(joined["members"], 2);
    assert_eq!(joined["seed"], a.id());
    user.wait_for_members("a", 2);
    assert_eq!(user.ctl(&["--node", "b", "leave"]).code(), 0);
    user.wait_for_members("a", 1);
}

#[test]
fn names_addresses_sockets_and_contexts_pick_the_node() {
    let user = User::new();
    let a = user.start("a", &[]);
    for choice in ["a".to_owned(), a.addr(), a.socket().display().to_string()] {
        assert_eq!(user.json(&["--node", &choice, "status"])["id"], a.id(), "{choice}");
    }
    let nobody = user.ctl(&["status"]);
    assert_eq!(nobody.code(), 3);
    assert!(nobody.stderr().contains("--node picks one of: a"), "{}", nobody.stderr());
    assert_eq!(user.ctl(&["context", "set", "a"]).code(), 0);
    assert_eq!(user.json(&["status"])["name"], "a");
    assert_eq!(user.json(&["nodes"])[0]["name"], "a");
}

#[test]
fn the_admin_socket_is_its_users_alone() {
    let user = User::new();
    let a = user.start("a", &[]);
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&a.socket()), 0o600);
    assert_eq!(mode(a.socket().parent().unwrap()), 0o700);
}

#[test]
fn errors_say_what_and_what_to_try_and_have_their_exit_codes() {
    let user = User::new();
    let a = user.start("node", &[]);
    for (args, code, says) in [
        (&["publish", "a..b", "x"][..], 2, "empty segment"),
        (&["subscribe", "a.b*"], 2, "b*"),
        (&["call", "nobody.home"], 4, "nobody in this mesh offers it"),
        (&["join", "nowhere"], 2, "nowhere"),
        (&["config", "get", "quic.idle_timout"], 4, "did you mean `quic.idle_timeout`"),
        (&["config", "set", "node.name", "x"], 2, "cannot be changed while the node runs"),
        (&["config", "set", "rpc.default_timeout", "never"], 2, "rpc.default_timeout"),
        (&["serve", "x.y", "--exec", "./missing.sh"], 2, "missing.sh"),
        (&["--node", "other", "status"], 3, "no node `other` is running"),
        (&["nonsense"], 2, "unrecognized subcommand"),
    ] {
        let outcome = user.ctl(args);
        assert_eq!(outcome.code(), code, "{args:?}: {}", outcome.stderr());
        assert!(outcome.stderr().contains(says), "{args:?}: {}", outcome.stderr());
        assert_eq!(outcome.stdout(), "", "{args:?}");
    }
    let second = user.ctl(&["start", "--name", "node", "--listen", "127.0.0.1:0"]);
    assert_eq!(second.code(), 9, "{}", second.stderr());
    let taken = user.ctl(&["start", "--name", "c", "--listen", &a.addr()]);
    assert_eq!(taken.code(), 9, "{}", taken.stderr());
    assert!(taken.stderr().contains(&a.addr()), "{}", taken.stderr());
}

#[test]
fn configuration_and_log_level_change_at_run_time() {
    let user = User::new();
    let _node = user.start("node", &[]);
    assert_eq!(user.ctl(&["config", "set", "rpc.default_timeout", "250ms"]).code(), 0);
    assert_eq!(user.ctl(&["config", "get", "rpc.default_timeout"]).stdout().trim(), "\"250ms\"");
    assert_eq!(user.ctl(&["log", "debug"]).code(), 0);
    let entries = user.json(&["config", "list"]);
    let level = entries.as_array().unwrap().iter().find(|entry| entry["key"] == "log.level").unwrap();
    assert_eq!(level["value"], "debug");
    assert_eq!(level["source"], "changed at run time");
}

#[test]
fn signals_end_a_node_in_order() {
    let user = User::new();
    let a = user.start("a", &[]);
    let b = user.start("b", &["--join", &a.addr()]);
    user.wait_for_members("a", 2);
    b.signal("TERM");
    assert_eq!(b.wait(), Some(0));
    let members =
        user.wait_for(&["--node", "a", "members"], "without b", |members| alive(members).len() == 1);
    assert!(!members.to_string().contains("\"dead\""), "it left, it did not die: {members:#}");
}

#[test]
fn a_failing_program_is_the_handlers_failure() {
    let user = User::new();
    let _node = user.start("node", &[]);
    let fails = user.script("fails.sh", "#!/bin/sh\necho no such room >&2\nexit 3\n");
    let _serving = user.stream(&["serve", "x.fails", "--exec", fails.to_str().unwrap()], "serving x.fails");
    let called = user.ctl(&["call", "x.fails"]);
    assert_eq!(called.code(), 7);
    assert!(called.stderr().contains("no such room"), "{}", called.stderr());
    let slow = user.script("slow.sh", "#!/bin/sh\nexec sleep 60\n");
    let _serving = user.stream(&["serve", "x.slow", "--exec", slow.to_str().unwrap()], "serving x.slow");
    assert_eq!(user.ctl(&["call", "x.slow", "--timeout", "300ms"]).code(), 5);
}
