use std::num::NonZeroUsize;
use std::time::Duration;

use macula_proto::{NodeId, Realm};

use super::*;
use crate::SubscriptionId;
use crate::message::{Content, Payload};

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
