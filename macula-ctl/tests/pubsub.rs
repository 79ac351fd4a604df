//! What publish and subscribe offer beyond plain topics, between real processes.

mod support;

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
