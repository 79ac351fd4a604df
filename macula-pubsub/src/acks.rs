//! Acknowledgements on their way: what a publisher waits for, and what a subscriber's node has to say.
//!
//! A publisher gives each message that is to be acknowledged a number, and asks each node for it under that number. The
//! node remembers what became of the number, so that it can say so again to a publisher that asks again, and never
//! gives its subscriptions one number twice.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use macula_proto::{NodeId, wire};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::receipt::Outcome;

/// How many numbers of one publisher a node remembers: the last so many.
pub(crate) const REMEMBERED_MAX: usize = 4_096;

/// How many publishers a node remembers numbers of.
const PUBLISHERS_MAX: usize = 1_024;

/// Most acknowledgements in one frame.
const BATCH_MAX: usize = 512;

/// A message that is to be acknowledged, in the publisher's count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Number(pub(crate) u64);

/// What this node, as a publisher, waits for.
#[derive(Debug, Default)]
pub(crate) struct Awaited {
    last: AtomicU64,
    waiting: Mutex<BTreeMap<(NodeId, Number), oneshot::Sender<Outcome>>>,
}

/// One acknowledgement that is waited for. Dropping it gives it up.
#[derive(Debug)]
pub(crate) struct Awaiting {
    awaited: Arc<Awaited>,
    of: (NodeId, Number),
    pub(crate) outcome: oneshot::Receiver<Outcome>,
}

impl Awaited {
    /// The next number.
    pub(crate) fn number(&self) -> Number {
        Number(self.last.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Waits for the acknowledgement of a number by a node.
    pub(crate) fn expect(self: &Arc<Self>, peer: NodeId, number: Number) -> Awaiting {
        let (tell, outcome) = oneshot::channel();
        self.waiting.lock().insert((peer, number), tell);
        Awaiting { awaited: self.clone(), of: (peer, number), outcome }
    }

    /// A node says what became of a number; returns whether somebody waited for it.
    pub(crate) fn settle(&self, peer: NodeId, number: Number, outcome: Outcome) -> bool {
        let waiting = self.waiting.lock().remove(&(peer, number));
        waiting.is_some_and(|tell| tell.send(outcome).is_ok())
    }
}

impl Drop for Awaiting {
    fn drop(&mut self) {
        self.awaited.waiting.lock().remove(&self.of);
    }
}

/// What this node remembers of the numbers that publishers gave it, and has still to say.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    publishers: Mutex<BTreeMap<NodeId, Publisher>>,
    heard: AtomicU64,
    /// Publishers to whom something is to be said, and nobody is saying it. Each at most once.
    unheard: Mutex<VecDeque<NodeId>>,
    settled: Notify,
}

#[derive(Debug, Default)]
struct Publisher {
    epoch: Option<u64>,
    /// The epoch before this one, of which stragglers may come.
    superseded: Option<u64>,
    /// `None`: its subscriptions have it and are not done.
    numbers: BTreeMap<Number, Option<Outcome>>,
    to_say: VecDeque<(Number, Outcome)>,
    /// Somebody is saying it, or is about to.
    saying: bool,
    heard: u64,
}

/// What is known of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// It comes for the first time, as far as is remembered.
    New,
    /// It came, and is not settled.
    Open,
    /// It is settled.
    Settled(Outcome),
}

impl Remembered {
    /// Looks a number up.
    pub(crate) fn know(&self, publisher: NodeId, epoch: u64, number: Number) -> Known {
        let mut publishers = self.publishers.lock();
        let Some(known) = publishers.get_mut(&publisher).filter(|known| known.epoch == Some(epoch)) else {
            return Known::New;
        };
        known.heard = self.heard.fetch_add(1, Ordering::Relaxed);
        match known.numbers.get(&number) {
            None => Known::New,
            Some(None) => Known::Open,
            Some(Some(outcome)) => Known::Settled(*outcome),
        }
    }

    /// The next publisher to whom something is to be said: with [`next_batch`](Self::next_batch), to the end. Cancel-safe.
    pub(crate) async fn next_to_tell(&self) -> NodeId {
        loop {
            if let Some(publisher) = self.try_next_to_tell() {
                return publisher;
            }
            self.settled.notified().await;
        }
    }

    /// The same, if there is one now.
    pub(crate) fn try_next_to_tell(&self) -> Option<NodeId> {
        self.unheard.lock().pop_front()
    }

    /// Remembers a number as open. `false`: it is known already, or of an earlier run of the publisher.
    pub(crate) fn open(&self, publisher: NodeId, epoch: u64, number: Number) -> bool {
        let mut publishers = self.publishers.lock();
        if publishers.len() >= PUBLISHERS_MAX && !publishers.contains_key(&publisher) {
            let oldest = publishers.iter().min_by_key(|(_, known)| known.heard).map(|(id, _)| *id);
            oldest.and_then(|oldest| publishers.remove(&oldest));
        }
        let known = publishers.entry(publisher).or_default();
        known.heard = self.heard.fetch_add(1, Ordering::Relaxed);
        if known.superseded == Some(epoch)
            || (known.epoch == Some(epoch) && known.numbers.contains_key(&number))
        {
            return false;
        }
        if known.epoch != Some(epoch) {
            known.superseded = known.epoch.replace(epoch);
            known.numbers.clear();
            known.to_say.clear();
        }
        known.numbers.insert(number, None);
        if known.numbers.len() > REMEMBERED_MAX {
            known.numbers.pop_first();
        }
        true
    }

    /// A number is settled, or is to be answered again. May be called on any thread.
    pub(crate) fn settle(&self, publisher: NodeId, epoch: u64, number: Number, outcome: Outcome) {
        let mut publishers = self.publishers.lock();
        let Some(known) = publishers.get_mut(&publisher).filter(|known| known.epoch == Some(epoch)) else {
            // It has started again since, or is forgotten.
            return;
        };
        if let Some(open) = known.numbers.get_mut(&number) {
            *open = Some(outcome);
        }
        if known.to_say.len() < REMEMBERED_MAX {
            known.to_say.push_back((number, outcome));
        }
        if !std::mem::replace(&mut known.saying, true) {
            self.unheard.lock().push_back(publisher);
            self.settled.notify_one();
        }
    }

    /// What is to be said to a publisher next; `None` ends the duty to say it.
    pub(crate) fn next_batch(&self, publisher: NodeId) -> Option<wire::PublishAcks> {
        let mut publishers = self.publishers.lock();
        let known = publishers.get_mut(&publisher)?;
        if known.to_say.is_empty() {
            known.saying = false;
            return None;
        }
        let count = known.to_say.len().min(BATCH_MAX);
        let mut acks = wire::PublishAcks { epoch: known.epoch?, ..wire::PublishAcks::default() };
        for (Number(number), outcome) in known.to_say.drain(..count) {
            match outcome {
                Outcome::Taken => acks.taken.push(number),
                Outcome::Lagged => acks.lagged.push(number),
                Outcome::Nobody => acks.nobody.push(number),
                Outcome::Unwanted => acks.unwanted.push(number),
                Outcome::Refused => acks.refused.push(number),
                Outcome::Forgotten => acks.forgotten.push(number),
            }
        }
        Some(acks)
    }

    /// The publisher cannot be told: it asks again.
    pub(crate) fn give_up(&self, publisher: NodeId) {
        if let Some(known) = self.publishers.lock().get_mut(&publisher) {
            known.to_say.clear();
            known.saying = false;
        }
    }
}

/// Every number of a frame with its outcome.
pub(crate) fn read(acks: &wire::PublishAcks) -> impl Iterator<Item = (Number, Outcome)> {
    let lists = [
        (&acks.taken, Outcome::Taken),
        (&acks.lagged, Outcome::Lagged),
        (&acks.nobody, Outcome::Nobody),
        (&acks.unwanted, Outcome::Unwanted),
        (&acks.refused, Outcome::Refused),
        (&acks.forgotten, Outcome::Forgotten),
    ];
    lists
        .into_iter()
        .flat_map(|(numbers, outcome)| numbers.iter().map(move |number| (Number(*number), outcome)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISHER: NodeId = NodeId::from_bytes([1; 32]);

    #[test]
    fn a_number_is_known_from_its_opening_and_said_again_when_asked_again() {
        let remembered = Remembered::default();
        let know = |number| remembered.know(PUBLISHER, 7, Number(number));
        assert_eq!(know(1), Known::New);
        remembered.open(PUBLISHER, 7, Number(1));
        assert_eq!((know(1), know(2)), (Known::Open, Known::New));
        remembered.settle(PUBLISHER, 7, Number(1), Outcome::Taken);
        assert_eq!(remembered.try_next_to_tell(), Some(PUBLISHER));
        assert_eq!(know(1), Known::Settled(Outcome::Taken));
        remembered.settle(PUBLISHER, 7, Number(1), Outcome::Taken);
        assert_eq!(remembered.try_next_to_tell(), None, "it is being said");
        assert_eq!(remembered.next_batch(PUBLISHER).unwrap().taken, [1, 1]);
        assert_eq!(remembered.next_batch(PUBLISHER), None);
        remembered.settle(PUBLISHER, 7, Number(2), Outcome::Nobody);
        remembered.give_up(PUBLISHER);
        remembered.settle(PUBLISHER, 7, Number(3), Outcome::Lagged);
        let acks = remembered.next_batch(PUBLISHER).unwrap();
        assert_eq!(read(&acks).collect::<Vec<_>>(), [(Number(3), Outcome::Lagged)]);
    }

    #[test]
    fn numbers_and_publishers_are_bounded_and_a_new_epoch_begins_anew() {
        let remembered = Remembered::default();
        for number in 1..=REMEMBERED_MAX as u64 + 1 {
            remembered.open(PUBLISHER, 7, Number(number));
        }
        assert_eq!(remembered.know(PUBLISHER, 7, Number(1)), Known::New, "the oldest is forgotten");
        assert_eq!(remembered.know(PUBLISHER, 7, Number(2)), Known::Open);
        assert!(remembered.open(PUBLISHER, 8, Number(1)));
        assert!(!remembered.open(PUBLISHER, 8, Number(1)), "known");
        assert!(!remembered.open(PUBLISHER, 7, Number(9)), "a straggler");
        assert_eq!(remembered.know(PUBLISHER, 8, Number(2)), Known::New);
        remembered.settle(PUBLISHER, 7, Number(2), Outcome::Taken);
        assert_eq!(remembered.try_next_to_tell(), None, "its publisher is gone");
        for n in 0..2 * PUBLISHERS_MAX {
            let mut id = [2; 32];
            id[..8].copy_from_slice(&(n as u64).to_be_bytes());
            remembered.open(NodeId::from_bytes(id), 1, Number(1));
            remembered.know(PUBLISHER, 8, Number(1));
        }
        assert_eq!(remembered.publishers.lock().len(), PUBLISHERS_MAX);
        assert_eq!(
            remembered.know(PUBLISHER, 8, Number(1)),
            Known::Open,
            "the least recently heard go first"
        );
    }

    #[tokio::test]
    async fn only_the_node_that_was_asked_can_answer_and_only_once() {
        let awaited = Arc::new(Awaited::default());
        let number = awaited.number();
        let mut waiting = awaited.expect(PUBLISHER, number);
        let other = NodeId::from_bytes([2; 32]);
        assert!(!awaited.settle(other, number, Outcome::Taken));
        assert!(waiting.outcome.try_recv().is_err());
        assert!(awaited.settle(PUBLISHER, number, Outcome::Taken));
        assert!(!awaited.settle(PUBLISHER, number, Outcome::Lagged));
        assert_eq!((&mut waiting.outcome).await, Ok(Outcome::Taken));
        let given_up = awaited.expect(PUBLISHER, awaited.number());
        let number = given_up.of.1;
        drop(given_up);
        assert!(!awaited.settle(PUBLISHER, number, Outcome::Taken));
        assert!(awaited.waiting.lock().is_empty());
    }
}
