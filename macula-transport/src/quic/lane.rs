//! Lanes over QUIC: a unidirectional stream each, written in batches.

use std::pin::pin;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use macula_proto::{Frame, FrameKind, wire};
use quinn::{SendStream, WriteError};

use super::link::Link;
use crate::{LaneId, LaneQueue};

/// Small frames are copied together into buffers of at most this size (FINDINGS: 4 KiB is enough, 16 KiB no worse).
const BATCH_BYTES_MAX: usize = 16 * 1024;
/// Payloads from this size on are not copied.
pub(crate) const COPY_BYTES_MAX: usize = 4 * 1024;

/// Writes one lane until its connection ends or drains. Once it is drained, everything was acknowledged.
pub(crate) async fn write(link: Arc<Link>, lane: LaneId, mut queue: LaneQueue) {
    if let Err(error) = write_all(&link, lane, &mut queue).await {
        tracing::debug!(peer = %link.id.short(), lane = lane.0, %error, "a lane ended early");
    }
}

async fn write_all(link: &Link, lane: LaneId, queue: &mut LaneQueue) -> Result<(), WriteError> {
    let mut stream = link.connection.open_uni().await?;
    // Control goes first; the others share what is left evenly.
    let _ = stream.set_priority(i32::from(lane == LaneId::CONTROL));
    let open = Frame::new(FrameKind::LANE_OPEN, &wire::LaneOpen { lane: u32::from(lane.0) }, Bytes::new())
        .expect("a header of two bytes is within the limit");
    let mut batch = Batch::default();
    batch.push(open);
    let mut frames = Vec::new();
    let mut closed = pin!(link.connection.closed());
    loop {
        batch.write_to(&mut stream).await?;
        tokio::select! {
            biased;
            _ = queue.next_batch(&mut frames), if !link.draining.is_cancelled() => {}
            error = &mut closed => return Err(error.into()),
            () = link.draining.cancelled() => {
                queue.close();
                queue.take(&mut frames);
            }
        }
        if frames.is_empty() {
            break;
        }
        link.lane_written();
        for frame in frames.drain(..) {
            link.count_sent_on_lane(&frame);
            batch.push(frame);
        }
    }
    // Drained: the last frames are written; now they must arrive.
    let _ = stream.finish();
    let _ = stream.stopped().await;
    Ok(())
}

/// Frames on their way into a stream: small ones copied together, large payloads as they are.
#[derive(Debug, Default)]
struct Batch {
    small: BytesMut,
    chunks: Vec<Bytes>,
}

impl Batch {
    fn push(&mut self, frame: Frame) {
        let large = frame.payload().len() >= COPY_BYTES_MAX;
        let copied = if large { frame.head().len() } else { frame.wire_len() };
        if self.small.len() + copied > BATCH_BYTES_MAX {
            self.seal();
        }
        if large {
            self.small.put_slice(frame.head());
            self.seal();
            self.chunks.push(frame.into_payload());
        } else {
            frame.write_to(&mut self.small);
        }
    }

    fn seal(&mut self) {
        if !self.small.is_empty() {
            self.chunks.push(self.small.split().freeze());
        }
    }

    async fn write_to(&mut self, stream: &mut SendStream) -> Result<(), WriteError> {
        self.seal();
        stream.write_all_chunks(&mut self.chunks).await?;
        self.chunks.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload_bytes: usize) -> Frame {
        Frame::new(FrameKind::PUBLISH, &wire::LaneOpen { lane: 1 }, Bytes::from(vec![7; payload_bytes]))
            .unwrap()
    }

    #[test]
    fn small_frames_share_a_buffer_and_large_payloads_are_not_copied() {
        let mut batch = Batch::default();
        let large = frame(COPY_BYTES_MAX);
        for frame in [frame(10), frame(10), large.clone(), frame(10)] {
            batch.push(frame);
        }
        batch.seal();
        assert_eq!(batch.chunks.len(), 3);
        assert_eq!(batch.chunks[1].as_ptr(), large.payload().as_ptr());
    }

    #[test]
    fn buffers_stay_within_their_size() {
        let mut batch = Batch::default();
        (0..100).for_each(|_| batch.push(frame(1_000)));
        batch.seal();
        assert!(batch.chunks.iter().all(|chunk| chunk.len() <= BATCH_BYTES_MAX));
        assert_eq!(batch.chunks.iter().map(Bytes::len).sum::<usize>(), frame(1_000).wire_len() * 100);
    }
}
