//! What runs at the provider: a [`Handler`], and the [`Call`] that it is given.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use macula_proto::{Name, NodeId, Realm};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::{HandlerError, Headers, Reply};

/// A handler's work.
pub type HandlerFuture = Pin<Box<dyn Future<Output = Result<Reply, HandlerError>> + Send>>;

/// Serves the calls of one procedure. Any `async` function or closure of the right shape is one.
///
/// Several calls run at once, up to the registration's limit. The future is dropped when the caller loses interest
/// or the deadline passes; a panic in it is reported to the caller and harms nothing else. A handler that blocks
/// its thread cannot be stopped: move such work to `tokio::task::spawn_blocking` and watch
/// [`Call::cancellation`] there. Where handlers share one thread with everything else (a node on a current-thread runtime), a
/// handler that need not wait is run right where its call is read, in no task of its own.
///
/// ```
/// use macula_rpc::{Call, Handler, HandlerError, Reply};
///
/// async fn echo(call: Call) -> Result<Reply, HandlerError> {
///     Ok(Reply::new(call.payload).content_type(call.content_type))
/// }
/// fn takes(_: impl Handler) {}
/// takes(echo);
/// takes(|call: Call| async move { Ok(call.payload.into()) });
/// ```
pub trait Handler: Send + Sync + 'static {
    /// Begins to serve one call.
    fn handle(&self, call: Call) -> HandlerFuture;
}

impl<F, W> Handler for F
where
    F: Fn(Call) -> W + Send + Sync + 'static,
    W: Future<Output = Result<Reply, HandlerError>> + Send + 'static,
{
    fn handle(&self, call: Call) -> HandlerFuture {
        Box::pin(self(call))
    }
}

/// One call, as its handler sees it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Call {
    /// What is called.
    pub procedure: Name,
    /// In which realm.
    pub realm: Realm,
    /// Who calls, proven by its certificate; this node itself for a local call.
    pub caller: NodeId,
    /// The request.
    pub payload: Bytes,
    /// How the payload is encoded.
    pub content_type: String,
    /// Further facts from the caller.
    pub headers: Headers,
    pub(crate) deadline: Instant,
    pub(crate) cancel: CancellationToken,
    /// `None` if the caller takes no progress.
    pub(crate) progress: Option<mpsc::Sender<Reply>>,
    /// `None` if the caller sends no parts.
    pub(crate) parts: Option<mpsc::Receiver<Bytes>>,
}

/// The caller takes no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the caller takes no more")]
pub struct CallerGone;

impl Call {
    /// How much longer the caller waits. At zero the handler is stopped.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Waits until nobody waits for the answer any more: the caller cancelled or is gone, or the deadline passed.
    pub fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.cancel.cancelled()
    }

    /// The same as a token, for work that the handler has started elsewhere.
    pub fn cancellation(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Whether the caller takes progress: if not, [`progress`](Self::progress) drops what it is given.
    pub const fn takes_progress(&self) -> bool {
        self.progress.is_some()
    }

    /// Sends one part of the results ahead of the answer, waiting while the caller reads slowly.
    ///
    /// # Errors
    /// [`CallerGone`]; the handler is about to be stopped then.
    pub async fn progress(&self, part: impl Into<Reply>) -> Result<(), CallerGone> {
        match &self.progress {
            Some(progress) => progress.send(part.into()).await.map_err(|_| CallerGone),
            None => Ok(()),
        }
    }

    /// The next part of a streamed request; `None` when the caller has sent all, or sends none.
    pub async fn next_part(&mut self) -> Option<Bytes> {
        self.parts.as_mut()?.recv().await
    }

    /// The parts of a streamed request by themselves, to be read while progress is sent; `None` if the caller sends none, or
    /// they were taken before.
    pub fn take_parts(&mut self) -> Option<RequestParts> {
        self.parts.take().map(RequestParts)
    }
}

/// The parts of a streamed request. Dropping this tells the caller that no more are taken.
#[derive(Debug)]
pub struct RequestParts(mpsc::Receiver<Bytes>);

impl RequestParts {
    /// The next part; `None` when the caller has sent all.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }
}
