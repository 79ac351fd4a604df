//! `bench` against a running node: what is counted adds up.

mod support;

use serde_json::Value;
use support::User;

#[allow(clippy::unwrap_used)]
fn is_ordered(latency: &Value) -> bool {
    let at = |name: &str| latency[name].as_f64().unwrap();
    let quantiles = ["min", "p50", "p90", "p99", "p99_9", "max"].map(at);
    quantiles.is_sorted() && quantiles[0] > 0.0
}

#[test]
fn messages_are_counted_at_publishers_and_subscribers() {
    let user = User::new();
    let _node = user.start("node", &[]);
    let report = user.json(&[
        "bench",
        "pubsub",
        "--publishers",
        "2",
        "--subscribers",
        "2",
        "--messages",
        "2001",
        "--size",
        "64",
    ]);
    assert_eq!((&report["published"], &report["dropped"]), (&2001.into(), &0.into()), "{report:#}");
    assert_eq!((&report["delivered"], &report["lost"]), (&4002.into(), &0.into()), "{report:#}");
    assert!(report["delivered_per_second"].as_f64().unwrap() > 0.0, "{report:#}");
    assert!(is_ordered(&report["latency_us"]), "{report:#}");
    user.wait_for_members("node", 1);
}

#[test]
fn publishers_alone_reach_whoever_subscribes() {
    let user = User::new();
    let _node = user.start("node", &[]);
    let _printing = user.stream(&["subscribe", "load.test", "--queue", "100000"], "subscribed to load.test");
    let report =
        user.json(&["bench", "pubsub", "--subscribers", "0", "--messages", "50", "--topic", "load.test"]);
    assert_eq!((&report["published"], &report["copies"]), (&50.into(), &50.into()), "{report:#}");
    assert_eq!((&report["delivered"], &report["latency_us"]), (&0.into(), &Value::Null), "{report:#}");
}

#[test]
fn calls_and_their_failures_are_counted() {
    let user = User::new();
    let node = user.start("node", &[]);
    let report = user.json(&["bench", "rpc", "--calls", "200", "--in-flight", "8", "--join", &node.addr()]);
    assert_eq!((&report["answered"], &report["failed"]), (&200.into(), &serde_json::json!({})), "{report:#}");
    assert!(is_ordered(&report["latency_us"]), "{report:#}");
    let shown = user.ctl(&["bench", "rpc", "--calls", "20"]);
    assert!(shown.stdout().contains("20 calls of 64 bytes by 1 callers"), "{}", shown.stdout());
}

#[test]
fn lookups_are_counted_also_without_a_mesh() {
    let user = User::new();
    let report = user.json(&["bench", "lookup", "--lookups", "30", "--in-flight", "3", "--alone"]);
    assert_eq!((&report["done"], &report["failed"]), (&30.into(), &0.into()), "{report:#}");
    assert!(report["questions_mean"].as_f64().unwrap() >= 1.0, "{report:#}");
    assert!(is_ordered(&report["latency_us"]), "{report:#}");
    let without = user.ctl(&["bench", "lookup"]);
    assert_eq!(without.code(), 3, "no node runs: {}", without.stderr());
}
