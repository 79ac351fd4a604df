//! This node's subscribers, and delivery to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};

use macula_proto::{Name, Realm};
use parking_lot::RwLock;
use tokio::time::Instant;

use crate::group::{GROUPS_MAX, Scope};
use crate::interest::Want;
use crate::mailbox::{Mailbox, Offer, Parked};
use crate::message::Content;
use crate::receipt::{Outcome, Tracker};
use crate::{
    Group, LagPolicy, Message, Pattern, Payload, SubscribeError, SubscribeOptions, SubscriptionId,
    SubscriptionInfo, Trie,
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
    /// Counts changes of who subscribes.
    generation: AtomicU64,
    subscriptions_max: usize,
}

#[derive(Debug, Default)]
struct State {
    realms: BTreeMap<Realm, Trie<SubscriptionId, Arc<Subscriber>>>,
    by_id: BTreeMap<SubscriptionId, Arc<Subscriber>>,
    /// How many subscriptions there are in each queue group.
    groups: BTreeMap<(Realm, Group), usize>,
    /// How many subscriptions in no queue group there are of each pattern.
    plain: BTreeMap<(Realm, Pattern), usize>,
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
    /// Groups of which a member was offered it.
    pub(crate) groups: usize,
    /// Subscribers whose filter does not let it through.
    pub(crate) filtered: u64,
    parked: Vec<Parked>,
}

/// A message that is offered.
struct Offering<'a> {
    content: &'a Content,
    may_wait: bool,
    tracker: Option<&'a Tracker>,
}

impl LocalTable {
    pub(crate) fn new(subscriptions_max: usize) -> Self {
        Self { state: RwLock::default(), generation: AtomicU64::new(0), subscriptions_max }
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
        if let Some(group) = &options.group {
            let name = (realm.clone(), group.clone());
            if state.groups.len() >= GROUPS_MAX && !state.groups.contains_key(&name) {
                return Err(SubscribeError::Groups);
            }
            *state.groups.entry(name).or_insert(0) += 1;
        } else {
            *state.plain.entry((realm.clone(), pattern.clone())).or_insert(0) += 1;
        }
        state.last_id += 1;
        let id = SubscriptionId(state.last_id);
        let mailbox = Arc::new(Mailbox::new(options));
        let want = Want { pattern, filter: options.filter.clone(), group: options.group.clone() };
        let subscriber = Subscriber { id, realm: realm.clone(), want, lag: options.lag, mailbox };
        let subscriber = Arc::new(subscriber);
        state.by_id.insert(id, subscriber.clone());
        let trie = state.realms.entry(realm.clone()).or_default();
        trie.insert(&subscriber.want.pattern, id, subscriber.clone());
        self.generation.fetch_add(1, Release);
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
        state.leave_group(subscriber);
        self.generation.fetch_add(1, Release);
        drop(state);
        subscriber.mailbox.close();
        true
    }

    /// The groups of these subscribers of which a member's filter lets a message through.
    pub(crate) fn groups<'s>(subscribers: &'s [Arc<Subscriber>], payload: &Payload) -> BTreeSet<&'s Group> {
        let willing = subscribers.iter().filter(|subscriber| subscriber.want.group.is_some());
        let willing = willing.filter(|subscriber| subscriber.accepts(payload));
        willing.filter_map(|subscriber| subscriber.want.group.as_ref()).collect()
    }

    /// While this stands, [`matching`](Self::matching) says the same. Read it first.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Acquire)
    }

    /// Who wants messages of `topic`.
    pub(crate) fn matching(&self, realm: &Realm, topic: &Name) -> Vec<Arc<Subscriber>> {
        let mut found = Vec::new();
        if let Some(trie) = self.state.read().realms.get(realm) {
            trie.matching(topic, |_, subscriber| found.push(subscriber.clone()));
        }
        found
    }

    /// Whether a subscription in no queue group has this very pattern.
    pub(crate) fn has_plain(&self, realm: &Realm, pattern: &Pattern) -> bool {
        self.state.read().plain.contains_key(&(realm.clone(), pattern.clone()))
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

impl State {
    fn leave_group(&mut self, subscriber: &Subscriber) {
        let realm = subscriber.realm.clone();
        match &subscriber.want.group {
            Some(group) => count_down(&mut self.groups, &(realm, group.clone())),
            None => count_down(&mut self.plain, &(realm, subscriber.want.pattern.clone())),
        }
    }
}

fn count_down<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Subscriber {
    /// Queues retained values that its filter lets through. Returns how many are queued, and how many found no room.
    pub(crate) fn put_retained(&self, values: &[Content]) -> (usize, u64) {
        let values = values.iter().filter(|content| self.accepts(&content.payload));
        let messages = values
            .map(|content| Message { is_retained: true, ..content.to_message(self.id, &self.want.pattern) });
        self.mailbox.put_first(messages.collect())
    }

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
            group: self.want.group.clone(),
            lag: self.lag,
            queued: counts.queued,
            queued_bytes: counts.queued_bytes,
            delivered: counts.delivered,
            dropped: counts.lagged,
        }
    }
}

impl Delivery {
    /// Offers a message to each subscriber that `scope` includes and whose filter lets it through, and to one of each
    /// group, without waiting for any.
    pub(crate) fn offer(
        subscribers: &[Arc<Subscriber>],
        content: &Content,
        may_wait: bool,
        scope: &Scope,
    ) -> Self {
        Self::offer_tracked(subscribers, content, may_wait, scope, None)
    }

    /// The same, with a receipt for each copy.
    pub(crate) fn offer_tracked(
        subscribers: &[Arc<Subscriber>],
        content: &Content,
        may_wait: bool,
        scope: &Scope,
        tracker: Option<Tracker>,
    ) -> Self {
        let offer = Offering { content, may_wait, tracker: tracker.as_ref() };
        let mut delivery = Self::default();
        let mut groups: BTreeMap<&Group, Vec<&Arc<Subscriber>>> = BTreeMap::new();
        for subscriber in subscribers {
            let group = subscriber.want.group.as_ref();
            if !scope.includes(group) {
                continue;
            }
            if !subscriber.accepts(&content.payload) {
                delivery.filtered += 1;
                continue;
            }
            match group {
                None => delivery.give(subscriber, &offer),
                Some(group) => groups.entry(group).or_default().push(subscriber),
            }
        }
        for members in groups.into_values() {
            delivery.give_to_one(members, &offer);
        }
        match tracker {
            Some(tracker) if delivery.is_for_nobody() => tracker.none(match delivery.filtered {
                0 => Outcome::Nobody,
                _ => Outcome::Unwanted,
            }),
            _ => {}
        }
        delivery
    }

    fn give(&mut self, subscriber: &Subscriber, offer: &Offering<'_>) {
        let mut message = offer.content.to_message(subscriber.id, &subscriber.want.pattern);
        message.receipt = offer.tracker.map(Tracker::receipt);
        self.add(subscriber.mailbox.offer(message, offer.may_wait));
    }

    /// Gives a message to the member of a group with the shortest queue that has room; members with equal ones take turns.
    fn give_to_one(&mut self, mut members: Vec<&Arc<Subscriber>>, offer: &Offering<'_>) {
        let content = offer.content;
        let turn = (content.sequence % members.len() as u64) as usize;
        members.rotate_left(turn);
        members.sort_by_cached_key(|member| member.mailbox.load(content.payload.bytes.len()));
        let before = (self.taken, self.refused, self.parked.len());
        for member in members {
            self.give(member, offer);
            // Only one that has just gone changes nothing.
            if (self.taken, self.refused, self.parked.len()) != before {
                self.groups += 1;
                return;
            }
        }
    }

    /// Whether there is no copy, not even one for which there is no room.
    pub(crate) fn is_for_nobody(&self) -> bool {
        self.taken + self.refused + self.parked.len() == 0
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

    /// Counts one more offer.
    pub(crate) fn add(&mut self, offer: Offer) {
        match offer {
            Offer::Taken { evicted } => {
                self.taken += 1;
                self.lost += evicted;
            }
            Offer::Dropped => self.refuse(),
            Offer::Gone => {}
            Offer::Parked(parked) => self.parked.push(parked),
        }
    }

    /// Whether nobody has to be waited for.
    pub(crate) fn is_settled(&self) -> bool {
        self.parked.is_empty()
    }

    fn refuse(&mut self) {
        self.lost += 1;
        self.refused += 1;
    }
}
