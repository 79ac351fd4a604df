//! A pipe: reliable, ordered, bounded, one way. Each lane is one, each stream two.
//!
//! ```text
//!   PipeTx ── send: waits while the window is full ──►│ item │ item │ item │── recv: not before it arrived ──► PipeRx
//!             ◄──────────────── stop, one trip later ─┴──────┴──────┴──────┴─ reset, one trip later ─►
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use macula_proto::Frame;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection::End;
use crate::{Dropped, ResetCode, StreamError};

/// Makes a pipe from `sender`'s end of a connection to the other. At most `window_bytes` are under way, or one
/// larger frame.
pub(super) fn pipe(sender: &End, window_bytes: usize) -> (PipeTx, PipeRx) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State::default()),
        window_bytes,
        arrived: Notify::new(),
        drained: Notify::new(),
    });
    let tx = PipeTx { end: sender.clone(), shared: shared.clone(), open: true };
    let rx = PipeRx { end: sender.other(), shared, open: true };
    (tx, rx)
}

/// Where frames go in. Dropped before `finish`, it resets the pipe.
pub(super) struct PipeTx {
    end: End,
    shared: Arc<Shared>,
    /// Neither finished nor reset.
    open: bool,
}

/// Where frames come out. Dropped before the end, it stops the pipe.
pub(super) struct PipeRx {
    end: End,
    shared: Arc<Shared>,
    /// Neither read to the end, nor seen reset, nor stopped.
    open: bool,
}

/// Tells whether a pipe is empty.
pub(super) struct PipeProbe(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    window_bytes: usize,
    /// Something is under way to the receiver. One waits: the receiver.
    arrived: Notify,
    /// Room was made, or the receiver stopped. One waits: the sender.
    drained: Notify,
}

#[derive(Default)]
struct State {
    /// With the time of arrival, which never decreases.
    items: VecDeque<(Instant, Item)>,
    bytes: usize,
    /// When the last item arrives.
    latest: Option<Instant>,
    /// When the sender knows that all has arrived.
    acknowledged: Option<Instant>,
    reset: Option<(Instant, ResetCode)>,
    stopped: Option<(Instant, ResetCode)>,
}

enum Item {
    Frame(Frame),
    End,
}

/// What the receiver finds.
enum Look {
    Item(Item),
    Reset(ResetCode),
    Wait(Option<Instant>),
    /// Something should be here but the network does not let it through.
    Stalled,
}

impl PipeTx {
    /// Sends, waiting while the window is full.
    pub(super) async fn send(&mut self, frame: Frame) -> Result<(), StreamError> {
        if !self.open {
            return Err(StreamError::Finished);
        }
        let end = self.end.clone();
        loop {
            if end.is_closed() {
                return Err(StreamError::Lost);
            }
            let stopped = self.shared.state.lock().stopped;
            if let Some((at, code)) = stopped
                && at <= Instant::now()
                && end.hears_peer()
            {
                return Err(StreamError::Stopped(code));
            }
            if self.push(&frame) {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = end.closed() => {}
                () = self.shared.drained.notified() => {}
                () = heard(&end, stopped.map(|(at, _)| at)) => {}
            }
        }
    }

    /// Puts a frame under way if there is room.
    fn push(&self, frame: &Frame) -> bool {
        let bytes = frame.wire_len();
        if !self.shared.has_room(bytes) {
            return false;
        }
        let at = self.end.departure(bytes);
        self.end.count_sent(frame);
        self.shared.put(at, bytes, Item::Frame(frame.clone()));
        true
    }

    /// No more frames will come.
    pub(super) fn finish(&mut self) -> Result<(), StreamError> {
        if !self.open {
            return Err(StreamError::Finished);
        }
        if self.end.is_closed() {
            return Err(StreamError::Lost);
        }
        self.open = false;
        let at = self.shared.put(self.end.departure(1), 0, Item::End);
        self.shared.state.lock().acknowledged = Some(at + self.end.other().trip());
        Ok(())
    }

    /// Gives up: the receiver sees the code one trip later. After `finish` it is too late for that.
    pub(super) fn reset(&mut self, code: ResetCode) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        // A dead node tells nobody.
        if self.end.is_closed() {
            return;
        }
        let at = Instant::now() + self.end.trip();
        self.shared.state.lock().reset.get_or_insert((at, code));
        self.shared.arrived.notify_one();
    }

    /// Waits until the receiver stopped, or all has arrived after `finish`.
    pub(super) async fn closed(&mut self) -> Result<(), StreamError> {
        loop {
            let (stopped, acknowledged, was_reset) = {
                let state = self.shared.state.lock();
                (state.stopped, state.acknowledged, state.reset.is_some())
            };
            if was_reset {
                return Err(StreamError::Finished);
            }
            let next = match (stopped, acknowledged) {
                (Some((at, code)), Some(done)) if at <= done => Some((at, Err(StreamError::Stopped(code)))),
                (_, Some(done)) => Some((done, Ok(()))),
                (Some((at, code)), None) => Some((at, Err(StreamError::Stopped(code)))),
                (None, None) => None,
            };
            tokio::select! {
                biased;
                // What is known already counts, even on a connection that is gone by now.
                () = heard(&self.end, next.as_ref().map(|(at, _)| *at)) => {
                    if let Some((_, outcome)) = next {
                        return outcome;
                    }
                }
                () = self.end.closed() => return Err(StreamError::Lost),
                () = self.shared.drained.notified() => {}
            }
        }
    }

    /// Cancelled when the connection takes nothing new.
    pub(super) fn draining(&self) -> CancellationToken {
        self.end.draining_token()
    }

    /// For asking later whether everything was taken out.
    pub(super) fn probe(&self) -> PipeProbe {
        PipeProbe(self.shared.clone())
    }
}

impl Drop for PipeTx {
    fn drop(&mut self) {
        if self.open {
            self.reset(ResetCode::CANCELLED);
        }
    }
}

impl PipeRx {
    /// The next frame, once it has arrived; `None` after the last.
    pub(super) async fn recv(&mut self) -> Result<Option<Frame>, StreamError> {
        if !self.open {
            return self.after_the_end();
        }
        loop {
            // What has arrived is handed out even if the connection ended meanwhile.
            let until = match self.look() {
                Look::Item(Item::Frame(frame)) => {
                    self.end.count_received(&frame);
                    return Ok(Some(frame));
                }
                Look::Item(Item::End) => {
                    self.open = false;
                    return Ok(None);
                }
                Look::Reset(code) => {
                    self.open = false;
                    return Err(StreamError::Reset(code));
                }
                Look::Stalled => {
                    self.stall().await?;
                    continue;
                }
                Look::Wait(until) => until,
            };
            if self.end.is_closed() {
                return Err(StreamError::Lost);
            }
            tokio::select! {
                biased;
                () = self.end.closed() => {}
                () = self.shared.arrived.notified() => {}
                () = sleep_until(until) => {}
            }
        }
    }

    /// Tells the sender that nobody reads any more.
    pub(super) fn stop(&mut self, code: ResetCode) {
        if !self.open {
            return;
        }
        self.open = false;
        // A dead node tells nobody.
        if self.end.is_closed() {
            return;
        }
        let at = Instant::now() + self.end.trip();
        let mut state = self.shared.state.lock();
        state.items.clear();
        state.bytes = 0;
        state.stopped = Some((at, code));
        drop(state);
        self.shared.drained.notify_one();
    }

    /// Counts something thrown away, at the receiver.
    pub(super) fn count_dropped(&self, what: Dropped) {
        self.end.count_dropped(what);
    }

    fn after_the_end(&self) -> Result<Option<Frame>, StreamError> {
        let state = self.shared.state.lock();
        match (state.reset, state.stopped) {
            (_, Some(_)) => Err(StreamError::Finished),
            (Some((_, code)), None) => Err(StreamError::Reset(code)),
            (None, None) => Ok(None),
        }
    }

    fn look(&self) -> Look {
        let now = Instant::now();
        let delivers = self.end.hears_peer();
        let mut state = self.shared.state.lock();
        let reset_at = state.reset.map(|(at, _)| at);
        let item_at = state.items.front().map(|(at, _)| *at);
        let Some(first) = [reset_at, item_at].into_iter().flatten().min() else { return Look::Wait(None) };
        if first > now {
            return Look::Wait(Some(first));
        }
        if !delivers {
            return Look::Stalled;
        }
        if let Some((_, code)) = state.reset.filter(|(at, _)| *at <= now) {
            state.items.clear();
            state.bytes = 0;
            return Look::Reset(code);
        }
        let Some((_, item)) = state.items.pop_front() else { return Look::Wait(Some(first)) };
        if let Item::Frame(frame) = &item {
            state.bytes -= frame.wire_len();
        }
        drop(state);
        self.shared.drained.notify_one();
        Look::Item(item)
    }

    /// Waits for the network to let things through; what was due then takes another trip, being sent again.
    async fn stall(&self) -> Result<(), StreamError> {
        tokio::select! {
            biased;
            () = self.end.closed() => return Err(StreamError::Lost),
            () = self.end.until_hears_peer() => {}
        }
        let at = Instant::now() + self.end.other().trip();
        let mut state = self.shared.state.lock();
        if let Some((item_at, _)) = state.items.front_mut() {
            *item_at = at.max(*item_at);
        }
        if let Some((reset_at, _)) = &mut state.reset {
            *reset_at = at.max(*reset_at);
        }
        Ok(())
    }
}

impl Drop for PipeRx {
    fn drop(&mut self) {
        self.stop(ResetCode::CANCELLED);
    }
}

impl PipeProbe {
    pub(super) fn is_empty(&self) -> bool {
        self.0.state.lock().items.is_empty()
    }
}

impl Shared {
    /// Whether there is room for so much, or nothing at all under way.
    fn has_room(&self, bytes: usize) -> bool {
        let state = self.state.lock();
        state.bytes == 0 || state.bytes + bytes <= self.window_bytes
    }

    /// Puts an item under way, behind the others; returns when it arrives.
    fn put(&self, at: Instant, bytes: usize, item: Item) -> Instant {
        let mut state = self.state.lock();
        let at = state.latest.map_or(at, |latest| latest.max(at));
        state.latest = Some(at);
        if state.stopped.is_none() {
            state.bytes += bytes;
            state.items.push_back((at, item));
        }
        drop(state);
        self.arrived.notify_one();
        at
    }
}

/// Waits until a point in time, and then until the peer can be heard; for ever without one.
async fn heard(end: &End, at: Option<Instant>) {
    sleep_until(at).await;
    end.until_hears_peer().await;
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) if at > Instant::now() => tokio::time::sleep_until(at).await,
        Some(_) => {}
        None => std::future::pending().await,
    }
}
