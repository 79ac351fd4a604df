//! The provider's end of a shared stream.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, pending};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use macula_proto::{Frame, FrameKind, NodeId, ProtoError};
use macula_transport::{StreamError, StreamRx, StreamTx, Transport};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet, yield_now};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::frames::{self, CallReader, Said};
use super::outbox::{Leaving, Outbox};
use super::{IN_FLIGHT_MAX, PAYLOAD_BYTES_MAX, QUEUED_BYTES_MAX, READ_AT_ONCE, next};
use crate::handler::HandlerFuture;
use crate::message::Failure;
use crate::running::{Admitted, Failed, Host, Incoming, Refused, Stage, counted, panic_text};
use crate::{Call, Reply};

/// Large answers to one caller that are sent at once.
const LARGE_MAX: usize = 8;

/// Serves the calls of one stream until its caller ends it, or it is lost.
pub(crate) async fn serve<T: Transport>(
    host: &Arc<Host>,
    transport: &T,
    from: NodeId,
    mut tx: T::Tx,
    mut rx: T::Rx,
) {
    let serving = Arc::new(Serving {
        host: host.clone(),
        caller: from,
        stage: host.stage(),
        state: Mutex::default(),
        filled: Notify::new(),
        drained: Notify::new(),
        earlier: Notify::new(),
        large: Notify::new(),
    });
    // Dropped with the connection, too.
    let _ending = Ending(serving.clone());
    rx.expect_many();
    let read_and_answered = async {
        read(&serving, &mut rx).await?;
        serving.all_answered().await;
        Ok::<_, StreamError>(())
    };
    let ended = tokio::select! {
        biased;
        ended = read_and_answered => ended,
        Err(lost) = write(&serving, &mut tx) => Err(lost),
        () = watch(&serving) => unreachable!("it watches for ever"),
        () = send_large(&serving, transport) => unreachable!("it waits for ever"),
    };
    match ended {
        // It fails if the caller is gone, and then nobody needs it.
        Ok(()) => drop(tx.finish()),
        Err(error) => tracing::debug!(peer = %from.short(), %error, "a stream of calls is over"),
    }
}

/// Calls of one peer that run here.
struct Serving {
    host: Arc<Host>,
    caller: NodeId,
    stage: Stage,
    state: Mutex<State>,
    /// Something is queued.
    filled: Notify,
    /// Something was sent, or a handler is gone.
    drained: Notify,
    /// A deadline is earlier than the one that is waited for.
    earlier: Notify,
    /// There is a large answer.
    large: Notify,
}

#[derive(Default)]
struct State {
    running: BTreeMap<u64, Run>,
    outbox: Outbox,
    /// With the numbers of their calls.
    large: VecDeque<(u64, Frame)>,
    look_at: Option<Instant>,
}

/// A handler that runs. Whoever takes it out of the table answers its call.
struct Run {
    /// `None` until it is started.
    task: Option<AbortHandle>,
    cancel: CancellationToken,
    deadline: Instant,
}

impl Run {
    fn stop(self) {
        self.cancel.cancel();
        if let Some(task) = self.task {
            task.abort();
        }
    }
}

impl Serving {
    /// A frame of the caller; gives back a handler that is to be started.
    fn on_frame(self: &Arc<Self>, calls: &mut CallReader, frame: Frame) -> Option<Work> {
        let said = if frame.kind() == FrameKind::NUMBERED_CALL { calls.read(frame).ok() } else { None };
        match said {
            Some(Said::Call(number, Ok(incoming))) => return self.begin(number, incoming),
            Some(Said::Call(number, Err(cause))) => {
                self.host.metrics.frames_dropped.inc();
                self.fail(number, Failure::BadRequest(cause), 0);
            }
            Some(Said::Cancelled(number)) => self.cancel(number),
            None => {
                self.host.metrics.frames_dropped.inc();
            }
        }
        None
    }

    fn begin(self: &Arc<Self>, number: u64, incoming: Incoming) -> Option<Work> {
        {
            let state = self.state.lock();
            if state.running.contains_key(&number) {
                drop(state);
                // Its answer would be taken for the other's.
                self.host.metrics.frames_dropped.inc();
                return None;
            }
            if state.running.len() >= IN_FLIGHT_MAX {
                drop(state);
                self.refuse(number, Refused::Overloaded { load: IN_FLIGHT_MAX as u32 });
                return None;
            }
        }
        let admitted = self.host.admit(&incoming).map_err(|refused| self.refuse(number, refused)).ok()?;
        let (deadline, cancel) = (self.host.deadline(incoming.timeout), CancellationToken::new());
        let call = incoming.into_call(deadline, cancel.clone());
        let mut work = Work {
            serving: self.clone(),
            number,
            step: Step::Begins(Box::new(call)),
            admitted: Some(admitted),
        };
        if self.stage == Stage::Here
            && let Poll::Ready(answer) = work.go_on(&mut Context::from_waker(Waker::noop()))
        {
            work.answer(answer);
            return None;
        }
        let is_earlier = {
            let mut state = self.state.lock();
            state.running.insert(number, Run { task: None, cancel, deadline });
            let is_earlier = state.look_at.is_none_or(|at| deadline < at);
            if is_earlier {
                state.look_at = Some(deadline);
            }
            is_earlier
        };
        if is_earlier {
            self.earlier.notify_one();
        }
        Some(work)
    }

    /// Starts handlers that came together: those that share a thread in one task, which ends when each has got as far as it can.
    fn start(&self, works: &mut Vec<Work>) {
        if self.stage == Stage::OneThread && works.len() > 1 {
            let together = std::mem::take(works);
            self.host.spawn_task(async move { together.into_iter().for_each(Work::begin) });
        }
        works.drain(..).for_each(Work::spawn);
    }

    fn refuse(&self, number: u64, refused: Refused) {
        let load = match refused {
            Refused::Overloaded { load } => load,
            _ => 0,
        };
        self.fail(number, Failure::Refused(refused), load);
    }

    fn fail(&self, number: u64, failure: Failure, load: u32) {
        self.send(number, frames::failure(number, failure, load));
    }

    /// The caller waits no longer.
    fn cancel(&self, number: u64) {
        let run = self.state.lock().running.remove(&number);
        if let Some(run) = run {
            self.host.metrics.handlers_cancelled.inc();
            run.stop();
        }
        self.drained.notify_one();
    }

    fn send(&self, number: u64, frame: Result<Frame, ProtoError>) {
        self.send_if(number, frame, |_| true);
    }

    /// Sends the answer of a handler that runs, unless its call has been answered.
    fn settle(&self, number: u64, frame: Result<Frame, ProtoError>) {
        self.send_if(number, frame, |state| state.running.remove(&number).is_some());
        self.drained.notify_one();
    }

    fn send_if(
        &self,
        number: u64,
        frame: Result<Frame, ProtoError>,
        wanted: impl FnOnce(&mut State) -> bool,
    ) {
        let mut state = self.state.lock();
        if !wanted(&mut state) {
            return;
        }
        let frame = match frame {
            Ok(frame) => frame,
            // Replies were checked against these very limits before.
            Err(error) => return tracing::error!(%error, "an answer does not encode"),
        };
        if frame.payload().len() > PAYLOAD_BYTES_MAX {
            state.outbox.reserve(frame.wire_len());
            state.large.push_back((number, frame));
            drop(state);
            return self.large.notify_one();
        }
        let was_empty = state.outbox.is_empty();
        state.outbox.push(frame);
        drop(state);
        if was_empty {
            self.filled.notify_one();
        }
    }

    fn sent(&self, bytes: usize) {
        self.state.lock().outbox.sent(bytes);
        self.drained.notify_one();
    }

    fn is_full(&self) -> bool {
        self.state.lock().outbox.bytes() >= QUEUED_BYTES_MAX
    }

    /// Waits until the caller has taken enough of its answers.
    async fn room(&self) {
        while self.is_full() {
            self.drained.notified().await;
        }
    }

    /// Waits until no handler runs and every answer has left.
    async fn all_answered(&self) {
        loop {
            {
                let state = self.state.lock();
                if state.running.is_empty() && state.outbox.bytes() == 0 {
                    return;
                }
            }
            self.drained.notified().await;
        }
    }

    /// Stops the handlers whose time is up, and says when to look again.
    fn expire(&self, now: Instant) -> Option<Instant> {
        let is_late = |(number, run): (&u64, &Run)| (run.deadline <= now).then_some(*number);
        let late: Vec<u64> = self.state.lock().running.iter().filter_map(is_late).collect();
        for number in late {
            let mut stopped = None;
            let word = frames::failure(number, Failure::Failed(Failed::Deadline), 0);
            self.send_if(number, word, |state| {
                stopped = state.running.remove(&number);
                stopped.is_some()
            });
            if let Some(run) = stopped {
                self.host.metrics.handlers_timed_out.inc();
                run.stop();
            }
            self.drained.notify_one();
        }
        let mut state = self.state.lock();
        state.look_at = state.running.values().map(|run| run.deadline).min();
        state.look_at
    }
}

/// Reads calls until the caller has no more.
async fn read<Rx: StreamRx>(serving: &Arc<Serving>, rx: &mut Rx) -> Result<(), StreamError> {
    let (mut calls, mut works, mut read) = (CallReader::new(serving.caller), Vec::new(), 0_usize);
    while let Some(frame) = next(rx, || serving.start(&mut works)).await? {
        works.extend(serving.on_frame(&mut calls, frame));
        read = read.wrapping_add(1);
        if serving.is_full() {
            serving.start(&mut works);
            serving.room().await;
        } else if read.is_multiple_of(READ_AT_ONCE) {
            serving.start(&mut works);
            yield_now().await;
        }
    }
    serving.start(&mut works);
    Ok(())
}

/// Sends what is queued, all that is there at once.
async fn write<Tx: StreamTx>(serving: &Serving, tx: &mut Tx) -> Result<(), StreamError> {
    loop {
        let leaving = serving.state.lock().outbox.take();
        match leaving {
            Some(Leaving { batch, bytes }) => {
                tx.send_batch(batch).await?;
                serving.sent(bytes);
            }
            None => serving.filled.notified().await,
        }
    }
}

async fn watch(serving: &Serving) {
    loop {
        let late = async {
            match serving.expire(Instant::now()) {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = serving.earlier.notified() => {}
            () = late => {}
        }
    }
}

/// Sends large answers, each on a stream of its own, so that no other answer waits for them.
async fn send_large<T: Transport>(serving: &Arc<Serving>, transport: &T) {
    let mut sending = JoinSet::new();
    loop {
        let next = if sending.len() < LARGE_MAX { serving.state.lock().large.pop_front() } else { None };
        if let Some((number, frame)) = next {
            let (serving, transport) = (serving.clone(), transport.clone());
            sending.spawn(async move {
                let bytes = frame.wire_len();
                // If it fails, its caller is gone, or the stream that it waits on fails as well.
                if let Ok((mut tx, _)) = transport.stream(serving.caller, frames::announced(number)).await
                    && tx.send(frame).await.is_ok()
                {
                    let _ = tx.finish();
                }
                serving.sent(bytes);
            });
            continue;
        }
        tokio::select! {
            biased;
            Some(_) = sending.join_next() => {}
            () = serving.large.notified(), if sending.len() < LARGE_MAX => {}
        }
    }
}

/// Stops what runs, when nobody is left to answer.
struct Ending(Arc<Serving>);

impl Drop for Ending {
    fn drop(&mut self) {
        let running = std::mem::take(&mut self.0.state.lock().running);
        let (now, metrics) = (Instant::now(), &self.0.host.metrics);
        for run in running.into_values() {
            if now >= run.deadline {
                metrics.handlers_timed_out.inc()
            } else {
                metrics.handlers_cancelled.inc()
            };
            run.stop();
        }
    }
}

/// A handler at work on one call, from its beginning to its answer.
struct Work {
    serving: Arc<Serving>,
    number: u64,
    step: Step,
    /// Given back when the handler is gone, not when somebody asks it to go.
    admitted: Option<Admitted>,
}

enum Step {
    Begins(Box<Call>),
    Runs(HandlerFuture),
    Over,
}

impl Work {
    /// Lets the handler do what it can do now.
    fn go_on(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, Failed>> {
        if let Step::Begins(_) = self.step
            && let Step::Begins(call) = std::mem::replace(&mut self.step, Step::Over)
            && let Some(admitted) = &self.admitted
        {
            match guarded(|| admitted.offer.handler.handle(*call)) {
                Ok(handler) => self.step = Step::Runs(handler),
                Err(failed) => return Poll::Ready(Err(failed)),
            }
        }
        let Step::Runs(handler) = &mut self.step else { return Poll::Ready(Err(Failed::Cancelled)) };
        let answer = match guarded(|| handler.as_mut().poll(cx)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(answer)) => answer.map_err(Failed::Handler),
            Err(failed) => Err(failed),
        };
        let done = std::mem::replace(&mut self.step, Step::Over);
        let gone = guarded(|| drop(done));
        Poll::Ready(answer.and_then(|reply| gone.map(|()| reply)))
    }

    /// Runs the handler as far as it gets, and in a task of its own from there on.
    fn begin(mut self) {
        // Its caller may have gone before its turn.
        if !self.serving.state.lock().running.contains_key(&self.number) {
            return;
        }
        match self.go_on(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => self.settle(answer),
            Poll::Pending => self.spawn(),
        }
    }

    fn spawn(self) {
        let (serving, number) = (self.serving.clone(), self.number);
        let task = serving.host.spawn_task(self);
        match serving.state.lock().running.get_mut(&number) {
            Some(run) => run.task = Some(task),
            // It is done, or was stopped meanwhile.
            None => task.abort(),
        }
    }

    /// Says what came of a handler that never waited, and gives its room back.
    fn answer(mut self, answer: Result<Reply, Failed>) {
        if let Some(admitted) = self.admitted.take() {
            let frame = self.answer_frame(answer, &admitted);
            drop(admitted);
            self.serving.send(self.number, frame);
        }
    }

    fn answer_frame(&self, answer: Result<Reply, Failed>, admitted: &Admitted) -> Result<Frame, ProtoError> {
        let offer = &admitted.offer;
        // This one is over.
        let load = offer.in_flight().saturating_sub(1);
        match counted(answer, offer, &self.serving.host.metrics) {
            Ok(reply) => frames::answer(self.number, reply, load, offer.options().cache_for),
            Err(failed) => frames::failure(self.number, Failure::Failed(failed), load),
        }
    }

    /// Says what came of a handler that was waited for.
    fn settle(&mut self, answer: Result<Reply, Failed>) {
        if let Some(admitted) = self.admitted.take() {
            let frame = self.answer_frame(answer, &admitted);
            // Before: whoever has the answer finds room for the next call.
            drop(admitted);
            self.serving.settle(self.number, frame);
        }
    }
}

impl Future for Work {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Poll::Ready(answer) = self.go_on(cx) else { return Poll::Pending };
        self.settle(answer);
        Poll::Ready(())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.admitted.is_some() {
            self.step = Step::Over;
            // Stopped by somebody who has answered; or else the runtime that it ran on is shutting down.
            self.settle(Err(Failed::Cancelled));
        }
    }
}

/// A panic in a handler is that call's alone.
fn guarded<R>(work: impl FnOnce() -> R) -> Result<R, Failed> {
    let text = |panic: Box<dyn Any + Send>| Failed::Panic(panic_text(panic.as_ref()));
    catch_unwind(AssertUnwindSafe(work)).map_err(text)
}
