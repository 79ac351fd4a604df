//! What one provider says during one call, from this node's own handler or over a stream alike.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use macula_proto::NodeId;
use macula_transport::{ResetCode, StreamError, StreamRx, Transport};

use crate::message::{self, Answer, Failure};
use crate::mux::Outcome;
use crate::running::{Failed, Refused, Running, Step};
use crate::{CallError, Cause, Reply, RpcMetrics};

/// One thing that a provider says.
#[derive(Debug)]
pub(crate) enum Event {
    /// The handler was started.
    Accepted,
    Progress(Reply),
    /// Nothing follows. The load is what the provider reported with it, `cache_for` how long a reply may be kept.
    Done {
        outcome: Result<Reply, Ended>,
        load: Option<u32>,
        cache_for: Option<Duration>,
    },
}

/// How a call ended at one provider, other than with a reply.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The handler was certainly not started there: another provider may be tried.
    NotRun(Cause),
    /// The provider is gone, and nobody knows whether the handler ran.
    Lost(String),
    /// This is the answer to the call.
    Error(CallError),
}

/// Who answers, and how long the caller waits in all: what an error has to say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judge {
    pub(crate) provider: NodeId,
    pub(crate) after: Duration,
}

/// Events of one call at one provider. Dropping it stops the handler.
pub(crate) enum Answers<T: Transport> {
    Local(LocalAnswers),
    Remote(RemoteAnswers<T>),
    /// The first event was the last.
    Spent,
}

/// Events of a handler in this process.
pub(crate) struct LocalAnswers {
    pub(crate) running: Running,
    /// The caller was told that the handler runs, or does not care.
    pub(crate) accepted: bool,
    pub(crate) judge: Judge,
}

/// Events that come over a stream. Reading no more, as when this is dropped, is what stops the handler.
pub(crate) struct RemoteAnswers<T: Transport> {
    pub(crate) rx: T::Rx,
    /// Nothing was heard yet.
    pub(crate) silent: bool,
    pub(crate) judge: Judge,
    pub(crate) metrics: Arc<RpcMetrics>,
}

/// [`Answers`], whatever the transport.
pub(crate) trait AnyAnswers: Send {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Event> + Send + '_>>;
}

impl<T: Transport> AnyAnswers for Answers<T> {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Event> + Send + '_>> {
        Box::pin(self.next_event())
    }
}

impl AnyAnswers for LocalAnswers {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Event> + Send + '_>> {
        Box::pin(self.next_event())
    }
}

impl<T: Transport> Answers<T> {
    /// The next event. Do not ask again after [`Event::Done`].
    pub(crate) async fn next_event(&mut self) -> Event {
        match self {
            Self::Local(local) => local.next_event().await,
            Self::Remote(remote) => remote.next_event().await,
            Self::Spent => {
                let outcome = Err(Ended::Lost("nothing follows an answer".into()));
                Event::Done { outcome, load: None, cache_for: None }
            }
        }
    }
}

impl LocalAnswers {
    pub(crate) async fn next_event(&mut self) -> Event {
        if !self.accepted {
            self.accepted = true;
            return Event::Accepted;
        }
        match self.running.next().await {
            Step::Progress(part) => Event::Progress(part),
            Step::Done(answer) => {
                let outcome = answer.map_err(|failed| self.judge.failed(failed));
                Event::Done { outcome, load: Some(self.running.load()), cache_for: self.running.cache_for() }
            }
        }
    }
}

impl<T: Transport> RemoteAnswers<T> {
    async fn next_event(&mut self) -> Event {
        let event = read::<T::Rx>(&mut self.rx, self.silent, self.judge, &self.metrics).await;
        self.silent = false;
        event
    }
}

impl Judge {
    pub(crate) fn refused(self, refused: Refused) -> Ended {
        match refused {
            Refused::UnknownProcedure => Ended::NotRun(Cause::UnknownProcedure),
            Refused::Forbidden(text) => Ended::NotRun(Cause::Forbidden(text)),
            Refused::Overloaded { .. } => Ended::NotRun(Cause::Overloaded),
            Refused::Closing => Ended::NotRun(Cause::Closing),
            Refused::Deadline => Ended::Error(CallError::Deadline { after: self.after, maybe_ran: false }),
        }
    }

    fn failed(self, failed: Failed) -> Ended {
        Ended::Error(match failed {
            Failed::Handler(error) => CallError::Handler(error),
            Failed::Panic(text) => CallError::HandlerPanic { text },
            Failed::ReplyTooLarge(text) => CallError::ReplyTooLarge { text },
            Failed::Deadline => CallError::Deadline { after: self.after, maybe_ran: true },
            Failed::Cancelled => CallError::Cancelled { maybe_ran: true },
        })
    }

    fn failure(self, failure: Failure) -> Ended {
        match failure {
            Failure::Refused(refused) => self.refused(refused),
            Failure::Failed(failed) => self.failed(failed),
            Failure::BadRequest(cause) => self.protocol(format!("it refused the request: {cause}"), false),
            Failure::Unknown { code, text, ran } => {
                self.protocol(format!("it failed with code {code}: {text}"), ran)
            }
        }
    }

    fn protocol(self, cause: String, maybe_ran: bool) -> Ended {
        Ended::Error(CallError::Protocol { provider: self.provider, cause, maybe_ran })
    }

    /// What became of a call on a shared stream; `None` if it never left, and can be sent otherwise.
    pub(crate) fn numbered(self, outcome: Outcome) -> Option<Event> {
        let ended = match outcome {
            Outcome::Answer(Answer::Last { reply, load, cache_for }) => {
                return Some(Event::Done { outcome: Ok(reply), load: Some(load), cache_for });
            }
            Outcome::Answer(Answer::Failure { failure, load }) => {
                let outcome = Err(self.failure(failure));
                return Some(Event::Done { outcome, load: Some(load), cache_for: None });
            }
            Outcome::Answer(Answer::Accepted | Answer::Progress(_)) => {
                self.protocol("an answer that is not the last".into(), true)
            }
            Outcome::Nonsense(cause) => self.protocol(cause, true),
            Outcome::Lost(cause) => Ended::Lost(cause),
            Outcome::Deadline => Ended::Error(CallError::Deadline { after: self.after, maybe_ran: true }),
            Outcome::NotSent => return None,
        };
        Some(Event::Done { outcome: Err(ended), load: None, cache_for: None })
    }

    /// A stream's end without a last answer. A provider that turns the whole stream away before its first word has
    /// not looked at the call.
    fn lost(self, error: &StreamError, silent: bool) -> Ended {
        match error {
            StreamError::Reset(ResetCode::UNKNOWN) if silent => Ended::NotRun(Cause::UnknownProcedure),
            StreamError::Reset(ResetCode::OVERLOADED) if silent => Ended::NotRun(Cause::Overloaded),
            _ => Ended::Lost(error.to_string()),
        }
    }
}

async fn read<R: StreamRx>(rx: &mut R, silent: bool, judge: Judge, metrics: &RpcMetrics) -> Event {
    loop {
        let ended = match rx.recv().await {
            Ok(Some(frame)) => match message::read_answer(frame) {
                Ok(Some(Answer::Accepted)) => return Event::Accepted,
                Ok(Some(Answer::Progress(part))) => return Event::Progress(part),
                Ok(Some(Answer::Last { reply, load, cache_for })) => {
                    return Event::Done { outcome: Ok(reply), load: Some(load), cache_for };
                }
                Ok(Some(Answer::Failure { failure, load })) => {
                    let outcome = Err(judge.failure(failure));
                    return Event::Done { outcome, load: Some(load), cache_for: None };
                }
                Ok(None) => {
                    metrics.frames_dropped.inc();
                    continue;
                }
                Err(cause) => judge.protocol(cause, true),
            },
            Ok(None) => Ended::Lost("the stream ended without an answer".into()),
            Err(error) => judge.lost(&error, silent),
        };
        return Event::Done { outcome: Err(ended), load: None, cache_for: None };
    }
}
