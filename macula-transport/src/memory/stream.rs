//! Streams: two pipes, and the two halves that the application holds.

use std::sync::Arc;

use macula_proto::{Frame, Service};
use tokio_util::sync::CancellationToken;

use super::connection::{Arrival, End, Work};
use super::pipe::{PipeRx, PipeTx, pipe};
use crate::{Dropped, ResetCode, StreamError, StreamRx, StreamTx, TransportError};

/// The sending half of a stream of the in-memory network.
pub struct MemoryTx {
    pipe: PipeTx,
    /// The stream is open until both halves on both sides are gone.
    _work: Arc<Work>,
}

/// The receiving half of a stream of the in-memory network.
pub struct MemoryRx {
    pipe: PipeRx,
    _work: Arc<Work>,
}

/// Opens a stream with its first frame; waits while too many are open.
pub(super) async fn open(end: &End, first: Frame) -> Result<(MemoryTx, MemoryRx), TransportError> {
    let lost = || TransportError::NotConnected(end.peer());
    let permit = tokio::select! {
        biased;
        () = end.closed() => return Err(lost()),
        permit = end.mine().streams.clone().acquire_owned() => permit.map_err(|_| lost())?,
    };
    if !end.is_usable() {
        return Err(lost());
    }
    let work = Arc::new(end.connection().stream_work(permit));
    let (to_peer, at_peer) = pipe(end, end.mine().window_bytes);
    let (from_peer, at_home) = pipe(&end.other(), end.theirs().window_bytes);
    let mut tx = MemoryTx { pipe: to_peer, _work: work.clone() };
    let rx = MemoryRx { pipe: at_home, _work: work.clone() };
    let peer_tx = MemoryTx { pipe: from_peer, _work: work.clone() };
    let peer_rx = MemoryRx { pipe: at_peer, _work: work };
    end.hand_over(Arrival::Stream(peer_tx, peer_rx));
    tx.pipe.send(first).await.map_err(|_| lost())?;
    Ok((tx, rx))
}

impl MemoryRx {
    /// The first frame, whatever its kind.
    pub(super) async fn first(&mut self) -> Option<Frame> {
        self.pipe.recv().await.ok().flatten()
    }
}

impl StreamTx for MemoryTx {
    async fn send(&mut self, frame: Frame) -> Result<(), StreamError> {
        self.pipe.send(frame).await
    }

    fn draining(&self) -> CancellationToken {
        self.pipe.draining()
    }

    fn finish(&mut self) -> Result<(), StreamError> {
        self.pipe.finish()
    }

    fn reset(&mut self, code: ResetCode) {
        self.pipe.reset(code);
    }

    async fn closed(&mut self) -> Result<(), StreamError> {
        self.pipe.closed().await
    }
}

impl StreamRx for MemoryRx {
    async fn recv(&mut self) -> Result<Option<Frame>, StreamError> {
        loop {
            let frame = self.pipe.recv().await?;
            if frame.as_ref().is_none_or(|frame| frame.kind().service() != Service::Unknown) {
                return Ok(frame);
            }
            self.pipe.count_dropped(Dropped::UnknownKind);
        }
    }

    fn stop(&mut self, code: ResetCode) {
        self.pipe.stop(code);
    }
}
