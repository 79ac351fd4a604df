//! What is counted.

use std::sync::Arc;

use macula_proto::{Clock, Name, Timestamp};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::{CallError, CallRequest};

/// The outcome of a call that has a reply.
const OK: &str = "ok";

/// Counters of one node's calls. Hang them on that node's registry with [`register`](Self::register).
#[derive(Clone, Debug)]
pub struct RpcMetrics {
    /// Calls that this node began.
    pub calls_started: Counter,
    /// Calls that this node made and that are over, by outcome.
    pub calls_completed: Family<Outcome, Counter>,
    /// Of these, those that have a reply: one of the family, at hand for each call.
    calls_succeeded: Counter,
    /// Of these, how many ran out of time.
    pub calls_timed_out: Counter,
    /// Calls of this node that are under way.
    pub calls_in_flight: Gauge,
    /// From the beginning of a call to its end, in seconds, whatever the outcome.
    pub call_seconds: Histogram,
    /// Calls that shared a stream with others, and had none of their own.
    pub calls_shared: Counter,
    /// Tries at a further provider after one did not take the call.
    pub calls_retried: Counter,
    /// Procedures registered on this node since its start.
    pub registrations_added: Counter,
    /// Procedures unregistered since its start.
    pub registrations_removed: Counter,
    /// Handlers started.
    pub handlers_started: Counter,
    /// Handlers running.
    pub handlers_in_flight: Gauge,
    /// Handlers that returned an error.
    pub handler_errors: Counter,
    /// Handlers that panicked.
    pub handler_panics: Counter,
    /// Handlers stopped because their caller was gone.
    pub handlers_cancelled: Counter,
    /// Handlers stopped at their deadline.
    pub handlers_timed_out: Counter,
    /// Calls that arrived here and were turned away before their handler was started, by reason.
    pub calls_refused: Family<Outcome, Counter>,
    /// Frames from peers that were no part of a call, dropped.
    pub frames_dropped: Counter,
    /// Calls that were answered with an answer that this node kept.
    pub cache_hits: Counter,
    /// Answers kept.
    pub cache_stored: Counter,
    /// Answers that had to go for others while they were good.
    pub cache_evicted: Counter,
    /// Answers that are kept now.
    pub cache_entries: Gauge,
    /// Room that they take.
    pub cache_bytes: Gauge,
}

/// The label `outcome`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// A [`CallError`]'s kind, or `ok`.
    pub outcome: &'static str,
}

impl Default for RpcMetrics {
    fn default() -> Self {
        let calls_completed: Family<Outcome, Counter> = Family::default();
        let calls_succeeded = calls_completed.get_or_create(&Outcome { outcome: OK }).clone();
        Self {
            calls_started: Counter::default(),
            calls_completed,
            calls_succeeded,
            calls_timed_out: Counter::default(),
            calls_in_flight: Gauge::default(),
            // 50 µs to 26 s: from a call in one process to one that waits for people.
            call_seconds: Histogram::new(exponential_buckets(50e-6, 2.0, 20)),
            calls_shared: Counter::default(),
            calls_retried: Counter::default(),
            registrations_added: Counter::default(),
            registrations_removed: Counter::default(),
            handlers_started: Counter::default(),
            handlers_in_flight: Gauge::default(),
            handler_errors: Counter::default(),
            handler_panics: Counter::default(),
            handlers_cancelled: Counter::default(),
            handlers_timed_out: Counter::default(),
            calls_refused: Family::default(),
            frames_dropped: Counter::default(),
            cache_hits: Counter::default(),
            cache_stored: Counter::default(),
            cache_evicted: Counter::default(),
            cache_entries: Gauge::default(),
            cache_bytes: Gauge::default(),
        }
    }
}

impl RpcMetrics {
    /// Shows all of them in `registry`, under `rpc_`.
    pub fn register(&self, registry: &mut Registry) {
        let rpc = registry.sub_registry_with_prefix("rpc");
        rpc.register("calls_started", "Calls begun", self.calls_started.clone());
        rpc.register("calls_completed", "Calls over, by outcome", self.calls_completed.clone());
        rpc.register("calls_timed_out", "Calls that ran out of time", self.calls_timed_out.clone());
        rpc.register("calls_in_flight", "Calls under way", self.calls_in_flight.clone());
        rpc.register_with_unit("call", "Duration of calls", Unit::Seconds, self.call_seconds.clone());
        rpc.register(
            "calls_shared",
            "Small calls that shared a stream with others",
            self.calls_shared.clone(),
        );
        rpc.register("calls_retried", "Tries at a further provider", self.calls_retried.clone());
        rpc.register("registrations_added", "Procedures registered", self.registrations_added.clone());
        rpc.register("registrations_removed", "Procedures unregistered", self.registrations_removed.clone());
        rpc.register("handlers_started", "Handlers started", self.handlers_started.clone());
        rpc.register("handlers_in_flight", "Handlers running", self.handlers_in_flight.clone());
        rpc.register("handler_errors", "Handlers that returned an error", self.handler_errors.clone());
        rpc.register("handler_panics", "Handlers that panicked", self.handler_panics.clone());
        rpc.register(
            "handlers_cancelled",
            "Handlers stopped for lack of a caller",
            self.handlers_cancelled.clone(),
        );
        rpc.register(
            "handlers_timed_out",
            "Handlers stopped at their deadline",
            self.handlers_timed_out.clone(),
        );
        rpc.register("calls_refused", "Calls turned away, by reason", self.calls_refused.clone());
        rpc.register("frames_dropped", "Frames that were no part of a call", self.frames_dropped.clone());
        self.register_cache(rpc);
    }

    fn register_cache(&self, rpc: &mut Registry) {
        rpc.register("cache_hits", "Calls answered with a kept answer", self.cache_hits.clone());
        rpc.register("cache_stored", "Answers kept", self.cache_stored.clone());
        rpc.register("cache_evicted", "Good answers that went for others", self.cache_evicted.clone());
        rpc.register("cache_entries", "Answers that are kept", self.cache_entries.clone());
        rpc.register("cache_bytes", "Bytes of kept answers and their requests", self.cache_bytes.clone());
    }
}

/// One call of this node, from its beginning to its end. Dropped before [`end`](Self::end), it counts as cancelled.
pub(crate) struct CallRecord {
    metrics: Arc<RpcMetrics>,
    clock: Arc<dyn Clock>,
    started: Timestamp,
    procedure: Name,
    ended: bool,
}

impl CallRecord {
    pub(crate) fn start(metrics: &Arc<RpcMetrics>, clock: &Arc<dyn Clock>, request: &CallRequest) -> Self {
        metrics.calls_started.inc();
        tracing::debug!(realm = %request.realm, procedure = %request.procedure, "call started");
        metrics.calls_in_flight.inc();
        Self {
            metrics: metrics.clone(),
            clock: clock.clone(),
            started: clock.now(),
            procedure: request.procedure.clone(),
            ended: false,
        }
    }

    /// The call is over. Only the first end counts.
    pub(crate) fn end(&mut self, error: Option<&CallError>) {
        if !self.ended && matches!(error, Some(CallError::Deadline { .. })) {
            self.metrics.calls_timed_out.inc();
        }
        self.count(error.map_or(OK, CallError::kind));
    }

    /// When it began.
    pub(crate) const fn started(&self) -> Timestamp {
        self.started
    }

    fn count(&mut self, outcome: &'static str) {
        if self.ended {
            return;
        }
        self.ended = true;
        match outcome {
            OK => self.metrics.calls_succeeded.inc(),
            _ => self.metrics.calls_completed.get_or_create(&Outcome { outcome }).inc(),
        };
        self.metrics.calls_in_flight.dec();
        let took = self.clock.now() - self.started;
        self.metrics.call_seconds.observe(took.as_secs_f64());
        tracing::debug!(procedure = %self.procedure, outcome, ?took, "call completed");
    }
}

impl Drop for CallRecord {
    fn drop(&mut self) {
        self.count("cancelled");
    }
}
