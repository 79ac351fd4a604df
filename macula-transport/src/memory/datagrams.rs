//! Datagrams on their way to one node from one peer.

use std::collections::BTreeMap;

use macula_proto::Frame;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Datagrams by time of arrival, so that one that was held back is overtaken. Bounded: when full, the oldest goes.
pub(super) struct Datagrams {
    state: Mutex<State>,
    datagrams_max: usize,
    arrived: Notify,
}

#[derive(Default)]
struct State {
    /// By arrival, then by order of sending.
    under_way: BTreeMap<(Instant, u64), Frame>,
    sent: u64,
}

impl Datagrams {
    pub(super) fn new(datagrams_max: usize) -> Self {
        Self { state: Mutex::default(), datagrams_max, arrived: Notify::new() }
    }

    /// Puts one under way; returns whether another was dropped for it.
    pub(super) fn put(&self, at: Instant, frame: Frame) -> bool {
        let mut state = self.state.lock();
        state.sent += 1;
        let sent = state.sent;
        state.under_way.insert((at, sent), frame);
        let dropped = state.under_way.len() > self.datagrams_max && state.under_way.pop_first().is_some();
        drop(state);
        self.arrived.notify_one();
        dropped
    }

    /// The next one, once it has arrived.
    pub(super) async fn next(&self) -> Frame {
        loop {
            let first = {
                let mut state = self.state.lock();
                match state.under_way.first_entry() {
                    Some(entry) if entry.key().0 <= Instant::now() => return entry.remove(),
                    Some(entry) => Some(entry.key().0),
                    None => None,
                }
            };
            match first {
                None => self.arrived.notified().await,
                Some(at) => tokio::select! {
                    biased;
                    () = self.arrived.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
            }
        }
    }
}
