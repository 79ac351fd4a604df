//! The quick way of a call: small, to the only provider there is, which is connected. It waits for nothing but the answer, so
//! that the state of choosing, connecting and trying elsewhere is not carried along.

use macula_dht::Directory;
use macula_proto::Timestamp;
use macula_transport::Transport;

use crate::answers::{Ended, Event, Judge};
use crate::limits::Limits;
use crate::mux::{self, Asked};
use crate::registry::Procedure;
use crate::roster::Penalty;
use crate::rpc::Inner;
use crate::tracked::Tracked;
use crate::{CallError, CallRequest, Cause};

/// A call that was sent the quick way.
pub(crate) struct Quick {
    asked: Asked,
    tracked: Tracked,
    judge: Judge,
}

impl<T: Transport, D: Directory> Inner<T, D> {
    /// Sends a call the quick way; `None` if it has to go the long way.
    pub(crate) fn quick(&self, request: &CallRequest, limits: &Limits, now: Timestamp) -> Option<Quick> {
        let plain = request.target.is_none()
            && request.cancel.is_none()
            && request.payload.len() <= mux::PAYLOAD_BYTES_MAX;
        if !plain {
            return None;
        }
        let procedure = Procedure { realm: request.realm.clone(), name: request.procedure.clone() };
        if !self.host.registry.is_empty() && self.host.registry.get(&procedure).is_some() {
            return None;
        }
        let entry = self.providers.cached(&procedure, now)?;
        let found = entry.current();
        let [only] = &found.records[..] else { return None };
        let id = only.announcer.id;
        if id == self.host.node || self.liveness.is_gone(&id) {
            return None;
        }
        let session = self.sessions.open(&id)?;
        let (body, payload) = (entry.body(request), request.payload.clone());
        let asked = session.ask(body, payload, limits.after, limits.patience.deadline)?;
        limits.delivery.begins();
        self.metrics.calls_shared.inc();
        let penalty = Penalty { base: self.config.penalty, max: self.config.penalty_max };
        let (clock, deadline) = (self.clock.clone(), limits.patience.deadline);
        let tracked = Tracked::new(id, entry, only.sequence, penalty, clock, deadline);
        Some(Quick { asked, tracked, judge: Judge { provider: id, after: limits.after } })
    }
}

impl Quick {
    /// Waits for the answer; `None` if the call never left, and has to go the long way.
    pub(crate) async fn end(mut self, request: &CallRequest) -> Option<Result<Event, CallError>> {
        let event = self.judge.numbered((&mut self.asked).await)?;
        let Event::Done { outcome, load, cache_for } = event else { return Some(Ok(event)) };
        if load.is_some() {
            self.tracked.answered(load);
        }
        let ended = match outcome {
            Ok(reply) => return Some(Ok(Event::Done { outcome: Ok(reply), load, cache_for })),
            Err(ended) => ended,
        };
        // There is nobody else to try it with.
        Some(Err(match ended {
            Ended::NotRun(cause) => {
                self.tracked.refused(&cause);
                CallError::no_taker(request, vec![self.tracked.attempt(cause)])
            }
            Ended::Lost(cause) if request.idempotent => {
                self.tracked.failed();
                CallError::no_taker(request, vec![self.tracked.attempt(Cause::Lost(cause))])
            }
            ended => self.tracked.error(ended),
        }))
    }
}
