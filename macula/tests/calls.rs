//! Calls between nodes over real sockets: each failure reaches its caller as itself, whatever is streamed waits for whoever
//! takes it, and answers are kept where that is allowed.

// The lint lets tests unwrap, but not what they share.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use macula::{
    Access, Action, Call, CallError, CallRequest, Decode, Error, Forbidden, Gate, HandlerError, Node,
    RegisterOptions, Registration, Reply,
};
use tokio_util::sync::CancellationToken;

/// Does not let others call what is secret.
#[derive(Debug)]
struct KeepsSecrets;

impl Gate for KeepsSecrets {
    fn check(&self, access: Access<'_>) -> Result<(), Forbidden> {
        match access.action {
            Action::Call(procedure) if procedure.as_str().starts_with("secret.") => Err(access.forbidden()),
            _ => Ok(()),
        }
    }
}

struct Pair {
    provider: Node,
    caller: Node,
    _offers: Vec<Registration>,
}

/// A provider with one procedure for each way to fail, and a caller.
async fn pair() -> Pair {
    let provider =
        Node::builder().name("provider").listen("127.0.0.1:0").gate(Arc::new(KeepsSecrets)).start();
    let provider = provider.await.unwrap();
    let caller = Node::builder().name("caller").listen("127.0.0.1:0").start().await.unwrap();
    caller.join(&provider.listen_addrs()[0].to_string()).await.unwrap();
    let mut offers = Vec::new();
    for name in ["secret.plan", "fail", "panic", "hang", "huge", "one"] {
        let options = RegisterOptions {
            concurrency_max: if name == "one" { 1 } else { 64 },
            ..RegisterOptions::default()
        };
        offers.push(provider.register_in(provider.realm(), name, options, misbehave).await.unwrap());
    }
    Pair { provider, caller, _offers: offers }
}

async fn misbehave(call: Call) -> Result<Reply, HandlerError> {
    match call.procedure.as_str() {
        "fail" => Err(HandlerError::new("out of stock").code(17)),
        "panic" => panic!("on purpose"),
        "huge" => Ok(Reply::new(vec![0; macula::PAYLOAD_BYTES_MAX + 1])),
        _ => std::future::pending().await,
    }
}

fn ask(procedure: &str) -> CallRequest {
    CallRequest::new(procedure.parse().unwrap())
}

async fn failure(node: &Node, request: CallRequest) -> CallError {
    match node.call_with(request).await {
        Err(Error::Call(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// Waits until so many calls of a procedure run.
async fn until_running(provider: &Node, procedure: &str, calls: u32) {
    let runs =
        |info: &macula::RegistrationInfo| info.procedure.as_str() == procedure && info.in_flight == calls;
    while !provider.registrations().iter().any(runs) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn each_failure_reaches_its_caller_as_itself() {
    let Pair { provider, caller, _offers } = pair().await;
    let forbidden = failure(&caller, ask("secret.plan")).await;
    assert!(matches!(&forbidden, CallError::Forbidden { provider: by, .. } if *by == provider.node_id()));
    let expected = [
        ("nothing", "unknown_procedure", false, "nobody offers procedure `nothing`"),
        ("secret.plan", "forbidden", false, "forbidden by node"),
        ("fail", "handler_error", true, "out of stock (code 17)"),
        ("panic", "handler_panic", true, "on purpose"),
        ("huge", "reply_too_large", true, "1048577 bytes"),
        ("hang", "deadline", true, "no result within 300ms"),
    ];
    for (procedure, kind, ran, says) in expected {
        let timeout = Duration::from_millis(if procedure == "hang" { 300 } else { 30_000 });
        let error = failure(&caller, ask(procedure).timeout(timeout)).await;
        assert_eq!((error.kind(), error.may_have_run()), (kind, ran), "{procedure}: {error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    let large = failure(&caller, ask("fail").payload(vec![0; macula::PAYLOAD_BYTES_MAX + 1])).await;
    assert_eq!((large.kind(), large.may_have_run()), ("too_large", false), "{large}");

    let held = caller.clone();
    let held = tokio::spawn(async move { held.call_with(ask("one").timeout(Duration::from_secs(60))).await });
    until_running(&provider, "one", 1).await;
    let full = failure(&caller, ask("one")).await;
    assert_eq!((full.kind(), full.may_have_run()), ("overloaded", false), "{full}");
    held.abort();

    // The one that ran out of time was stopped.
    until_running(&provider, "hang", 0).await;
    let cancel = CancellationToken::new();
    let cancelled = ask("hang").cancelled_by(cancel.clone());
    let (error, ()) = tokio::join!(failure(&caller, cancelled), async {
        until_running(&provider, "hang", 1).await;
        cancel.cancel();
    });
    assert_eq!((error.kind(), error.may_have_run()), ("cancelled", true), "{error}");

    // Who shuts down lets its calls end, within reason; whoever comes later finds nobody.
    provider.shutdown().await;
    let gone = failure(&caller, ask("fail").to(provider.node_id()).timeout(Duration::from_secs(20))).await;
    assert!(["unreachable", "unknown_procedure"].contains(&gone.kind()) && !gone.may_have_run(), "{gone}");
    let alone = failure(&caller, ask("fail")).await;
    assert!(["directory", "unreachable", "unknown_procedure"].contains(&alone.kind()), "{alone}");
    assert!(!alone.may_have_run(), "{alone}");
}

#[tokio::test]
async fn requests_and_results_in_parts_wait_for_whoever_takes_them() {
    const PARTS: usize = 400;
    const PART_BYTES: usize = 64 * 1024;
    let Pair { provider, caller, _offers } = pair().await;
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    let go = CancellationToken::new();
    let gate = go.clone();
    let sizes = move |mut call: Call| {
        let (taken, gate) = (counted.clone(), gate.clone());
        async move {
            gate.cancelled().await;
            while let Some(part) = call.next_part().await {
                taken.fetch_add(1, Ordering::Relaxed);
                call.progress(part.len().to_string()).await?;
            }
            Ok(taken.load(Ordering::Relaxed).to_string().into())
        }
    };
    let _sizes = provider.register("sizes", sizes).await.unwrap();
    let (mut parts, mut results) =
        caller.call_duplex(ask("sizes").timeout(Duration::from_secs(60))).await.unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let sending = tokio::spawn(async move {
        for _ in 0..PARTS {
            parts.send(vec![1; PART_BYTES]).await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
        }
        parts.finish();
    });
    // A handler that takes nothing holds the sender up: it stops somewhere far from the end.
    let mut before = usize::MAX;
    while before != sent.load(Ordering::Relaxed) || before == 0 {
        before = sent.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(300)).await; // tidy: allow(sleep): that nothing more happens has no event
    }
    assert!(before < PARTS / 2, "{before} parts were taken by nobody");
    go.cancel();
    for _ in 0..PARTS {
        assert_eq!(results.next().await.unwrap().unwrap().text().unwrap(), PART_BYTES.to_string());
    }
    assert_eq!(results.reply().await.unwrap().text().unwrap(), PARTS.to_string());
    sending.await.unwrap();
}

#[tokio::test]
async fn answers_are_kept_where_provider_and_configuration_allow_it() {
    let Pair { provider, caller, _offers } = pair().await;
    let runs = Arc::new(AtomicUsize::new(0));
    let count = move |_: Call| {
        let run = runs.fetch_add(1, Ordering::Relaxed) + 1;
        async move { Ok(run.to_string().into()) }
    };
    let options = RegisterOptions { cache_for: Some(Duration::from_secs(600)), ..RegisterOptions::default() };
    let _count = provider.register_in(provider.realm(), "count", options, count).await.unwrap();
    let call = async || caller.call("count", "").await.unwrap().text().unwrap();
    assert_eq!((call().await, call().await), ("1".into(), "1".into()));
    assert!(caller.metrics().contains("macula_rpc_cache_hits_total 1"));
    caller.set_config("rpc.cache_enabled", false).unwrap();
    assert_eq!((call().await, call().await), ("2".into(), "3".into()));
    caller.set_config("rpc.cache_enabled", true).unwrap();
    assert_eq!(call().await, "1", "it is still good");
    let providers = caller.providers("count").await.unwrap();
    assert_eq!(providers.len(), 1);
    assert_eq!(providers[0].cache_for, Some(Duration::from_secs(600)));
    assert_eq!(provider.registrations().iter().filter(|info| info.cache_for.is_some()).count(), 1);
}
