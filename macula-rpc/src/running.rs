//! One run of a handler: admission, deadline, panic, cancellation. The same for local and remote callers.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use macula_proto::limits::PAYLOAD_BYTES_MAX;
use macula_proto::{Access, Action, Gate, NodeId};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinError;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::call::check_headers;
use crate::limits::Limits;
use crate::metrics::Outcome;
use crate::registry::{Offer, Procedure, Registry};
use crate::{Call, CallRequest, HandlerError, Headers, Reply, RpcConfig, RpcMetrics};

/// Progress that waits for the caller, and request parts that wait for the handler, in frames of at most 1 MiB each.
/// When full, whoever sends waits.
const PARTS_QUEUED_MAX: usize = 4;

/// Where a node's handlers run.
pub(crate) struct Host {
    pub(crate) node: NodeId,
    pub(crate) registry: Arc<Registry>,
    pub(crate) gate: Arc<dyn Gate>,
    pub(crate) metrics: Arc<RpcMetrics>,
    /// Handlers of all procedures together.
    slots: Arc<Semaphore>,
    slots_max: u32,
    timeout_max: Duration,
    runtime: Option<Handle>,
}

/// A call that asks to be run.
#[derive(Clone)]
pub(crate) struct Incoming {
    pub(crate) procedure: Procedure,
    pub(crate) caller: NodeId,
    pub(crate) payload: Bytes,
    pub(crate) content_type: String,
    pub(crate) headers: Headers,
    pub(crate) timeout: Duration,
    pub(crate) shape: Shape,
}

/// What travels besides one request and one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The caller takes progress.
    pub(crate) streamed: bool,
    /// The caller sends parts of the request.
    pub(crate) parts: bool,
}

/// Why a handler was not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    UnknownProcedure,
    Forbidden(String),
    Overloaded { load: u32 },
    Closing,
    Deadline,
}

/// Why a handler that was started has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    Handler(HandlerError),
    Panic(String),
    ReplyTooLarge(String),
    Deadline,
    Cancelled,
}

/// What a running handler does next.
#[derive(Debug)]
pub(crate) enum Step {
    Progress(Reply),
    /// Nothing follows.
    Done(Result<Reply, Failed>),
}

/// A started handler. Dropping it stops the handler.
pub(crate) struct Running {
    task: AbortOnDropHandle<Result<Reply, HandlerError>>,
    progress: mpsc::Receiver<Reply>,
    parts: Option<mpsc::Sender<Bytes>>,
    cancel: CancellationToken,
    deadline: Instant,
    offer: Arc<Offer>,
    metrics: Arc<RpcMetrics>,
    /// The handler is done; some progress may still wait.
    joined: Option<Result<Reply, Failed>>,
    over: bool,
}

impl Host {
    pub(crate) fn new(
        node: NodeId,
        gate: Arc<dyn Gate>,
        metrics: Arc<RpcMetrics>,
        config: &RpcConfig,
    ) -> Self {
        let slots_max = config.handlers_max.max(1);
        Self {
            node,
            registry: Arc::new(Registry::new(metrics.clone())),
            gate,
            metrics,
            slots: Arc::new(Semaphore::new(slots_max as usize)),
            slots_max,
            timeout_max: config.timeout_max,
            runtime: config.handlers_on.clone(),
        }
    }

    /// Starts the handler of a call, or says why not. Never waits.
    pub(crate) fn start(&self, incoming: Incoming) -> Result<Running, Refused> {
        self.admit(&incoming).map(|admitted| self.spawn(incoming, admitted))
    }

    /// Makes room for a handler, or says why there is none. Never waits.
    pub(crate) fn admit(&self, incoming: &Incoming) -> Result<Admitted, Refused> {
        let (offer, permits) = self.judge(incoming).inspect_err(|refused| {
            self.metrics.calls_refused.get_or_create(&Outcome { outcome: refused.reason() }).inc();
        })?;
        offer.calls.fetch_add(1, Ordering::Relaxed);
        Ok(Admitted { offer, _permits: permits, _counted: InFlight::new(&self.metrics) })
    }

    /// Until when a handler may run whose caller waits for so long.
    pub(crate) fn deadline(&self, timeout: Duration) -> Instant {
        Instant::now() + timeout.min(self.timeout_max)
    }

    /// Runs a task where handlers run.
    pub(crate) fn spawn_task(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> tokio::task::AbortHandle {
        match &self.runtime {
            Some(runtime) => runtime.spawn(task).abort_handle(),
            None => tokio::spawn(task).abort_handle(),
        }
    }

    /// Where handlers run, as seen from where calls arrive.
    pub(crate) fn stage(&self) -> Stage {
        let alone = |runtime: &Handle| runtime.runtime_flavor() == RuntimeFlavor::CurrentThread;
        match &self.runtime {
            None if Handle::try_current().is_ok_and(|here| alone(&here)) => Stage::Here,
            Some(there) if alone(there) => Stage::OneThread,
            None | Some(_) => Stage::ManyThreads,
        }
    }

    /// Waits until no handler runs. Close the registry first.
    pub(crate) async fn idle(&self) {
        // The semaphore is never closed, so the only outcome is that all permits were free at once.
        let _all = self.slots.acquire_many(self.slots_max).await;
    }

    fn judge(&self, incoming: &Incoming) -> Result<(Arc<Offer>, [OwnedSemaphorePermit; 2]), Refused> {
        if self.registry.is_closing() {
            return Err(Refused::Closing);
        }
        let Procedure { realm, name } = &incoming.procedure;
        let access = Access { peer: incoming.caller, realm, action: Action::Call(name) };
        self.gate.check(access).map_err(|forbidden| Refused::Forbidden(forbidden.to_string()))?;
        let offer = self.registry.get(&incoming.procedure).ok_or(Refused::UnknownProcedure)?;
        if incoming.timeout.is_zero() {
            return Err(Refused::Deadline);
        }
        let overloaded = |_| Refused::Overloaded { load: offer.in_flight() };
        let own = offer.slots.clone().try_acquire_owned().map_err(overloaded)?;
        let shared = self.slots.clone().try_acquire_owned().map_err(overloaded)?;
        Ok((offer, [own, shared]))
    }

    fn spawn(&self, incoming: Incoming, admitted: Admitted) -> Running {
        let cancel = CancellationToken::new();
        let deadline = self.deadline(incoming.timeout);
        let (progress_tx, progress) = mpsc::channel(PARTS_QUEUED_MAX);
        let (parts_tx, parts_rx) = mpsc::channel(PARTS_QUEUED_MAX);
        let Shape { streamed, parts } = incoming.shape;
        let call = Call {
            progress: streamed.then_some(progress_tx),
            parts: parts.then_some(parts_rx),
            ..incoming.into_call(deadline, cancel.clone())
        };
        let offer = admitted.offer.clone();
        let work = async move {
            // Given back when the handler is gone, not when somebody asks it to go.
            let held = admitted;
            held.offer.handler.handle(call).await
        };
        let task = match &self.runtime {
            Some(runtime) => runtime.spawn(work),
            None => tokio::spawn(work),
        };
        Running {
            task: AbortOnDropHandle::new(task),
            progress,
            parts: parts.then_some(parts_tx),
            cancel,
            deadline,
            offer,
            metrics: self.metrics.clone(),
            joined: None,
            over: false,
        }
    }
}

/// Where handlers run. Those that share one thread anyway keep nobody waiting who would not wait otherwise, if they are run one
/// after the other as far as each gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// On the one thread that calls arrive on.
    Here,
    /// On one other thread.
    OneThread,
    ManyThreads,
}

/// Room for one handler, given back when it is gone.
pub(crate) struct Admitted {
    pub(crate) offer: Arc<Offer>,
    _permits: [OwnedSemaphorePermit; 2],
    _counted: InFlight,
}

impl Incoming {
    /// A call of `caller` to a handler in this process.
    pub(crate) fn new(
        request: &CallRequest,
        procedure: Procedure,
        caller: NodeId,
        limits: &Limits,
        shape: Shape,
    ) -> Self {
        Self {
            procedure,
            caller,
            payload: request.payload.clone(),
            content_type: request.content_type.clone(),
            headers: request.headers.clone(),
            timeout: limits.remaining(),
            shape,
        }
    }

    /// What the handler sees of it: neither progress nor parts.
    pub(crate) fn into_call(self, deadline: Instant, cancel: CancellationToken) -> Call {
        Call {
            procedure: self.procedure.name,
            realm: self.procedure.realm,
            caller: self.caller,
            payload: self.payload,
            content_type: self.content_type,
            headers: self.headers,
            deadline,
            cancel,
            progress: None,
            parts: None,
        }
    }
}

impl Running {
    /// What the handler does next. Cancel-safe. Do not ask again after [`Step::Done`].
    pub(crate) async fn next(&mut self) -> Step {
        while self.joined.is_none() {
            tokio::select! {
                // Progress last: a handler that always has some must still meet its deadline.
                biased;
                joined = &mut self.task => {
                    self.joined = Some(judge(joined));
                    self.progress.close();
                }
                () = sleep_until(self.deadline) => {
                    self.metrics.handlers_timed_out.inc();
                    return self.done(Err(Failed::Deadline));
                }
                () = self.cancel.cancelled() => {
                    self.metrics.handlers_cancelled.inc();
                    return self.done(Err(Failed::Cancelled));
                }
                Some(part) = self.progress.recv() => return self.progressed(part),
            }
        }
        if let Some(part) = self.progress.recv().await {
            return self.progressed(part);
        }
        let answer = self.joined.take().unwrap_or(Err(Failed::Cancelled));
        self.done(answer)
    }

    /// The end into which the caller's request parts go; `None` if it sends none, or after the first time.
    pub(crate) const fn take_parts(&mut self) -> Option<mpsc::Sender<Bytes>> {
        self.parts.take()
    }

    /// Cancelling it stops the handler.
    pub(crate) fn cancellation(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// How long the caller may keep the answer.
    pub(crate) fn cache_for(&self) -> Option<Duration> {
        self.offer.options().cache_for
    }

    /// Calls of the procedure that run here now.
    pub(crate) fn load(&self) -> u32 {
        self.offer.in_flight()
    }

    fn progressed(&mut self, part: Reply) -> Step {
        match check_reply(part) {
            Ok(part) => Step::Progress(part),
            Err(failed) => self.done(Err(failed)),
        }
    }

    fn done(&mut self, answer: Result<Reply, Failed>) -> Step {
        self.over = true;
        self.cancel.cancel();
        self.task.abort();
        Step::Done(counted(answer, &self.offer, &self.metrics))
    }
}

/// Counts how a handler did, once its reply is checked.
pub(crate) fn counted(
    answer: Result<Reply, Failed>,
    offer: &Offer,
    metrics: &RpcMetrics,
) -> Result<Reply, Failed> {
    let answer = answer.and_then(check_reply);
    match &answer {
        Err(Failed::Handler(_) | Failed::ReplyTooLarge(_)) => {
            offer.errors.fetch_add(1, Ordering::Relaxed);
            metrics.handler_errors.inc();
        }
        Err(Failed::Panic(_)) => {
            offer.errors.fetch_add(1, Ordering::Relaxed);
            metrics.handler_panics.inc();
        }
        Ok(_) | Err(Failed::Deadline | Failed::Cancelled) => {}
    }
    answer
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        self.cancel.cancel();
        if Instant::now() >= self.deadline {
            self.metrics.handlers_timed_out.inc();
        } else {
            self.metrics.handlers_cancelled.inc();
        }
    }
}

impl Refused {
    const fn reason(&self) -> &'static str {
        match self {
            Self::UnknownProcedure => "unknown_procedure",
            Self::Forbidden(_) => "forbidden",
            Self::Overloaded { .. } => "overloaded",
            Self::Closing => "closing",
            Self::Deadline => "deadline",
        }
    }
}

/// A handler that exists, for the gauge.
struct InFlight(Arc<RpcMetrics>);

impl InFlight {
    fn new(metrics: &Arc<RpcMetrics>) -> Self {
        metrics.handlers_started.inc();
        metrics.handlers_in_flight.inc();
        Self(metrics.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.handlers_in_flight.dec();
    }
}

fn judge(joined: Result<Result<Reply, HandlerError>, JoinError>) -> Result<Reply, Failed> {
    match joined {
        Ok(answer) => answer.map_err(Failed::Handler),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => Err(Failed::Panic(panic_text(panic.as_ref()))),
            // The runtime that the handler ran on is shutting down.
            Err(_) => Err(Failed::Cancelled),
        },
    }
}

pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

fn check_reply(reply: Reply) -> Result<Reply, Failed> {
    if reply.payload.len() > PAYLOAD_BYTES_MAX {
        let bytes = reply.payload.len();
        return Err(Failed::ReplyTooLarge(format!("{bytes} bytes: at most {PAYLOAD_BYTES_MAX} are allowed")));
    }
    match check_headers(&reply.content_type, &reply.headers) {
        Ok(()) => Ok(reply),
        Err(error) => Err(Failed::ReplyTooLarge(error.to_string())),
    }
}

#[cfg(test)]
#[path = "running_test.rs"]
mod tests;
