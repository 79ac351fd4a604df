//! [`Rpc`]: a node's procedures and calls, over a transport and a directory.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use macula_dht::{Directory, DirectoryError};
use macula_proto::{
    Access, Action, Clock, Frame, FrameKind, Gate, Liveness, Name, NodeId, Realm, Timestamp, decode, wire,
};
use macula_transport::{PeerEvent, ResetCode, StreamRx as _, StreamTx as _, Transport};
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::announcer::Announcer;
use crate::answers::Event;
use crate::client::Opened;
use crate::kept::KeptAnswers;
use crate::limits::Limits;
use crate::metrics::CallRecord;
use crate::mux::{self, Sessions};
use crate::providers::Providers;
use crate::registry::{self, Procedure};
use crate::running::{Host, Shape};
use crate::{
    CallError, CallRequest, Handler, PartSender, Procedures, ProviderInfo, RegisterError, RegisterOptions,
    Registration, RegistrationInfo, Reply, ResultStream, RpcConfig, RpcMetrics, server,
};

/// Directory changes that [`Rpc::replay`] and [`Rpc::drain`] have under way at once.
const CHANGES_AT_ONCE: usize = 16;

/// A node's procedures and calls. Cheap to clone; all clones are the same node's.
///
/// Its own tasks run on the tokio runtime that it is made on, wherever its methods are called from. It has to be wired up and driven: see [`on_stream`](Self::on_stream), [`on_peer`](Self::on_peer) and
/// [`run`](Self::run).
pub struct Rpc<T: Transport, D: Directory> {
    inner: Arc<Inner<T, D>>,
}

/// What all clones share.
pub(crate) struct Inner<T, D> {
    pub(crate) transport: T,
    pub(crate) liveness: Arc<dyn Liveness>,
    pub(crate) host: Arc<Host>,
    pub(crate) providers: Providers<D>,
    pub(crate) sessions: Sessions,
    pub(crate) kept: KeptAnswers,
    pub(crate) announcer: Arc<Announcer<D>>,
    pub(crate) config: RpcConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<RpcMetrics>,
    pub(crate) rng: Mutex<StdRng>,
}

impl<T: Transport, D: Directory> Rpc<T, D> {
    /// Calls over `transport` to providers found in `directory`; `gate` is asked about every call that arrives
    /// here, and about this node's own.
    pub fn new(
        transport: T,
        directory: D,
        gate: Arc<dyn Gate>,
        liveness: Arc<dyn Liveness>,
        clock: Arc<dyn Clock>,
        config: RpcConfig,
    ) -> Self {
        let metrics = Arc::new(RpcMetrics::default());
        let host = Arc::new(Host::new(transport.local().id, gate, metrics.clone(), &config));
        let inner = Inner {
            sessions: Sessions::new(config.seed.wrapping_add(1)),
            kept: KeptAnswers::new(&config, clock.clone(), metrics.clone()),
            providers: Providers::new(directory.clone(), config.cache_max, clock.clone()),
            announcer: Arc::new(Announcer::new(directory, host.registry.clone())),
            rng: Mutex::new(StdRng::seed_from_u64(config.seed)),
            transport,
            liveness,
            host,
            config,
            clock,
            metrics,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Serves a stream whose first frame is one of [`Service::Rpc`](macula_proto::Service::Rpc). To be called from
    /// [`Inbound::on_stream`](macula_transport::Inbound::on_stream); dropping the future stops the handler.
    pub async fn on_stream(&self, from: NodeId, first: Frame, mut tx: T::Tx, mut rx: T::Rx) {
        let Inner { host, transport, sessions, metrics, .. } = &*self.inner;
        match first.kind() {
            // Boxed, so that each call does not carry its state.
            FrameKind::CALLS => match sessions.serve(from) {
                Some(_served) => Box::pin(mux::serve(host, transport, from, tx, rx)).await,
                None => {
                    metrics.frames_dropped.inc();
                    tx.reset(ResetCode::OVERLOADED);
                    rx.stop(ResetCode::OVERLOADED);
                }
            },
            FrameKind::NUMBERED_ANSWER => {
                if !Box::pin(sessions.on_stream(&from, first, &mut rx)).await {
                    metrics.frames_dropped.inc();
                }
            }
            _ => server::serve(host, from, first, tx, rx).await,
        }
    }

    /// Hears of connections. To be called from [`Inbound::on_peer`](macula_transport::Inbound::on_peer): a provider that
    /// connects is no longer held for gone.
    pub fn on_peer(&self, event: &PeerEvent) {
        self.inner.sessions.on_peer(event);
        if let PeerEvent::Up(peer) = event {
            self.inner.providers.back(&peer.id);
        }
    }

    /// The maintenance: withdraws dropped registrations, ends watches that nobody uses and forgets old answers. Runs until `stop`; may
    /// be started again.
    pub async fn run(&self, stop: CancellationToken) {
        let Inner { announcer, providers, kept, config, .. } = &*self.inner;
        let withdrawals = async {
            loop {
                let dropped = announcer.next_dropped().await;
                announcer.withdraw(dropped).await;
            }
        };
        let expiry = async {
            loop {
                sleep((config.cache_ttl / 4).max(Duration::from_millis(100))).await;
                providers.expire(config.cache_ttl);
                kept.expire();
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = withdrawals => {}
            () = expiry => {}
        }
    }

    /// Announces everything that is registered once more, as after a restart of the directory.
    ///
    /// # Errors
    /// The first failure; the others are announced all the same.
    pub async fn replay(&self) -> Result<(), DirectoryError> {
        let mut changes = JoinSet::new();
        let mut result = Ok(());
        for procedure in self.inner.host.registry.procedures() {
            if changes.len() >= CHANGES_AT_ONCE {
                result = result.and(changes.join_next().await.and_then(Result::ok).unwrap_or(Ok(())));
            }
            let announcer = self.inner.announcer.clone();
            changes.spawn(async move { announcer.reconcile(&procedure).await });
        }
        while let Some(change) = changes.join_next().await {
            result = result.and(change.unwrap_or(Ok(())));
        }
        result
    }

    /// Shuts down: from now on nothing can be registered and arriving calls are turned away (their callers try
    /// elsewhere); withdraws all procedures; returns once no handler runs. Bound it with a timeout.
    pub async fn drain(&self) {
        self.inner.host.registry.close();
        if let Err(error) = self.replay().await {
            tracing::warn!(%error, "not every procedure was withdrawn");
        }
        self.inner.host.idle().await;
    }

    /// What this node offers, in order of realm and name.
    pub fn registrations(&self) -> Vec<RegistrationInfo> {
        self.inner.host.registry.snapshot()
    }

    /// Procedures whose providers are watched at the moment.
    pub fn watched(&self) -> usize {
        self.inner.providers.len()
    }

    /// What is counted.
    pub fn metrics(&self) -> &RpcMetrics {
        &self.inner.metrics
    }

    #[cfg(test)]
    pub(crate) fn inner(&self) -> &Inner<T, D> {
        &self.inner
    }

    async fn unary(&self, request: &CallRequest, now: Timestamp) -> Result<Reply, CallError> {
        let limits = self.limits(request)?;
        let asked = match self.inner.kept.look_up(request, now) {
            Ok(reply) => return Ok(reply),
            Err(asked) => asked,
        };
        let quick = match self.inner.quick(request, &limits, now) {
            Some(quick) => quick.end(request).await,
            None => None,
        };
        let event = match quick {
            Some(ended) => ended?,
            // Boxed, so that the others do not carry its state.
            None => Box::pin(self.long_way(request, &limits)).await?,
        };
        match event {
            Event::Done { outcome: Ok(reply), cache_for, .. } => {
                self.inner.kept.keep(request, asked, &reply, cache_for);
                Ok(reply)
            }
            Event::Done { .. } | Event::Accepted | Event::Progress(_) => {
                unreachable!("a call without progress opens with its last word, and that is a reply")
            }
        }
    }

    async fn long_way(&self, request: &CallRequest, limits: &Limits) -> Result<Event, CallError> {
        let shape = Shape { streamed: false, parts: false };
        let opened = limits.within(self.inner.open(request, shape, limits)).await?;
        Ok(opened.first)
    }

    async fn streamed(
        &self,
        request: &CallRequest,
        shape: Shape,
    ) -> Result<(ResultStream, Option<PartSender>), CallError> {
        let mut record = CallRecord::start(&self.inner.metrics, &self.inner.clock, request);
        let opening = async {
            let limits = self.limits(request)?;
            let opened = limits.within(self.inner.open(request, shape, &limits)).await?;
            Ok((limits, opened))
        };
        match opening.await {
            Ok((limits, Opened { answers, first, tracked, parts })) => {
                Ok((ResultStream::new(Box::new(answers), Some(first), limits, tracked, record), parts))
            }
            Err(error) => {
                record.end(Some(&error));
                Err(error)
            }
        }
    }

    fn limits(&self, request: &CallRequest) -> Result<Limits, CallError> {
        request.check()?;
        Ok(Limits::new(request, request.timeout.unwrap_or(self.inner.config.timeout)))
    }
}

impl<T: Transport, D: Directory> Procedures for Rpc<T, D> {
    async fn register(
        &self,
        realm: Realm,
        procedure: Name,
        options: RegisterOptions,
        handler: impl Handler,
    ) -> Result<Registration, RegisterError> {
        let host = &self.inner.host;
        let access = Access { peer: host.node, realm: &realm, action: Action::Register(&procedure) };
        host.gate.check(access)?;
        let procedure = Procedure { realm, name: procedure };
        let announcer = self.inner.announcer.clone();
        let registration = host.registry.add(procedure.clone(), options, handler, announcer)?;
        // Should this fail or be dropped, the registration goes with it.
        self.inner.announcer.reconcile(&procedure).await?;
        Ok(registration)
    }

    async fn call(&self, request: CallRequest) -> Result<Reply, CallError> {
        let mut record = CallRecord::start(&self.inner.metrics, &self.inner.clock, &request);
        let outcome = self.unary(&request, record.started()).await;
        record.end(outcome.as_ref().err());
        outcome
    }

    async fn call_stream(&self, request: CallRequest) -> Result<ResultStream, CallError> {
        let shape = Shape { streamed: true, parts: false };
        self.streamed(&request, shape).await.map(|(results, _)| results)
    }

    async fn call_duplex(&self, request: CallRequest) -> Result<(PartSender, ResultStream), CallError> {
        let shape = Shape { streamed: true, parts: true };
        match self.streamed(&request, shape).await? {
            (results, Some(parts)) => Ok((parts, results)),
            (_, None) => unreachable!("a call with parts opens with a sender for them"),
        }
    }

    async fn providers(&self, realm: Realm, procedure: Name) -> Result<Vec<ProviderInfo>, DirectoryError> {
        let here = self.inner.host.node;
        let entry = self.inner.providers.entry(&Procedure { realm, name: procedure });
        let found = self.inner.providers.found(&entry).await?;
        let now = self.inner.clock.now();
        let roster = entry.roster.lock();
        let info = |record: &macula_dht::Record| {
            let offer = offer_of(&record.value);
            ProviderInfo {
                contact: record.announcer.clone(),
                local: record.announcer.id == here,
                description: offer.description,
                concurrency_max: offer.concurrency_max,
                load: roster.load(&record.announcer.id, now),
                penalised: self.inner.liveness.is_gone(&record.announcer.id)
                    || roster.is_penalised(&record.announcer.id, record.sequence, now),
                cache_for: registry::cache_for(offer.cache_ms),
            }
        };
        let is_there = |record: &&macula_dht::Record| !self.inner.liveness.has_left(&record.announcer.id);
        Ok(found.records.iter().filter(is_there).map(info).collect())
    }
}

impl<T: Transport, D: Directory> Clone for Rpc<T, D> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<T: Transport, D: Directory> fmt::Debug for Rpc<T, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rpc(of {})", self.inner.host.node.short())
    }
}

/// What a record says of its offer; nothing, if it is of another kind.
fn offer_of(value: &Bytes) -> wire::ProcedureOffer {
    decode(value.clone()).unwrap_or_default()
}

#[cfg(test)]
#[path = "rpc_test.rs"]
mod tests;
