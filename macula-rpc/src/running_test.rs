use std::future::pending;

use macula_proto::{AllowAll, Realm};

use super::*;
use crate::registry::Withdrawal;
use crate::{Handler, RegisterOptions, Registration};

struct Nowhere;

impl Withdrawal for Nowhere {
    fn now(&self, _: Procedure) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {})
    }

    fn later(&self, _: Procedure) {}
}

const ME: NodeId = NodeId::from_bytes([1; 32]);

fn procedure() -> Procedure {
    Procedure { realm: Realm::default(), name: "p".parse().unwrap() }
}

fn host(config: RpcConfig, handler: impl Handler) -> (Host, Registration) {
    let host = Host::new(ME, Arc::new(AllowAll), Arc::default(), &config);
    let offered =
        host.registry.add(procedure(), RegisterOptions::default(), handler, Arc::new(Nowhere)).unwrap();
    (host, offered)
}

fn incoming(timeout_ms: u64) -> Incoming {
    Incoming {
        procedure: procedure(),
        caller: ME,
        payload: Bytes::new(),
        content_type: String::new(),
        headers: Headers::new(),
        timeout: Duration::from_millis(timeout_ms),
        shape: Shape { streamed: true, parts: false },
    }
}

async fn chatter(call: Call) -> Result<Reply, HandlerError> {
    loop {
        call.progress("more").await?;
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_never_stops_talking_meets_its_deadline() {
    let (host, _offer) = host(RpcConfig::default(), chatter);
    let mut running = host.start(incoming(10)).ok().unwrap();
    assert!(matches!(running.next().await, Step::Progress(_)));
    tokio::time::advance(Duration::from_millis(20)).await;
    assert!(matches!(running.next().await, Step::Done(Err(Failed::Deadline))));
    assert_eq!(host.metrics.handlers_timed_out.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn progress_that_waits_comes_before_the_answer() {
    let (host, _offer) = host(RpcConfig::default(), |call: Call| async move {
        call.progress("1").await?;
        call.progress("2").await?;
        Ok("3".into())
    });
    let mut running = host.start(incoming(1000)).ok().unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    for expected in ["1", "2"] {
        assert!(matches!(running.next().await, Step::Progress(part) if part.payload == expected));
    }
    assert!(matches!(running.next().await, Step::Done(Ok(last)) if last.payload == "3"));
}

#[tokio::test(start_paused = true)]
async fn no_caller_gets_more_time_than_the_node_allows() {
    let config = RpcConfig { timeout_max: Duration::from_secs(2), ..RpcConfig::default() };
    let (host, _offer) = host(config, |_| pending::<Result<Reply, HandlerError>>());
    let mut running = host.start(incoming(60_000)).ok().unwrap();
    let begun = Instant::now();
    assert!(matches!(running.next().await, Step::Done(Err(Failed::Deadline))));
    assert_eq!(begun.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_started_without_time_or_after_closing() {
    let (host, _offer) = host(RpcConfig::default(), chatter);
    assert_eq!(host.start(incoming(0)).err(), Some(Refused::Deadline));
    host.registry.close();
    assert_eq!(host.start(incoming(10)).err(), Some(Refused::Closing));
    assert_eq!(host.metrics.handlers_started.get(), 0);
}

#[test]
fn handlers_run_on_the_runtime_that_was_given() {
    let theirs = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let handle = theirs.handle().clone();
    let (_running, until) = tokio::sync::oneshot::channel::<()>();
    std::thread::Builder::new().name("theirs".into()).spawn(move || theirs.block_on(until)).unwrap();
    let ours = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let config = RpcConfig { handlers_on: Some(handle), ..RpcConfig::default() };
    let (host, _offer) =
        host(config, |_| async { Ok(std::thread::current().name().unwrap_or_default().to_string().into()) });
    let step = ours.block_on(async { host.start(incoming(5000)).ok().unwrap().next().await });
    assert!(matches!(step, Step::Done(Ok(reply)) if reply.payload.starts_with(b"theirs")));
}

#[test]
fn every_metric_is_shown() {
    let mut registry = prometheus_client::registry::Registry::default();
    let metrics = RpcMetrics::default();
    metrics.register(&mut registry);
    metrics.calls_refused.get_or_create(&Outcome { outcome: "overloaded" }).inc();
    metrics.calls_completed.get_or_create(&Outcome { outcome: "ok" }).inc();
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for name in [
        "rpc_calls_started_total 0",
        "rpc_call_seconds_bucket",
        "calls_refused_total{outcome=\"overloaded\"} 1",
    ] {
        assert!(text.contains(name), "{text}");
    }
    assert_eq!(text.matches("# HELP").count(), 22);
}
