//! Calls across processes: who gets them, what is kept, what is said when they fail, and what their end ends.

// The lint lets tests unwrap, but not what they share.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::process::Stdio;

use support::{NodeProcess, Outcome, Stream, User};

/// Three nodes that offer `who` and answer with their name, and a caller that does not.
struct Services {
    user: User,
    nodes: BTreeMap<&'static str, (NodeProcess, Stream)>,
    _caller: NodeProcess,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl Services {
    fn start() -> Self {
        let user = User::new();
        let caller = user.start("caller", &[]);
        let mut services = Self { user, nodes: BTreeMap::new(), _caller: caller };
        NAMES.into_iter().for_each(|name| services.add(name));
        services.wait_for_providers(3);
        services
    }

    fn add(&mut self, name: &'static str) {
        let seed = self.user.json(&["--node", "caller", "status"])["listen"][0].clone();
        let node = self.user.start(name, &["--join", seed.as_str().unwrap()]);
        self.user.wait_for(&["--node", name, "members"], "joined", |members| {
            members.as_array().unwrap().len() > 1
        });
        let script = self.user.script(&format!("{name}.sh"), &format!("#!/bin/sh\necho {name}\n"));
        let serve =
            ["--node", name, "serve", "who", "--exec", script.to_str().unwrap(), "--description", name];
        let serving = self.user.stream(&serve, "serving who");
        self.nodes.insert(name, (node, serving));
    }

    fn providers(&self) -> Vec<serde_json::Value> {
        self.user.json(&["--node", "caller", "providers", "who"]).as_array().unwrap().clone()
    }

    fn wait_for_providers(&self, count: usize) {
        self.user.until("everybody offers it", || self.providers().len() == count);
    }

    fn call(&self, node: &str, args: &[&str]) -> String {
        let called = self.user.ctl(&[&["--node", node, "call", "who"], args].concat());
        assert_eq!(called.code(), 0, "{}", called.stderr());
        called.stdout().trim().to_owned()
    }

    /// How often each answered.
    fn shares(&self, node: &str, strategy: &str, calls: usize) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for _ in 0..calls {
            *shares.entry(self.call(node, &["--strategy", strategy])).or_default() += 1;
        }
        shares
    }
}

fn all(count: usize) -> BTreeMap<String, usize> {
    NAMES.map(|name| (name.to_owned(), count)).into()
}

#[test]
fn each_strategy_shares_calls_out_as_it_says() {
    let services = Services::start();
    assert_eq!(services.shares("caller", "round-robin", 12), all(4));
    // Each misses 40 calls out of three with a probability of 9 in a hundred million.
    let random = services.shares("caller", "random", 40);
    assert_eq!(random.len(), 3, "{random:?}");
    // All are idle, so the least loaded is any of them.
    let idle = services.shares("caller", "least-loaded", 40);
    assert_eq!(idle.len(), 3, "{idle:?}");
    for own in ["local-first", "nearest"] {
        assert_eq!(services.shares("b", own, 5), [("b".to_owned(), 5)].into(), "{own}");
    }
    let away = services.shares("caller", "nearest", 6);
    assert_eq!(away.values().sum::<usize>(), 6, "{away:?}");
    for (name, (node, _)) in &services.nodes {
        assert_eq!(services.call("caller", &["--to", &node.id()]), *name);
    }
    let listed = services.providers();
    let described: Vec<_> = listed.iter().map(|row| row["description"].as_str().unwrap()).collect();
    assert_eq!(BTreeMap::from_iter(described.into_iter().map(|name| (name.to_owned(), 4))), all(4));
}

#[test]
fn a_provider_that_vanished_is_not_chosen_again_until_it_is_back() {
    let mut services = Services::start();
    assert_eq!(services.shares("caller", "round-robin", 6), all(2));
    let (node, serving) = services.nodes.remove("b").unwrap();
    node.kill();
    drop(serving);
    let retried = || services.user.metric("caller", "macula_rpc_calls_retried_total", "");
    let before = retried();
    // The connection may look alive until it has timed out: that call alone may be lost, and says so.
    let mut lost = 0;
    for _ in 0..12 {
        let call = ["--node", "caller", "call", "who", "--strategy", "round-robin", "--timeout", "20s"];
        let called = services.user.ctl(&call);
        match called.code() {
            0 => assert_ne!(called.stdout().trim(), "b"),
            10 => {
                assert!(called.stderr().contains("may have run"), "{}", called.stderr());
                lost += 1;
            }
            other => panic!("{other}: {}", called.stderr()),
        }
    }
    assert!(lost <= 1, "{lost} calls were lost at a provider that had vanished");
    assert!(retried() - before <= 1.0, "it was tried again and again");
    let shares = services.shares("caller", "round-robin", 6);
    assert_eq!(shares, [("a".to_owned(), 3), ("c".to_owned(), 3)].into());

    services.add("b");
    services
        .user
        .until("it is chosen again", || services.shares("caller", "round-robin", 3).contains_key("b"));
    assert_eq!(services.shares("caller", "round-robin", 6), all(2));
}

/// The command line of a call of `x.hang`.
fn command<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&["--node", "caller", "call", "x.hang"], args].concat()
}

/// A program that counts its runs in a file and prints their number.
fn counting(user: &User) -> std::path::PathBuf {
    let runs = user.home().join("runs");
    let text = format!("#!/bin/sh\necho x >>{0}\nset -- $(wc -l <{0})\necho $1\n", runs.display());
    user.script("count.sh", &text)
}

fn said(called: &Outcome) -> String {
    assert_eq!(called.code(), 0, "{}", called.stderr());
    called.stdout().trim().to_owned()
}

#[test]
fn answers_are_kept_where_their_provider_says_so() {
    let user = User::new();
    let provider = user.start("provider", &[]);
    let _caller = user.start("caller", &["--join", &provider.addr()]);
    user.wait_for_members("caller", 2);
    let count = counting(&user);
    let serve =
        ["--node", "provider", "serve", "x.count", "--exec", count.to_str().unwrap(), "--cache", "10m"];
    let _serving = user.stream(&serve, "serving x.count");
    let call = |args: &[&str]| user.ctl(&[&["--node", "caller", "call", "x.count"], args].concat());
    assert_eq!(said(&call(&[])), "1");
    assert_eq!(said(&call(&[])), "1");
    assert_eq!(said(&call(&["\"other\""])), "2");
    assert_eq!(said(&call(&["--header", "as=admin"])), "3");
    assert_eq!(said(&call(&["--fresh"])), "4");
    assert_eq!(said(&call(&[])), "4");
    assert!(user.json(&["--node", "caller", "call", "x.count"])["age_ms"].is_u64());
    assert_eq!(user.metric("caller", "macula_rpc_cache_hits_total", ""), 3.0);
    assert_eq!(user.metric("caller", "macula_rpc_cache_entries", ""), 3.0);
    assert_eq!(user.json(&["--node", "provider", "registrations"])[0]["cache_ms"], 600_000);

    assert_eq!(user.ctl(&["--node", "caller", "config", "set", "rpc.cache_enabled", "false"]).code(), 0);
    assert_eq!(said(&call(&[])), "5");
    assert_eq!(said(&call(&[])), "6");
    assert_eq!(user.ctl(&["--node", "caller", "config", "set", "rpc.cache_enabled", "perhaps"]).code(), 2);
}

#[test]
fn each_failure_is_its_own() {
    let user = User::new();
    let provider = user.start("provider", &[]);
    let caller = user.start("caller", &["--join", &provider.addr()]);
    user.wait_for_members("caller", 2);
    let pids = user.home().join("pids");
    let hang = user.script("hang.sh", &format!("#!/bin/sh\necho $$ >>{}\nexec sleep 1000\n", pids.display()));
    let serve =
        ["--node", "provider", "serve", "x.hang", "--exec", hang.to_str().unwrap(), "--concurrency", "1"];
    let serving = user.stream(&serve, "serving x.hang");
    let runs = || std::fs::read_to_string(&pids).unwrap_or_default().lines().count();

    // A command that is killed takes its call with it, and so the program.
    let mut given_up = user.command(&command(&["--timeout", "10m"])).spawn().unwrap();
    user.until("the program runs", || runs() == 1);
    let full = user.ctl(&command(&[]));
    assert_eq!(full.code(), 8, "{}", full.stderr());
    assert!(full.stderr().contains("it has no room for another call"), "{}", full.stderr());
    given_up.kill().unwrap();
    given_up.wait().unwrap();
    user.until("there is room again", || {
        user.json(&["--node", "provider", "registrations"])[0]["in_flight"] == 0
    });

    let unknown = user.ctl(&["--node", "caller", "call", "x.nothing"]);
    assert_eq!(unknown.code(), 4, "{}", unknown.stderr());
    let elsewhere = user.ctl(&command(&["--to", &caller.id()]));
    assert_eq!(elsewhere.code(), 4, "{}", elsewhere.stderr());
    let nowhere = user.ctl(&command(&["--to", "not-an-id"]));
    assert_eq!(nowhere.code(), 2, "{}", nowhere.stderr());
    let late = user.ctl(&command(&["--timeout", "300ms"]));
    assert_eq!(late.code(), 5, "{}", late.stderr());
    assert!(late.stderr().contains("the handler may have run"), "{}", late.stderr());

    let ran = runs();
    let lost = user.command(&command(&["--timeout", "10m"])).spawn().unwrap();
    user.until("the program runs", || runs() == ran + 1);
    provider.kill();
    drop(serving);
    let lost = lost.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&lost.stderr);
    assert_eq!(lost.status.code(), Some(10), "{text}");
    assert!(text.contains("was lost during the call") && text.contains("the handler may have run"), "{text}");
    let gone = user.ctl(&command(&["--timeout", "3s"]));
    assert!([4, 10].contains(&gone.code()), "{}", gone.stderr());
}

#[test]
fn results_come_line_by_line_to_those_who_ask() {
    let user = User::new();
    let provider = user.start("provider", &[]);
    let _caller = user.start("caller", &["--join", &provider.addr()]);
    user.wait_for_members("caller", 2);
    let go = user.home().join("go");
    let pid = user.home().join("pid");
    let text = format!(
        "#!/bin/sh\necho $$ >{}\necho one\nwhile [ ! -e {} ]; do sleep 0.1; done\necho two\n",
        pid.display(),
        go.display()
    );
    let slow = user.script("slow.sh", &text);
    let serve = ["--node", "provider", "serve", "x.slow", "--stream", "--exec", slow.to_str().unwrap()];
    let _serving = user.stream(&serve, "serving x.slow");
    let call = ["--node", "caller", "call", "x.slow", "--timeout", "50s", "--stream", "-o", "ndjson"];
    let mut child = user.command(&call).spawn().unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> serde_json::Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let first = next();
    assert_eq!((first["event"].as_str(), first["payload"].as_str()), (Some("part"), Some("one")));
    // The first line came while the program waits for this.
    std::fs::write(&go, "").unwrap();
    let second = next();
    assert_eq!((second["event"].as_str(), second["payload"].as_str()), (Some("part"), Some("two")));
    assert_eq!(next()["event"], "result");
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let whole = user.ctl(&["--node", "caller", "call", "x.slow", "--timeout", "50s"]);
    assert_eq!((whole.code(), whole.stdout().trim()), (0, "one\ntwo"), "{}", whole.stderr());
    // Whoever goes away in the middle ends the program.
    std::fs::remove_file(&go).unwrap();
    let mut child = user.command(&call).spawn().unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("one"));
    child.kill().unwrap();
    child.wait().unwrap();
    user.until("the program is killed", || {
        let pid = std::fs::read_to_string(&pid).unwrap();
        !std::path::Path::new(&format!("/proc/{}/fd/0", pid.trim())).exists()
    });
}

#[test]
fn requests_go_line_by_line_and_are_answered_meanwhile() {
    let user = User::new();
    let provider = user.start("provider", &[]);
    let _caller = user.start("caller", &["--join", &provider.addr()]);
    user.wait_for_members("caller", 2);
    let text = "#!/bin/sh\nread -r first\nwhile read -r line; do echo \"$first $line\"; done\necho done\n";
    let answers = user.script("answers.sh", text);
    let serve = ["--node", "provider", "serve", "x.answers", "--stream", "--exec", answers.to_str().unwrap()];
    let _serving = user.stream(&serve, "serving x.answers");
    let call = ["--node", "caller", "call", "x.answers", "hello", "--parts", "--timeout", "50s"];
    let mut child = user.command(&call).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    for name in ["anna", "bert", "cleo"] {
        writeln!(input, "{name}").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), format!("hello {name}"), "while the input is open");
    }
    drop(input);
    assert_eq!(lines.next().unwrap().unwrap(), "done");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    // A caller that sends none is served all the same.
    let plain = user.ctl(&["--node", "caller", "call", "x.answers", "hello", "--timeout", "50s"]);
    assert_eq!((plain.code(), plain.stdout().trim()), (0, "done"), "{}", plain.stderr());
}
