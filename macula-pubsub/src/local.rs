//! This node's subscribers, and delivery to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use macula_proto::{Name, Realm};
use parking_lot::RwLock;
use tokio::time::Instant;

use crate::interest::Want;
use crate::mailbox::{Mailbox, Offer, Parked};
use crate::message::Content;
use crate::{
    LagPolicy, Pattern, Payload, SubscribeError, SubscribeOptions, SubscriptionId, SubscriptionInfo, Trie,
};

#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) id: SubscriptionId,
    pub(crate) realm: Realm,
    pub(crate) want: Want,
    pub(crate) lag: LagPolicy,
    pub(crate) mailbox: Arc<Mailbox>,
}

#[derive(Debug)]
pub(crate) struct LocalTable {
    state: RwLock<State>,
    subscriptions_max: usize,
}

#[derive(Debug, Default)]
struct State {
    realms: BTreeMap<Realm, Trie<SubscriptionId, Arc<Subscriber>>>,
    by_id: BTreeMap<SubscriptionId, Arc<Subscriber>>,
    last_id: u64,
    closed: bool,
}

/// How far a message has come with this node's subscribers.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    /// Subscribers whose queue took it.
    pub(crate) taken: usize,
    /// Copies lost because a queue was full: of this message, or older ones that it pushed out.
    pub(crate) lost: u64,
    /// How many of the lost copies are of this message.
    pub(crate) refused: usize,
    /// Subscribers whose filter does not let it through.
    pub(crate) filtered: u64,
    parked: Vec<Parked>,
}

impl LocalTable {
    pub(crate) fn new(subscriptions_max: usize) -> Self {
        Self { state: RwLock::default(), subscriptions_max }
    }

    pub(crate) fn add(
        &self,
        realm: &Realm,
        pattern: Pattern,
        options: &SubscribeOptions,
    ) -> Result<Arc<Subscriber>, SubscribeError> {
        let mut state = self.state.write();
        if state.closed {
            return Err(SubscribeError::Closed);
        }
        if state.by_id.len() >= self.subscriptions_max {
            return Err(SubscribeError::Full(self.subscriptions_max));
        }
        state.last_id += 1;
        let id = SubscriptionId(state.last_id);
        let mailbox = Arc::new(Mailbox::new(options));
        let want = Want { pattern, filter: options.filter.clone() };
        let subscriber = Subscriber { id, realm: realm.clone(), want, lag: options.lag, mailbox };
        let subscriber = Arc::new(subscriber);
        state.by_id.insert(id, subscriber.clone());
        let trie = state.realms.entry(realm.clone()).or_default();
        trie.insert(&subscriber.want.pattern, id, subscriber.clone());
        Ok(subscriber)
    }

    /// Takes a subscriber out and closes its mailbox. Returns whether it was there.
    pub(crate) fn remove(&self, subscriber: &Subscriber) -> bool {
        let mut state = self.state.write();
        if state.by_id.remove(&subscriber.id).is_none() {
            return false;
        }
        if let Some(trie) = state.realms.get_mut(&subscriber.realm) {
            trie.remove(&subscriber.want.pattern, &subscriber.id);
            if trie.is_empty() {
                state.realms.remove(&subscriber.realm);
            }
        }
        drop(state);
        subscriber.mailbox.close();
        true
    }

    /// Who wants messages of `topic`.
    pub(crate) fn matching(&self, realm: &Realm, topic: &Name) -> Vec<Arc<Subscriber>> {
        let mut found = Vec::new();
        if let Some(trie) = self.state.read().realms.get(realm) {
            trie.matching(topic, |_, subscriber| found.push(subscriber.clone()));
        }
        found
    }

    /// No more subscribers; those that there are receive what is queued and then their end.
    pub(crate) fn close(&self) {
        let mut state = self.state.write();
        state.closed = true;
        state.by_id.values().for_each(|subscriber| subscriber.mailbox.close());
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.read().closed
    }

    pub(crate) fn infos(&self) -> Vec<SubscriptionInfo> {
        self.state.read().by_id.values().map(|subscriber| subscriber.info()).collect()
    }
}

impl Subscriber {
    fn accepts(&self, payload: &Payload) -> bool {
        self.want.filter.as_ref().is_none_or(|filter| filter.accepts(payload))
    }

    fn info(&self) -> SubscriptionInfo {
        let counts = self.mailbox.counts();
        SubscriptionInfo {
            id: self.id,
            realm: self.realm.clone(),
            pattern: self.want.pattern.clone(),
            filter: self.want.filter.clone(),
            lag: self.lag,
            queued: counts.queued,
            queued_bytes: counts.queued_bytes,
            delivered: counts.delivered,
            dropped: counts.lagged,
        }
    }
}

impl Delivery {
    /// Offers a message to each subscriber, without waiting for any.
    pub(crate) fn offer(subscribers: &[Arc<Subscriber>], content: &Content, may_wait: bool) -> Self {
        let mut delivery = Self::default();
        for subscriber in subscribers {
            if !subscriber.accepts(&content.payload) {
                delivery.filtered += 1;
                continue;
            }
            let message = content.to_message(subscriber.id, &subscriber.want.pattern);
            match subscriber.mailbox.offer(message, may_wait) {
                Offer::Taken { evicted } => {
                    delivery.taken += 1;
                    delivery.lost += evicted;
                }
                Offer::Dropped => delivery.refuse(),
                Offer::Gone => {}
                Offer::Parked(parked) => delivery.parked.push(parked),
            }
        }
        delivery
    }

    /// The numbers so far.
    pub(crate) fn tally(&self) -> Self {
        Self { parked: Vec::new(), ..*self }
    }

    /// Waits for the subscribers that had no room, at most until `deadline`.
    pub(crate) async fn settle(mut self, deadline: Instant) -> Self {
        for parked in std::mem::take(&mut self.parked) {
            if parked.settle(deadline).await {
                self.taken += 1;
            } else {
                self.refuse();
            }
        }
        self
    }

    fn refuse(&mut self) {
        self.lost += 1;
        self.refused += 1;
    }
}
