//! What publish and subscribe offer beyond plain topics, between real processes.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use support::{NodeProcess, User};

/// Nodes of these names, in one mesh.
fn mesh(user: &User, names: &[&str]) -> Vec<NodeProcess> {
    let first = user.start(names[0], &[]);
    let join = first.addr();
    let mut nodes = vec![first];
    nodes.extend(names[1..].iter().map(|name| user.start(name, &["--join", &join])));
    names.iter().for_each(|name| user.wait_for_members(name, names.len()));
    nodes
}

#[test]
fn a_filter_lets_through_what_it_says_and_spares_the_network_the_rest() {
    let user = User::new();
    let _nodes = mesh(&user, &["a", "b"]);
    let filter = r#"header.kind == "order" && json.amount > 10"#;
    let mut large = user.stream(
        &["--node", "b", "subscribe", "shop.*", "--filter", filter, "-o", "ndjson"],
        "subscribed to shop.*",
    );
    let mut shown = user.stream(&["--node", "b", "subscribe", "shop.till"], "subscribed to shop.till");
    let publish = |topic: &str, amount: u32| -> Value {
        let order = json!({ "amount": amount }).to_string();
        user.json(&["--node", "a", "publish", topic, &order, "--header", "kind=order"])
    };
    assert_eq!(publish("shop.web", 3)["peers"], 0, "nobody's filter lets it through");
    assert_eq!(publish("shop.web", 30)["peers"], 1);
    assert_eq!(publish("shop.till", 4)["peers"], 1, "somebody there wants all of it");
    assert_eq!(publish("shop.till", 40)["peers"], 1);
    for (topic, amount) in [("shop.web", 30), ("shop.till", 40)] {
        let message = large.json();
        assert_eq!((&message["topic"], &message["payload"]["amount"]), (&json!(topic), &json!(amount)));
        assert_eq!(message["headers"], json!({ "kind": "order" }));
    }
    assert_eq!(shown.line(), r#"shop.till  [kind=order]  {"amount":4}"#);
    assert_eq!(user.json(&["--node", "b", "subscriptions"])[0]["filter"], filter);
    assert_eq!(user.metric("a", "macula_pubsub_filtered_total", "Publisher"), 1.0);
    assert_eq!(user.metric("b", "macula_pubsub_filtered_total", "Subscriber"), 1.0);

    let wrong = user.ctl(&["--node", "b", "subscribe", "shop.*", "--filter", "header.kind = 3"]);
    assert_eq!(wrong.code(), 2);
    assert!(wrong.stderr().contains("character 13: a comparison is one of =="), "{}", wrong.stderr());
}

#[test]
fn a_group_shares_the_work_and_goes_on_when_a_member_is_killed() {
    let user = User::new();
    let mut nodes = mesh(&user, &["a", "b", "c"]);
    let member = |node: &str| {
        user.stream(
            &["--node", node, "subscribe", "jobs.*", "--group", "workers", "-o", "ndjson"],
            "subscribed to jobs.*",
        )
    };
    let (mut first, mut second) = (member("b"), member("c"));
    let mut observer = user.stream(&["--node", "b", "subscribe", "jobs.#", "-o", "ndjson"], "subscribed");
    let publish = |n: usize| user.json(&["--node", "a", "publish", "jobs.new", &n.to_string()]);
    for n in 0..10 {
        let published = publish(n);
        assert_eq!((&published["groups"], &published["unserved"]), (&json!(1), &json!(0)), "{published}");
    }
    let take = |stream: &mut support::Stream, count: usize| -> Vec<u64> {
        (0..count).map(|_| stream.json()["payload"].as_u64().unwrap()).collect()
    };
    assert_eq!(take(&mut observer, 10), (0..10).collect::<Vec<u64>>());
    let mut served = [take(&mut first, 5), take(&mut second, 5)].concat();
    served.sort_unstable();
    assert_eq!(served, (0..10).collect::<Vec<u64>>(), "each message once, in equal shares");
    assert_eq!(user.json(&["--node", "c", "subscriptions"])[0]["group"], "workers");

    nodes.remove(2).kill();
    user.wait_for_members("a", 2);
    for n in 10..20 {
        assert_eq!(publish(n)["groups"], 1);
    }
    assert_eq!(take(&mut first, 10), (10..20).collect::<Vec<u64>>(), "the survivor gets all, in order");

    let wrong = user.ctl(&["--node", "b", "subscribe", "jobs.*", "--group", "two words"]);
    assert_eq!(wrong.code(), 2);
    assert!(wrong.stderr().contains("the name of a group is made of"), "{}", wrong.stderr());
}

#[test]
fn an_acknowledged_message_says_who_took_it_and_who_did_not() {
    let user = User::new();
    let nodes = mesh(&user, &["a", "b", "c"]);
    let mut first = user.stream(&["--node", "b", "subscribe", "t", "-o", "ndjson"], "subscribed to t");
    let _second = user.stream(&["--node", "c", "subscribe", "#", "-o", "ndjson"], "subscribed to #");
    let acknowledged = user.json(&["--node", "a", "publish", "t", "1", "--ack"]);
    assert_eq!(acknowledged["complete"], true, "{acknowledged}");
    assert_eq!(acknowledged["taken"].as_array().unwrap().len(), 2);
    assert_eq!(first.json()["payload"], 1);

    nodes[2].signal("STOP");
    let silent = user.ctl(&["--node", "a", "publish", "t", "2", "--ack", "--timeout", "1s"]);
    nodes[2].signal("CONT");
    assert_eq!(silent.code(), 10, "{}", silent.stderr());
    assert!(silent.stderr().contains(&format!("{}: no answer", nodes[2].id())), "{}", silent.stderr());
    assert_eq!(first.json()["payload"], 2);
    assert!(user.metric("a", "macula_pubsub_acknowledgements_total", "Taken") >= 3.0);
}

/// Publishes numbers from `from` on, each to be acknowledged, until `stop`; returns those that everybody took.
fn publish_until(user: &User, node: &str, from: u64, stop: &AtomicBool) -> (u64, Vec<u64>) {
    let (mut next, mut acknowledged) = (from, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let args =
            ["--node", node, "publish", "t", &next.to_string(), "--ack", "--timeout", "2s", "-o", "json"];
        let outcome = user.ctl(&args);
        let report: Option<Value> = serde_json::from_str(&outcome.stdout()).ok();
        if report.is_some_and(|report| report["complete"] == true && report["taken"] != json!([])) {
            acknowledged.push(next);
        }
        next += 1;
    }
    (next, acknowledged)
}

fn payloads(text: &str) -> Vec<u64> {
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter_map(|message| message["payload"].as_u64()).collect()
}

#[test]
fn what_was_acknowledged_was_delivered_whenever_either_side_is_killed() {
    let user = User::new();
    let seed = user.start("seed", &[]);
    let join = seed.addr();
    let mut numbers = 0;
    let mut total = 0;
    for (round, (after_ms, kills)) in
        [(200, "b"), (700, "b"), (450, "a"), (1_100, "a")].into_iter().enumerate()
    {
        let a = user.start("a", &["--join", &join]);
        let b = user.start("b", &["--join", &join]);
        ["a", "b"].iter().for_each(|name| user.wait_for_members(name, 3));
        let mut stream = user.stream(&["--node", "b", "subscribe", "t", "-o", "ndjson"], "subscribed to t");
        let stop = AtomicBool::new(false);
        let (next, acknowledged) = std::thread::scope(|scope| {
            let publishing = scope.spawn(|| publish_until(&user, "a", numbers, &stop));
            // tidy: allow(sleep): the moment of the kill is what is varied
            std::thread::sleep(Duration::from_millis(after_ms));
            if kills == "a" { &a } else { &b }.signal("KILL");
            stop.store(true, Ordering::Relaxed);
            publishing.join().unwrap()
        });
        numbers = next;
        if kills == "a" { b } else { a }.kill();
        let delivered = payloads(&stream.rest());
        assert!(delivered.is_sorted_by(|one, next| one < next), "round {round}: {delivered:?}");
        let lost: Vec<&u64> = acknowledged.iter().filter(|number| !delivered.contains(number)).collect();
        assert!(
            lost.is_empty(),
            "round {round}: acknowledged and not delivered: {lost:?} of {acknowledged:?}"
        );
        total += acknowledged.len();
    }
    assert!(total > 20, "only {total} were acknowledged");
}

/// Publishes large messages, each with its number in the headers, to a client that does not read.
fn publish_large(user: &User, count: u32) {
    let text = "x".repeat(90_000);
    for n in 0..count {
        let header = format!("n={n}");
        let args = ["--node", "a", "publish", "t", &text, "--header", &header, "--wait", "5s"];
        assert_eq!(user.ctl(&args).code(), 0, "message {n}");
    }
}

#[test]
fn a_subscriber_that_lags_loses_the_oldest_or_holds_up_its_publisher() {
    const MESSAGES: u32 = 110;
    let user = User::new();
    let _nodes = mesh(&user, &["a", "b"]);
    let subscribe = |lag: &str| {
        let args = ["--node", "b", "subscribe", "t", "--queue", "4", "--lag", lag, "-o", "ndjson"];
        user.stream(&args, "subscribed to t")
    };
    let queued = || user.json(&["--node", "b", "subscriptions"])[0]["queued"].as_u64();
    let number = |message: &Value| message["headers"]["n"].as_str().and_then(|n| n.parse::<u32>().ok());

    let mut patient = subscribe("wait");
    assert_eq!(user.json(&["--node", "b", "subscriptions"])[0]["lag"], "wait");
    patient.signal("STOP");
    std::thread::scope(|scope| {
        let publishing = scope.spawn(|| publish_large(&user, MESSAGES));
        user.until("its queue is full", || queued() == Some(4) || publishing.is_finished());
        patient.signal("CONT");
        for n in 0..MESSAGES {
            assert_eq!(number(&patient.json()), Some(n), "nothing is lost");
        }
    });
    drop(patient);
    user.wait_for(&["--node", "b", "subscriptions"], "none", |rows| *rows == json!([]));

    let mut hasty = subscribe("drop-oldest");
    hasty.signal("STOP");
    publish_large(&user, MESSAGES);
    user.until("the last is there", || {
        user.metric("b", "macula_pubsub_received_total", "") >= f64::from(2 * MESSAGES)
    });
    hasty.signal("CONT");
    let mut received = 0;
    while number(&hasty.json()) != Some(MESSAGES - 1) {
        received += 1;
    }
    assert!((4..MESSAGES - 1).contains(&received), "the newest arrive, some older ones are lost: {received}");
    assert!(user.metric("b", "macula_pubsub_dropped_total", "SubscriberFull") > 0.0);
}

#[test]
fn a_retained_value_is_there_for_those_who_come_later_also_when_its_publisher_is_killed() {
    let user = User::new();
    let mut nodes = mesh(&user, &["a", "b", "c"]);
    let retain = |topic: &str, value: &str| {
        user.json(&["--node", "a", "publish", topic, value, "--retain", "--header", "unit=C"])
    };
    for (topic, value) in [("home.hall", "19"), ("home.attic.roof", "7"), ("shop", "1"), ("home.hall", "20")]
    {
        let kept = retain(topic, value);
        assert!(kept["holders"].as_u64().unwrap() >= 2, "{kept}");
    }
    let shown = user.json(&["--node", "b", "retained", "home.#"]);
    assert_eq!(
        (shown["failed"].as_u64(), shown["values"].as_array().unwrap().len()),
        (Some(0), 2),
        "{shown}"
    );
    let mut early = user.stream(&["--node", "b", "subscribe", "home.#", "--retained"], "2 retained values");
    assert_eq!([early.line(), early.line()], ["home.attic.roof  [unit=C]  7", "home.hall  [unit=C]  20"]);
    retain("home.hall", "21");
    assert_eq!(early.line(), "home.hall  [unit=C]  21");

    let cleared = user.json(&["--node", "a", "retained", "home.attic.roof", "--clear"]);
    assert_eq!(cleared, json!({ "cleared": true }));
    nodes.remove(0).kill();
    let late = user.json(&["--node", "c", "subscribe", "home.*", "--retained", "--count", "1"]);
    let expected = (&json!("home.hall"), &json!(21), &json!(true));
    assert_eq!((&late["topic"], &late["payload"], &late["retained"]), expected);
    assert_eq!(user.metric("b", "macula_pubsub_retained_delivered_total", ""), 2.0);

    let large = "x".repeat(1_024);
    let refused = user.ctl(&["--node", "b", "publish", "home.hall", &large, "--retain"]);
    assert_eq!(refused.code(), 2);
    assert!(refused.stderr().contains("a retained message has at most 1024 bytes"), "{}", refused.stderr());
    let refused = user.ctl(&["--node", "b", "retained", "home.**"]);
    assert_eq!(refused.code(), 2, "{}", refused.stderr());
}

#[test]
fn what_a_restarted_member_of_a_group_wanted_before_takes_nothing_from_the_others() {
    let user = User::new();
    let mut nodes = mesh(&user, &["a", "b", "c"]);
    let join = nodes[0].addr();
    let mut worker = user.stream(
        &["--node", "b", "subscribe", "jobs", "--group", "workers", "-o", "ndjson"],
        "subscribed to jobs",
    );
    for (round, is_orderly) in [(0, false), (1, true)] {
        let member = user.stream(
            &["--node", "c", "subscribe", "jobs", "--group", "workers", "-o", "ndjson"],
            "subscribed",
        );
        let shared = user.json(&["--node", "a", "publish", "jobs", "1000"]);
        assert_eq!(shared["groups"], 1, "{shared}");
        let gone = nodes.pop().unwrap();
        if is_orderly {
            gone.signal("TERM");
            assert_eq!(gone.wait(), Some(0));
        } else {
            gone.kill();
        }
        drop(member);
        nodes.push(user.start("c", &["--join", &join]));
        user.wait_for_members("a", 3);
        user.wait_for_members("c", 3);
        for n in 0..20 {
            let published = user.json(&["--node", "a", "publish", "jobs", &(100 * round + n).to_string()]);
            assert_eq!(
                (&published["peers"], &published["groups"]),
                (&json!(1), &json!(1)),
                "{n}: {published}"
            );
        }
        let mine: Vec<u64> = std::iter::from_fn(|| Some(worker.json()["payload"].as_u64().unwrap()))
            .filter(|n| *n < 1_000)
            .take(20)
            .collect();
        assert_eq!(mine, (100 * round..100 * round + 20).collect::<Vec<u64>>());
    }
}
