//! Each of a node's tasks is killed in turn; what the application asked for goes on.

// The lint lets tests unwrap, but not what they share.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use macula::{Call, Decode, Json, Node, Subscription};

/// How long anything may take before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(30);

async fn node(name: &str, seed: Option<&Node>) -> Node {
    let builder = Node::builder()
        .name(name)
        .listen("127.0.0.1:0")
        .set("membership.protocol_period", "100ms")
        .set("membership.suspect_timeout", "400ms")
        // All tasks of a node are killed within a few seconds, and some more than once.
        .set("supervision.restarts_max", "100");
    let seed = seed.map(|seed| seed.listen_addrs()[0].to_string());
    seed.iter().fold(builder, |builder, seed| builder.seed(seed)).start().await.unwrap()
}

async fn two() -> (Node, Node) {
    let a = node("a", None).await;
    let b = node("b", Some(&a)).await;
    until("both see two members", || a.members().len() == 2 && b.members().len() == 2).await;
    (a, b)
}

/// Waits until something is so. A node runs in real time, and tells nobody about most of what it does.
async fn until(what: &str, is: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await; // tidy: allow(sleep): polling, see above
    }
}

fn restarts(node: &Node) -> BTreeMap<String, u64> {
    node.tasks().iter().map(|task| (task.name.to_string(), task.restarts)).collect()
}

fn restarts_counted(node: &Node, task: &str) -> u64 {
    let line = format!("macula_supervisor_task_restarts_total{{task=\"{task}\"}} ");
    let metrics = node.metrics();
    let value = metrics.lines().find_map(|text| text.strip_prefix(&line));
    value.map_or(0, |value| value.parse().unwrap())
}

/// Publishes until a message of now has arrived, and says how many were sent for it.
async fn reaches(from: &Node, sub: &mut Subscription, mark: &str) -> u32 {
    let deadline = Instant::now() + PATIENCE;
    let mut sent = 0;
    loop {
        assert!(Instant::now() < deadline, "{mark}: nothing arrives any more");
        sent += 1;
        // While a part of the node is down, a publication may fail; it says so.
        let _ = from.publish("room.one", mark.to_owned()).await;
        while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(200), sub.recv()).await {
            if message.text().unwrap() == mark {
                return sent;
            }
        }
    }
}

async fn answers(node: &Node, what: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match node.call("double", Json(21)).await {
            Ok(reply) => {
                assert_eq!(reply.decode::<Json<i64>>().unwrap(), Json(42));
                return;
            }
            Err(error) => assert!(Instant::now() < deadline, "{what}: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_task_restarts_alone_and_the_application_does_not_notice() {
    let (a, b) = two().await;
    let mut at_b = b.subscribe("room.*").await.unwrap();
    let mut at_a = a.subscribe("room.*").await.unwrap();
    let double = |call: Call| async move {
        let Json(n) = call.decode::<Json<i64>>()?;
        macula::reply(Json(n * 2))
    };
    let _offer = b.register("double", double).await.unwrap();
    answers(&a, "before").await;

    let tasks: Vec<String> = restarts(&b).into_keys().collect();
    assert_eq!(tasks.len(), 8, "{tasks:?}");
    for node in [&b, &a] {
        for task in &tasks {
            let before = restarts(node);
            assert!(node.kill_task(task), "{task} runs");
            let what = format!("{task} of {} restarts", node.name());
            until(&what, || restarts(node)[task] > before[task]).await;
            let sent = reaches(&a, &mut at_b, &format!("a to b after {what}")).await
                + reaches(&b, &mut at_a, &format!("b to a after {what}")).await;
            answers(&a, &what).await;
            let mut expected = before;
            *expected.get_mut(task).unwrap() += 1;
            assert_eq!(restarts(node), expected, "only {task} was restarted");
            assert_eq!(restarts_counted(node, task), 1, "{task}");
            assert_eq!(node.health(), macula::Health::Healthy);
            println!("{what}: {sent} publications until one arrived on each side");
        }
    }
    until("both still see two members", || a.members().len() == 2 && b.members().len() == 2).await;
    // New intent works as well as old.
    let mut more = b.subscribe("other").await.unwrap();
    until_published(&a, &mut more).await;
    a.shutdown().await;
    until("b sees a go", || b.members().len() == 1).await;
    b.shutdown().await;
}

async fn until_published(from: &Node, sub: &mut Subscription) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        from.publish("other", "x").await.unwrap();
        if tokio::time::timeout(Duration::from_millis(200), sub.recv()).await.is_ok_and(|got| got.is_some()) {
            return;
        }
        assert!(Instant::now() < deadline, "nothing arrives");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_fails_too_often_stays_down_and_the_node_says_so() {
    let lone = Node::builder()
        .listen("127.0.0.1:0")
        .set("supervision.restarts_max", "2")
        .set("supervision.restart_window", "1m")
        .start()
        .await
        .unwrap();
    for failures in 0..3 {
        until("bridge runs again", || restarts(&lone)["bridge"] == failures).await;
        until("bridge is killed", || lone.kill_task("bridge")).await;
    }
    until("it is given up", || lone.health() != macula::Health::Healthy).await;
    assert!(matches!(lone.health(), macula::Health::Unhealthy(why) if why.contains("bridge")));
    assert!(!lone.kill_task("bridge"), "there is nothing left to kill");
    assert!(!lone.kill_task("no such task"));
    lone.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_hangs_does_not_keep_the_node_from_going_down() {
    let (a, b) = two().await;
    let (entered, mut is_in) = tokio::sync::mpsc::channel::<()>(1);
    let hang = move |_call: Call| {
        let entered = entered.clone();
        async move {
            let _ = entered.send(()).await;
            std::future::pending::<()>().await;
            macula::reply("never")
        }
    };
    let _offer = b.register("hang", hang).await.unwrap();
    let caller = tokio::spawn({
        let a = a.clone();
        async move {
            let request = macula::CallRequest::new("hang".parse().unwrap()).timeout(Duration::from_secs(120));
            a.call_with(request).await
        }
    });
    is_in.recv().await.unwrap();
    let begun = Instant::now();
    b.shutdown().await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    let error = tokio::time::timeout(PATIENCE, caller).await.unwrap().unwrap().unwrap_err();
    println!("down after {took:?}; the caller was told: {error}");
    until("a saw it leave", || a.members().len() == 1).await;
    assert!(b.publish("x", "y").await.is_err() || b.subscribe("x").await.is_err(), "it is closed");
    a.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_says_goodbye_first_and_lets_what_is_under_way_finish() {
    let (a, b) = two().await;
    let (entered, mut is_in) = tokio::sync::mpsc::channel::<()>(1);
    let (release, released) = tokio::sync::watch::channel(false);
    let slow = move |_call: Call| {
        let (entered, mut released) = (entered.clone(), released.clone());
        async move {
            let _ = entered.send(()).await;
            let _ = released.wait_for(|released| *released).await;
            macula::reply("done")
        }
    };
    let _offer = b.register("slow", slow).await.unwrap();
    let caller = tokio::spawn({
        let a = a.clone();
        async move { a.call("slow", "").await }
    });
    is_in.recv().await.unwrap();
    let mut events = a.member_events();
    let shutdown = tokio::spawn({
        let b = b.clone();
        async move { b.shutdown().await }
    });
    // The goodbye comes before the handler has ended …
    loop {
        match tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap() {
            macula::Event::Left(member) if member.contact.id == b.node_id() => break,
            _ => {}
        }
    }
    assert!(!shutdown.is_finished());
    // … and the handler's answer still arrives.
    release.send(true).unwrap();
    assert_eq!(caller.await.unwrap().unwrap().payload, "done");
    tokio::time::timeout(PATIENCE, shutdown).await.unwrap().unwrap();
    // A second shutdown of the same node is over at once.
    tokio::time::timeout(PATIENCE, b.shutdown()).await.unwrap();
    a.shutdown().await;
}
