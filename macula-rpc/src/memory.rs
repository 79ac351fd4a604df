//! Procedures and calls among nodes of one process, without a wire.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use macula_dht::DirectoryError;
use macula_proto::{Access, Action, AllowAll, Clock, Contact, Gate, Name, NodeId, Realm, Timestamp};
use macula_transport::TokioClock;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::answers::{AnyAnswers, Ended, Event, Judge, LocalAnswers};
use crate::kept::KeptAnswers;
use crate::limits::Limits;
use crate::metrics::CallRecord;
use crate::registry::{Procedure, Withdrawal};
use crate::running::{Host, Incoming, Shape};
use crate::tracked::Tracked;
use crate::{
    Attempt, CallError, CallRequest, Candidate, Handler, PartSender, Procedures, ProviderInfo, RegisterError,
    RegisterOptions, Registration, Reply, ResultStream, RpcConfig, RpcMetrics,
};

/// Nodes of one process that call each other. Cheap to clone; all clones are the same.
///
/// ```
/// use macula_proto::{NodeId, Realm};
/// use macula_rpc::{Call, CallRequest, MemoryRpcNetwork, Procedures, RegisterOptions};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
/// # runtime.block_on(async {
/// let network = MemoryRpcNetwork::default();
/// let (anna, bert) = (network.node(NodeId::from_bytes([1; 32])), network.node(NodeId::from_bytes([2; 32])));
/// let echo = |call: Call| async move { Ok(call.payload.into()) };
/// let offer = anna.register(Realm::default(), "echo".parse()?, RegisterOptions::default(), echo).await?;
/// let reply = bert.call(CallRequest::new("echo".parse()?).payload("hello")).await?;
/// assert_eq!(reply.payload, "hello");
/// offer.unregister().await;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
pub struct MemoryRpcNetwork {
    hosts: Arc<DashMap<NodeId, Arc<Host>>>,
}

/// One node of a [`MemoryRpcNetwork`]. Handlers run with every limit and guarantee of the real thing; nothing is ever
/// lost or late on the way.
#[derive(Clone)]
pub struct MemoryRpc {
    network: MemoryRpcNetwork,
    host: Arc<Host>,
    config: Arc<RpcConfig>,
    clock: Arc<dyn Clock>,
    rng: Arc<Mutex<StdRng>>,
    turn: Arc<AtomicU64>,
    kept: Arc<KeptAnswers>,
}

impl MemoryRpcNetwork {
    /// A node that lets everybody call everything, with the default settings.
    pub fn node(&self, id: NodeId) -> MemoryRpc {
        self.node_with(id, Arc::new(AllowAll), RpcConfig::default())
    }

    /// A node with these settings. One that had the same id is gone from the network.
    pub fn node_with(&self, id: NodeId, gate: Arc<dyn Gate>, config: RpcConfig) -> MemoryRpc {
        let host = Arc::new(Host::new(id, gate, Arc::new(RpcMetrics::default()), &config));
        self.hosts.insert(id, host.clone());
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::default());
        MemoryRpc {
            network: self.clone(),
            rng: Arc::new(Mutex::new(StdRng::seed_from_u64(config.seed))),
            kept: Arc::new(KeptAnswers::new(&config, clock.clone(), host.metrics.clone())),
            clock,
            turn: Arc::default(),
            config: Arc::new(config),
            host,
        }
    }

    /// Takes a node off the network: nobody finds it any more, calls that it runs go on.
    pub fn remove(&self, id: &NodeId) {
        self.hosts.remove(id);
    }

    /// Who offers a procedure, in order of node id.
    fn offering(&self, procedure: &Procedure) -> Vec<Arc<Host>> {
        let offers = |host: &Arc<Host>| host.registry.get(procedure).is_some();
        let mut hosts: Vec<_> = self.hosts.iter().map(|host| host.clone()).filter(offers).collect();
        hosts.sort_by_key(|host| host.node);
        hosts
    }
}

/// A started call.
struct Opened {
    answers: LocalAnswers,
    parts: Option<PartSender>,
    provider: NodeId,
}

impl MemoryRpc {
    /// What is counted.
    pub fn metrics(&self) -> &RpcMetrics {
        &self.host.metrics
    }

    fn limits(&self, request: &CallRequest) -> Result<Limits, CallError> {
        request.check()?;
        Ok(Limits::new(request, request.timeout.unwrap_or(self.config.timeout)))
    }

    /// Providers in the order in which to try them.
    fn order(&self, request: &CallRequest, procedure: &Procedure) -> Vec<Arc<Host>> {
        if let Some(target) = &request.target {
            return self.network.hosts.get(target).map(|host| host.clone()).into_iter().collect();
        }
        let hosts = self.network.offering(procedure);
        let candidate = |host: &Arc<Host>| Candidate {
            id: host.node,
            local: host.node == self.host.node,
            rtt: Some(Duration::ZERO),
            load: host.registry.get(procedure).map_or(0, |offer| offer.in_flight()),
            penalised: false,
        };
        let mut candidates: Vec<_> = hosts.iter().map(candidate).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let strategy = request.strategy.unwrap_or(self.config.strategy);
        strategy.order(&mut candidates, turn, &mut *self.rng.lock());
        let by_id = |id| hosts.iter().find(|host| host.node == id).cloned();
        candidates.iter().filter_map(|candidate| by_id(candidate.id)).collect()
    }

    fn open(&self, request: &CallRequest, shape: Shape, limits: &Limits) -> Result<Opened, CallError> {
        let procedure = Procedure { realm: request.realm.clone(), name: request.procedure.clone() };
        let mut tried = Vec::new();
        for host in self.order(request, &procedure).into_iter().take(self.config.attempts_max.max(1)) {
            let judge = Judge { provider: host.node, after: limits.after };
            match host.start(Incoming::new(request, procedure.clone(), self.host.node, limits, shape)) {
                Ok(mut running) => {
                    limits.delivery.begins();
                    let parts = PartSender::to_local(&mut running, limits);
                    let answers = LocalAnswers { running, accepted: !shape.streamed, judge };
                    return Ok(Opened { answers, parts, provider: host.node });
                }
                Err(refused) => match judge.refused(refused) {
                    Ended::NotRun(cause) => tried.push(Attempt { provider: host.node, cause }),
                    ended => return Err(Tracked::untracked(host.node).error(ended)),
                },
            }
        }
        Err(CallError::no_taker(request, tried))
    }

    async fn unary(&self, request: &CallRequest, now: Timestamp) -> Result<Reply, CallError> {
        let limits = self.limits(request)?;
        let asked = match self.kept.look_up(request, now) {
            Ok(reply) => return Ok(reply),
            Err(asked) => asked,
        };
        let Opened { mut answers, provider, .. } =
            self.open(request, Shape { streamed: false, parts: false }, &limits)?;
        limits
            .within(async {
                loop {
                    if let Event::Done { outcome, cache_for, .. } = answers.next_event().await {
                        let reply = outcome.map_err(|ended| Tracked::untracked(provider).error(ended))?;
                        self.kept.keep(request, asked, &reply, cache_for);
                        return Ok(reply);
                    }
                }
            })
            .await
    }

    fn streamed(
        &self,
        request: &CallRequest,
        shape: Shape,
    ) -> Result<(ResultStream, Option<PartSender>), CallError> {
        let mut record = CallRecord::start(&self.host.metrics, &self.clock, request);
        let opened = self
            .limits(request)
            .and_then(|limits| self.open(request, shape, &limits).map(|opened| (limits, opened)))
            .inspect_err(|error| record.end(Some(error)));
        let (limits, Opened { answers, parts, provider }) = opened?;
        let answers: Box<dyn AnyAnswers> = Box::new(answers);
        Ok((ResultStream::new(answers, None, limits, Tracked::untracked(provider), record), parts))
    }
}

impl Procedures for MemoryRpc {
    async fn register(
        &self,
        realm: Realm,
        procedure: Name,
        options: RegisterOptions,
        handler: impl Handler,
    ) -> Result<Registration, RegisterError> {
        let access = Access { peer: self.host.node, realm: &realm, action: Action::Register(&procedure) };
        self.host.gate.check(access)?;
        let procedure = Procedure { realm, name: procedure };
        self.host.registry.add(procedure, options, handler, Arc::new(NoDirectory))
    }

    async fn call(&self, request: CallRequest) -> Result<Reply, CallError> {
        let mut record = CallRecord::start(&self.host.metrics, &self.clock, &request);
        let outcome = self.unary(&request, record.started()).await;
        record.end(outcome.as_ref().err());
        outcome
    }

    async fn call_stream(&self, request: CallRequest) -> Result<ResultStream, CallError> {
        self.streamed(&request, Shape { streamed: true, parts: false }).map(|(results, _)| results)
    }

    async fn call_duplex(&self, request: CallRequest) -> Result<(PartSender, ResultStream), CallError> {
        match self.streamed(&request, Shape { streamed: true, parts: true })? {
            (results, Some(parts)) => Ok((parts, results)),
            (_, None) => unreachable!("a call with parts opens with a sender for them"),
        }
    }

    async fn providers(&self, realm: Realm, procedure: Name) -> Result<Vec<ProviderInfo>, DirectoryError> {
        let procedure = Procedure { realm, name: procedure };
        let info = |host: Arc<Host>| {
            let offer = host.registry.get(&procedure)?;
            Some(ProviderInfo {
                contact: Contact { id: host.node, addrs: Vec::new() },
                local: host.node == self.host.node,
                description: offer.options().description.clone(),
                concurrency_max: offer.options().concurrency_max,
                load: offer.in_flight(),
                penalised: false,
                cache_for: offer.options().cache_for,
            })
        };
        Ok(self.network.offering(&procedure).into_iter().filter_map(info).collect())
    }
}

/// Registrations are looked up in the tables themselves: there is nothing to withdraw.
struct NoDirectory;

impl Withdrawal for NoDirectory {
    fn now(&self, _procedure: Procedure) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }

    fn later(&self, _procedure: Procedure) {}
}

impl fmt::Debug for MemoryRpcNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryRpcNetwork({} nodes)", self.hosts.len())
    }
}

impl fmt::Debug for MemoryRpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryRpc(of {})", self.host.node.short())
    }
}
