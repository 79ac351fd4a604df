//! The caller's end of a shared stream.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use macula_proto::{Frame, FrameKind, NodeId};
use macula_transport::{ResetCode, StreamError, StreamRx, StreamTx, Transport};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};

use super::outbox::{Leaving, Outbox};
use super::slots::Slots;
use super::{IN_FLIGHT_MAX, LINGER, QUEUED_BYTES_MAX, READ_AT_ONCE, frames, next};
use crate::RpcMetrics;
use crate::message::Answer;

/// Calls of this node at one provider, and the stream that they share.
pub(crate) struct Session {
    provider: NodeId,
    state: Mutex<State>,
    /// Something is queued, or nothing more will be.
    filled: Notify,
    /// A deadline is earlier than the one that is waited for.
    earlier: Notify,
}

struct State {
    waiting: Slots<Waiting>,
    outbox: Outbox,
    /// Takes calls.
    open: bool,
    /// The provider has said something.
    heard: bool,
    /// Calls so far.
    begun: u64,
    /// When deadlines are looked at next.
    look_at: Option<Instant>,
}

/// One call that has no answer, or one that was not fetched.
struct Waiting {
    deadline: Instant,
    /// Its place in the outbox.
    nth: u64,
    waker: Option<Waker>,
    outcome: Option<Outcome>,
}

/// What became of a call.
#[derive(Debug)]
pub(crate) enum Outcome {
    Answer(Answer),
    /// The provider's words are no answer.
    Nonsense(String),
    /// It has certainly not left this node, or not been looked at.
    NotSent,
    /// It has left, and nobody knows more.
    Lost(String),
    Deadline,
}

/// A call under way. Dropping it stops the handler.
pub(crate) struct Asked {
    session: Arc<Session>,
    number: u64,
    done: bool,
}

impl Session {
    pub(super) fn new(provider: NodeId, generation: u32) -> Arc<Self> {
        let state = State {
            waiting: Slots::new(generation),
            outbox: Outbox::default(),
            open: true,
            heard: false,
            begun: 0,
            look_at: None,
        };
        Arc::new(Self { provider, state: Mutex::new(state), filled: Notify::new(), earlier: Notify::new() })
    }

    /// Queues a call; `None` if the session is over or full, and the call has to go otherwise.
    pub(crate) fn ask(
        self: &Arc<Self>,
        body: Bytes,
        payload: Bytes,
        remaining: Duration,
        deadline: Instant,
    ) -> Option<Asked> {
        let mut state = self.state.lock();
        // Calls that nobody waits for any more may still be queued, so those that wait are no bound on what is.
        if !state.open || state.outbox.bytes() >= QUEUED_BYTES_MAX {
            return None;
        }
        let waiting = Waiting { deadline, nth: u64::MAX, waker: None, outcome: None };
        let number = state.waiting.insert(waiting, IN_FLIGHT_MAX)?;
        let frame = frames::call(number, body, remaining, payload)
            .inspect_err(|error| tracing::error!(%error, "a small call does not encode"));
        let Ok(frame) = frame else {
            state.waiting.remove(number);
            return None;
        };
        let was_empty = state.outbox.is_empty();
        let nth = state.outbox.push(frame);
        if let Some(waiting) = state.waiting.get_mut(number) {
            waiting.nth = nth;
        }
        state.begun += 1;
        let is_earlier = state.look_at.is_none_or(|at| deadline < at);
        if is_earlier {
            state.look_at = Some(deadline);
        }
        drop(state);
        if was_empty {
            self.filled.notify_one();
        }
        if is_earlier {
            self.earlier.notify_one();
        }
        Some(Asked { session: self.clone(), number, done: false })
    }

    pub(super) fn is_open(&self) -> bool {
        self.state.lock().open
    }

    /// Whether somebody waits for the answer to a call.
    pub(super) fn awaits(&self, number: u64) -> bool {
        self.state.lock().waiting.get_mut(number).is_some_and(|call| call.outcome.is_none())
    }

    /// An answer to one of the calls: gives back who is to be woken up. `None`: it is no answer.
    pub(super) fn on_answer(&self, frame: Frame) -> Option<Option<Waker>> {
        if frame.kind() != FrameKind::NUMBERED_ANSWER {
            return None;
        }
        let (number, answer) = frames::read_answer(frame).ok()?;
        let outcome = answer.map_or_else(Outcome::Nonsense, Outcome::Answer);
        let mut state = self.state.lock();
        state.heard = true;
        // Its caller may have gone meanwhile.
        let waiting = state.waiting.get_mut(number).filter(|waiting| waiting.outcome.is_none());
        Some(waiting.and_then(|waiting| {
            waiting.outcome = Some(outcome);
            waiting.waker.take()
        }))
    }

    /// No further calls.
    fn close(&self) {
        self.state.lock().open = false;
        self.filled.notify_one();
    }

    /// Ends every call that waits. `looked_at`: the provider may have looked at those that were sent.
    fn fail_all(&self, why: &str, looked_at: bool) {
        let mut wakers = Vec::new();
        let mut state = self.state.lock();
        state.open = false;
        let State { waiting, outbox, .. } = &mut *state;
        for (_, call) in waiting.iter_mut().filter(|(_, call)| call.outcome.is_none()) {
            let maybe_ran = looked_at && outbox.was_taken(call.nth);
            call.outcome = Some(if maybe_ran { Outcome::Lost(why.to_owned()) } else { Outcome::NotSent });
            wakers.extend(call.waker.take());
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Ends the calls whose time is up, and says when to look again.
    fn expire(&self, now: Instant) -> Instant {
        let mut wakers = Vec::new();
        let mut state = self.state.lock();
        let State { waiting, outbox, look_at, .. } = &mut *state;
        let mut next = now + LINGER;
        for (number, call) in waiting.iter_mut().filter(|(_, call)| call.outcome.is_none()) {
            if call.deadline > now {
                next = next.min(call.deadline);
                continue;
            }
            call.outcome = Some(Outcome::Deadline);
            wakers.extend(call.waker.take());
            outbox.push(frames::cancelled(number));
        }
        *look_at = Some(next);
        drop(state);
        if !wakers.is_empty() {
            self.filled.notify_one();
        }
        wakers.into_iter().for_each(Waker::wake);
        next
    }
}

impl Future for Asked {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut state = self.session.state.lock();
        let Some(waiting) = state.waiting.get_mut(self.number) else {
            return Poll::Ready(Outcome::Nonsense("asked for again after its answer".into()));
        };
        let Some(outcome) = waiting.outcome.take() else {
            match &mut waiting.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        };
        state.waiting.remove(self.number);
        drop(state);
        self.done = true;
        Poll::Ready(outcome)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut state = self.session.state.lock();
        let waited = state.waiting.remove(self.number).is_some_and(|waiting| waiting.outcome.is_none());
        if waited {
            state.outbox.push(frames::cancelled(self.number));
        }
        drop(state);
        // Also where the last call of a session that ends is gone.
        self.session.filled.notify_one();
    }
}

/// Ends what waits, when nobody carries it any more.
pub(super) struct Ending(pub(super) Arc<Session>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.fail_all("the node is going down", true);
    }
}

/// Carries a session's calls until it is over.
pub(super) async fn carry<T: Transport>(ending: Ending, transport: T, metrics: Arc<RpcMetrics>) {
    let session = &*ending.0;
    tokio::select! {
        biased;
        () = converse(session, &transport, &metrics) => {}
        () = watch(session) => unreachable!("it watches for ever"),
    }
}

/// Opens the stream, and uses it until its end.
async fn converse<T: Transport>(session: &Session, transport: &T, metrics: &RpcMetrics) {
    let (mut tx, mut rx) = match transport.stream(session.provider, frames::calls()).await {
        Ok(halves) => halves,
        Err(error) => {
            tracing::debug!(peer = %session.provider.short(), %error, "no stream for calls");
            return session.fail_all("", false);
        }
    };
    rx.expect_many();
    let draining = tx.draining();
    let drained = async {
        draining.cancelled().await;
        session.close();
        pending::<()>().await;
    };
    let ended = tokio::select! {
        biased;
        ended = read(session, &mut rx, metrics) => ended,
        ended = write(session, &mut tx) => ended,
        () = drained => unreachable!("it waits for ever"),
    };
    let turned_away = matches!(ended, Err(StreamError::Reset(ResetCode::UNKNOWN | ResetCode::OVERLOADED)));
    let looked_at = session.state.lock().heard || !turned_away;
    match ended {
        Ok(()) => session.fail_all("the stream ended without an answer", looked_at),
        Err(error) => session.fail_all(&error.to_string(), looked_at),
    }
}

async fn read<Rx: StreamRx>(session: &Session, rx: &mut Rx, metrics: &RpcMetrics) -> Result<(), StreamError> {
    // Callers are woken up together, so that their next calls leave together.
    let (mut woken, mut read) = (Vec::new(), 0_usize);
    let wake = |woken: &mut Vec<Waker>| woken.drain(..).for_each(Waker::wake);
    loop {
        let frame = match next(rx, || wake(&mut woken)).await {
            Ok(Some(frame)) => frame,
            ended => {
                wake(&mut woken);
                return ended.map(drop);
            }
        };
        match session.on_answer(frame) {
            Some(waker) => woken.extend(waker),
            None => {
                metrics.frames_dropped.inc();
            }
        }
        read = read.wrapping_add(1);
        if read.is_multiple_of(READ_AT_ONCE) {
            wake(&mut woken);
            yield_now().await;
        }
    }
}

/// Sends what is queued, all that is there at once, until the session takes no more and nobody waits.
async fn write<Tx: StreamTx>(session: &Session, tx: &mut Tx) -> Result<(), StreamError> {
    loop {
        let leaving = {
            let mut state = session.state.lock();
            let leaving = state.outbox.take();
            if leaving.is_none() && !state.open && state.waiting.is_empty() {
                break;
            }
            leaving
        };
        match leaving {
            Some(Leaving { batch, bytes }) => {
                tx.send_batch(batch).await?;
                session.state.lock().outbox.sent(bytes);
            }
            None => session.filled.notified().await,
        }
    }
    tx.finish()?;
    // The provider finishes its half next.
    sleep(LINGER).await;
    Ok(())
}

/// Looks at the deadlines, and closes the session when nobody has called for a while.
async fn watch(session: &Session) {
    let mut begun = 0;
    let mut quiet_since = Instant::now();
    loop {
        let next = session.expire(Instant::now());
        {
            let state = session.state.lock();
            if state.begun != begun || !state.waiting.is_empty() {
                (begun, quiet_since) = (state.begun, Instant::now());
            }
        }
        if quiet_since.elapsed() >= LINGER {
            session.close();
        }
        tokio::select! {
            biased;
            () = session.earlier.notified() => {}
            () = sleep_until(next) => {}
        }
    }
}
