//! The two halves of a stream.

use std::fmt;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::Bytes;
use macula_proto::{Frame, FrameDecoder, ProtoError, Service};
use quinn::{ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError};
use tokio_util::sync::CancellationToken;

use super::link::Link;
use crate::batch::COPY_BYTES_MAX;
use crate::metrics::Dropped;
use crate::{FrameBatch, ResetCode, StreamError, StreamRx, StreamTx};

/// The sending half of a QUIC stream.
pub struct QuicTx {
    link: Arc<Link>,
    /// `None` once finished: the link then keeps the stream until it is acknowledged.
    stream: Option<SendStream>,
    /// What a cancelled `send` left unwritten. It must go out before anything else, or the peer would read half a
    /// frame.
    unwritten: Vec<Bytes>,
    finished: Option<Acknowledgement>,
    open: OpenHalf,
}

/// Resolves when the peer has everything, or stops reading.
type Acknowledgement = Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send + Sync>>;

/// The receiving half of a QUIC stream. When it is dropped before the end, quinn tells the peer to stop with code 0,
/// which is [`ResetCode::CANCELLED`].
#[derive(Debug)]
pub struct QuicRx {
    link: Arc<Link>,
    reader: FrameReader<RecvStream>,
    open: OpenHalf,
}

/// Counts one half of a stream as open, until its end.
#[derive(Debug)]
struct OpenHalf {
    link: Arc<Link>,
    open: bool,
}

impl OpenHalf {
    fn new(link: &Arc<Link>) -> Self {
        link.half_opened();
        Self { link: link.clone(), open: true }
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.open) {
            self.link.half_closed();
        }
    }
}

impl Drop for OpenHalf {
    fn drop(&mut self) {
        self.end();
    }
}

impl QuicRx {
    pub(crate) fn reader_mut(&mut self) -> &mut FrameReader<RecvStream> {
        &mut self.reader
    }
}

/// Both halves, counted as open until they are dropped.
pub(crate) fn halves(link: &Arc<Link>, tx: SendStream, rx: FrameReader<RecvStream>) -> (QuicTx, QuicRx) {
    let (tx_open, rx_open) = (OpenHalf::new(link), OpenHalf::new(link));
    (
        QuicTx { link: link.clone(), stream: Some(tx), unwritten: Vec::new(), finished: None, open: tx_open },
        QuicRx { link: link.clone(), reader: rx, open: rx_open },
    )
}

impl QuicTx {
    async fn write(&mut self) -> Result<(), StreamError> {
        let stream = self.stream.as_mut().ok_or(StreamError::Finished)?;
        self.unwritten.retain(|chunk| !chunk.is_empty());
        // Advances `unwritten` as it goes, so that being dropped half way loses nothing.
        stream.write_all_chunks(&mut self.unwritten).await.map_err(write_error)?;
        self.unwritten.clear();
        Ok(())
    }
}

impl StreamTx for QuicTx {
    async fn send(&mut self, frame: Frame) -> Result<(), StreamError> {
        if !self.unwritten.is_empty() {
            self.write().await?;
        }
        self.link.count_sent(&frame);
        if frame.payload().len() < COPY_BYTES_MAX {
            self.unwritten.push(frame.to_bytes());
        } else {
            self.unwritten.extend([frame.head().clone(), frame.into_payload()]);
        }
        self.write().await
    }

    async fn send_batch(&mut self, batch: FrameBatch) -> Result<(), StreamError> {
        if !self.unwritten.is_empty() {
            self.write().await?;
        }
        self.link.touch();
        batch.counts().iter().for_each(|count| self.link.count_sent_many(*count));
        self.unwritten = batch.into_chunks();
        self.write().await
    }

    fn draining(&self) -> CancellationToken {
        self.link.draining.clone()
    }

    fn finish(&mut self) -> Result<(), StreamError> {
        let mut stream = self.stream.take().ok_or(StreamError::Finished)?;
        if self.unwritten.iter().any(|chunk| !chunk.is_empty()) {
            // A send was cancelled half way: an orderly end would pass half a frame off as a whole stream.
            let _ = stream.reset(code(ResetCode::CANCELLED));
            return Err(StreamError::Finished);
        }
        let finished = stream.finish();
        self.finished = Some(Box::pin(stream.stopped()));
        finished.map_err(|_| StreamError::Finished)?;
        self.link.retire(stream);
        self.open.end();
        Ok(())
    }

    fn reset(&mut self, reason: ResetCode) {
        // After `finish` it does nothing: what was sent is left to arrive.
        if let Some(mut stream) = self.stream.take() {
            let _ = stream.reset(code(reason));
            self.open.end();
        }
    }

    async fn closed(&mut self) -> Result<(), StreamError> {
        let end = match (&self.stream, &mut self.finished) {
            (Some(stream), _) => stream.stopped().await,
            (None, Some(finished)) => finished.await,
            (None, None) => return Err(StreamError::Finished),
        };
        // A finished future must not be polled again; what it said stays true.
        if self.finished.is_some() {
            let said = end.clone();
            self.finished = Some(Box::pin(async move { said }));
        }
        match end {
            Ok(None) => Ok(()),
            Ok(Some(stopped)) => Err(StreamError::Stopped(reset_code(stopped))),
            Err(_lost) => Err(StreamError::Lost),
        }
    }
}

impl fmt::Debug for QuicTx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QuicTx(to {})", self.link.id.short())
    }
}

impl Drop for QuicTx {
    fn drop(&mut self) {
        self.reset(ResetCode::CANCELLED);
    }
}

impl StreamRx for QuicRx {
    async fn recv(&mut self) -> Result<Option<Frame>, StreamError> {
        loop {
            let next = match self.reader.buffered() {
                Ok(None) => {
                    let next = self.reader.next().await;
                    // Not read for each frame of many that came together.
                    self.link.touch();
                    next
                }
                next => next.map_err(FrameReadError::from),
            };
            let Ok(Some(frame)) = next else {
                self.open.end();
                return Ok(next?);
            };
            self.link.count_received_untouched(&frame);
            if frame.kind().service() != Service::Unknown {
                return Ok(Some(frame));
            }
            self.link.metrics.dropped(Dropped::UnknownKind);
        }
    }

    fn expect_many(&mut self) {
        self.reader.widen();
    }

    fn stop(&mut self, reason: ResetCode) {
        let _ = self.reader.source.stop(code(reason));
        self.open.end();
    }
}

impl Drop for QuicRx {
    fn drop(&mut self) {
        self.reader.take_end();
    }
}

/// Frames out of a QUIC stream.
#[derive(Debug)]
pub(crate) struct FrameReader<S> {
    pub(crate) source: S,
    decoder: FrameDecoder,
    /// Where chunks are read into: so many at once.
    space: Box<[Bytes]>,
    /// Read, and not decoded yet: these of `space`.
    filled: Range<usize>,
}

/// Chunks of a lane that are read at once: as many packets, at most.
const LANE_CHUNKS: usize = 32;

/// Why there is no next frame.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameReadError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Proto(#[from] ProtoError),
}

impl From<FrameReadError> for StreamError {
    fn from(error: FrameReadError) -> Self {
        match error {
            FrameReadError::Proto(error) => Self::Proto(error),
            FrameReadError::Read(ReadError::Reset(code)) => Self::Reset(reset_code(code)),
            FrameReadError::Read(ReadError::ConnectionLost(_) | ReadError::ZeroRttRejected) => Self::Lost,
            FrameReadError::Read(ReadError::ClosedStream | ReadError::IllegalOrderedRead) => Self::Finished,
        }
    }
}

impl FrameReader<RecvStream> {
    pub(crate) fn new(source: RecvStream) -> Self {
        Self { source, decoder: FrameDecoder::default(), space: Box::default(), filled: 0..0 }
    }

    /// Reads much at once from now on, as befits a lane.
    pub(crate) fn widen(&mut self) {
        if self.filled.is_empty() {
            self.space = vec![Bytes::new(); LANE_CHUNKS].into();
        }
    }

    /// Reads the end, if that is all that is left and it is here. Whoever has the last frame seldom waits for the end, and quinn
    /// would ask the peer to stop sending what it has long sent: a packet for each call.
    fn take_end(&mut self) {
        let mut end = pin!(self.source.read_chunk(1, true));
        let mut nobody = Context::from_waker(Waker::noop());
        // Anything but the end is left as it is: then the peer is told to stop.
        let _ = end.as_mut().poll(&mut nobody);
    }

    /// The next frame that was read already.
    pub(crate) fn buffered(&mut self) -> Result<Option<Frame>, ProtoError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Some(frame));
            }
            let Some(next) = self.filled.next() else { return Ok(None) };
            self.decoder.feed(std::mem::take(&mut self.space[next]));
        }
    }

    /// The next frame, or `None` at an orderly end. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, FrameReadError> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            let more = if self.space.is_empty() {
                let chunk = self.source.read_chunk(usize::MAX, true).await?;
                chunk.map(|chunk| self.decoder.feed(chunk.bytes))
            } else {
                let read = self.source.read_chunks(&mut self.space).await?;
                read.map(|read| self.filled = 0..read)
            };
            match more {
                Some(()) => {}
                None if self.decoder.pending_bytes() > 0 => {
                    // The end, in the middle of a frame. Reported once.
                    self.decoder = FrameDecoder::default();
                    return Err(ProtoError::Malformed.into());
                }
                None => return Ok(None),
            }
        }
    }
}

pub(crate) fn write_error(error: WriteError) -> StreamError {
    match error {
        WriteError::Stopped(code) => StreamError::Stopped(reset_code(code)),
        WriteError::ConnectionLost(_) | WriteError::ZeroRttRejected => StreamError::Lost,
        WriteError::ClosedStream => StreamError::Finished,
    }
}

pub(crate) fn code(code: ResetCode) -> VarInt {
    VarInt::from_u32(code.0)
}

fn reset_code(code: VarInt) -> ResetCode {
    // Codes past 32 bits are none of ours.
    ResetCode(u32::try_from(code.into_inner()).unwrap_or(u32::MAX))
}

/// Whether the peer has acknowledged everything (or does not care any more).
pub(crate) fn is_acknowledged(stream: &SendStream) -> bool {
    let mut end = pin!(stream.stopped());
    let mut nobody = Context::from_waker(Waker::noop());
    end.as_mut().poll(&mut nobody).is_ready()
}
