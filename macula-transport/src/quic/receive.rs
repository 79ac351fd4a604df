//! What arrives on a link goes to the handler.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use macula_proto::{Frame, FrameDecoder, FrameKind, ProtoError, Service, wire};
use quinn::{RecvStream, SendStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

use super::link::Link;
use super::stream::{FrameReadError, FrameReader, code, halves};
use super::transport::{Inner, QuicTransport};
use crate::metrics::Dropped;
use crate::{CloseReason, Inbound, LaneId, PeerEvent, ResetCode};

/// Frames of a lane that are handed over in one go.
const LANE_FRAMES_MAX: usize = 64;

/// A handler without its type: one boxed future a link, none a frame.
pub(crate) trait Receiver: Send + Sync {
    fn on_peer(&self, event: PeerEvent);
    fn run(self: Arc<Self>, inner: Arc<Inner>, link: Arc<Link>) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// See [`Receiver`].
pub(crate) struct Handler<H>(pub(crate) H);

impl<H: Inbound<QuicTransport>> Receiver for Handler<H> {
    fn on_peer(&self, event: PeerEvent) {
        self.0.on_peer(event);
    }

    fn run(self: Arc<Self>, inner: Arc<Inner>, link: Arc<Link>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(receive(self, inner, link))
    }
}

/// Serves one link until its connection ends. What was acknowledged to the peer is handed over even then.
async fn receive<H: Inbound<QuicTransport>>(handler: Arc<Handler<H>>, inner: Arc<Inner>, link: Arc<Link>) {
    let mut lanes = JoinSet::new();
    let mut streams = JoinSet::new();
    let connection = &link.connection;
    let lane = |recv| read_uni(handler.clone(), inner.clone(), link.clone(), recv);
    let stream = |(send, recv)| read_bi(handler.clone(), inner.clone(), link.clone(), send, recv);
    loop {
        tokio::select! {
            uni = connection.accept_uni() => match uni {
                Ok(recv) => { lanes.spawn(lane(recv)); }
                Err(_ended) => break,
            },
            bi = connection.accept_bi() => match bi {
                // Boxed, so that its state is not moved about on its way into a task.
                Ok(halves) => { streams.spawn(Box::pin(stream(halves))); }
                Err(_ended) => break,
            },
            datagram = connection.read_datagram() => match datagram {
                Ok(bytes) => on_datagram(&handler.0, &link, bytes),
                Err(_ended) => break,
            },
            Some(done) = lanes.join_next() => close_if_panicked(&link, done),
            Some(done) = streams.join_next() => note_panic(&link, done),
        }
    }
    // The connection has ended, so these return at once: first what is buffered, then the error.
    while let Ok(bytes) = connection.read_datagram().await {
        on_datagram(&handler.0, &link, bytes);
    }
    while let Ok(recv) = connection.accept_uni().await {
        lanes.spawn(lane(recv));
    }
    streams.abort_all();
    let handed_over = async { while lanes.join_next().await.is_some() {} };
    if timeout(inner.config.drain, handed_over).await.is_err() {
        tracing::warn!(peer = %link.id.short(), "lane frames of an ended connection are dropped: the handler is slow");
    }
}

fn on_datagram<H: Inbound<QuicTransport>>(handler: &H, link: &Link, bytes: Bytes) {
    let mut decoder = FrameDecoder::default();
    decoder.feed(bytes);
    match decoder.next_frame() {
        Ok(Some(frame)) if decoder.pending_bytes() == 0 => {
            link.count_received(&frame);
            if is_deliverable(link, &frame) {
                handler.on_datagram(link.id, frame);
            }
        }
        _ => link.metrics.dropped(Dropped::BadFrame),
    }
}

/// Frames that are for no layer above are skipped, and counted.
fn is_deliverable(link: &Link, frame: &Frame) -> bool {
    let known = !matches!(frame.kind().service(), Service::Unknown | Service::Transport);
    if !known {
        link.metrics.dropped(Dropped::UnknownKind);
    }
    known
}

/// A unidirectional stream: a lane, or the peer's goodbye.
async fn read_uni<H: Inbound<QuicTransport>>(
    handler: Arc<Handler<H>>,
    inner: Arc<Inner>,
    link: Arc<Link>,
    recv: RecvStream,
) {
    let mut reader = FrameReader::new(recv);
    let Some(first) = first_frame(&inner, &link, &mut reader).await else { return };
    match first.kind() {
        FrameKind::LANE_OPEN => match claim_lane(&link, &first) {
            Some(lane) => read_lane(&handler.0, &link, lane, reader).await,
            None => broken(&link, "a lane that does not exist, or is open already"),
        },
        FrameKind::GO_AWAY => read_goodbye(&inner, &link, &first, reader).await,
        _ => {
            link.metrics.dropped(Dropped::UnknownKind);
            let _ = reader.source.stop(code(ResetCode::UNKNOWN));
        }
    }
}

async fn read_lane<H: Inbound<QuicTransport>>(
    handler: &H,
    link: &Link,
    lane: LaneId,
    mut reader: FrameReader<RecvStream>,
) {
    reader.widen();
    let pause = Pause { handler, link, lane };
    let mut frames = Vec::new();
    loop {
        let broke = collect(link, &mut reader, &mut frames);
        if !frames.is_empty() {
            handler.on_lane_frames(link.id, lane, &mut frames).await;
            frames.clear();
        } else if broke.is_ok() {
            pause.now();
            match reader.next().await {
                Ok(Some(frame)) => {
                    link.count_received_untouched(&frame);
                    frames.extend(Some(frame).filter(|frame| is_deliverable(link, frame)));
                }
                Ok(None) | Err(FrameReadError::Read(_)) => return,
                Err(FrameReadError::Proto(error)) => return broken(link, &error.to_string()),
            }
        }
        if let Err(error) = broke {
            return broken(link, &error.to_string());
        }
    }
}

/// Adds frames that were read already, as many as are handed over in one go. What comes before an error counts.
fn collect(
    link: &Link,
    reader: &mut FrameReader<RecvStream>,
    frames: &mut Vec<Frame>,
) -> Result<(), ProtoError> {
    while frames.len() < LANE_FRAMES_MAX
        && let Some(frame) = reader.buffered()?
    {
        link.count_received_untouched(&frame);
        if is_deliverable(link, &frame) {
            frames.push(frame);
        }
    }
    Ok(())
}

/// Tells the handler whenever a lane pauses, and in any case when it ends.
struct Pause<'a, H: Inbound<QuicTransport>> {
    handler: &'a H,
    link: &'a Link,
    lane: LaneId,
}

impl<H: Inbound<QuicTransport>> Pause<'_, H> {
    fn now(&self) {
        self.link.touch();
        self.handler.on_lane_pause(self.link.id, self.lane);
    }
}

impl<H: Inbound<QuicTransport>> Drop for Pause<'_, H> {
    fn drop(&mut self) {
        self.now();
    }
}

/// Each lane is opened once.
fn claim_lane(link: &Link, first: &Frame) -> Option<LaneId> {
    let lane = first.header::<wire::LaneOpen>().ok()?.lane;
    let lane = u8::try_from(lane).ok().filter(|lane| usize::from(*lane) < LaneId::COUNT)?;
    let bit = 1 << lane;
    let taken = link.lanes_in.fetch_or(bit, Relaxed) & bit != 0;
    (!taken).then_some(LaneId(lane))
}

async fn read_goodbye(
    inner: &Arc<Inner>,
    link: &Arc<Link>,
    first: &Frame,
    mut reader: FrameReader<RecvStream>,
) {
    let Ok(goodbye) = first.header::<wire::GoAway>() else { return broken(link, "a goodbye that is none") };
    if link.goodbye_seen.swap(true, Relaxed) {
        return broken(link, "a second goodbye");
    }
    inner.begin_drain(link, CloseReason::from_code(u64::from(goodbye.code)));
    // The stream ends when the peer has flushed.
    while let Ok(Some(_)) = reader.next().await {}
    link.peer_drained.cancel();
}

/// A bidirectional stream: the handler's, from its first frame on.
async fn read_bi<H: Inbound<QuicTransport>>(
    handler: Arc<Handler<H>>,
    inner: Arc<Inner>,
    link: Arc<Link>,
    send: SendStream,
    recv: RecvStream,
) {
    let (mut tx, mut rx) = halves(&link, send, FrameReader::new(recv));
    let Some(first) = first_frame(&inner, &link, rx.reader_mut()).await else { return };
    link.count_received(&first);
    match first.kind().service() {
        Service::Unknown | Service::Transport => {
            link.metrics.dropped(Dropped::UnknownKind);
            crate::StreamTx::reset(&mut tx, ResetCode::UNKNOWN);
            crate::StreamRx::stop(&mut rx, ResetCode::UNKNOWN);
        }
        _ => handler.0.on_stream(link.id, first, tx, rx).await,
    }
}

async fn first_frame(inner: &Inner, link: &Link, reader: &mut FrameReader<RecvStream>) -> Option<Frame> {
    match timeout(inner.config.first_frame_timeout, reader.next()).await {
        Ok(Ok(Some(frame))) => return Some(frame),
        Ok(Ok(None) | Err(FrameReadError::Read(_))) => {}
        Ok(Err(FrameReadError::Proto(error))) => broken(link, &error.to_string()),
        Err(_elapsed) => link.metrics.dropped(Dropped::SilentStream),
    }
    None
}

fn broken(link: &Link, what: &str) {
    tracing::info!(peer = %link.id.short(), what, "closing a connection whose peer breaks the protocol");
    link.metrics.dropped(Dropped::BadFrame);
    link.close(CloseReason::Protocol);
}

/// A lane without a reader would fill up for ever; a new connection brings new lanes.
fn close_if_panicked(link: &Link, done: Result<(), JoinError>) {
    if done.as_ref().is_err_and(JoinError::is_panic) {
        link.close(CloseReason::Lost);
    }
    note_panic(link, done);
}

fn note_panic(link: &Link, done: Result<(), JoinError>) {
    if let Err(error) = done
        && error.is_panic()
    {
        tracing::error!(peer = %link.id.short(), %error, "a handler panicked");
    }
}
