//! `macula_ctl call --leader-of` between real processes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its own functions too")]

mod support;

use support::User;

#[test]
fn a_call_finds_the_leader_also_after_the_first_was_killed() {
    let user = User::new();
    let a = user.start("a", &[]);
    let join = a.addr();
    let b = user.start("b", &["--join", &join]);
    let _c = user.start("c", &["--join", &join]);
    user.wait_for_members("a", 3);
    let call = ["--node", "a", "call", "who", "--leader-of", "matchmaking", "--timeout", "20s", "-o", "json"];
    let nobody = user.ctl(&call);
    assert_ne!(nobody.code(), 0);
    assert!(nobody.stderr().contains("nobody leads election"), "{}", nobody.stderr());
    let mut serving = Vec::new();
    for name in ["b", "c"] {
        let script = user.script(&format!("{name}.sh"), &format!("#!/bin/sh\necho {name}\n"));
        let script = script.display().to_string();
        serving.push(user.stream(&["--node", name, "serve", "who", "--exec", &script], "who"));
    }
    let campaign = |name: &str| {
        let mut stream =
            user.stream(&["--node", name, "election", "campaign", "matchmaking", "-o", "ndjson"], "");
        stream.json();
        stream
    };
    let _first = campaign("b");
    user.wait_for(&["--node", "a", "election", "list"], "b leads", |elections| {
        elections[0]["leader"] == b.id()
    });
    let _second = campaign("c");
    assert_eq!(user.json(&call[..8])["payload"], "b");
    b.kill();
    // The connection was open, so the handler may have run: only a call that may run twice goes on to the next leader.
    let lost = user.ctl(&call);
    assert!(lost.code() == 10 || lost.stdout().contains("\"c\""), "{}", lost.stderr());
    let again = [&call[..8], &["--idempotent"]].concat();
    assert_eq!(user.json(&again)["payload"], "c", "it waits for the next leader");
    let both = user.ctl(&[&call[..], &["--to", &a.id()]].concat());
    assert_eq!(both.code(), 2, "{}", both.stderr());
}
