//! A subscriber's handle.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use macula_dht::{Announced, DirectoryError};
use macula_proto::Realm;

use crate::local::Subscriber;
use crate::message::Content;
use crate::{Filter, Group, LagPolicy, Message, Pattern};

/// Which subscription; unique within one node's run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SubscriptionId(pub u64);

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A live subscription. Dropping it ends it: nothing more is queued from that moment; its announcement is taken
/// back in the background.
pub struct Subscription {
    subscriber: Arc<Subscriber>,
    pub(crate) announced: Announced,
    pub(crate) retained: RetainedReport,
    home: Arc<dyn Home>,
}

/// What became of the retained values for a new subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetainedReport {
    /// So many wait to be received.
    pub queued: usize,
    /// So many found no room in the queue.
    pub lost: u64,
    /// So many look-ups failed or took too long: there may be more values.
    pub failed: usize,
}

/// One subscription, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionInfo {
    /// Which.
    pub id: SubscriptionId,
    /// In which realm.
    pub realm: Realm,
    /// What it wants.
    pub pattern: Pattern,
    /// What it wants of that.
    pub filter: Option<Filter>,
    /// The queue group that it is in.
    pub group: Option<Group>,
    /// What happens when it lags.
    pub lag: LagPolicy,
    /// Messages waiting to be received.
    pub queued: usize,
    /// Their payloads, in bytes.
    pub queued_bytes: usize,
    /// Messages it has received.
    pub delivered: u64,
    /// Messages it lost because it lagged.
    pub dropped: u64,
}

/// Where a subscription is at home, so that it can leave.
pub(crate) trait Home: Send + Sync {
    /// It is gone: deliver nothing more to it. Must not block.
    fn leave(&self, subscriber: &Subscriber);

    /// Waits until its announcement is taken back.
    fn left<'a>(&'a self, subscriber: &'a Subscriber) -> Left<'a>;
}

pub(crate) type Left<'a> = Pin<Box<dyn Future<Output = Result<(), DirectoryError>> + Send + 'a>>;

impl Subscription {
    pub(crate) fn new(subscriber: Arc<Subscriber>, home: Arc<dyn Home>) -> Self {
        Self { subscriber, announced: Announced::default(), retained: RetainedReport::default(), home }
    }

    /// The next message, in each publisher's order on each topic. `None` once the node shut down and everything
    /// queued was received. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Message> {
        self.subscriber.mailbox.recv().await
    }

    /// The next messages, as [`recv`](Self::recv) would return them one by one: waits until there is one, and adds all that are
    /// queued to `messages`, at most `messages_max`. Returns how many; zero stands for the end. Cancel-safe.
    ///
    /// For subscribers of many messages a second: the queue is locked once for all of them.
    pub async fn recv_many(&mut self, messages: &mut Vec<Message>, messages_max: usize) -> usize {
        self.subscriber.mailbox.recv_many(messages, messages_max).await
    }

    /// The next message if one is queued.
    pub fn try_recv(&mut self) -> Option<Message> {
        self.subscriber.mailbox.try_recv()
    }

    /// Which subscription this is.
    pub fn id(&self) -> SubscriptionId {
        self.subscriber.id
    }

    /// What it wants.
    pub fn pattern(&self) -> &Pattern {
        &self.subscriber.want.pattern
    }

    /// What it wants of that; `None`: everything.
    pub fn filter(&self) -> Option<&Filter> {
        self.subscriber.want.filter.as_ref()
    }

    /// The queue group that it is in.
    pub fn group(&self) -> Option<&Group> {
        self.subscriber.want.group.as_ref()
    }

    /// In which realm.
    pub fn realm(&self) -> &Realm {
        &self.subscriber.realm
    }

    /// What became of the announcement: who holds it, and how many watching publishers may not know yet.
    pub fn announced(&self) -> Announced {
        self.announced
    }

    /// What became of the retained values, if it was made
    /// [with them](crate::PubSub::subscribe_with_retained).
    pub fn retained(&self) -> RetainedReport {
        self.retained
    }

    pub(crate) fn put_retained(&mut self, values: &[Content], failed: usize) {
        let (queued, lost) = self.subscriber.put_retained(values);
        self.retained = RetainedReport { queued, lost, failed };
    }

    /// How many messages were lost because this subscriber lagged.
    pub fn lagged(&self) -> u64 {
        self.subscriber.mailbox.counts().lagged
    }

    /// Ends the subscription and waits until its announcement is taken back.
    ///
    /// # Errors
    /// Why the directory could not be told yet. It is tried again in the background; nothing is delivered
    /// any more in any case.
    pub async fn unsubscribe(self) -> Result<(), DirectoryError> {
        self.home.leave(&self.subscriber);
        self.home.left(&self.subscriber).await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.home.leave(&self.subscriber);
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subscription({}, {} in {})", self.id(), self.pattern(), self.realm())
    }
}
