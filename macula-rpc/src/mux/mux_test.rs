//! Small calls that share a stream, between nodes of an in-memory network.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use macula_proto::{AllowAll, Capabilities, NodeId, Realm};
use macula_transport::memory::{Faults, MemoryConfig};
use macula_transport::{ResetCode, StreamError, StreamRx as _, Transport as _};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{IN_FLIGHT_MAX, LINGER, PAYLOAD_BYTES_MAX, QUEUED_BYTES_MAX, STREAMS_MAX, frames};
use crate::mesh_test::{Node, TestMesh};
use crate::{
    Call, CallError, CallRequest, Handler, HandlerError, Procedures as _, RegisterOptions, Registration,
    Reply, RpcConfig,
};

async fn offer(node: &Node, name: &str, handler: impl Handler) -> Registration {
    let options = RegisterOptions { concurrency_max: 2_000, ..RegisterOptions::default() };
    node.register(Realm::default(), name.parse().unwrap(), options, handler).await.unwrap()
}

fn ask(name: &str) -> CallRequest {
    CallRequest::new(name.parse().unwrap())
}

async fn echo(call: Call) -> Result<Reply, HandlerError> {
    Ok(Reply::new(call.payload).content_type(call.content_type))
}

/// A provider, and a caller with an open stream to it.
async fn two(mesh: &TestMesh) -> ((NodeId, Node), (NodeId, Node)) {
    let (provider, caller) = (mesh.add(1), mesh.add(2));
    offer(&provider.1, "ready", echo).await.keep();
    for _ in 0..2 {
        caller.1.call(ask("ready")).await.unwrap();
    }
    assert!(caller.1.inner().sessions.is_open(&provider.0));
    (provider, caller)
}

#[tokio::test(start_paused = true)]
async fn a_slow_handler_delays_nobody_else() {
    let mesh = TestMesh::default();
    let ((_, provider), (_, caller)) = two(&mesh).await;
    let go = Arc::new(Semaphore::new(0));
    let waits = go.clone();
    let _slow = offer(&provider, "slow", move |_: Call| {
        let go = waits.clone();
        async move {
            go.acquire().await?.forget();
            Ok("slow".into())
        }
    })
    .await;
    let _quick = offer(&provider, "quick", echo).await;
    let slow = tokio::spawn({
        let caller = caller.clone();
        async move { caller.call(ask("slow")).await }
    });
    for n in 0..100 {
        let reply = caller.call(ask("quick").payload(n.to_string()).content_type("n")).await.unwrap();
        assert_eq!((reply.payload, reply.content_type), (n.to_string().into(), "n".to_owned()));
    }
    assert!(!slow.is_finished());
    go.add_permits(1);
    assert_eq!(slow.await.unwrap().unwrap().payload, "slow");
    assert!(caller.metrics().calls_shared.get() >= 101);
}

#[tokio::test(start_paused = true)]
async fn large_requests_and_answers_travel_beside_the_others() {
    let mesh = TestMesh::default();
    let ((_, provider), (_, caller)) = two(&mesh).await;
    let _grow = offer(&provider, "grow", |call: Call| async move {
        let bytes: usize = std::str::from_utf8(&call.payload)?.parse()?;
        Ok(vec![1; bytes].into())
    })
    .await;
    let _length =
        offer(&provider, "length", |call: Call| async move { Ok(call.payload.len().to_string().into()) })
            .await;
    let shared = || caller.metrics().calls_shared.get();
    for bytes in [0, PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MAX + 1, 1024 * 1024] {
        let before = shared();
        let reply = caller.call(ask("grow").payload(bytes.to_string())).await.unwrap();
        assert_eq!((reply.payload.len(), shared()), (bytes, before + 1));
        let reply = caller.call(ask("length").payload(vec![2; bytes])).await.unwrap();
        assert_eq!(reply.payload, bytes.to_string());
        assert_eq!(shared() == before + 2, bytes <= PAYLOAD_BYTES_MAX);
    }
    assert_eq!(caller.metrics().frames_dropped.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_panic_and_an_error_are_one_calls_alone() {
    let mesh = TestMesh::default();
    let ((_, provider), (_, caller)) = two(&mesh).await;
    let _bad = offer(&provider, "bad", |call: Call| async move {
        match &call.payload[..] {
            b"now" => panic!("at once"),
            b"later" => {
                tokio::task::yield_now().await;
                panic!("later")
            }
            _ => Err::<Reply, _>(HandlerError::new("no").code(4)),
        }
    })
    .await;
    for (payload, text) in [("now", "at once"), ("later", "later")] {
        let error = caller.call(ask("bad").payload(payload)).await.unwrap_err();
        assert!(matches!(error, CallError::HandlerPanic { text: said } if said == text));
    }
    let error = caller.call(ask("bad")).await.unwrap_err();
    assert!(matches!(error, CallError::Handler(error) if error.code == Some(4)));
    let metrics = provider.metrics();
    assert_eq!((metrics.handler_panics.get(), metrics.handler_errors.get()), (2, 1));
    assert_eq!(metrics.handlers_in_flight.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_are_lost_with_their_connection_and_their_handlers_stop() {
    let mesh = TestMesh::default();
    let ((id, provider), (_, caller)) = two(&mesh).await;
    let _hang = offer(&provider, "hang", |_: Call| std::future::pending()).await;
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        let caller = caller.clone();
        calls.spawn(async move { caller.call(ask("hang").timeout(Duration::from_secs(60))).await });
    }
    while provider.metrics().handlers_in_flight.get() < 100 {
        tokio::task::yield_now().await;
    }
    mesh.network.crash(id);
    while let Some(outcome) = calls.join_next().await {
        let error = outcome.unwrap().unwrap_err();
        assert!(matches!(error, CallError::Lost { provider, .. } if provider == id), "{error}");
    }
    assert_eq!(caller.metrics().calls_in_flight.get(), 0);
    tokio::task::yield_now().await;
    assert_eq!(provider.metrics().handlers_in_flight.get(), 0);
    assert_eq!(provider.metrics().handlers_cancelled.get(), 100);
}

#[tokio::test(start_paused = true)]
async fn dropping_a_call_stops_its_handler_within_a_round_trip() {
    let mesh = TestMesh::default();
    let latency = Duration::from_millis(20);
    mesh.network.set_faults(Faults { latency, ..Faults::default() });
    let ((_, provider), (_, caller)) = two(&mesh).await;
    let _hang = offer(&provider, "hang", |_: Call| std::future::pending()).await;
    for limit in [Duration::from_millis(100), Duration::from_secs(60)] {
        let call = caller.call(ask("hang").timeout(limit));
        let waited = tokio::time::timeout(Duration::from_millis(200), call).await;
        assert_eq!(waited.is_err(), limit > Duration::from_secs(1));
        tokio::time::sleep(latency * 2).await; // tidy: allow(sleep): paused time
        assert_eq!(provider.metrics().handlers_in_flight.get(), 0);
    }
    let metrics = provider.metrics();
    assert_eq!(metrics.handlers_cancelled.get() + metrics.handlers_timed_out.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_know_shared_streams_has_a_stream_for_each_call() {
    let mesh = TestMesh::default();
    let old = MemoryConfig { capabilities: Capabilities::DIRECTORY, ..MemoryConfig::from(1) };
    let transport = mesh.network.endpoint(old);
    let (_, provider) = mesh.start(transport, Arc::new(AllowAll), RpcConfig::default());
    let (_, caller) = mesh.add(2);
    let _echo = offer(&provider, "echo", echo).await;
    assert_eq!(caller.call(ask("echo").payload("x")).await.unwrap().payload, "x");
    assert_eq!(caller.metrics().calls_shared.get(), 0);
    let _back = offer(&caller, "back", echo).await;
    assert_eq!(provider.call(ask("back").payload("y")).await.unwrap().payload, "y");
    assert!(provider.metrics().calls_shared.get() >= 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_reads_nothing_has_a_bounded_part_of_its_provider() {
    let mesh = TestMesh::default();
    let ((_, provider), (greedy_id, greedy)) = two(&mesh).await;
    let (_, other) = mesh.add(3);
    let answered = Arc::new(AtomicUsize::new(0));
    let counted = answered.clone();
    let _grow = offer(&provider, "grow", move |_: Call| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Ok(vec![1; PAYLOAD_BYTES_MAX].into()) }
    })
    .await;
    let provider_id =
        greedy.providers(Realm::default(), "grow".parse().unwrap()).await.unwrap()[0].contact.id;
    assert!(greedy.call(ask("grow")).await.is_ok());
    // Answers do not get through to it any more; its calls still do.
    mesh.network.partition_one_way(provider_id, greedy_id);
    let mut calls = JoinSet::new();
    for _ in 0..900 {
        let greedy = greedy.clone();
        calls.spawn(async move { greedy.call(ask("grow").timeout(Duration::from_secs(3))).await });
    }
    for _ in 0..50 {
        assert!(other.call(ask("grow")).await.is_ok());
    }
    tokio::time::sleep(Duration::from_secs(1)).await; // tidy: allow(sleep): paused time
    let run_for_greedy = answered.load(Ordering::Relaxed) - 51;
    assert!(run_for_greedy < 100, "{run_for_greedy} answers of 16 KiB wait for a caller that reads none");
    while let Some(outcome) = calls.join_next().await {
        assert!(matches!(outcome.unwrap(), Err(CallError::Deadline { .. })));
    }
}

#[tokio::test(start_paused = true)]
async fn more_calls_than_fit_one_stream_have_streams_of_their_own() {
    let mesh = TestMesh::default();
    let ((_, provider), (_, caller)) = two(&mesh).await;
    let go = Arc::new(Semaphore::new(0));
    let waits = go.clone();
    let _slow = offer(&provider, "slow", move |_: Call| {
        let go = waits.clone();
        async move {
            go.acquire().await?.forget();
            Ok("slow".into())
        }
    })
    .await;
    let mut calls = JoinSet::new();
    let before = caller.metrics().calls_shared.get();
    for _ in 0..IN_FLIGHT_MAX + 20 {
        let caller = caller.clone();
        calls.spawn(async move { caller.call(ask("slow")).await });
    }
    tokio::time::sleep(Duration::from_millis(100)).await; // tidy: allow(sleep): paused time
    go.add_permits(2 * IN_FLIGHT_MAX);
    let mut refused = 0;
    while let Some(outcome) = calls.join_next().await {
        match outcome.unwrap() {
            Ok(reply) => assert_eq!(reply.payload, "slow"),
            // The node runs no more than so many at once.
            Err(CallError::Overloaded { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(caller.metrics().calls_shared.get() - before, IN_FLIGHT_MAX as u64);
    assert_eq!(refused, 20);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_is_closed_and_lets_the_connection_go() {
    let mesh = TestMesh::default();
    let ((_, provider), (_, caller)) = two(&mesh).await;
    let _echo = offer(&provider, "echo", echo).await;
    for _ in 0..3 {
        assert!(caller.call(ask("echo")).await.is_ok());
        assert!(caller.inner().sessions.is_open(&provider.inner().host.node));
        tokio::time::sleep(3 * LINGER).await; // tidy: allow(sleep): paused time
        assert!(!caller.inner().sessions.is_open(&provider.inner().host.node));
    }
    // Nothing keeps it from being idle.
    tokio::time::sleep(Duration::from_secs(70)).await; // tidy: allow(sleep): paused time
    assert!(!caller.inner().transport.is_connected(&provider.inner().host.node));
    assert!(caller.call(ask("echo")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn calls_that_nobody_waits_for_any_more_do_not_pile_up() {
    let mesh = TestMesh::default();
    let ((provider_id, _provider), (caller_id, caller)) = two(&mesh).await;
    // Nothing gets through, and nobody notices yet.
    mesh.network.partition(caller_id, provider_id);
    let before = caller.metrics().calls_shared.get();
    for _ in 0..500 {
        let call = ask("ready").payload(vec![3; PAYLOAD_BYTES_MAX]).timeout(Duration::from_millis(1));
        assert!(caller.call(call).await.is_err());
    }
    let queued = (caller.metrics().calls_shared.get() - before) as usize * PAYLOAD_BYTES_MAX;
    assert!(queued <= 4 * QUEUED_BYTES_MAX, "{queued} bytes wait for a provider that takes none");
}

/// A runtime with one thread of its own, for as long as this lives.
struct OtherThread {
    handle: tokio::runtime::Handle,
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl OtherThread {
    #[allow(clippy::disallowed_methods, reason = "no machine runs there, and its time is not paused")]
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let handle = runtime.handle().clone();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        std::thread::spawn(move || runtime.block_on(stopped));
        Self { handle, _stop: stop }
    }
}

#[tokio::test]
async fn handlers_that_came_together_share_their_own_thread_and_nothing_else() {
    let mesh = TestMesh::default();
    let there = OtherThread::new();
    let config = RpcConfig { handlers_on: Some(there.handle.clone()), ..RpcConfig::default() };
    let (_, provider) = mesh.add_with(1, Arc::new(AllowAll), config);
    let (_, caller) = mesh.add(2);
    let here = std::thread::current().id();
    let go = Arc::new(Semaphore::new(0));
    let waits = go.clone();
    let _mixed = offer(&provider, "mixed", move |call: Call| {
        let go = waits.clone();
        async move {
            assert_ne!(std::thread::current().id(), here, "it blocks nobody but other handlers");
            match call.payload[0] % 4 {
                0 => Ok(call.payload.into()),
                1 => {
                    go.acquire().await?.forget();
                    Ok(call.payload.into())
                }
                2 => panic!("two"),
                _ => std::future::pending().await,
            }
        }
    })
    .await;
    for _ in 0..3 {
        caller.call(ask("mixed").payload(vec![0])).await.unwrap();
    }
    let mut calls = JoinSet::new();
    for n in 0..80_u8 {
        let caller = caller.clone();
        let timeout = Duration::from_millis(if n % 4 == 3 { 300 } else { 60_000 });
        calls.spawn(async move { (n, caller.call(ask("mixed").payload(vec![n]).timeout(timeout)).await) });
    }
    let mut seen = [0; 4];
    while let Some(outcome) = calls.join_next().await {
        let (n, outcome) = outcome.unwrap();
        seen[usize::from(n % 4)] += 1;
        match (n % 4, outcome) {
            (0 | 1, Ok(reply)) => assert_eq!(reply.payload[..], [n]),
            (2, Err(CallError::HandlerPanic { text })) => assert_eq!(text, "two"),
            (3, Err(CallError::Deadline { .. })) => {}
            (_, other) => panic!("{n}: {other:?}"),
        }
        if seen == [20, 0, 20, 0] {
            go.add_permits(20);
        }
    }
    assert_eq!(seen, [20; 4]);
    provider.drain().await;
    assert_eq!(provider.metrics().handlers_in_flight.get(), 0);
    assert_eq!(provider.metrics().handler_panics.get(), 20);
}

#[tokio::test]
async fn whoever_has_an_answer_finds_room_for_the_next_call() {
    let mesh = TestMesh::default();
    let there = OtherThread::new();
    let config = RpcConfig { handlers_on: Some(there.handle.clone()), ..RpcConfig::default() };
    let (_, provider) = mesh.add_with(1, Arc::new(AllowAll), config);
    let (_, caller) = mesh.add(2);
    let options = RegisterOptions { concurrency_max: 4, ..RegisterOptions::default() };
    let _echo = provider.register(Realm::default(), "echo".parse().unwrap(), options, echo).await.unwrap();
    caller.call(ask("echo")).await.unwrap();
    let mut callers = JoinSet::new();
    for _ in 0..4 {
        let caller = caller.clone();
        callers.spawn(async move {
            for _ in 0..2_000 {
                caller.call(ask("echo")).await.expect("there is room for four");
            }
        });
    }
    callers.join_all().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_has_few_streams_of_calls_and_is_told_when_it_opens_more() {
    let mesh = TestMesh::default();
    let ((id, provider), (_, caller)) = two(&mesh).await;
    let transport = &caller.inner().transport;
    let mut open = Vec::new();
    for _ in 0..2 * STREAMS_MAX {
        open.push(transport.stream(id, frames::calls()).await.unwrap());
    }
    let mut refused = 0;
    for (_, rx) in &mut open {
        match tokio::time::timeout(Duration::from_millis(10), rx.recv()).await {
            Err(_open) => {}
            Ok(Err(StreamError::Reset(ResetCode::OVERLOADED))) => refused += 1,
            Ok(other) => panic!("{other:?}"),
        }
    }
    // One is that of the calls before.
    assert_eq!(refused, STREAMS_MAX + 1);
    assert_eq!(caller.call(ask("ready").payload("x")).await.unwrap().payload, "x");
    drop(open);
    tokio::time::sleep(3 * LINGER).await; // tidy: allow(sleep): paused time
    assert!(provider.inner().sessions.serves_nobody());
    assert!(caller.call(ask("ready")).await.is_ok());
}
