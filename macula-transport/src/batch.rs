//! Frames on their way into a stream: small ones copied together, large payloads as they are.

use bytes::{BufMut as _, Bytes, BytesMut};
use macula_proto::{Frame, FrameDecoder, FrameKind};

/// Small frames are copied together into buffers of at most this size (4 KiB would be enough, more is no better).
const BUFFER_BYTES_MAX: usize = 16 * 1024;
/// The first buffer of a batch has room for so much, because most batches are short. It grows.
const BUFFER_BYTES_MIN: usize = 1024;
/// Payloads from this size on are not copied.
pub(crate) const COPY_BYTES_MAX: usize = 4 * 1024;

/// Frames that leave together, encoded one behind the other: whoever adds one copies it, and nothing of it is left with
/// whoever sends them. See [`StreamTx::send_batch`](crate::StreamTx::send_batch).
///
/// ```
/// use bytes::Bytes;
/// use macula_proto::{Frame, FrameKind, wire};
/// use macula_transport::FrameBatch;
///
/// let frame = Frame::new(FrameKind::CALL_PART, &wire::CallPart {}, Bytes::from_static(b"one"))?;
/// let mut batch = FrameBatch::default();
/// batch.push(frame.clone());
/// batch.push(frame.clone());
/// assert_eq!(batch.bytes(), 2 * frame.wire_len());
/// assert_eq!(batch.into_frames(), [frame.clone(), frame]);
/// # Ok::<(), macula_proto::ProtoError>(())
/// ```
#[derive(Debug, Default)]
pub struct FrameBatch {
    small: BytesMut,
    chunks: Vec<Bytes>,
    counts: Vec<Count>,
}

/// Frames of one kind in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) kind: FrameKind,
    pub(crate) frames: u64,
    pub(crate) bytes: usize,
}

impl FrameBatch {
    /// Adds a frame behind the others.
    pub fn push(&mut self, frame: Frame) {
        self.count(&frame);
        let large = frame.payload().len() >= COPY_BYTES_MAX;
        let copied = if large { frame.head().len() } else { frame.wire_len() };
        if self.small.len() + copied > BUFFER_BYTES_MAX {
            self.seal();
        }
        if self.small.capacity() == 0 {
            let room = if self.chunks.is_empty() { BUFFER_BYTES_MIN } else { BUFFER_BYTES_MAX };
            self.small.reserve(room.max(copied));
        }
        if large {
            self.small.put_slice(frame.head());
            self.seal();
            self.chunks.push(frame.into_payload());
        } else {
            frame.write_to(&mut self.small);
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Size of all of them on the wire, in bytes.
    pub fn bytes(&self) -> usize {
        self.counts.iter().map(|count| count.bytes).sum()
    }

    /// The frames, cut apart again.
    pub fn into_frames(self) -> Vec<Frame> {
        let (mut decoder, mut frames) = (FrameDecoder::default(), Vec::new());
        for chunk in self.into_chunks() {
            decoder.feed(chunk);
            while let Ok(Some(frame)) = decoder.next_frame() {
                frames.push(frame);
            }
        }
        frames
    }

    /// What is in it, by kind.
    pub(crate) fn counts(&self) -> &[Count] {
        &self.counts
    }

    /// Its bytes, in order.
    pub(crate) fn into_chunks(mut self) -> Vec<Bytes> {
        self.seal();
        self.chunks
    }

    fn count(&mut self, frame: &Frame) {
        let (kind, bytes) = (frame.kind(), frame.wire_len());
        match self.counts.iter_mut().find(|count| count.kind == kind) {
            Some(count) => (count.frames, count.bytes) = (count.frames + 1, count.bytes + bytes),
            // A lane carries frames of few kinds.
            None => self.counts.push(Count { kind, frames: 1, bytes }),
        }
    }

    fn seal(&mut self) {
        if !self.small.is_empty() {
            self.chunks.push(std::mem::take(&mut self.small).freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use macula_proto::wire;

    use super::*;

    fn frame(payload_bytes: usize) -> Frame {
        Frame::new(FrameKind::PUBLISH, &wire::LaneOpen { lane: 1 }, Bytes::from(vec![7; payload_bytes]))
            .unwrap()
    }

    #[test]
    fn small_frames_share_a_buffer_and_large_payloads_are_not_copied() {
        let mut batch = FrameBatch::default();
        let large = frame(COPY_BYTES_MAX);
        for frame in [frame(10), frame(10), large.clone(), frame(10)] {
            batch.push(frame);
        }
        let bytes = 3 * frame(10).wire_len() + large.wire_len();
        assert_eq!(batch.counts(), [Count { kind: FrameKind::PUBLISH, frames: 4, bytes }]);
        let chunks = batch.into_chunks();
        assert_eq!(chunks.len(), 3);
        assert_eq!(chunks[1].as_ptr(), large.payload().as_ptr());
    }

    #[test]
    fn buffers_stay_within_their_size() {
        let mut batch = FrameBatch::default();
        (0..100).for_each(|_| batch.push(frame(1_000)));
        let chunks = batch.into_chunks();
        assert!(chunks.iter().all(|chunk| chunk.len() <= BUFFER_BYTES_MAX));
        assert_eq!(chunks.iter().map(Bytes::len).sum::<usize>(), frame(1_000).wire_len() * 100);
    }
}
