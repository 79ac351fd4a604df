//! Lanes: ordered, long-lived, batched. The queue between whoever sends and the task that writes.

use std::collections::VecDeque;
use std::sync::Arc;

use macula_proto::Frame;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::LaneError;
use crate::batch::FrameBatch;

/// Which of a peer's lanes. Frames of one lane stay in order; lanes do not wait for each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LaneId(pub u8);

impl LaneId {
    /// Control traffic: small and urgent.
    pub const CONTROL: Self = Self(0);
    /// Published messages.
    pub const DATA: Self = Self(1);

    /// How many lanes a peer may open.
    pub const COUNT: usize = 8;
}

/// Makes the queue of one lane. It takes frames until it holds `bytes_max` bytes (a single larger frame is
/// taken when it is empty).
pub fn lane_queue(bytes_max: usize) -> (LaneSender, LaneQueue) {
    let shared = Shared::new(bytes_max, Queued::Whole(VecDeque::new()));
    (LaneSender { shared: shared.clone() }, LaneQueue { shared })
}

/// The same, for a writer that takes bytes: small frames are copied together as they come, by whoever sends them. So a
/// frame's memory is given back where it was taken, and the writer's thread touches it no more.
pub(crate) fn batched_lane_queue(bytes_max: usize) -> (LaneSender, BatchQueue) {
    let shared = Shared::new(bytes_max, Queued::Batched(FrameBatch::default()));
    (LaneSender { shared: shared.clone() }, BatchQueue { shared })
}

/// The sending end of a lane; cheap to clone.
///
/// A frame that was accepted is delivered, in order, unless the connection is lost. When the queue is full,
/// [`try_send`](Self::try_send) gives the frame back and [`send`](Self::send) waits.
#[derive(Clone, Debug)]
pub struct LaneSender {
    shared: Arc<Shared>,
}

/// The draining end of a lane, held by the transport's writer. Dropping it closes the lane.
#[derive(Debug)]
pub struct LaneQueue {
    shared: Arc<Shared>,
}

/// The draining end of a lane whose frames are batched. Dropping it closes the lane.
#[derive(Debug)]
pub(crate) struct BatchQueue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    bytes_max: usize,
    /// Frames arrived, or the last sender may have gone.
    filled: Notify,
    /// Room was made, or the lane closed.
    drained: Notify,
}

#[derive(Debug)]
struct State {
    queued: Queued,
    /// Of all frames that are queued; none has less than one.
    bytes: usize,
    closed: bool,
}

#[derive(Debug)]
enum Queued {
    Whole(VecDeque<Frame>),
    Batched(FrameBatch),
}

impl Shared {
    fn new(bytes_max: usize, queued: Queued) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State { queued, bytes: 0, closed: false }),
            bytes_max,
            filled: Notify::new(),
            drained: Notify::new(),
        })
    }

    fn close(&self) {
        self.state.lock().closed = true;
        self.drained.notify_waiters();
    }
}

impl LaneSender {
    /// Sends, waiting for room while the queue is full. Cancel-safe: a dropped wait sends nothing.
    ///
    /// # Errors
    /// [`LaneError::Closed`] when the connection is gone.
    pub async fn send(&self, mut frame: Frame) -> Result<(), LaneError> {
        loop {
            let drained = self.shared.drained.notified();
            tokio::pin!(drained);
            // Registered before the attempt, so that room made in between is not missed.
            drained.as_mut().enable();
            match self.push(frame) {
                Err(LaneError::Full(back)) => frame = back,
                other => return other,
            }
            drained.await;
        }
    }

    /// Whether the connection is gone.
    pub fn is_closed(&self) -> bool {
        self.shared.state.lock().closed
    }

    /// Bytes waiting to be written.
    pub fn queued_bytes(&self) -> usize {
        self.shared.state.lock().bytes
    }

    pub(crate) fn push(&self, frame: Frame) -> Result<(), LaneError> {
        let mut state = self.shared.state.lock();
        if state.closed {
            return Err(LaneError::Closed(frame));
        }
        let bytes = state.bytes + frame.wire_len();
        if bytes > self.shared.bytes_max && state.bytes > 0 {
            return Err(LaneError::Full(frame));
        }
        let was_empty = state.bytes == 0;
        state.bytes = bytes;
        match &mut state.queued {
            Queued::Whole(frames) => frames.push_back(frame),
            Queued::Batched(batch) => batch.push(frame),
        }
        drop(state);
        if was_empty {
            self.shared.filled.notify_one();
        }
        Ok(())
    }
}

impl LaneQueue {
    /// Waits for frames and moves all of them into `batch`; returns how many.
    pub async fn next_batch(&mut self, batch: &mut Vec<Frame>) -> usize {
        loop {
            let taken = self.take(batch);
            if taken > 0 {
                return taken;
            }
            self.shared.filled.notified().await;
        }
    }

    /// Moves what is there into `batch` without waiting; returns how many frames.
    pub fn take(&mut self, batch: &mut Vec<Frame>) -> usize {
        let mut state = self.shared.state.lock();
        let Queued::Whole(frames) = &mut state.queued else { return 0 };
        let taken = frames.len();
        batch.extend(frames.drain(..));
        state.bytes = 0;
        drop(state);
        if taken > 0 {
            self.shared.drained.notify_waiters();
        }
        taken
    }

    /// Takes no more frames; what is queued can still be taken. Senders see [`LaneError::Closed`].
    pub fn close(&mut self) {
        self.shared.close();
    }

    /// Whether nothing waits to be written.
    pub fn is_empty(&self) -> bool {
        self.shared.state.lock().bytes == 0
    }
}

impl BatchQueue {
    /// Waits for frames, and takes all of them.
    pub(crate) async fn next(&mut self) -> FrameBatch {
        loop {
            let batch = self.take();
            if !batch.is_empty() {
                return batch;
            }
            self.shared.filled.notified().await;
        }
    }

    /// Takes what is there without waiting.
    pub(crate) fn take(&mut self) -> FrameBatch {
        let mut state = self.shared.state.lock();
        let Queued::Batched(batch) = &mut state.queued else { return FrameBatch::default() };
        let taken = std::mem::take(batch);
        state.bytes = 0;
        drop(state);
        if !taken.is_empty() {
            self.shared.drained.notify_waiters();
        }
        taken
    }

    /// Takes no more frames; what is queued can still be taken.
    pub(crate) fn close(&mut self) {
        self.shared.close();
    }
}

impl Drop for BatchQueue {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Drop for LaneQueue {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use macula_proto::{FrameKind, wire};

    use super::*;

    fn frame(n: u32) -> Frame {
        Frame::new(FrameKind::PUBLISH, &wire::LaneOpen { lane: n }, Bytes::from(vec![0; 100])).unwrap()
    }

    #[test]
    fn a_full_queue_gives_the_frame_back() {
        let (sender, mut queue) = lane_queue(150);
        sender.try_send(frame(1)).unwrap();
        assert_eq!(sender.try_send(frame(2)), Err(LaneError::Full(frame(2))));
        let mut batch = Vec::new();
        assert_eq!(queue.take(&mut batch), 1);
        sender.try_send(frame(2)).unwrap();
    }

    #[tokio::test]
    async fn a_waiting_sender_goes_on_when_there_is_room_and_fails_when_closed() {
        let (sender, mut queue) = lane_queue(1);
        sender.send(frame(1)).await.unwrap();
        let waiting = tokio::spawn({
            let sender = sender.clone();
            async move { sender.send(frame(2)).await }
        });
        tokio::task::yield_now().await;
        let mut batch = Vec::new();
        queue.next_batch(&mut batch).await;
        waiting.await.unwrap().unwrap();
        queue.next_batch(&mut batch).await;
        assert_eq!(batch, [frame(1), frame(2)]);
        drop(queue);
        assert_eq!(sender.send(frame(3)).await, Err(LaneError::Closed(frame(3))));
    }
}
