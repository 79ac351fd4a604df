use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};

use macula_proto::{AllowAll, FrameKind};
use macula_transport::{StreamRx, StreamTx, Target};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::memory::{MemoryRpc, MemoryRpcNetwork};
use crate::mesh_test::{DenyCalls, Node, QuicMesh, TestMesh};
use crate::{Call, Cause, HandlerError, Strategy, conformance};

use super::*;

impl conformance::Mesh for MemoryRpcNetwork {
    type Node = MemoryRpc;

    async fn node(&self, number: u8) -> (NodeId, MemoryRpc) {
        let id = NodeId::from_bytes([number; 32]);
        tokio::task::yield_now().await;
        (id, Self::node(self, id))
    }
}

#[tokio::test(start_paused = true)]
async fn calls_over_a_transport_conform() {
    conformance::all::<TestMesh>().await;
}

#[tokio::test]
async fn calls_over_quic_conform() {
    conformance::all::<QuicMesh>().await;
}

#[tokio::test(start_paused = true)]
async fn calls_within_a_process_conform() {
    conformance::all::<MemoryRpcNetwork>().await;
}

const LONG: Duration = Duration::from_secs(600);

fn ask(procedure: &str) -> CallRequest {
    CallRequest::new(procedure.parse().unwrap()).timeout(LONG)
}

async fn offer(node: &Node, procedure: &str, handler: impl Handler) -> Registration {
    node.register(Realm::default(), procedure.parse().unwrap(), RegisterOptions::default(), handler)
        .await
        .unwrap()
}

async fn offer_id(node: &Node, id: NodeId) -> Registration {
    offer(node, "id", move |_| async move { Ok(id.to_string().into()) }).await
}

/// A handler that never ends, and how often it was started.
fn hanging() -> (Arc<AtomicUsize>, Arc<Notify>, impl Handler) {
    let (runs, started) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (counted, starts) = (runs.clone(), started.clone());
    let handler = move |_: Call| {
        counted.fetch_add(1, Ordering::Relaxed);
        starts.notify_one();
        pending::<Result<Reply, HandlerError>>()
    };
    (runs, started, handler)
}

fn spawn_call(node: &Node, request: CallRequest) -> tokio::task::JoinHandle<Result<Reply, CallError>> {
    let node = node.clone();
    tokio::spawn(async move { node.call(request).await })
}

fn completed(node: &Node, outcome: &'static str) -> u64 {
    node.metrics().calls_completed.get_or_create(&crate::Outcome { outcome }).get()
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_gone_is_named_with_the_reason_and_nothing_ran() {
    let mesh = TestMesh::default();
    let ((gone_id, gone), (_, caller)) = (mesh.add(1), mesh.add(2));
    let _offer = offer_id(&gone, gone_id).await;
    mesh.network.crash(gone_id);
    match caller.call(ask("id")).await {
        Err(error @ CallError::NoProviderReachable { .. }) => {
            assert!(!error.may_have_run());
            let CallError::NoProviderReachable { causes, .. } = error else { unreachable!() };
            assert_eq!(causes.len(), 1);
            assert_eq!(causes[0].provider, gone_id);
            assert!(matches!(causes[0].cause, Cause::Unreachable(_)), "{}", causes[0]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(completed(&caller, "unreachable"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_vanished_provider_is_not_chosen_again_until_it_is_back() {
    let mesh = TestMesh::default();
    let ((first_id, first), (second_id, second), (_, caller)) = (mesh.add(1), mesh.add(2), mesh.add(3));
    let _offers = [offer_id(&first, first_id).await, offer_id(&second, second_id).await];
    mesh.network.crash(first_id);
    let turns = || ask("id").strategy(Strategy::RoundRobin);
    for _ in 0..10 {
        assert_eq!(caller.call(turns()).await.unwrap().payload, second_id.to_string());
    }
    assert_eq!(caller.metrics().calls_retried.get(), 1, "only the first call may have run into it");

    let (_, back) = mesh.add(1);
    let _offer = offer_id(&back, first_id).await;
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(caller.call(turns()).await.unwrap().payload);
    }
    assert_eq!(answers.iter().filter(|answer| *answer == first_id.to_string().as_str()).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn many_dead_providers_do_not_hide_a_living_one() {
    let mesh = TestMesh::default();
    let mut offers = Vec::new();
    for n in 1..=5 {
        let (id, node) = mesh.add(n);
        offers.push(offer_id(&node, id).await);
        mesh.network.crash(id);
    }
    let ((there_id, there), (_, caller)) = (mesh.add(6), mesh.add(7));
    offers.push(offer_id(&there, there_id).await);
    for _ in 0..6 {
        let reply = caller.call(ask("id").strategy(Strategy::RoundRobin)).await.unwrap();
        assert_eq!(reply.payload, there_id.to_string());
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_known_to_be_gone_is_asked_only_if_nobody_else_answers() {
    let mesh = TestMesh::default();
    let ((gone_id, gone), (there_id, there), (_, caller)) = (mesh.add(1), mesh.add(2), mesh.add(3));
    let gone_offer = offer_id(&gone, gone_id).await;
    let there_offer = offer_id(&there, there_id).await;
    mesh.gone.0.lock().push(gone_id);
    for _ in 0..4 {
        let reply = caller.call(ask("id").strategy(Strategy::RoundRobin)).await.unwrap();
        assert_eq!(reply.payload, there_id.to_string());
    }
    assert_eq!(caller.metrics().calls_retried.get(), 0);
    // Who watches may be wrong.
    there_offer.unregister().await;
    assert_eq!(caller.call(ask("id")).await.unwrap().payload, gone_id.to_string());
    drop(gone_offer);
}

#[tokio::test(start_paused = true)]
async fn the_gate_is_asked_about_remote_and_local_calls() {
    let mesh = TestMesh::default();
    let (closed_id, closed) = mesh.add_with(1, Arc::new(DenyCalls), RpcConfig::default());
    let (open_id, open) = mesh.add(2);
    let offered = offer_id(&closed, closed_id).await;
    for caller in [&closed, &open] {
        let error = caller.call(ask("id")).await.unwrap_err();
        assert!(matches!(&error, CallError::Forbidden { provider, .. } if *provider == closed_id), "{error}");
        assert!(!error.may_have_run());
    }
    let refused =
        closed.metrics().calls_refused.get_or_create(&crate::Outcome { outcome: "forbidden" }).get();
    assert_eq!(refused, 2);
    let _elsewhere = offer_id(&open, open_id).await;
    assert_eq!(
        closed.call(ask("id")).await.unwrap().payload,
        open_id.to_string(),
        "another one may allow it"
    );
    offered.unregister().await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_while_connecting_says_that_nothing_ran() {
    let mesh = TestMesh::default();
    let ((provider_id, provider), (caller_id, caller)) = (mesh.add(1), mesh.add(2));
    let _offer = offer_id(&provider, provider_id).await;
    mesh.network.partition(provider_id, caller_id);
    let begun = Instant::now();
    let error = caller.call(ask("id").timeout(Duration::from_millis(700))).await.unwrap_err();
    assert!(matches!(error, CallError::Deadline { maybe_ran: false, .. }), "{error}");
    assert_eq!(begun.elapsed(), Duration::from_millis(700));
    assert_eq!(caller.metrics().calls_timed_out.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_provider_lost_during_the_call_is_reported_and_not_retried() {
    let mesh = TestMesh::default();
    let ((first_id, first), (_, caller)) = (mesh.add(1), mesh.add(2));
    let (runs, started, handler) = hanging();
    let _offer = offer(&first, "hang", handler).await;
    let call = spawn_call(&caller, ask("hang"));
    started.notified().await;
    let (other_id, other) = mesh.add(3);
    let (other_runs, _, handler) = hanging();
    let _other_offer = offer(&other, "hang", handler).await;
    mesh.network.crash(first_id);
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(&error, CallError::Lost { provider, .. } if *provider == first_id), "{error}");
    assert!(error.may_have_run());
    assert_eq!((runs.load(Ordering::Relaxed), other_runs.load(Ordering::Relaxed)), (1, 0), "{other_id:?}");
}

#[tokio::test(start_paused = true)]
async fn an_idempotent_call_goes_on_elsewhere_when_its_provider_is_lost() {
    let mesh = TestMesh::default();
    let ((first_id, first), (second_id, second), (_, caller)) = (mesh.add(1), mesh.add(2), mesh.add(3));
    let started = Arc::new(Notify::new());
    let mut offers = Vec::new();
    for (id, node) in [(first_id, &first), (second_id, &second)] {
        let started = started.clone();
        let slow = move |_: Call| {
            started.notify_one();
            async move {
                sleep(Duration::from_secs(30)).await; // tidy: allow(sleep): paused time
                Ok(id.to_string().into())
            }
        };
        offers.push(offer(node, "slow", slow).await);
    }
    // The first of the two ids has the first turn.
    let (lost, left) = if first_id < second_id { (first_id, second_id) } else { (second_id, first_id) };
    let call = spawn_call(&caller, ask("slow").strategy(Strategy::RoundRobin).idempotent(true));
    started.notified().await;
    mesh.network.crash(lost);
    assert_eq!(call.await.unwrap().unwrap().payload, left.to_string());
}

#[tokio::test(start_paused = true)]
async fn a_full_provider_passes_calls_on_to_the_next() {
    let mesh = TestMesh::default();
    let one = RpcConfig { handlers_max: 1, ..RpcConfig::default() };
    let (_, full) = mesh.add_with(1, Arc::new(AllowAll), one);
    let (spare_id, spare) = mesh.add(2);
    let (_, started, handler) = hanging();
    let _hang = offer(&full, "hang", handler).await;
    let _ids = [offer_id(&full, spare_id).await, offer_id(&spare, spare_id).await];
    let held = spawn_call(&full, ask("hang"));
    started.notified().await;
    full.call(ask("id")).await.unwrap();
    assert_eq!(full.metrics().calls_retried.get(), 1, "the limit over all procedures holds for local calls");
    assert_eq!(spare.metrics().handlers_started.get(), 1);
    held.abort();
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_token_ends_the_call_and_stops_the_handler() {
    let mesh = TestMesh::default();
    let ((_, provider), (_, caller)) = (mesh.add(1), mesh.add(2));
    let (_, started, handler) = hanging();
    let _offer = offer(&provider, "hang", handler).await;
    let cancel = CancellationToken::new();
    let call = spawn_call(&caller, ask("hang").cancelled_by(cancel.clone()));
    started.notified().await;
    cancel.cancel();
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::Cancelled { maybe_ran: true }), "{error}");
    while provider.metrics().handlers_in_flight.get() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(provider.metrics().handlers_cancelled.get(), 1);
    assert_eq!(completed(&caller, "cancelled"), 1);
    assert_eq!(caller.metrics().calls_in_flight.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_handler_started_elsewhere_hears_of_the_cancellation() {
    let mesh = TestMesh::default();
    let ((_, provider), (_, caller)) = (mesh.add(1), mesh.add(2));
    let (started, heard) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (starts, hears) = (started.clone(), heard.clone());
    let _offer = offer(&provider, "work", move |call: Call| {
        let (cancel, hears) = (call.cancellation(), hears.clone());
        tokio::spawn(async move {
            cancel.cancelled().await;
            hears.notify_one();
        });
        starts.notify_one();
        pending::<Result<Reply, HandlerError>>()
    })
    .await;
    let call = spawn_call(&caller, ask("work"));
    started.notified().await;
    call.abort();
    heard.notified().await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_registration_is_withdrawn_by_the_maintenance() {
    let mesh = TestMesh::default();
    let ((id, provider), (_, caller)) = (mesh.add(1), mesh.add(2));
    let offered = offer_id(&provider, id).await;
    assert_eq!(caller.providers(Realm::default(), "id".parse().unwrap()).await.unwrap().len(), 1);
    drop(offered);
    assert!(provider.registrations().is_empty());
    while !caller.providers(Realm::default(), "id".parse().unwrap()).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(provider.metrics().registrations_removed.get(), 1);

    // Registered again at once, it must not be withdrawn by the earlier drop.
    drop(offer_id(&provider, id).await);
    let again = offer_id(&provider, id).await;
    sleep(Duration::from_secs(1)).await; // tidy: allow(sleep): paused time
    assert_eq!(caller.call(ask("id")).await.unwrap().payload, id.to_string());
    mesh.directory.remove(&id);
    let error = caller.call(ask("id")).await.unwrap_err();
    assert!(matches!(error, CallError::UnknownProcedure { .. }), "{error}");
    provider.replay().await.unwrap();
    caller.call(ask("id")).await.unwrap();
    again.keep();
    assert_eq!(provider.registrations().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_shows_what_is_offered_and_how_it_fares() {
    let mesh = TestMesh::default();
    let ((_, provider), (_, caller)) = (mesh.add(1), mesh.add(2));
    let options = RegisterOptions {
        concurrency_max: 3,
        description: "fails when asked to".into(),
        ..RegisterOptions::default()
    };
    let handler = |call: Call| async move {
        if call.payload.is_empty() { Ok(Reply::default()) } else { Err(HandlerError::new("as asked")) }
    };
    let _fail =
        provider.register(Realm::default(), "fail".parse().unwrap(), options.clone(), handler).await.unwrap();
    let (_, started, hang) = hanging();
    let _hang = offer(&provider, "hang", hang).await;
    caller.call(ask("fail")).await.unwrap();
    caller.call(ask("fail").payload("x")).await.unwrap_err();
    let held = spawn_call(&caller, ask("hang"));
    started.notified().await;
    let [fail, hang] = &provider.registrations()[..] else { panic!() };
    assert_eq!((fail.calls, fail.errors, fail.in_flight, fail.concurrency_max), (2, 1, 0, 3));
    assert_eq!((hang.calls, hang.errors, hang.in_flight, hang.concurrency_max), (1, 0, 1, 64));
    let listed = caller.providers(Realm::default(), "fail".parse().unwrap()).await.unwrap();
    assert_eq!((listed[0].description.clone(), listed[0].concurrency_max), (options.description, 3));
    held.abort();

    let long = RegisterOptions { description: "x".repeat(257), ..RegisterOptions::default() };
    let refused =
        provider.register(Realm::default(), "x".parse().unwrap(), long, |_| async { Ok("".into()) });
    assert_eq!(refused.await.unwrap_err(), RegisterError::DescriptionTooLong(257));
}

#[tokio::test(start_paused = true)]
async fn draining_turns_new_calls_away_and_waits_for_those_that_run() {
    let mesh = TestMesh::default();
    let ((_, leaving), (caller_id, caller)) = (mesh.add(1), mesh.add(2));
    let (started, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (starts, goes) = (started.clone(), go.clone());
    let _offer = offer(&leaving, "wait", move |_| {
        let goes = goes.clone();
        starts.notify_one();
        async move {
            goes.notified().await;
            Ok("done".into())
        }
    })
    .await;
    let running = spawn_call(&caller, ask("wait"));
    started.notified().await;
    let draining = tokio::spawn({
        let leaving = leaving.clone();
        async move { leaving.drain().await }
    });
    while !caller.providers(Realm::default(), "wait".parse().unwrap()).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let leaving_id = leaving.inner.host.node;
    let error = caller.call(ask("wait").to(leaving_id)).await.unwrap_err();
    let CallError::NoProviderReachable { causes, .. } = &error else { panic!("{error}") };
    assert!(matches!(causes[0].cause, Cause::Closing));
    assert!(!draining.is_finished());
    go.notify_one();
    assert_eq!(running.await.unwrap().unwrap().payload, "done");
    draining.await.unwrap();
    let refused =
        leaving.register(Realm::default(), "x".parse().unwrap(), RegisterOptions::default(), |_| async {
            Ok("".into())
        });
    assert_eq!(refused.await.unwrap_err(), RegisterError::Closing);
    assert_ne!(caller_id, leaving_id);
}

#[tokio::test(start_paused = true)]
async fn the_provider_keeps_the_deadline_even_if_its_caller_does_not() {
    let mesh = TestMesh::default();
    let ((id, provider), (_, caller)) = (mesh.add(1), mesh.add(2));
    let (_, _, handler) = hanging();
    let _offer = offer(&provider, "hang", handler).await;
    let transport = &caller.inner.transport;
    transport.connect(Target::Contact(provider.inner.transport.local())).await.unwrap();
    let header = wire::Call { procedure: "hang".into(), timeout_ms: 250, ..wire::Call::default() };
    let begun = Instant::now();
    let first = Frame::new(FrameKind::CALL, &header, Bytes::new()).unwrap();
    let (_tx, mut rx) = transport.stream(id, first).await.unwrap();
    let answer = rx.recv().await.unwrap().unwrap();
    let failure: wire::CallFailure = answer.header().unwrap();
    assert_eq!(begun.elapsed(), Duration::from_millis(250));
    assert_eq!((failure.code, failure.ran), (wire::CallFailureCode::CallFailureDeadline as u32, true));
    assert_eq!(provider.metrics().handlers_timed_out.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn garbage_is_answered_as_such_and_counted() {
    let mesh = TestMesh::default();
    let ((id, provider), (_, caller)) = (mesh.add(1), mesh.add(2));
    let transport = &caller.inner.transport;
    transport.connect(Target::Contact(provider.inner.transport.local())).await.unwrap();
    let bad_name = wire::Call { procedure: "a..b".into(), ..wire::Call::default() };
    let header = wire::CallHeader { name: "n".repeat(129), value: String::new() };
    let bad_header =
        wire::Call { procedure: "a".into(), headers: vec![header], timeout_ms: 1, ..wire::Call::default() };
    let frames = [
        Frame::new(FrameKind::CALL, &bad_name, Bytes::new()).unwrap(),
        Frame::new(FrameKind::CALL, &bad_header, Bytes::new()).unwrap(),
        Frame::new(FrameKind::RESULT, &wire::CallResult::default(), Bytes::new()).unwrap(),
    ];
    for frame in frames {
        let (mut tx, mut rx) = transport.stream(id, frame).await.unwrap();
        let failure: wire::CallFailure = rx.recv().await.unwrap().unwrap().header().unwrap();
        assert_eq!((failure.code, failure.ran), (wire::CallFailureCode::CallFailureBadRequest as u32, false));
        assert!(!failure.text.is_empty());
        let _ = tx.finish();
    }
    assert_eq!(provider.metrics().frames_dropped.get(), 3);
}

#[tokio::test(start_paused = true)]
async fn unused_watches_end_and_the_cache_is_bounded() {
    let mesh = TestMesh::default();
    let small = RpcConfig { cache_max: 3, ..RpcConfig::default() };
    let (_, caller) = mesh.add_with(1, Arc::new(AllowAll), small);
    for n in 0..10 {
        caller.call(ask(&format!("p{n}"))).await.unwrap_err();
        assert!(caller.watched() <= 3);
    }
    sleep(Duration::from_secs(400)).await; // tidy: allow(sleep): paused time
    assert_eq!(caller.watched(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_least_loaded_and_the_nearest_are_chosen() {
    let mesh = TestMesh::default();
    let ((busy_id, busy), (idle_id, idle), (caller_id, caller)) = (mesh.add(1), mesh.add(2), mesh.add(3));
    let mut offers = Vec::new();
    for (id, node) in [(busy_id, &busy), (idle_id, &idle)] {
        offers.push(
            offer(node, "id", move |call: Call| async move {
                if !call.payload.is_empty() {
                    pending::<()>().await;
                }
                Ok(id.to_string().into())
            })
            .await,
        );
    }
    let held: Vec<_> = (0..3).map(|_| spawn_call(&caller, ask("id").payload("x").to(busy_id))).collect();
    while busy.metrics().handlers_in_flight.get() < 3 {
        tokio::task::yield_now().await;
    }
    caller.call(ask("id").to(busy_id)).await.unwrap();
    for _ in 0..5 {
        let reply = caller.call(ask("id").strategy(Strategy::LeastLoaded)).await.unwrap();
        assert_eq!(reply.payload, idle_id.to_string());
    }
    drop(held);

    let far = macula_transport::memory::Faults { latency: Duration::from_millis(200), ..Default::default() };
    for (from, to) in [(idle_id, caller_id), (caller_id, idle_id)] {
        mesh.network.set_faults_between(from, to, far.clone());
    }
    for id in [busy_id, idle_id] {
        caller.call(ask("id").to(id)).await.unwrap();
    }
    for _ in 0..5 {
        let reply = caller.call(ask("id").strategy(Strategy::Nearest)).await.unwrap();
        assert_eq!(reply.payload, busy_id.to_string());
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_stops_its_handler_within_a_round_trip() {
    const ONE_WAY: Duration = Duration::from_millis(80);
    let mesh = TestMesh::default();
    let faults = macula_transport::memory::Faults { latency: ONE_WAY, ..Default::default() };
    mesh.network.set_faults(faults);
    let ((_, provider), (_, caller)) = (mesh.add(1), mesh.add(2));
    let (_, started, handler) = hanging();
    let _offer = offer(&provider, "hang", handler).await;
    let unary = spawn_call(&caller, ask("hang"));
    started.notified().await;
    let dropped = Instant::now();
    unary.abort();
    while provider.metrics().handlers_in_flight.get() > 0 {
        sleep(Duration::from_millis(1)).await; // tidy: allow(sleep): paused time
    }
    assert!(dropped.elapsed() <= ONE_WAY * 2, "{:?}", dropped.elapsed());

    let results = caller.call_stream(ask("hang")).await.unwrap();
    let dropped = Instant::now();
    drop(results);
    while provider.metrics().handlers_in_flight.get() > 0 {
        sleep(Duration::from_millis(1)).await; // tidy: allow(sleep): paused time
    }
    assert!(dropped.elapsed() <= ONE_WAY * 2, "{:?}", dropped.elapsed());
}

#[tokio::test(start_paused = true)]
async fn parts_are_taken_while_progress_waits_for_its_caller() {
    let mesh = TestMesh::default();
    let ((_, provider), (_, caller)) = (mesh.add(1), mesh.add(2));
    let _offer = offer(&provider, "both", |mut call: Call| async move {
        let mut parts = call.take_parts().expect("the caller sends some");
        assert!(call.take_parts().is_none() && call.next_part().await.is_none());
        let chatter = async { while call.progress("more").await.is_ok() {} };
        let count = async {
            let mut count = 0;
            while parts.next().await.is_some() {
                count += 1;
            }
            count
        };
        tokio::select! {
            biased;
            count = count => Ok(count.to_string().into()),
            () = chatter => Ok("nobody reads".into()),
        }
    })
    .await;
    for caller in [&caller, &provider] {
        let (mut parts, results) = caller.call_duplex(ask("both")).await.unwrap();
        for _ in 0..50 {
            parts.send("part").await.unwrap();
        }
        parts.finish();
        assert_eq!(results.reply().await.unwrap().payload, "50");
    }
}

#[tokio::test(start_paused = true)]
async fn parts_that_nobody_takes_wait_no_longer_than_their_call() {
    let mesh = TestMesh::default();
    let ((_, provider), (_, caller)) = (mesh.add(1), mesh.add(2));
    let _offer = offer(&provider, "hang", |call: Call| async move {
        let _takes_none = call;
        pending::<Result<Reply, HandlerError>>().await
    })
    .await;
    for caller in [&caller, &provider] {
        let begun = Instant::now();
        let timed = ask("hang").timeout(Duration::from_millis(900));
        let (mut parts, results) = caller.call_duplex(timed).await.unwrap();
        let refused = loop {
            if let Err(error) = parts.send(vec![0; 100_000]).await {
                break error;
            }
        };
        // The provider keeps the same deadline, and either may be the first to say so.
        assert!(matches!(refused, crate::PartError::Over | crate::PartError::HandlerGone), "{refused}");
        assert_eq!(begun.elapsed(), Duration::from_millis(900));
        assert!(parts.send("more").await.is_err());
        parts.finish();
        let error = results.reply().await.unwrap_err();
        assert!(matches!(error, CallError::Deadline { maybe_ran: true, .. }), "{error}");

        let cancel = CancellationToken::new();
        let (mut parts, results) =
            caller.call_duplex(ask("hang").cancelled_by(cancel.clone())).await.unwrap();
        tokio::spawn(async move {
            sleep(Duration::from_millis(50)).await; // tidy: allow(sleep): paused time
            cancel.cancel();
        });
        while parts.send(vec![0; 100_000]).await.is_ok() {}
        let error = results.reply().await.unwrap_err();
        assert!(matches!(error, CallError::Cancelled { maybe_ran: true }), "{error}");
    }
}
