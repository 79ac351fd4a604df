//! One instance of a service: its procedure, its health, and what its operator can do to it.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use macula::{Call, HandlerError, Json, Node, RegisterOptions, Registration, Reply};
use serde::{Deserialize, Serialize};

use crate::typed::typed_lines;

/// The procedure by which every instance says how it is.
pub(crate) const HEALTH: &str = "mesh.health";

const HELP: &str = "slow MS · drain · resume · metrics · quit";

/// What an instance says of itself.
#[derive(Serialize, Deserialize)]
pub(crate) struct Health {
    pub(crate) service: String,
    /// It takes no new calls.
    pub(crate) draining: bool,
    pub(crate) served: u64,
    pub(crate) failed: u64,
    pub(crate) running: u32,
}

/// What a service is called, and how it is offered.
pub(crate) struct Service {
    pub(crate) name: &'static str,
    pub(crate) procedure: &'static str,
    pub(crate) options: RegisterOptions,
}

#[derive(Default)]
struct State {
    draining: AtomicBool,
    served: AtomicU64,
    failed: AtomicU64,
    /// How much longer each call takes than it has to.
    slow_ms: AtomicU64,
}

/// Runs an instance until its operator ends it.
pub(crate) async fn run<H, W>(node: &Node, service: Service, handle: H) -> Result<(), Box<dyn Error>>
where
    H: Fn(Call) -> W + Clone + Send + Sync + 'static,
    W: Future<Output = Result<Reply, HandlerError>> + Send + 'static,
{
    let state = Arc::new(State::default());
    let _health = offer_health(node, &service, &state).await?;
    let mut offer = Some(offer(node, &service, &state, &handle).await?);
    println!("ready: {HELP}");
    let mut typed = typed_lines();
    while let Some(line) = typed.recv().await {
        match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
            ("slow", millis) => state.slow_ms.store(millis.parse()?, Ordering::Relaxed),
            ("drain", _) => {
                // Callers that have not heard of it yet are turned away, and go to another instance.
                state.draining.store(true, Ordering::Relaxed);
                if let Some(offer) = offer.take() {
                    node.unregister(offer).await?;
                }
                println!("draining");
            }
            ("resume", _) => {
                if offer.is_none() {
                    offer = Some(self::offer(node, &service, &state, &handle).await?);
                }
                state.draining.store(false, Ordering::Relaxed);
                println!("resumed");
            }
            ("metrics", _) => {
                let metrics = node.metrics();
                metrics
                    .lines()
                    .filter(|line| line.starts_with("macula_rpc"))
                    .for_each(|line| println!("{line}"));
            }
            ("quit", _) => break,
            _ => println!("{HELP}"),
        }
    }
    Ok(())
}

/// Offers the service itself, counted.
async fn offer<H, W>(
    node: &Node,
    service: &Service,
    state: &Arc<State>,
    handle: &H,
) -> Result<Registration, macula::Error>
where
    H: Fn(Call) -> W + Clone + Send + Sync + 'static,
    W: Future<Output = Result<Reply, HandlerError>> + Send + 'static,
{
    let (state, handle) = (state.clone(), handle.clone());
    let counted = move |call: Call| {
        let (state, work) = (state.clone(), handle(call));
        async move {
            let slow = Duration::from_millis(state.slow_ms.load(Ordering::Relaxed));
            tokio::time::sleep(slow).await;
            let outcome = work.await;
            let count = if outcome.is_ok() { &state.served } else { &state.failed };
            count.fetch_add(1, Ordering::Relaxed);
            outcome
        }
    };
    node.register_in(node.realm(), service.procedure, service.options.clone(), counted).await
}

async fn offer_health(
    node: &Node,
    service: &Service,
    state: &Arc<State>,
) -> Result<Registration, macula::Error> {
    let (name, procedure) = (service.name, service.procedure);
    let (state, of) = (state.clone(), node.clone());
    let answer = move |_: Call| {
        let running = of.registrations().into_iter().find(|info| info.procedure.as_str() == procedure);
        let health = Health {
            service: name.into(),
            draining: state.draining.load(Ordering::Relaxed),
            served: state.served.load(Ordering::Relaxed),
            failed: state.failed.load(Ordering::Relaxed),
            running: running.map_or(0, |info| info.in_flight),
        };
        async move { macula::reply(Json(health)) }
    };
    let options = RegisterOptions { description: name.into(), ..RegisterOptions::default() };
    node.register_in(node.realm(), HEALTH, options, answer).await
}
