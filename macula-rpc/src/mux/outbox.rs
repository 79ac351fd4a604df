//! Frames on their way to a stream, and how far they have got.

use macula_proto::Frame;
use macula_transport::FrameBatch;

/// What is queued for one stream.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    batch: FrameBatch,
    /// Added, and not sent.
    bytes: usize,
    added: u64,
    taken: u64,
}

/// Frames that leave together.
pub(super) struct Leaving {
    pub(super) batch: FrameBatch,
    pub(super) bytes: usize,
}

impl Outbox {
    /// Adds a frame; says which one it is.
    pub(super) fn push(&mut self, frame: Frame) -> u64 {
        self.bytes += frame.wire_len();
        self.batch.push(frame);
        self.added += 1;
        self.added
    }

    /// Takes all that is queued.
    pub(super) fn take(&mut self) -> Option<Leaving> {
        if self.batch.is_empty() {
            return None;
        }
        self.taken = self.added;
        let batch = std::mem::take(&mut self.batch);
        Some(Leaving { bytes: batch.bytes(), batch })
    }

    /// Room that is taken elsewhere until it is [`sent`](Self::sent).
    pub(super) fn reserve(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// So much has left.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Added, and not sent.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits to be taken.
    pub(super) fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Whether the `nth` frame was given to the stream, so that it may have arrived.
    pub(super) const fn was_taken(&self, nth: u64) -> bool {
        nth <= self.taken
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use macula_proto::{FrameKind, wire};

    use super::*;

    #[test]
    fn it_knows_what_was_taken_and_what_was_sent() {
        let frame = Frame::new(FrameKind::CALL_PART, &wire::CallPart {}, Bytes::from(vec![0; 50])).unwrap();
        let mut outbox = Outbox::default();
        assert!(outbox.take().is_none());
        let (first, bytes) = (outbox.push(frame.clone()), frame.wire_len());
        assert!(!outbox.was_taken(first));
        let leaving = outbox.take().unwrap();
        let second = outbox.push(frame);
        assert!(outbox.was_taken(first) && !outbox.was_taken(second));
        assert_eq!((leaving.bytes, outbox.bytes()), (bytes, 2 * bytes));
        outbox.sent(leaving.bytes);
        assert_eq!(outbox.bytes(), bytes);
    }
}
