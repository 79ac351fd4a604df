//! Calls whose results, or requests, come in parts.

use std::fmt;
use std::pin::Pin;

use bytes::Bytes;
use macula_proto::limits::PAYLOAD_BYTES_MAX;
use macula_transport::StreamTx;
use tokio::sync::mpsc;
use tokio_util::sync::DropGuard;

use crate::answers::{AnyAnswers, Event};
use crate::limits::{Limits, Patience};
use crate::metrics::CallRecord;
use crate::running::Running;
use crate::tracked::Tracked;
use crate::{CallError, Reply, message};

/// The results of a call, as they come.
///
/// The handler waits while its caller reads slowly. Dropping this stops the handler. The call's deadline is for all of
/// it, not for each part.
pub struct ResultStream {
    answers: Option<Box<dyn AnyAnswers>>,
    /// Read while the provider was being chosen.
    first: Option<Event>,
    limits: Limits,
    tracked: Tracked,
    record: CallRecord,
    end: Option<Result<Reply, CallError>>,
}

impl ResultStream {
    pub(crate) fn new(
        answers: Box<dyn AnyAnswers>,
        first: Option<Event>,
        limits: Limits,
        tracked: Tracked,
        record: CallRecord,
    ) -> Self {
        Self { answers: Some(answers), first, limits, tracked, record, end: None }
    }

    /// The next part of the handler's progress; `None` once it is done, then ask for its [`reply`](Self::reply).
    ///
    /// # Errors
    /// Why the call failed; the same again if asked again.
    pub async fn next(&mut self) -> Result<Option<Reply>, CallError> {
        loop {
            let Some(answers) = &mut self.answers else {
                return match &self.end {
                    Some(Err(error)) => Err(error.clone()),
                    _ => Ok(None),
                };
            };
            let event = match self.first.take() {
                Some(event) => event,
                // Asked here, because a stream that always has something to read would never let the timer speak.
                None if self.limits.remaining().is_zero() => {
                    let late = self.limits.out_of_time();
                    self.over(Err(late));
                    continue;
                }
                None => match self.limits.within(async { Ok(answers.next().await) }).await {
                    Ok(event) => event,
                    Err(error) => {
                        self.over(Err(error));
                        continue;
                    }
                },
            };
            match event {
                Event::Accepted => {}
                Event::Progress(part) => return Ok(Some(part)),
                Event::Done { outcome, load, .. } => {
                    self.tracked.answered(load);
                    let end = outcome.map_err(|ended| self.tracked.error(ended));
                    self.over(end);
                }
            }
        }
    }

    /// What the handler returned at its end. Progress that was not read is skipped.
    ///
    /// # Errors
    /// Why the call failed.
    pub async fn reply(mut self) -> Result<Reply, CallError> {
        while self.next().await?.is_some() {}
        match self.end.take() {
            Some(end) => end,
            None => Err(CallError::Cancelled { maybe_ran: true }),
        }
    }

    fn over(&mut self, end: Result<Reply, CallError>) {
        self.answers = None;
        self.record.end(end.as_ref().err());
        self.end = Some(end);
    }
}

impl fmt::Debug for ResultStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResultStream").field("end", &self.end).finish_non_exhaustive()
    }
}

/// Sends the parts of a streamed request. Dropping it before [`finish`](Self::finish) cancels the call.
pub struct PartSender {
    parts: Box<dyn AnyParts>,
    patience: Patience,
    /// A part may be on its way by half: nothing can follow it.
    torn: bool,
}

impl PartSender {
    /// The caller's end of a local handler's request parts, if it takes any.
    pub(crate) fn to_local(running: &mut Running, limits: &Limits) -> Option<Self> {
        let parts = running.take_parts()?;
        let unfinished = running.cancellation().drop_guard();
        Some(Self::new(Box::new(LocalParts { parts, unfinished }), limits))
    }

    pub(crate) fn remote<Tx: StreamTx>(tx: Tx, limits: &Limits) -> Self {
        Self::new(Box::new(RemoteParts(tx)), limits)
    }

    fn new(parts: Box<dyn AnyParts>, limits: &Limits) -> Self {
        Self { parts, patience: limits.patience.clone(), torn: false }
    }

    /// Sends one part of at most 1 MiB, waiting while the handler takes them slowly, but no longer than the call's
    /// deadline or its cancellation. If this is dropped while it waits, the call can only be cancelled.
    ///
    /// # Errors
    /// [`PartError::TooLarge`]; [`PartError::HandlerGone`] and [`PartError::Over`]: then the [`ResultStream`] says why.
    pub async fn send(&mut self, part: impl Into<Bytes>) -> Result<(), PartError> {
        let part = part.into();
        if part.len() > PAYLOAD_BYTES_MAX {
            return Err(PartError::TooLarge { bytes: part.len(), bytes_max: PAYLOAD_BYTES_MAX });
        }
        // The time is asked for here, because a handler that always takes one more would never let the timer speak.
        if self.torn || self.patience.is_over() {
            return Err(PartError::Over);
        }
        self.torn = true;
        let sent = tokio::select! {
            biased;
            sent = self.parts.send(part) => sent,
            () = self.patience.ends() => return Err(PartError::Over),
        };
        self.torn = false;
        sent
    }

    /// There are no more parts.
    pub fn finish(self) {
        if !self.torn {
            self.parts.finish();
        }
    }
}

impl fmt::Debug for PartSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PartSender(..)")
    }
}

/// Why a part of a request was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PartError {
    /// It does not fit a frame; smaller ones can still be sent.
    #[error("a part of {bytes} bytes: at most {bytes_max} are allowed")]
    TooLarge {
        /// The part's size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The handler is done, or takes no parts any more.
    #[error("the handler takes no more parts")]
    HandlerGone,
    /// The call's time was up, or it was cancelled, while the part waited.
    #[error("the call is over")]
    Over,
}

type Sent<'a> = Pin<Box<dyn Future<Output = Result<(), PartError>> + Send + 'a>>;

/// Where request parts go.
trait AnyParts: Send {
    fn send(&mut self, part: Bytes) -> Sent<'_>;
    fn finish(self: Box<Self>);
}

struct LocalParts {
    parts: mpsc::Sender<Bytes>,
    unfinished: DropGuard,
}

impl AnyParts for LocalParts {
    fn send(&mut self, part: Bytes) -> Sent<'_> {
        Box::pin(async { self.parts.send(part).await.map_err(|_| PartError::HandlerGone) })
    }

    fn finish(self: Box<Self>) {
        self.unfinished.disarm();
    }
}

struct RemoteParts<Tx>(Tx);

impl<Tx: StreamTx> AnyParts for RemoteParts<Tx> {
    fn send(&mut self, part: Bytes) -> Sent<'_> {
        Box::pin(async {
            let frame = message::part_frame(part).map_err(|_| PartError::HandlerGone)?;
            self.0.send(frame).await.map_err(|_| PartError::HandlerGone)
        })
    }

    fn finish(mut self: Box<Self>) {
        // It fails if the call is over already.
        let _ = self.0.finish();
    }
}
