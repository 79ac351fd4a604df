//! The directory in real processes: found from everywhere, shown to its operators, and kept over a restart.

// The lint lets tests unwrap, but not what they share.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::{NodeProcess, User};

const NODES: usize = 30;

/// Each record on four nodes of thirty, so that asking others is the rule; connections that nobody uses close soon.
const SPARSE: &[(&str, &str)] = &[
    ("MACULA_ROUTING_K", "4"),
    ("MACULA_ROUTING_ALPHA", "2"),
    ("MACULA_QUIC_IDLE_TIMEOUT", "3s"),
    ("MACULA_QUIC_KEEP_ALIVE", "1s"),
];

fn launch(user: &User, name: &str, listen: &str, seed: Option<&str>, env: &[(&str, &str)]) -> NodeProcess {
    let mut args = vec!["start", "--name", name, "--listen", listen, "-o", "ndjson"];
    args.extend(seed.iter().flat_map(|seed| ["--join", seed]));
    user.launch(name, &args, env)
}

/// How many contacts a routing table shows.
fn contacts(table: &Value) -> usize {
    let buckets = table.as_array().unwrap().iter();
    buckets.map(|bucket| bucket["contacts"].as_array().unwrap().len()).sum()
}

#[test]
fn what_one_of_thirty_announces_is_found_from_all_others() {
    let user = User::new();
    let first = launch(&user, "n0", "127.0.0.1:0", None, SPARSE);
    let seed = first.addr();
    let mut nodes = vec![first];
    // All through one seed; nobody is told of anybody else.
    for n in 1..NODES {
        nodes.push(launch(&user, &format!("n{n}"), "127.0.0.1:0", Some(&seed), SPARSE));
    }
    let add = user.script("answer.sh", "#!/bin/sh\necho 42\n");
    let add = add.to_str().unwrap();
    let _serving = user.stream(&["--node", "n7", "serve", "home.answer", "--exec", add], "serving");
    let announcer = nodes[7].id();

    let mut asked_others = 0;
    for node in nodes.iter().filter(|node| node.name != "n7") {
        let found = user.json(&["--node", &node.name, "lookup", "--procedure", "home.answer"]);
        let records = found["records"].as_array().unwrap();
        assert!(records.len() == 1 && records[0]["announcer"] == announcer, "{}: {found:#}", node.name);
        asked_others += usize::from(!found["questions"].as_array().unwrap().is_empty());
    }
    assert_eq!(asked_others, NODES - 1, "no answer came from a node's own store alone");
    // The last one to come uses it.
    assert_eq!(user.json(&["--node", "n29", "call", "home.answer", "null"])["payload"], 42);
    let holding = nodes.iter().filter(|node| user.metric(&node.name, "macula_dht_records_held", "") > 0.0);
    let holding = holding.count();
    assert!(
        (1..NODES / 2).contains(&holding),
        "{holding} nodes hold records: looking elsewhere was the rule"
    );
}

#[test]
fn the_routing_table_and_a_lookup_are_shown_in_full() {
    let user = User::new();
    let a = user.start("a", &[]);
    let b = user.start("b", &["--join", &a.addr()]);
    let _c = user.start("c", &["--join", &a.addr()]);
    let table = user.wait_for(&["--node", "c", "routing-table"], "full", |table| contacts(table) == 2);
    for contact in table.as_array().unwrap().iter().flat_map(|bucket| bucket["contacts"].as_array().unwrap())
    {
        let node = if contact["id"] == a.id() { &a } else { &b };
        assert_eq!((&contact["id"], &contact["addrs"][0]), (&node.id().into(), &node.addr().into()));
        assert!(contact["seen_s"].as_u64() < Some(60), "{contact}");
    }
    let shown = user.ctl(&["--node", "c", "routing-table"]).stdout();
    assert!(shown.contains("SHARED BITS") && shown.contains(&a.addr()) && shown.contains("rtt"), "{shown}");

    let _subscribed = user.stream(&["--node", "b", "subscribe", "home.kitchen"], "subscribed");
    let lookup = user.json(&["--node", "c", "lookup", "--topic", "home.kitchen"]);
    assert_eq!(lookup["records"][0]["announcer"], b.id());
    let questions = lookup["questions"].as_array().unwrap();
    let mut asked: Vec<_> = questions.iter().map(|question| question["asked"].as_str().unwrap()).collect();
    asked.sort_unstable();
    let mut others = [a.id(), b.id()];
    others.sort_unstable();
    assert_eq!(asked, others);
    for question in questions {
        assert!(
            question["round"].as_u64() >= Some(1) && question["took_us"].as_u64() > Some(0),
            "{question}"
        );
        let answer = &question["answer"];
        assert_eq!((&answer["outcome"], &answer["records"]), (&json!("answered"), &json!(1)), "{question}");
        assert!(answer["contacts"].is_u64(), "{question}");
    }
    // For people, the questions are shown when they are asked for.
    let plain = user.ctl(&["--node", "c", "lookup", "--topic", "home.kitchen"]).stdout();
    assert!(plain.contains(": 1 record in") && !plain.contains("SHARED BITS"), "{plain}");
    let traced = user.ctl(&["--node", "c", "lookup", "--topic", "home.kitchen", "--trace"]).stdout();
    for part in ["ROUND", "SHARED BITS", "TOOK", ", 1 record ", &a.id()[..10]] {
        assert!(traced.contains(part), "no `{part}` in {traced}");
    }
}

#[test]
fn a_restarted_node_has_its_routing_table_back_without_seeds_and_without_known_peers() {
    let user = User::new();
    let a = user.start("a", &[]);
    let b = user.start("b", &["--join", &a.addr()]);
    let c = user.start("c", &["--join", &a.addr()]);
    let kept = user.home().join(".local/state/macula/c");
    let both = [a.addr(), b.addr()];
    user.until("c has written both others to its routing table", || {
        let Some(saved) = macula::bootstrap::TableFile::new(kept.join("routing.table")).load() else {
            return false;
        };
        let addrs: Vec<_> = saved.contacts.iter().flat_map(|contact| &contact.addrs).collect();
        both.iter().all(|addr| addrs.iter().any(|known| known.to_string() == *addr))
    });
    let (id, addr) = (c.id(), c.addr());
    c.kill();
    std::fs::remove_file(kept.join("peers.json")).unwrap();

    let c = launch(&user, "c", &addr, None, &[]);
    assert_eq!(c.id(), id);
    user.wait_for(&["--node", "c", "routing-table"], "full again", |table| contacts(table) == 2);
    user.wait_for_members("c", 3);
}
