//! The admin API and its client, used wrongly and hard.

// The lint lets tests unwrap, but not what they share.
#![allow(clippy::unwrap_used)]

mod support;

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};
use support::User;

/// Sends a request by hand; HTTP/1.0, so that the answer ends with the connection.
fn send(socket: &Path, head: &str, body: &[u8]) -> BufReader<UnixStream> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let length = body.len();
    let head = format!(
        "{head} HTTP/1.0\r\nHost: n\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // The node may answer before it has read everything, and close.
    let _ = stream.write_all(body);
    BufReader::new(stream)
}

/// The status and the body of an answer.
fn ask(socket: &Path, head: &str, body: &[u8]) -> (u16, Value) {
    let mut text = String::new();
    // A connection that is closed with unread data is reset; what came before counts.
    let _ = send(socket, head, body).read_to_string(&mut text);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{head}: no answer: {text}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{head}: {error}: {body}")))
}

fn publish(socket: &Path, topic: &str, payload: &str) -> Value {
    let body = json!({ "topic": topic, "encoding": "text", "payload": payload }).to_string();
    let (status, answer) = ask(socket, "POST /v1/publish", body.as_bytes());
    assert_eq!(status, 200, "{answer}");
    answer
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn whatever_is_wrong_with_a_request_is_said_in_the_same_form() {
    let user = User::new();
    let node = user.start("node", &[]);
    let socket = node.socket();
    let huge = vec![b'x'; 3 * 1024 * 1024];
    let deep = "[".repeat(100_000);
    let no_payload = br#"{"topic":"x"}"#;
    let not_base64 = br#"{"topic":"x","encoding":"base64","payload":"%"}"#;
    for (head, body, expected) in [
        ("GET /", &b""[..], 404),
        ("GET /v1/nothing", b"", 404),
        ("DELETE /v1/status", b"", 405),
        ("POST /v1/publish", b"", 400),
        ("POST /v1/publish", b"{", 400),
        ("POST /v1/publish", b"\xff\xfe", 400),
        ("POST /v1/publish", deep.as_bytes(), 422),
        ("POST /v1/publish", no_payload, 422),
        ("POST /v1/publish", not_base64, 400),
        ("POST /v1/publish", &huge, 413),
        ("POST /v1/call", b"[]", 422),
        ("GET /v1/subscribe", b"", 400),
        ("GET /v1/subscribe?pattern=a..b", b"", 400),
        ("GET /v1/serve?procedure=x&concurrency=no", b"", 400),
        ("POST /v1/serve/7", br#"{"call":1,"result":null,"error":"x"}"#, 404),
        ("POST /v1/serve/none", b"{}", 400),
        ("GET /v1/lookup", b"", 400),
        ("GET /v1/lookup?key=short", b"", 400),
        ("GET /v1/members?all=maybe", b"", 400),
        ("PATCH /v1/tags", br#"{"set":{"zone":7}}"#, 422),
        ("PATCH /v1/tags", br#"{"set":{"":"x"}}"#, 400),
        ("PATCH /v1/tags", br#"{"remove":["none"]}"#, 404),
        ("PUT /v1/config/routing.k", br#"{"value":"7"}"#, 400),
        ("PUT /v1/config/no.such.key", br#"{"value":"1"}"#, 404),
    ] {
        let (status, answer) = ask(&socket, head, body);
        assert_eq!(status, expected, "{head}: {answer}");
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(!message.is_empty() && answer["error"]["code"].is_string(), "{head}: {answer}");
    }
    // Bytes that are no HTTP at all end the connection alone.
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(&[0xff; 1_000]).unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
    assert_eq!(user.json(&["status"])["health"], "healthy");
}

#[test]
fn a_client_that_does_not_read_costs_little_and_is_told_what_it_missed() {
    let user = User::new();
    let node = user.start("node", &[]);
    let socket = node.socket();
    let mut idle = send(&socket, "GET /v1/subscribe?pattern=flood", b"");
    user.wait_for(&["subscriptions"], "there", |rows| rows.as_array().unwrap().len() == 1);
    let before = resident_kib(node.pid());
    let payload = "x".repeat(16 * 1024);
    const MESSAGES: u64 = 4_000;
    (0..MESSAGES).for_each(|_| _ = publish(&socket, "flood", &payload));
    let after = resident_kib(node.pid());
    println!("64 MiB published past a client that does not read: {before} KiB before, {after} KiB after");
    assert!(after < before + 40 * 1024, "{before} KiB became {after} KiB");
    let row = user.json(&["subscriptions"])[0].clone();
    let dropped = row["dropped"].as_u64().unwrap();
    assert!(dropped > 0, "{row}");

    // What it was spared is said before what comes next, and nothing is lost without a word.
    publish(&socket, "flood", "last");
    let (mut got, mut lost, mut line) = (0, 0, String::new());
    loop {
        line.clear();
        assert_ne!(idle.read_line(&mut line).unwrap(), 0);
        let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
        match event["event"].as_str() {
            Some("lagged") => lost += event["lost"].as_u64().unwrap(),
            Some("message") => got += 1,
            _ => {}
        }
        if event["payload"] == "last" {
            break;
        }
    }
    assert_eq!(got + lost, MESSAGES + 1, "{got} read, {lost} reported as lost");
    drop(idle);
    user.wait_for(&["subscriptions"], "gone with its client", |rows| rows == &json!([]));
}

#[test]
fn two_hundred_clients_at_once() {
    let user = User::new();
    let node = user.start("node", &[]);
    let socket = node.socket();
    let mut clients: Vec<_> =
        (0..200).map(|_| send(&socket, "GET /v1/subscribe?pattern=all.*", b"")).collect();
    user.wait_for(&["subscriptions"], "all there", |rows| rows.as_array().unwrap().len() == 200);
    assert_eq!(publish(&socket, "all.here", "now")["local"], 200);
    for client in &mut clients {
        let mut line = String::new();
        while !line.contains("\"payload\":\"now\"") {
            line.clear();
            assert_ne!(client.read_line(&mut line).unwrap(), 0);
        }
    }
    let fds = || std::fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap().count();
    assert!(fds() > 200);
    drop(clients);
    user.wait_for(&["subscriptions"], "all gone", |rows| rows == &json!([]));
    user.until("their file descriptors are closed", || fds() < 50);
}

#[test]
fn a_node_stops_although_a_client_does_not_read() {
    let user = User::new();
    let node = user.start("node", &[]);
    let socket = node.socket();
    let _idle = send(&socket, "GET /v1/subscribe?pattern=flood", b"");
    user.wait_for(&["subscriptions"], "there", |rows| rows.as_array().unwrap().len() == 1);
    let payload = "x".repeat(64 * 1024);
    (0..100).for_each(|_| _ = publish(&socket, "flood", &payload));
    node.signal("TERM");
    assert_eq!(node.wait(), Some(0));
}

#[test]
fn every_list_is_json_on_request() {
    let user = User::new();
    let a = user.start("node", &["--tag", "zone=x"]);
    let _b = user.start("b", &["--join", &a.addr()]);
    user.wait_for_members("node", 2);
    let _sub = user.stream(&["subscribe", "x.#"], "subscribed");
    let script = user.script("yes.sh", "#!/bin/sh\necho true\n");
    let _offer = user.stream(&["serve", "x.yes", "--exec", script.to_str().unwrap()], "serving");
    let lists: &[&[&str]] = &[
        &["members"],
        &["members", "--all"],
        &["tags", "list"],
        &["peers"],
        &["routing-table"],
        &["subscriptions"],
        &["registrations"],
        &["nodes"],
        &["config", "list"],
        &["seeds", "list"],
    ];
    for list in lists {
        let whole = user.json(list);
        let rows = whole.as_array().unwrap_or_else(|| panic!("{list:?}: no array: {whole}"));
        let lines = user.ctl(&[*list, &["-o", "ndjson"]].concat()).stdout();
        assert!(lines.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{list:?}: {lines}");
        assert_eq!(lines.lines().count(), rows.len(), "{list:?}");
        assert_eq!(rows.is_empty(), *list == ["seeds", "list"], "{list:?}: {whole}");
    }
    for one in [&["status"][..], &["lookup", "--topic", "x.y"], &["config", "get", "rpc.default_timeout"]] {
        assert!(user.json(one).is_object(), "{one:?}");
    }
}

#[test]
fn strange_arguments_are_refused_with_their_exit_codes() {
    let user = User::new();
    let _node = user.start("node", &[]);
    for (args, code) in [
        (&["publish", "", "x"][..], 2),
        (&["publish", "a b", "x"], 2),
        (&["subscribe", ""], 2),
        (&["call", ""], 2),
        (&["call", "a/../b?c#d"], 2),
        (&["join", ""], 2),
        (&["seeds", "add", ""], 2),
        (&["seeds", "remove", ""], 4),
        (&["log", "nonsense=level=x"], 2),
        (&["config", "get", ""], 4),
        (&["config", "get", "a/b?c d"], 4),
        (&["lookup", ""], 2),
        (&["lookup", "--topic", ""], 2),
        (&["lookup", "--topic", "a#b c"], 2),
        (&["lookup", "--procedure", "ä"], 2),
        (&["--node", "", "status"], 2),
        (&["--node", ":", "status"], 2),
        (&["", "status"], 2),
    ] {
        let outcome = user.ctl(args);
        assert_eq!(outcome.code(), code, "{args:?}: {}", outcome.stderr());
        assert!(outcome.stderr().contains("error"), "{args:?}: {}", outcome.stderr());
    }
    // An empty message is a message.
    assert_eq!(user.ctl(&["publish", "x", ""]).code(), 0);
    let odd =
        |args: &[&[u8]]| args.iter().map(|arg| OsStr::from_bytes(arg).to_owned()).collect::<Vec<OsString>>();
    for args in
        [odd(&[b"publish", b"\xff\xfe", b"x"]), odd(&[b"--node", b"\xff", b"status"]), odd(&[b"\xff"])]
    {
        let outcome = user.ctl(&args);
        assert_eq!(outcome.code(), 2, "{args:?}: {}", outcome.stderr());
        assert!(!outcome.stderr().contains("panicked"), "{}", outcome.stderr());
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let user = User::new();
    let _node = user.start("node", &[]);
    for args in [
        &["members"][..],
        &["metrics"],
        &["config", "list", "-o", "json"],
        &["completions", "bash"],
        &["--help"],
    ] {
        let mut child = user.command(args).spawn().unwrap();
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let status = child.wait().unwrap();
        assert!(status.success() && said.is_empty(), "{args:?}: {status}: {said}");
    }
    // A subscription ends with its first message that nobody reads.
    let mut child = user.command(&["subscribe", "x", "-o", "ndjson"]).spawn().unwrap();
    drop(child.stdout.take());
    user.wait_for(&["subscriptions"], "there", |rows| rows.as_array().unwrap().len() == 1);
    user.until("it has ended", || {
        user.ctl(&["publish", "x", "1"]);
        child.try_wait().unwrap().is_some()
    });
    user.wait_for(&["subscriptions"], "gone", |rows| rows == &json!([]));
    assert!(child.wait_with_output().unwrap().status.success());
}
