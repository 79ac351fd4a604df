//! Procedures from the shell: programs that hang, flood, and leave others behind.

// The lint lets tests unwrap, but not what they share.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::{Outcome, User};

/// Calls, and says how long that took.
fn call(user: &User, procedure: &str, timeout: &str) -> (Outcome, Duration) {
    let started = Instant::now();
    (user.ctl(&["call", procedure, "--timeout", timeout]), started.elapsed())
}

/// Whether a process runs. One that has ended and was not waited for yet does not.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|fields| !fields.is_empty() && !fields.starts_with('Z'))
}

/// A script that starts a `sleep` of its own, writes down its process id, and waits for it.
fn sleeper(user: &User) -> (std::path::PathBuf, impl Fn() -> Vec<String>) {
    let pids = user.home().join("pids");
    let text = format!("#!/bin/sh\nsleep 1000 &\necho $! >>{}\nwait\n", pids.display());
    let started = move || {
        let text = std::fs::read_to_string(&pids).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    };
    (user.script("sleeper.sh", &text), started)
}

#[test]
fn a_call_that_is_given_up_leaves_nothing_running() {
    let user = User::new();
    let _node = user.start("node", &[]);
    let (script, started) = sleeper(&user);
    let _serving = user.stream(&["serve", "x.sleep", "--exec", script.to_str().unwrap()], "serving x.sleep");
    for calls in 1..=2 {
        // Long enough for the program to have started for certain.
        let (called, _) = call(&user, "x.sleep", "3s");
        assert_eq!(called.code(), 5, "{}", called.stderr());
        assert_eq!(started().len(), calls, "the program ran");
        user.until("the sleep is killed", || !started().iter().any(|pid| runs(pid)));
    }
}

#[test]
fn the_end_of_serve_is_the_end_of_its_programs() {
    let user = User::new();
    let _node = user.start("node", &[]);
    let (script, started) = sleeper(&user);
    let serve = ["serve", "x.sleep", "--exec", script.to_str().unwrap()];
    let serving = user.stream(&serve, "serving x.sleep");
    let mut calling = user.command(&["call", "x.sleep", "--timeout", "30s"]).spawn().unwrap();
    user.until("the program runs", || started().len() == 1);
    serving.signal("TERM");
    assert_eq!(serving.wait(), Some(0));
    user.until("the sleep is killed", || !runs(&started()[0]));
    assert_eq!(calling.wait().unwrap().code(), Some(7), "the caller is told at once");
}

#[test]
fn what_a_program_leaves_behind_ends_with_it() {
    let user = User::new();
    let _node = user.start("node", &[]);
    let pid = user.home().join("pid");
    let text = format!("#!/bin/sh\nsleep 1000 >/dev/null 2>&1 &\necho $! >{}\necho done\n", pid.display());
    let script = user.script("leaves.sh", &text);
    let _serving =
        user.stream(&["serve", "x.leaves", "--exec", script.to_str().unwrap()], "serving x.leaves");
    let (called, _) = call(&user, "x.leaves", "30s");
    assert_eq!((called.code(), called.stdout().trim()), (0, "done"), "{}", called.stderr());
    let pid = std::fs::read_to_string(pid).unwrap();
    user.until("the sleep is killed", || !runs(pid.trim()));
}

#[test]
fn a_program_that_writes_too_much_is_said_so_at_once() {
    let user = User::new();
    let _node = user.start("node", &[]);
    let flood = user.script("flood.sh", "#!/bin/sh\nhead -c 100000000 /dev/zero\nsleep 1000\n");
    let _serving = user.stream(&["serve", "x.flood", "--exec", flood.to_str().unwrap()], "serving x.flood");
    let (called, took) = call(&user, "x.flood", "50s");
    assert_eq!(called.code(), 7, "{}", called.stderr());
    assert!(called.stderr().contains("the result has more than 1048576 bytes"), "{}", called.stderr());
    assert!(took < Duration::from_secs(25), "{took:?}");
}

#[test]
fn a_program_that_floods_stderr_still_gives_its_result() {
    let user = User::new();
    let _node = user.start("node", &[]);
    let chatty = user.script("chatty.sh", "#!/bin/sh\nhead -c 20000000 /dev/zero >&2\necho 42\n");
    let _serving =
        user.stream(&["serve", "x.chatty", "--exec", chatty.to_str().unwrap()], "serving x.chatty");
    let (called, _) = call(&user, "x.chatty", "50s");
    assert_eq!((called.code(), called.stdout().trim()), (0, "42"), "{}", called.stderr());
}

#[test]
fn a_deadline_has_one_exit_code() {
    let user = User::new();
    let _node = user.start("node", &[]);
    let slow = user.script("slow.sh", "#!/bin/sh\nsleep 1000\n");
    let serve = ["serve", "x.slow", "--exec", slow.to_str().unwrap(), "--concurrency", "64"];
    let _serving = user.stream(&serve, "serving x.slow");
    let calls: Vec<_> = (0..16)
        .map(|n| user.command(&["call", "x.slow", "--timeout", &format!("{}ms", 200 + n)]).spawn().unwrap())
        .collect();
    for called in calls {
        let called = called.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&called.stderr);
        assert_eq!(called.status.code(), Some(5), "{said}");
        assert!(said.contains("no result within"), "{said}");
    }
}

#[test]
fn streams_end_with_their_node_and_say_so() {
    let user = User::new();
    let node = user.start("node", &[]);
    let echo = user.script("echo.sh", "#!/bin/sh\ncat\n");
    let serve = ["serve", "x.echo", "--exec", echo.to_str().unwrap()];
    let streams = || [user.stream(&serve, "serving"), user.stream(&["subscribe", "a.b"], "subscribed")];
    let both = streams();
    assert_eq!(user.ctl(&["stop"]).code(), 0);
    for stream in both {
        let (code, said) = stream.end();
        assert!(said.contains("the node has stopped"), "{said}");
        assert_eq!(code, Some(3), "{said}");
    }
    assert_eq!(node.wait(), Some(0));

    let node = user.start("node", &[]);
    let both = streams();
    node.kill();
    for stream in both {
        let (code, said) = stream.end();
        assert!(said.contains("the node has stopped"), "{said}");
        assert_eq!(code, Some(3), "{said}");
    }

    let _node = user.start("node", &[]);
    for stream in streams() {
        stream.signal("TERM");
        assert_eq!(stream.wait(), Some(0));
    }
}
