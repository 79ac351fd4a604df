use std::num::NonZeroUsize;
use std::time::Duration;

use macula_proto::{NodeId, Realm};

use super::*;
use crate::SubscriptionId;
use crate::message::{Content, Envelope, Payload};

fn mailbox(messages: usize, bytes: usize, lag: LagPolicy) -> Arc<Mailbox> {
    let bound = |n| NonZeroUsize::new(n).unwrap();
    let options = SubscribeOptions {
        queue_messages: bound(messages),
        queue_bytes: bound(bytes),
        lag,
        ..Default::default()
    };
    Arc::new(Mailbox::new(&options))
}

fn message(sequence: u64, bytes: usize) -> Message {
    let content = Content {
        realm: Realm::default(),
        topic: "a".parse().unwrap(),
        payload: Payload::new(vec![0; bytes]),
        publisher: NodeId::from_bytes([1; 32]),
        epoch: 1,
        sequence,
        retained_as: 0,
    };
    content.to_message(SubscriptionId(1), &"a".parse().unwrap())
}

fn received(mailbox: &Mailbox) -> Vec<u64> {
    std::iter::from_fn(|| mailbox.try_recv()).map(|message| message.sequence).collect()
}

#[test]
fn drop_oldest_keeps_the_newest_and_counts_the_rest() {
    let mailbox = mailbox(2, 1000, LagPolicy::DropOldest);
    for n in 1..=5 {
        assert!(matches!(mailbox.offer(message(n, 1), true), Offer::Taken { .. }));
    }
    assert_eq!(mailbox.counts().lagged, 3);
    assert_eq!(received(&mailbox), [4, 5]);
}

#[test]
fn the_queue_is_bounded_in_bytes_too() {
    let mailbox = mailbox(100, 10, LagPolicy::DropOldest);
    for n in 1..=4 {
        mailbox.offer(message(n, 4), false);
    }
    assert_eq!(mailbox.counts().queued_bytes, 8);
    mailbox.offer(message(5, 50), false);
    assert_eq!(received(&mailbox), [5], "a message larger than the bound stands alone");
}

#[test]
fn wait_without_time_drops_the_newest() {
    let mailbox = mailbox(1, 1000, LagPolicy::Wait);
    mailbox.offer(message(1, 1), false);
    assert!(matches!(mailbox.offer(message(2, 1), false), Offer::Dropped));
    assert_eq!(mailbox.counts().lagged, 1);
    assert_eq!(received(&mailbox), [1]);
}

#[tokio::test(start_paused = true)]
async fn what_is_parked_is_admitted_in_order_and_not_overtaken() {
    let mailbox = mailbox(1, 1000, LagPolicy::Wait);
    mailbox.offer(message(1, 1), true);
    let Offer::Parked(second) = mailbox.offer(message(2, 1), true) else { panic!("full") };
    let Offer::Parked(third) = mailbox.offer(message(3, 1), true) else { panic!("full") };
    assert!(matches!(mailbox.offer(message(4, 1), false), Offer::Dropped));
    assert_eq!(mailbox.recv().await.unwrap().sequence, 1);
    let deadline = Instant::now() + Duration::from_secs(1);
    assert!(second.settle(deadline).await);
    assert!(!third.settle(deadline).await, "nobody receives: its time runs out");
    assert_eq!(received(&mailbox), [2]);
    assert_eq!(mailbox.counts().lagged, 2);
}

#[tokio::test]
async fn closing_ends_the_receiver_after_what_is_queued() {
    let mailbox = mailbox(1, 1000, LagPolicy::Wait);
    mailbox.offer(message(1, 1), true);
    let Offer::Parked(parked) = mailbox.offer(message(2, 1), true) else { panic!("full") };
    mailbox.close();
    assert!(!parked.settle(Instant::now()).await);
    assert!(matches!(mailbox.offer(message(3, 1), true), Offer::Gone));
    assert_eq!(mailbox.recv().await.unwrap().sequence, 1);
    assert!(mailbox.recv().await.is_none());
}

#[tokio::test]
async fn a_receiver_wakes_for_a_message() {
    let mailbox = mailbox(1, 1000, LagPolicy::DropOldest);
    let waiting = tokio::spawn({
        let mailbox = mailbox.clone();
        async move { mailbox.recv().await }
    });
    tokio::task::yield_now().await;
    mailbox.offer(message(1, 1), false);
    assert_eq!(waiting.await.unwrap().unwrap().sequence, 1);
}

#[test]
fn a_subscriber_is_woken_up_once_for_many_messages_but_before_its_queue_is_full() {
    let mailbox = mailbox(8, 1000, LagPolicy::DropOldest);
    let woken = Woken::default();
    let waker = std::task::Waker::from(Arc::new(woken.clone()));
    let mut context = std::task::Context::from_waker(&waker);
    let mut receiving = Box::pin(mailbox.recv());
    assert!(receiving.as_mut().poll(&mut context).is_pending());
    for n in 1..=3 {
        mailbox.offer_quietly(message(n, 1), false);
        assert!(!woken.take(), "message {n}");
    }
    assert!(mailbox.owe() && !mailbox.owe(), "one wake-up is owed for all");
    mailbox.wake();
    assert!(woken.take() && receiving.as_mut().poll(&mut context).is_ready());
    assert_eq!(received(&mailbox), [2, 3]);
    assert!(mailbox.owe(), "the debt was paid");

    let mut receiving = Box::pin(mailbox.recv());
    assert!(receiving.as_mut().poll(&mut context).is_pending());
    (4..=6).for_each(|n| drop(mailbox.offer_quietly(message(n, 1), false)));
    assert!(!woken.take());
    mailbox.offer_quietly(message(7, 1), false);
    assert!(woken.take(), "half full");
}

/// Whether a waker was used.
#[derive(Clone, Default)]
struct Woken(Arc<AtomicBool>);

impl Woken {
    fn take(&self) -> bool {
        self.0.swap(false, AcqRel)
    }
}

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Release);
    }
}

fn in_envelope(mut message: Message, change: impl FnOnce(&mut Envelope)) -> Message {
    change(Arc::make_mut(&mut message.envelope));
    message
}

fn retained(sequence: u64, publisher: u8) -> Message {
    let message = Message { is_retained: true, ..message(sequence, 1) };
    in_envelope(message, |envelope| envelope.publisher = NodeId::from_bytes([publisher; 32]))
}

/// A message that is also retained, under that number.
fn kept(sequence: u64, retained_as: u64) -> Message {
    Message { retained_as, ..message(sequence, 1) }
}

#[test]
fn retained_values_come_first_and_what_they_say_does_not_come_again() {
    let mailbox = mailbox(10, 1000, LagPolicy::DropOldest);
    mailbox.offer(in_envelope(message(9, 1), |envelope| envelope.topic = "b".parse().unwrap()), false);
    assert_eq!(mailbox.put_first(vec![retained(4, 1), retained(3, 2)]), (2, 0));
    // Older, the same, and another with what the retained one says; then something new.
    for late in [message(2, 1), message(4, 1), kept(5, 4), kept(7, 6), message(8, 1)] {
        assert!(matches!(mailbox.offer(late, false), Offer::Taken { evicted: 0 }));
    }
    assert_eq!(received(&mailbox), [4, 3, 9, 7, 8]);
}

#[test]
fn a_retained_value_is_left_out_where_its_topic_has_news() {
    let mailbox = mailbox(10, 1000, LagPolicy::DropOldest);
    mailbox.offer(message(5, 1), false);
    assert_eq!(mailbox.put_first(vec![retained(4, 1), retained(7, 1)]), (0, 0));
    assert_eq!(received(&mailbox), [5]);
}

#[test]
fn retained_values_without_room_are_counted_and_what_says_the_same_still_comes() {
    let mailbox = mailbox(2, 1000, LagPolicy::DropOldest);
    mailbox.offer(message(5, 1), false);
    assert_eq!(mailbox.put_first(vec![retained(4, 2), retained(4, 3)]), (1, 1));
    assert_eq!(mailbox.counts().lagged, 1);
    let same = Message { is_retained: false, retained_as: 4, ..retained(6, 2) };
    mailbox.offer(same, false);
    assert_eq!(received(&mailbox), [5, 6]);
}

#[test]
fn a_publisher_that_began_anew_is_not_held_back_by_its_retained_value() {
    let mailbox = mailbox(10, 1000, LagPolicy::DropOldest);
    mailbox.put_first(vec![retained(100, 1)]);
    mailbox.offer(in_envelope(message(1, 1), |envelope| envelope.epoch = 2), false);
    assert_eq!(received(&mailbox), [100, 1]);
}
