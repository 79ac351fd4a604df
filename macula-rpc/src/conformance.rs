//! What every implementation of [`Procedures`] must do. Run it on yours with [`all`].
//!
//! Each check has a mesh of its own and panics with what is wrong. No check waits for real time to pass other than
//! deadlines of at most a few seconds, so run them with tokio's time paused where the implementation allows.

use std::future::{Future, pending};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use macula_proto::limits::PAYLOAD_BYTES_MAX;
use macula_proto::{Name, NodeId, Realm};
use tokio::sync::mpsc;

use crate::{
    Caching, Call, CallError, CallRequest, Handler, HandlerError, Procedures, RegisterError, RegisterOptions,
    Registration, Reply, Strategy,
};

/// Makes nodes that can find and reach each other.
pub trait Mesh: Default + Send {
    /// A node's procedures.
    type Node: Procedures;

    /// Adds the node with this number, a different one each time.
    fn node(&self, number: u8) -> impl Future<Output = (NodeId, Self::Node)> + Send;
}

/// Runs every check, each on a mesh of its own.
pub async fn all<M: Mesh>() {
    everything_said_arrives(&M::default()).await;
    nobody_offers_it(&M::default()).await;
    realms_are_apart(&M::default()).await;
    one_registration_a_node(&M::default()).await;
    a_handlers_own_words_are_kept(&M::default()).await;
    a_panic_is_reported_and_harms_nothing_else(&M::default()).await;
    beyond_the_limit_is_overloaded_at_once(&M::default()).await;
    the_deadline_stops_the_handler(&M::default()).await;
    dropping_a_call_stops_the_handler(&M::default()).await;
    sizes_are_limited_both_ways(&M::default()).await;
    results_come_in_parts_with_back_pressure(&M::default()).await;
    dropping_results_stops_the_handler(&M::default()).await;
    requests_come_in_parts(&M::default()).await;
    unfinished_parts_cancel_the_call(&M::default()).await;
    a_target_is_called_and_nobody_else(&M::default()).await;
    turns_are_taken(&M::default()).await;
    this_node_comes_first(&M::default()).await;
    answers_are_kept_as_long_as_their_provider_says(&M::default()).await;
    only_whole_answers_to_anybody_are_kept(&M::default()).await;
}

async fn everything_said_arrives<M: Mesh>(mesh: &M) {
    let [(_, provider), (caller_id, caller)] = two(mesh).await;
    let _offer = offer(&provider, "say", move |call: Call| async move {
        assert_eq!(call.caller, caller_id);
        assert_eq!((call.content_type.as_str(), call.headers["a"].as_str()), ("text/plain", "b"));
        assert!(call.remaining() <= Duration::from_secs(3) && call.remaining() > Duration::from_secs(1));
        Ok(Reply::new(call.payload).content_type("text/html").header("c", "d"))
    })
    .await;
    let request = ask("say").payload("hello").content_type("text/plain").header("a", "b");
    let reply = caller.call(request.timeout(Duration::from_secs(3))).await.expect("a reply");
    assert_eq!(reply, Reply::new("hello").content_type("text/html").header("c", "d"));
}

async fn nobody_offers_it<M: Mesh>(mesh: &M) {
    let [(_, provider), (_, caller)] = two(mesh).await;
    let unknown = caller.call(ask("nothing")).await.expect_err("nobody offers it");
    assert!(matches!(unknown, CallError::UnknownProcedure { .. }) && !unknown.may_have_run(), "{unknown}");

    let offered = offer(&provider, "something", echo).await;
    caller.call(ask("something")).await.expect("it is offered");
    let providers = caller.providers(Realm::default(), name("something")).await.expect("a list");
    assert_eq!(providers.len(), 1);
    offered.unregister().await;
    let gone = caller.call(ask("something")).await.expect_err("it is no longer offered");
    assert!(matches!(gone, CallError::UnknownProcedure { .. }), "{gone}");
}

async fn realms_are_apart<M: Mesh>(mesh: &M) {
    let [(_, provider), (_, caller)] = two(mesh).await;
    let _offer = offer(&provider, "echo", echo).await;
    let elsewhere: Realm = "elsewhere".parse().expect("a realm");
    let error = caller.call(ask("echo").realm(elsewhere)).await.expect_err("another realm");
    assert!(matches!(error, CallError::UnknownProcedure { .. }), "{error}");
}

async fn one_registration_a_node<M: Mesh>(mesh: &M) {
    let [(_, provider), (_, caller)] = two(mesh).await;
    let first = offer(&provider, "echo", echo).await;
    let again = provider.register(Realm::default(), name("echo"), RegisterOptions::default(), echo).await;
    assert!(matches!(again, Err(RegisterError::AlreadyRegistered { .. })));
    caller.call(ask("echo")).await.expect("the first registration stands");
    first.unregister().await;
    let _second = offer(&provider, "echo", echo).await;
    caller.call(ask("echo")).await.expect("it may be registered again");
}

async fn a_handlers_own_words_are_kept<M: Mesh>(mesh: &M) {
    let [(_, provider), (_, caller)] = two(mesh).await;
    let _offer =
        offer(&provider, "fail", |_| async { Err(HandlerError::new("out of träume").code(17)) }).await;
    for caller in [&caller, &provider] {
        match caller.call(ask("fail")).await {
            Err(CallError::Handler(error)) => assert_eq!(error, HandlerError::new("out of träume").code(17)),
            other => panic!("{other:?}"),
        }
    }
}

async fn a_panic_is_reported_and_harms_nothing_else<M: Mesh>(mesh: &M) {
    let [(_, provider), (_, caller)] = two(mesh).await;
    let _offer = offer(&provider, "panic", |call: Call| async move {
        assert!(call.payload.is_empty(), "said on purpose");
        Ok(Reply::default())
    })
    .await;
    for caller in [&caller, &provider] {
        match caller.call(ask("panic").payload("x")).await {
            Err(CallError::HandlerPanic { text }) => assert_eq!(text, "said on purpose"),
            other => panic!("{other:?}"),
        }
        caller.call(ask("panic")).await.expect("the procedure goes on");
    }
}

async fn beyond_the_limit_is_overloaded_at_once<M: Mesh>(mesh: &M) {
    let [(_, provider), (_, caller)] = two(mesh).await;
    let (probe, mut seen) = Probe::new();
    let options = RegisterOptions { concurrency_max: 1, ..RegisterOptions::default() };
    let handler = move |_| probe.clone().hang();
    let _offer =
        provider.register(Realm::default(), name("one"), options, handler).await.expect("it registers");
    let first = tokio::spawn({
        let caller = caller.clone();
        async move { caller.call(ask("one")).await }
    });
    assert_eq!(seen.recv().await, Some(Seen::Started));
    for caller in [&caller, &provider] {
        let second = caller.call(ask("one").timeout(Duration::from_secs(600))).await.expect_err("no room");
        assert!(matches!(second, CallError::Overloaded { .. }) && !second.may_have_run(), "{second}");
    }
    first.abort();
    assert_eq!(seen.recv().await, Some(Seen::Stopped));
}

async fn the_deadline_stops_the_handler<M: Mesh>(mesh: &M) {
    let [(_, provider), (_, caller)] = two(mesh).await;
    let (probe, mut seen) = Probe::new();
    let _offer = offer(&provider, "hang", move |_| probe.clone().hang()).await;
    for caller in [&caller, &provider] {
        let error = caller.call(ask("hang").timeout(Duration::from_millis(200))).await.expect_err("too slow");
        assert!(matches!(error, CallError::Deadline { maybe_ran: true, .. }), "{error}");
        assert_eq!(seen.recv().await, Some(Seen::Started));
        assert_eq!(seen.recv().await, Some(Seen::Stopped));
    }
}

async fn dropping_a_call_stops_the_handler<M: Mesh>(mesh: &M) {
    let [(_, provider), (_, caller)] = two(mesh).await;
    let (probe, mut seen) = Probe::new();
    let _offer = offer(&provider, "hang", move |_| probe.clone().hang()).await;
    for caller in [caller, provider.clone()] {
        let call =
            tokio::spawn(async move { caller.call(ask("hang").timeout(Duration::from_secs(600))).await });
        assert_eq!(seen.recv().await, Some(Seen::Started));
        call.abort();
        assert_eq!(seen.recv().await, Some(Seen::Stopped));
    }
}

async fn sizes_are_limited_both_ways<M: Mesh>(mesh: &M) {
    let [(_, provider), (_, caller)] = two(mesh).await;
    let _offer = offer(&provider, "grow", |call: Call| async move {
        let grown = [call.payload.as_ref(), b"x"].concat();
        Ok(grown.into())
    })
    .await;
    for caller in [&caller, &provider] {
        let largest = Bytes::from(vec![0; PAYLOAD_BYTES_MAX]);
        match caller.call(ask("grow").payload(vec![0; PAYLOAD_BYTES_MAX + 1])).await {
            Err(CallError::PayloadTooLarge { bytes, .. }) => assert_eq!(bytes, PAYLOAD_BYTES_MAX + 1),
            other => panic!("{other:?}"),
        }
        let error = caller.call(ask("grow").payload(largest.clone())).await.expect_err("one byte too many");
        assert!(matches!(error, CallError::ReplyTooLarge { .. }), "{error}");
        let fits = largest.slice(1..);
        let reply = caller.call(ask("grow").payload(fits)).await.expect("just fits");
        assert_eq!(reply.payload.len(), PAYLOAD_BYTES_MAX);
        let error = caller.call(ask("grow").content_type("t".repeat(1000))).await.expect_err("too long");
        assert!(matches!(error, CallError::Headers(_)), "{error}");
    }
}

async fn results_come_in_parts_with_back_pressure<M: Mesh>(mesh: &M) {
    const PARTS: usize = 200;
    let [(_, provider), (_, caller)] = two(mesh).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let _offer = offer(&provider, "count", move |call: Call| {
        let sent = counted.clone();
        async move {
            for n in 0..PARTS {
                call.progress(vec![n as u8; 64 * 1024]).await?;
                sent.fetch_add(1, Ordering::Relaxed);
            }
            Ok("done".into())
        }
    })
    .await;
    for caller in [&caller, &provider] {
        sent.store(0, Ordering::Relaxed);
        let mut results = caller.call_stream(ask("count")).await.expect("it starts");
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert!(sent.load(Ordering::Relaxed) < PARTS, "the handler ran ahead of a caller that does not read");
        for n in 0..PARTS {
            let part = results.next().await.expect("no failure").expect("one more part");
            assert_eq!(part.payload[0], n as u8);
        }
        assert_eq!(results.next().await.expect("no failure"), None);
        assert_eq!(results.reply().await.expect("an end"), Reply::new("done"));
    }
}

async fn dropping_results_stops_the_handler<M: Mesh>(mesh: &M) {
    let [(_, provider), (_, caller)] = two(mesh).await;
    let (probe, mut seen) = Probe::new();
    let _offer = offer(&provider, "hang", move |call: Call| {
        let hang = probe.clone().hang();
        async move {
            call.progress("first").await?;
            hang.await
        }
    })
    .await;
    for caller in [&caller, &provider] {
        let mut results = caller.call_stream(ask("hang")).await.expect("it starts");
        assert_eq!(results.next().await.expect("no failure"), Some(Reply::new("first")));
        assert_eq!(seen.recv().await, Some(Seen::Started));
        drop(results);
        assert_eq!(seen.recv().await, Some(Seen::Stopped));
    }
}

async fn requests_come_in_parts<M: Mesh>(mesh: &M) {
    let [(_, provider), (_, caller)] = two(mesh).await;
    let _offer = offer(&provider, "total", |mut call: Call| async move {
        let mut total = 0;
        while let Some(part) = call.next_part().await {
            total += part.len();
            call.progress(total.to_string()).await?;
        }
        Ok(total.to_string().into())
    })
    .await;
    for caller in [&caller, &provider] {
        let (mut parts, mut results) = caller.call_duplex(ask("total")).await.expect("it starts");
        for total in ["100000", "200000", "300000"] {
            parts.send(vec![7; 100_000]).await.expect("the handler takes it");
            let so_far = results.next().await.expect("no failure").expect("a part");
            assert_eq!(so_far.payload, total);
        }
        parts.finish();
        assert_eq!(results.reply().await.expect("an end").payload, "300000");
    }
}

async fn unfinished_parts_cancel_the_call<M: Mesh>(mesh: &M) {
    let [(_, provider), (_, caller)] = two(mesh).await;
    let (probe, mut seen) = Probe::new();
    let _offer = offer(&provider, "hang", move |_| probe.clone().hang()).await;
    for caller in [&caller, &provider] {
        let (parts, results) = caller.call_duplex(ask("hang")).await.expect("it starts");
        assert_eq!(seen.recv().await, Some(Seen::Started));
        drop(parts);
        let error = results.reply().await.expect_err("it was cancelled");
        assert!(matches!(error, CallError::Cancelled { maybe_ran: true }), "{error}");
        assert_eq!(seen.recv().await, Some(Seen::Stopped));
    }
}

async fn a_target_is_called_and_nobody_else<M: Mesh>(mesh: &M) {
    let [(first_id, first), (second_id, second)] = two(mesh).await;
    let (third_id, third) = mesh.node(3).await;
    let _offers = [offer_id(&first, first_id).await, offer_id(&second, second_id).await];
    for target in [first_id, second_id, first_id] {
        for caller in [&first, &second, &third] {
            let reply = caller.call(ask("id").to(target)).await.expect("it is there");
            assert_eq!(reply.payload, target.to_string());
        }
    }
    let error = first.call(ask("id").to(third_id)).await.expect_err("it does not offer it");
    assert!(matches!(error, CallError::UnknownProcedure { .. }), "{error}");
}

async fn turns_are_taken<M: Mesh>(mesh: &M) {
    let [(first_id, first), (second_id, second)] = two(mesh).await;
    let (third_id, third) = mesh.node(3).await;
    let _offers = [
        offer_id(&first, first_id).await,
        offer_id(&second, second_id).await,
        offer_id(&third, third_id).await,
    ];
    let mut answers = Vec::new();
    for _ in 0..9 {
        let reply = third.call(ask("id").strategy(Strategy::RoundRobin)).await.expect("a reply");
        answers.push(reply.payload);
    }
    for id in [first_id, second_id, third_id] {
        assert_eq!(answers.iter().filter(|answer| *answer == id.to_string().as_str()).count(), 3);
    }
}

async fn this_node_comes_first<M: Mesh>(mesh: &M) {
    let [(first_id, first), (second_id, second)] = two(mesh).await;
    let _offers = [offer_id(&first, first_id).await, offer_id(&second, second_id).await];
    for (id, node) in [(first_id, &first), (second_id, &second)] {
        for _ in 0..5 {
            let reply = node.call(ask("id")).await.expect("a reply");
            assert_eq!(reply.payload, id.to_string());
        }
    }
}

/// A procedure that counts its runs and answers with their number; it fails when asked to.
async fn offer_counting(node: &impl Procedures, cache_for: Option<Duration>) -> Registration {
    let runs = Arc::new(AtomicUsize::new(0));
    let handler = move |call: Call| {
        let run = runs.fetch_add(1, Ordering::Relaxed) + 1;
        async move {
            match call.payload.as_ref() {
                b"fail" => Err(HandlerError::new(format!("failure {run}"))),
                _ => Ok(run.to_string().into()),
            }
        }
    };
    let options = RegisterOptions { cache_for, ..RegisterOptions::default() };
    node.register(Realm::default(), name("count"), options, handler).await.expect("it registers")
}

async fn answers_are_kept_as_long_as_their_provider_says<M: Mesh>(mesh: &M) {
    let [(_, provider), (_, caller)] = two(mesh).await;
    // Long enough for the first calls even on a busy machine, and not to be waited for in vain at the end.
    let kept_for = Duration::from_secs(3);
    let _offer = offer_counting(&provider, Some(kept_for)).await;
    let begun = tokio::time::Instant::now();
    let call = |request: CallRequest| async { caller.call(request).await.expect("a reply") };
    let said = |reply: &Reply| String::from_utf8_lossy(&reply.payload).into_owned();
    let first = call(ask("count")).await;
    assert_eq!((said(&first).as_str(), first.age), ("1", None));
    let second = call(ask("count")).await;
    assert_eq!(said(&second), "1", "it was kept");
    assert!(second.age.is_some_and(|age| age <= begun.elapsed()), "{second:?}");
    assert_eq!(said(&call(ask("count").payload("other")).await), "2", "another request");
    assert_eq!(said(&call(ask("count").caching(Caching::Off)).await), "3");
    assert_eq!(said(&call(ask("count")).await), "1", "that answer was not kept");
    assert_eq!(said(&call(ask("count").caching(Caching::Refresh)).await), "4");
    assert_eq!(said(&call(ask("count")).await), "4", "that one was");
    // A provider calls itself by the same rules, but keeps answers of its own.
    let own = provider.call(ask("count")).await.expect("a reply");
    assert_eq!((said(&own).as_str(), own.age), ("5", None));
    tokio::time::sleep(kept_for).await;
    let later = call(ask("count")).await;
    assert_eq!((said(&later).as_str(), later.age), ("6", None), "it is no longer good");
    let listed = caller.providers(Realm::default(), name("count")).await.expect("a list");
    assert_eq!(listed[0].cache_for, Some(kept_for));
}

async fn only_whole_answers_to_anybody_are_kept<M: Mesh>(mesh: &M) {
    let [(id, provider), (_, caller)] = two(mesh).await;
    let _offer = offer_counting(&provider, Some(Duration::from_secs(600))).await;
    for run in [1, 2] {
        let error = caller.call(ask("count").payload("fail")).await.expect_err("as asked");
        assert!(error.to_string().contains(&format!("failure {run}")), "an error was kept: {error}");
    }
    for run in ["3", "4"] {
        let results = caller.call_stream(ask("count")).await.expect("it starts");
        assert_eq!(results.reply().await.expect("an end").payload, run);
    }
    for run in ["5", "6"] {
        assert_eq!(caller.call(ask("count").to(id)).await.expect("a reply").payload, run);
    }
    let _other = offer(&provider, "echo", echo).await;
    for _ in 0..2 {
        assert_eq!(
            caller.call(ask("echo")).await.expect("a reply").age,
            None,
            "nobody said that it may be kept"
        );
    }
}

/// A handler's life, as a check sees it.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Started,
    Stopped,
}

/// No check starts more handlers than this, so a probe never has to wait.
const SEEN_MAX: usize = 64;

#[derive(Clone)]
struct Probe(mpsc::Sender<Seen>);

impl Probe {
    fn new() -> (Self, mpsc::Receiver<Seen>) {
        let (tx, rx) = mpsc::channel(SEEN_MAX);
        (Self(tx), rx)
    }

    /// Never ends by itself.
    async fn hang(self) -> Result<Reply, HandlerError> {
        struct Stop(Probe);
        impl Drop for Stop {
            fn drop(&mut self) {
                // The check may have seen enough.
                let _ = self.0.0.try_send(Seen::Stopped);
            }
        }
        let _ = self.0.try_send(Seen::Started);
        let _stop = Stop(self);
        pending().await
    }
}

async fn two<M: Mesh>(mesh: &M) -> [(NodeId, M::Node); 2] {
    [mesh.node(1).await, mesh.node(2).await]
}

async fn offer(node: &impl Procedures, procedure: &str, handler: impl Handler) -> Registration {
    let options = RegisterOptions::default();
    node.register(Realm::default(), name(procedure), options, handler).await.expect("it registers")
}

/// A procedure that says who serves it.
async fn offer_id(node: &impl Procedures, id: NodeId) -> Registration {
    offer(node, "id", move |_| async move { Ok(id.to_string().into()) }).await
}

async fn echo(call: Call) -> Result<Reply, HandlerError> {
    Ok(call.payload.into())
}

fn ask(procedure: &str) -> CallRequest {
    CallRequest::new(name(procedure))
}

fn name(procedure: &str) -> Name {
    procedure.parse().expect("a name")
}
