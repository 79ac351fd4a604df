//! The bounded queue between whoever delivers and one subscriber.
//!
//! ```text
//!   offer ──▶ [ parked ]──▶[ queue ]──▶ recv
//!               Wait only    bounded in messages and bytes
//! ```
//!
//! A message that finds the queue full pushes out the oldest (`DropOldest`), or is parked (`Wait`) until there is
//! room or its time is up. What is parked keeps its place: nothing overtakes it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Release};

use macula_proto::{Name, NodeId};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::{LagPolicy, Message, SubscribeOptions};

/// What became of an offered message.
#[derive(Debug)]
pub(crate) enum Offer {
    /// It is in the queue, or the subscriber has its retained value. So many older ones had to go for it.
    Taken {
        /// Pushed out by this message.
        evicted: u64,
    },
    /// The queue is full and there is no time to wait.
    Dropped,
    /// The subscriber is gone.
    Gone,
    /// It waits for room: [`Parked::settle`] it.
    Parked(Parked),
}

/// A message that waits for room. Dropping this gives the message up.
#[derive(Debug)]
pub(crate) struct Parked {
    mailbox: Arc<Mailbox>,
    ticket: u64,
    admitted: oneshot::Receiver<()>,
}

#[derive(Debug)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
    messages_max: usize,
    bytes_max: usize,
    lag: LagPolicy,
    filled: Notify,
    /// It has messages of which its subscriber was not told, and somebody will.
    is_owed: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Message>,
    queue_bytes: usize,
    parked: VecDeque<Waiting>,
    next_ticket: u64,
    closed: bool,
    counts: Counts,
    /// Retained values that the subscriber has, until something newer of their publisher and topic comes.
    retained: BTreeMap<(NodeId, Name), RetainedMark>,
}

#[derive(Debug)]
struct RetainedMark {
    epoch: u64,
    sequence: u64,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    message: Message,
    admitted: oneshot::Sender<()>,
}

/// How a mailbox has fared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Messages waiting now.
    pub(crate) queued: usize,
    /// Their payloads, in bytes.
    pub(crate) queued_bytes: usize,
    /// Messages that the subscriber took.
    pub(crate) delivered: u64,
    /// Messages lost because the subscriber lagged.
    pub(crate) lagged: u64,
}

impl Mailbox {
    pub(crate) fn new(options: &SubscribeOptions) -> Self {
        Self {
            state: Mutex::default(),
            messages_max: options.queue_messages.get(),
            bytes_max: options.queue_bytes.get(),
            lag: options.lag,
            filled: Notify::new(),
            is_owed: AtomicBool::new(false),
        }
    }

    /// Offers a message; never waits. `may_wait`: whether the publisher allows parking at all.
    pub(crate) fn offer(self: &Arc<Self>, message: Message, may_wait: bool) -> Offer {
        let offer = self.offer_quietly(message, may_wait);
        self.wake();
        offer
    }

    /// The same, but the subscriber is not woken up yet: [`wake`](Self::wake) does that once for many messages. It is woken
    /// up before when the queue gets half full, and when it is full.
    pub(crate) fn offer_quietly(self: &Arc<Self>, message: Message, may_wait: bool) -> Offer {
        let mut state = self.state.lock();
        if state.closed {
            return Offer::Gone;
        }
        if !state.retained.is_empty() && state.has_newer(&message) {
            return Offer::Taken { evicted: 0 };
        }
        if state.parked.is_empty() && self.has_room(&state, message.payload.len()) {
            state.put(message);
            if state.queue.len() == self.messages_max.div_ceil(2) {
                drop(state);
                self.filled.notify_one();
            }
            return Offer::Taken { evicted: 0 };
        }
        let offer = match self.lag {
            LagPolicy::DropOldest => {
                let evicted = self.make_room(&mut state, &message);
                state.put(message);
                Offer::Taken { evicted }
            }
            LagPolicy::Wait if may_wait => Offer::Parked(self.park(&mut state, message)),
            LagPolicy::Wait => {
                state.counts.lagged += 1;
                Offer::Dropped
            }
        };
        drop(state);
        self.wake();
        offer
    }

    /// Notes that somebody is to [`wake`](Self::wake) the subscriber; says whether nobody was yet.
    pub(crate) fn owe(&self) -> bool {
        !self.is_owed.swap(true, AcqRel)
    }

    /// Lets the subscriber look.
    pub(crate) fn wake(&self) {
        // Before: who puts a message from here on owes it anew.
        self.is_owed.store(false, Release);
        self.filled.notify_one();
    }

    /// Puts retained values before everything else, as far as there is room. Those of which a newer message of the same
    /// publisher and topic is queued are left out. Returns how many are queued, and how many found no room.
    pub(crate) fn put_first(&self, messages: Vec<Message>) -> (usize, u64) {
        let mut state = self.state.lock();
        let (mut taken, mut lost) = (0, 0);
        for message in messages.into_iter().rev() {
            if state.queue.iter().any(|queued| is_of_one_source(queued, &message)) {
                continue;
            }
            if state.closed || !state.parked.is_empty() || !self.has_room(&state, message.payload.len()) {
                lost += 1;
                continue;
            }
            let mark = RetainedMark { epoch: message.epoch, sequence: message.sequence };
            state.retained.insert((message.publisher, message.topic.clone()), mark);
            state.queue_bytes += message.payload.len();
            state.queue.push_front(message);
            taken += 1;
        }
        state.counts.lagged += lost;
        drop(state);
        self.filled.notify_one();
        (taken, lost)
    }

    /// Whether a message of so many bytes finds no room now, and how many are queued: less is better.
    pub(crate) fn load(&self, message_bytes: usize) -> (bool, usize) {
        let state = self.state.lock();
        (!state.parked.is_empty() || !self.has_room(&state, message_bytes), state.queue.len())
    }

    /// The next message, once there is one; `None` when closed and empty. Cancel-safe.
    pub(crate) async fn recv(&self) -> Option<Message> {
        loop {
            {
                let mut state = self.state.lock();
                if let Some(message) = self.take(&mut state) {
                    return Some(message);
                }
                if state.closed {
                    return None;
                }
            }
            // There is one receiver, and a notification that finds none waiting is kept for it.
            self.filled.notified().await;
        }
    }

    /// As [`recv`](Self::recv), for up to `messages_max`, which are added to `messages`; returns how many.
    pub(crate) async fn recv_many(&self, messages: &mut Vec<Message>, messages_max: usize) -> usize {
        let before = messages.len();
        loop {
            {
                let mut state = self.state.lock();
                let next = std::iter::from_fn(|| self.take(&mut state));
                messages.extend(next.take(messages_max));
                let taken = messages.len() - before;
                if taken > 0 || state.closed || messages_max == 0 {
                    return taken;
                }
            }
            self.filled.notified().await;
        }
    }

    /// The next message if there is one.
    pub(crate) fn try_recv(&self) -> Option<Message> {
        self.take(&mut self.state.lock())
    }

    /// Takes no more messages. What is queued can still be received; what is parked is given up.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.counts.lagged += state.parked.len() as u64;
        state.parked.clear();
        drop(state);
        self.filled.notify_one();
    }

    pub(crate) fn counts(&self) -> Counts {
        let state = self.state.lock();
        Counts { queued: state.queue.len(), queued_bytes: state.queue_bytes, ..state.counts }
    }

    fn has_room(&self, state: &State, message_bytes: usize) -> bool {
        let bytes = state.queue_bytes + message_bytes;
        // One message larger than the whole bound must not be stuck for ever.
        state.queue.is_empty() || (state.queue.len() < self.messages_max && bytes <= self.bytes_max)
    }

    fn make_room(&self, state: &mut State, message: &Message) -> u64 {
        let mut evicted = 0;
        while !self.has_room(state, message.payload.len()) && state.pop().is_some() {
            evicted += 1;
        }
        state.counts.lagged += evicted;
        evicted
    }

    fn park(self: &Arc<Self>, state: &mut State, message: Message) -> Parked {
        let (admit, admitted) = oneshot::channel();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.parked.push_back(Waiting { ticket, message, admitted: admit });
        Parked { mailbox: self.clone(), ticket, admitted }
    }

    fn take(&self, state: &mut State) -> Option<Message> {
        let message = state.pop()?;
        if let Some(receipt) = &message.receipt {
            receipt.received();
        }
        state.counts.delivered += 1;
        self.admit(state);
        Some(message)
    }

    /// Moves parked messages into the queue while there is room.
    fn admit(&self, state: &mut State) {
        while state.parked.front().is_some_and(|front| self.has_room(state, front.message.payload.len())) {
            let Some(waiting) = state.parked.pop_front() else { return };
            state.put(waiting.message);
            // Whoever parked it may have stopped waiting; the message is in the queue all the same.
            let _ = waiting.admitted.send(());
        }
    }
}

impl State {
    /// Whether the subscriber has a retained value that says the same as this message, or something newer.
    fn has_newer(&mut self, message: &Message) -> bool {
        let source = (message.publisher, message.topic.clone());
        let Some(mark) = self.retained.get(&source) else { return false };
        let is_same = (1..=mark.sequence).contains(&message.retained_as);
        if mark.epoch == message.epoch && (message.sequence <= mark.sequence || is_same) {
            return true;
        }
        self.retained.remove(&source);
        false
    }

    fn put(&mut self, message: Message) {
        self.queue_bytes += message.payload.len();
        self.queue.push_back(message);
    }

    fn pop(&mut self) -> Option<Message> {
        let message = self.queue.pop_front()?;
        self.queue_bytes -= message.payload.len();
        Some(message)
    }
}

impl Parked {
    /// Waits until the message is in the queue, at most until `deadline`. Returns whether it got there.
    pub(crate) async fn settle(mut self, deadline: Instant) -> bool {
        match tokio::time::timeout_at(deadline, &mut self.admitted).await {
            Ok(admitted) => admitted.is_ok(),
            Err(_) => !self.give_up(),
        }
    }

    /// Takes the message out of the line; returns whether it still was there.
    fn give_up(&self) -> bool {
        let mut state = self.mailbox.state.lock();
        let Some(at) = state.parked.iter().position(|waiting| waiting.ticket == self.ticket) else {
            return false;
        };
        state.parked.remove(at);
        state.counts.lagged += 1;
        // A large message may have held up smaller ones.
        self.mailbox.admit(&mut state);
        drop(state);
        self.mailbox.filled.notify_one();
        true
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.give_up();
    }
}

fn is_of_one_source(one: &Message, other: &Message) -> bool {
    one.publisher == other.publisher && one.topic == other.topic
}

#[cfg(test)]
#[path = "mailbox_test.rs"]
mod tests;
