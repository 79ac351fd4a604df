//! What an operator meets when things are not as they should be.

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::User;

#[test]
fn a_node_that_hangs_hides_no_other_and_is_said_to_hang() {
    let user = User::new();
    let _a = user.start("a", &[]);
    let b = user.start("b", &[]);
    b.signal("STOP");
    let started = Instant::now();
    let nodes = user.json(&["nodes"]);
    let states: Vec<_> = nodes.as_array().unwrap().iter().map(|row| (&row["name"], &row["state"])).collect();
    assert_eq!(states, [(&json!("a"), &json!("running")), (&json!("b"), &json!("not answering"))]);
    assert_eq!(nodes[1]["pid"], b.pid());
    let status = user.ctl(&["--node", "b", "status"]);
    assert_eq!(status.code(), 3, "{}", status.stderr());
    assert!(status.stderr().contains("does not answer"), "{}", status.stderr());
    assert!(status.stderr().contains("kill -CONT"), "{}", status.stderr());
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    b.signal("CONT");
    assert_eq!(user.json(&["--node", "b", "status"])["name"], "b");
}

#[test]
fn a_long_call_is_waited_for_as_long_as_its_node_lives() {
    let user = User::new();
    let _node = user.start("node", &[]);
    // Longer than it takes to find that a node hangs.
    let slow = user.script("slow.sh", "#!/bin/sh\nsleep 7\necho 42\n");
    let _serving = user.stream(&["serve", "x.slow", "--exec", slow.to_str().unwrap()], "serving x.slow");
    let called = user.ctl(&["call", "x.slow", "--timeout", "50s"]);
    assert_eq!((called.code(), called.stdout().trim()), (0, "42"), "{}", called.stderr());
}

#[test]
fn nothing_that_others_write_reaches_the_terminal_as_a_control() {
    let user = User::new();
    let _node = user.start("node", &[]);
    let evil = "red\u{1b}[31m\r\u{9b}2J\tend\nnext";
    let mut table = user.stream(&["subscribe", "a.b", "--count", "1"], "subscribed");
    let mut exact = user.stream(&["subscribe", "a.b", "--count", "1", "-o", "ndjson"], "subscribed");
    assert_eq!(user.ctl(&["publish", "a.b", evil]).code(), 0);
    assert_eq!(table.line(), "a.b  red\\u{1b}[31m\\r\\u{9b}2J\tend\\nnext");
    assert_eq!(exact.json()["payload"], evil);

    let echo = user.script("echo.sh", "#!/bin/sh\ncat\n");
    let _serving = user.stream(&["serve", "x.echo", "--exec", echo.to_str().unwrap()], "serving");
    assert_eq!(user.ctl(&["call", "x.echo", evil]).stdout(), "red\\u{1b}[31m\\r\\u{9b}2J\tend\nnext\n");
    assert_eq!(user.ctl(&["call", "x.echo", evil, "--raw"]).stdout(), evil);
    assert_eq!(user.json(&["call", "x.echo", evil])["payload"], evil);
    assert_eq!(user.ctl(&["call", "x.echo", evil, "--raw", "-o", "json"]).code(), 2);

    let fails = user.script("fails.sh", "#!/bin/sh\nprintf '\\033]0;pwned\\007' >&2\nexit 1\n");
    let _serving = user.stream(&["serve", "x.fails", "--exec", fails.to_str().unwrap()], "serving");
    let called = user.ctl(&["call", "x.fails"]);
    assert!(called.stderr().contains("\\u{1b}]0;pwned\\u{7}"), "{}", called.stderr());
    assert!(!called.stderr().contains('\u{1b}'), "{:?}", called.stderr());
}

#[test]
fn binary_results_come_out_as_they_are() {
    let user = User::new();
    let _node = user.start("node", &[]);
    let bytes = user.script("bytes.sh", "#!/bin/sh\nprintf '\\000\\377\\033x'\n");
    let _serving = user.stream(&["serve", "x.bytes", "--exec", bytes.to_str().unwrap()], "serving");
    let raw = user.command(&["call", "x.bytes", "--raw"]).output().unwrap();
    assert_eq!(raw.stdout, b"\x00\xff\x1bx", "{:?}", raw.stderr);
}

#[test]
fn many_nodes_of_one_process_stop_together_and_say_so() {
    let user = User::new();
    let mut dev = user.command(&["dev", "--nodes", "12", "-o", "ndjson"]).spawn().unwrap();
    user.until("all run", || user.json(&["nodes"]).as_array().unwrap().len() == 12);
    assert_eq!(user.ctl(&["--node", "dev1", "stop"]).code(), 0);
    let ended = Instant::now();
    user.until("the process has ended", || dev.try_wait().unwrap().is_some());
    assert!(ended.elapsed() < Duration::from_secs(30), "{:?}", ended.elapsed());
    let said = dev.wait_with_output().unwrap();
    assert!(said.status.success());
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("stopping 12 nodes"), "{said}");
}

#[test]
fn a_context_is_checked_when_it_is_saved_and_named_when_it_fails() {
    let user = User::new();
    let shown = |user: &User| user.json(&["context", "show"]);
    assert_eq!(shown(&user), json!({ "node": "node", "source": "default" }));
    assert!(user.ctl(&["context", "show"]).stderr().contains("`node`"));
    for wrong in ["../../etc", "two words", "..", "host:port"] {
        let set = user.ctl(&["context", "set", wrong]);
        assert_eq!(set.code(), 2, "{wrong}: {}", set.stderr());
    }
    let set = user.ctl(&["context", "set", "nosuch"]);
    assert_eq!(set.code(), 0, "{}", set.stderr());
    assert!(set.stderr().contains("no node `nosuch` is running"), "{}", set.stderr());
    assert_eq!(shown(&user), json!({ "node": "nosuch", "source": "saved" }));
    let status = user.ctl(&["status"]);
    assert_eq!(status.code(), 3);
    assert!(status.stderr().contains("context set"), "{}", status.stderr());
    assert_eq!(user.ctl(&["context", "clear"]).code(), 0);
    assert!(!user.ctl(&["status"]).stderr().contains("context set"));
}

#[test]
fn a_start_that_fails_names_the_cause_and_a_way_out() {
    let user = User::new();
    let a = user.start("a", &[]);
    let shared = user.home().join("shared");
    let shared = shared.to_str().unwrap();
    let _b = user.start("b", &["--data-dir", shared]);
    let file = user.script("file", "");
    let file = file.to_str().unwrap();
    let any = "127.0.0.1:0";
    for (args, code, says, hints) in [
        (&["--name", "c", "--listen", &a.addr()][..], 9, "taken", "--listen"),
        (&["--name", "c", "--listen", any, "--data-dir", shared], 9, "in use", "--data-dir"),
        (&["--name", "a", "--listen", any], 9, "in use", "--node a status"),
        (&["--name", "c", "--listen", any, "--data-dir", file], 1, file, "a file stands"),
        (&["--name", "bad name", "--listen", any], 2, "--name \"bad name\"", "CONFIGURATION.md"),
        (&["--name", "c", "--listen", any, "--join", "foo"], 2, "--join", "CONFIGURATION.md"),
    ] {
        let outcome = user.ctl(&[&["start"], args].concat());
        assert_eq!(outcome.code(), code, "{args:?}: {}", outcome.stderr());
        let said = outcome.stderr();
        let (error, hint) = said.split_once("  try: ").unwrap_or_else(|| panic!("{args:?}: {said}"));
        assert!(error.contains(says), "{args:?}: {said}");
        assert!(hint.contains(hints), "{args:?}: {said}");
        assert!(!said.contains("program:"), "{args:?}: {said}");
    }
}

#[test]
fn configuration_as_json_has_values_of_their_own_type() {
    let user = User::new();
    let _node = user.start("node", &[]);
    let value = |key: &str| user.json(&["config", "get", key])["value"].clone();
    assert_eq!(value("rpc.default_timeout"), "5s");
    assert_eq!(value("node.name"), "node");
    assert_eq!(value("bootstrap.seeds"), json!([]));
    let entries = user.json(&["config", "list"]);
    let values: Vec<_> = entries.as_array().unwrap().iter().map(|entry| &entry["value"]).collect();
    assert!(values.iter().any(|value| value.is_number()) && values.contains(&&Value::Null));
    assert_eq!(user.ctl(&["config", "get", "rpc.default_timeout"]).stdout(), "\"5s\"\n");
    for (args, code, says) in [
        (&["metrics", "-o", "json"][..], 2, "text format"),
        (&["config", "get", "no.key"], 4, "error: unknown key `no.key`"),
        (&["publish", "a.b", "x", "--realm", "NO PE"], 2, "realms look like"),
        (&["call", "a.b", "--timeout", "0s"], 2, "duration"),
        (&["call", "a.b", "--timeout", "1h"], 4, "nobody"),
        (&["seeds", "add", "127.0.0.1:9"], 0, "127.0.0.1:9 is a seed now"),
        (&["seeds", "remove", "127.0.0.1:9"], 0, "127.0.0.1:9 is no seed any more"),
    ] {
        let outcome = user.ctl(args);
        assert_eq!(outcome.code(), code, "{args:?}: {}", outcome.stderr());
        assert!(outcome.stderr().contains(says), "{args:?}: {}", outcome.stderr());
    }
}

#[test]
fn a_node_does_not_join_itself() {
    let user = User::new();
    let a = user.start("a", &[]);
    let itself = |user: &User| {
        let joined = user.ctl(&["--node", "a", "join", &a.addr()]);
        assert_eq!(joined.code(), 2, "{}", joined.stderr());
        assert!(joined.stderr().contains("itself"), "{}", joined.stderr());
    };
    itself(&user);
    let _b = user.start("b", &["--join", &a.addr()]);
    user.wait_for_members("a", 2);
    itself(&user);
}

#[test]
fn a_provider_that_dies_is_not_a_missing_node() {
    let user = User::new();
    let a = user.start("a", &[]);
    let b = user.start("b", &["--join", &a.addr()]);
    user.wait_for_members("a", 2);
    let ran = user.home().join("ran");
    let text = format!("#!/bin/sh\ntouch {}\nsleep 1000\n", ran.display());
    let slow = user.script("slow.sh", &text);
    let serve = ["--node", "b", "serve", "x.slow", "--exec", slow.to_str().unwrap()];
    let _serving = user.stream(&serve, "serving x.slow");
    let calling = user.command(&["--node", "a", "call", "x.slow", "--timeout", "50s"]).spawn().unwrap();
    user.until("the program runs", || ran.exists());
    b.kill();
    let called = calling.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&called.stderr);
    assert_eq!(called.status.code(), Some(10), "{said}");
    assert!(said.contains("the handler may have run"), "{said}");
}

#[test]
fn refusals_say_what_is_wrong_once_and_with_the_right_exit_code() {
    let user = User::new();
    let other = user.start("other", &["--realm", "another"]);
    let _node = user.start("node", &[]);
    let addr = other.addr();
    let said_once = format!("no connection to {addr}: no realm in common");
    let bad_end = "b".repeat(52);
    for (args, code, part) in [
        (&["join", addr.as_str()][..], 10, said_once.as_str()),
        (&["lookup", &bad_end], 2, "an id ends with `a` or `q`"),
        (&["lookup", "short"], 2, "52 characters a-z, 2-7"),
        (&["lookup"], 2, "<KEY|--topic <TOPIC>|--procedure <PROCEDURE>>"),
        (&["lookup", "--topic", "a.b", "--procedure", "a.b"], 2, "cannot be used with"),
        (&["config", "set", "routing.k", "7"], 2, "cannot be changed while the node runs"),
        (&["dev", "--nodes", "1", "--log-level", "zzz"], 2, "--log-level \"zzz\": expected a level"),
    ] {
        let outcome = user.ctl(args);
        assert_eq!(outcome.code(), code, "{args:?}: {}", outcome.stderr());
        assert!(outcome.stderr().contains(part), "{args:?}: {}", outcome.stderr());
    }
}

#[test]
fn a_file_that_cannot_be_written_is_logged_once_and_so_is_a_join_through_several_seeds() {
    let user = User::new();
    let a = user.start("a", &[]);
    let b = user.start("b", &["--join", &a.addr()]);
    user.wait_for_members("a", 2);
    user.wait_for_members("b", 2);
    let data = user.home().join("data");
    let in_the_way = data.join("peers.json");
    std::fs::create_dir_all(&in_the_way).unwrap();
    let c = ["--data-dir", data.to_str().unwrap(), "--join", &a.addr(), "--join", &b.addr()];
    let _c = user.start("c", &c);
    user.wait_for_members("c", 3);
    let lines = |what: &str| {
        let log = std::fs::read_to_string(user.log("c")).unwrap();
        log.lines().filter(|line| line.contains(what)).map(str::to_owned).collect::<Vec<_>>()
    };
    user.until("it is logged", || !lines("could not be saved").is_empty());
    // Each change is to be saved within a second.
    let mut change = 0;
    let until_up = |seconds: u64| {
        user.wait_for(&["--node", "c", "status"], "up", |status| status["uptime_s"].as_u64() >= Some(seconds))
    };
    let up = until_up(0)["uptime_s"].as_u64().unwrap();
    for n in 1..=4 {
        change += 1;
        assert_eq!(user.ctl(&["--node", "a", "tags", "set", &format!("n={change}")]).code(), 0);
        until_up(up + n);
    }
    std::fs::remove_dir(&in_the_way).unwrap();
    user.until("it is saved", || {
        change += 1;
        user.ctl(&["--node", "a", "tags", "set", &format!("n={change}")]);
        in_the_way.is_file()
    });
    user.until("that is logged", || !lines("can be saved again").is_empty());
    let warned = lines("could not be saved");
    assert!(warned.len() == 1 && warned[0].contains(in_the_way.to_str().unwrap()), "{warned:#?}");
    let joined = lines("joined");
    assert_eq!(joined.len(), 1, "{joined:#?}");
}
