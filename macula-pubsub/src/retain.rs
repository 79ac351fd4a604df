//! Keeping a topic's last value for those who subscribe later.
//!
//! ```text
//!   publish_retained ─▶ record at the topic's key, name in the index ─▶ then publish, as any message
//!   subscribe_with_retained ─▶ subscribe, then look the values up ─▶ first in the queue
//! ```
//!
//! The value is announced before it is published, and looked up after the subscription stands: so whoever subscribes
//! meanwhile gets it one way or the other, and of both ways once.

use std::collections::BTreeSet;
use std::sync::Arc;

use macula_dht::{Announced, Directory, DirectoryError, Found};
use macula_proto::{Access, Action, Key, Name, NodeId, Realm};
use macula_transport::Transport;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::announce::{Announcer, Records};
use crate::message::Content;
use crate::metrics::RefuseReason;
use crate::pubsub::{Inner, PubSub};
use crate::retained::{RetainedFull, RetainedValue, TooLarge, index_at, read_shard, read_value, retained_at};
use crate::{
    Pattern, Payload, PublishOptions, Published, RetainError, SubscribeError, SubscribeOptions, Subscription,
};

/// Look-ups at the same time.
const LOOKUPS_MAX: usize = 16;

/// Most topics of which the values are looked up at once.
const TOPICS_READ_MAX: usize = 10_000;

/// What became of a message that is to be retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retained {
    /// Whom the message reached.
    pub published: Published,
    /// How many nodes hold the value for those who subscribe later.
    pub holders: usize,
}

/// A retained value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedMessage {
    /// On which topic it was published.
    pub topic: Name,
    /// What.
    pub payload: Payload,
    /// By whom: it is signed.
    pub publisher: NodeId,
}

/// The retained values that were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetainedFound {
    /// One for each topic and publisher, in this order.
    pub values: Vec<RetainedMessage>,
    /// So many look-ups failed or took too long: there may be more.
    pub failed: usize,
}

/// The same, before it is shown.
#[derive(Default)]
struct Values {
    contents: Vec<Content>,
    failed: usize,
}

impl<T: Transport, D: Directory> PubSub<T, D> {
    /// Publishes one message and has it kept as this node's last value of the topic, for those who subscribe
    /// [with retained values](Self::subscribe_with_retained) later.
    ///
    /// One value is kept for each topic and publisher, by the directory's nodes closest to the topic's key: they can read it.
    /// It is there as long as this process lives, and then until its record expires (an hour by default). It takes at most
    /// [`RETAINED_BYTES_MAX`](crate::RETAINED_BYTES_MAX) bytes, and a node has at most
    /// [`RETAINED_TOPICS_MAX`](crate::RETAINED_TOPICS_MAX) of them.
    ///
    /// # Errors
    /// [`RetainError`]. Only with [`Directory`](RetainError::Directory) and
    /// [`Unresolved`](crate::PublishError::Unresolved) has anything been sent.
    pub async fn publish_retained(
        &self,
        realm: &Realm,
        topic: &Name,
        payload: Payload,
        options: PublishOptions,
    ) -> Result<Retained, RetainError> {
        let inner = &self.inner;
        inner.may_publish(realm, topic, &payload)?;
        let mut content = inner.content(realm, topic, payload);
        content.sequence = inner.reserve(realm, topic);
        let value = RetainedValue::of(&content).map_err(|TooLarge(bytes)| RetainError::TooLarge(bytes))?;
        let keys = inner.retained.retain(realm, topic, value).map_err(|RetainedFull| RetainError::Full)?;
        inner.metrics.retained.set(inner.retained.retained() as i64);
        let announced = bring_in_step(&inner.retained, keys).await;
        content.retained_as = content.sequence;
        let published = inner.publish(content, options).await?;
        match announced {
            Ok(Announced { holders, .. }) => Ok(Retained { published, holders }),
            Err(error) => Err(RetainError::Directory { error, published }),
        }
    }

    /// Has this node's value of a topic kept no longer. Says whether there was one.
    ///
    /// # Errors
    /// Why the directory could not be told yet; that is tried again in the background.
    pub async fn clear_retained(&self, realm: &Realm, topic: &Name) -> Result<bool, DirectoryError> {
        let inner = &self.inner;
        let keys = inner.retained.clear(realm, topic);
        inner.metrics.retained.set(inner.retained.retained() as i64);
        let was_there = !keys.is_empty();
        bring_in_step(&inner.retained, keys).await.map(|_| was_there)
    }

    /// The retained values of a topic, or of a family of topics.
    ///
    /// # Errors
    /// [`SubscribeError::NotInRealm`] or [`SubscribeError::Forbidden`]: it takes the same right as to subscribe.
    pub async fn retained(&self, realm: &Realm, pattern: &Pattern) -> Result<RetainedFound, SubscribeError> {
        let inner = &self.inner;
        if !inner.config.realms.contains(realm) {
            return Err(SubscribeError::NotInRealm(realm.clone()));
        }
        inner.check(realm, Action::Subscribe(pattern.as_str()))?;
        let Values { contents, failed } = inner.find_retained(realm, pattern).await;
        let shown = |Content { topic, payload, publisher, .. }| RetainedMessage { topic, payload, publisher };
        Ok(RetainedFound { values: contents.into_iter().map(shown).collect(), failed })
    }

    /// As [`subscribe`](Self::subscribe); the retained values are the first messages of the subscription
    /// ([`is_retained`](crate::Message::is_retained)), as far as its queue has room for them.
    /// [`Subscription::retained`] says how many there are, and how many look-ups failed.
    ///
    /// # Errors
    /// [`SubscribeError`]; queue groups get no retained values. That a look-up fails is no error.
    pub async fn subscribe_with_retained(
        &self,
        realm: &Realm,
        pattern: Pattern,
        options: SubscribeOptions,
    ) -> Result<Subscription, SubscribeError> {
        if options.group.is_some() {
            return Err(SubscribeError::RetainedInGroup);
        }
        let mut subscription = self.subscribe(realm, pattern.clone(), options).await?;
        let Values { contents, failed } = self.inner.find_retained(realm, &pattern).await;
        subscription.put_retained(&contents, failed);
        self.inner.metrics.retained_delivered.inc_by(subscription.retained().queued as u64);
        Ok(subscription)
    }
}

impl<T: Transport, D: Directory> Inner<T, D> {
    /// A number for a retained value: lower than those of all later messages on the topic.
    fn reserve(&self, realm: &Realm, topic: &Name) -> u64 {
        loop {
            let route = self.routes.get(realm, topic, self.clock.now(), &self.metrics);
            if let Some(mut order) = route.order() {
                order.last_sequence += 1;
                return order.last_sequence;
            }
            self.routes.forget(&route);
        }
    }

    /// Looks up the values of all topics that match, for at most as long as a look-up may take.
    async fn find_retained(&self, realm: &Realm, pattern: &Pattern) -> Values {
        let deadline = Instant::now() + self.config.lookup_timeout;
        let mut values = Values::default();
        let topics = match pattern.as_str().parse::<Name>() {
            Ok(topic) => BTreeSet::from([topic]),
            Err(_) => self.listed(realm, pattern, deadline, &mut values.failed).await,
        };
        let wanted = topics.into_iter().map(|topic| (retained_at(realm, &topic), topic)).collect();
        for (topic, found) in self.find_all(wanted, deadline, &mut values.failed).await {
            let read = |record: &macula_dht::Record| {
                let content = read_value(realm, &topic, record.announcer.id, &record.value);
                let refused = match &content {
                    None => Some(RefuseReason::Malformed),
                    Some(content) => self.may_come(content).err(),
                };
                if let Some(reason) = refused {
                    self.metrics.refuse(reason);
                    return None;
                }
                content
            };
            values.contents.extend(found.records.iter().filter_map(read));
        }
        values.contents.sort_by(|a, b| (&a.topic, a.publisher).cmp(&(&b.topic, b.publisher)));
        self.metrics.retained_failures.inc_by(values.failed as u64);
        values
    }

    /// The topics that match and have a value, from the indexes.
    async fn listed(
        &self,
        realm: &Realm,
        pattern: &Pattern,
        deadline: Instant,
        failed: &mut usize,
    ) -> BTreeSet<Name> {
        let mut topics = BTreeSet::new();
        let mut shards = 1;
        let mut read = 0;
        while read < shards {
            let wanted = (read..shards).map(|shard| (index_at(realm, pattern, shard), ())).collect();
            read = shards;
            for ((), found) in self.find_all(wanted, deadline, failed).await {
                for record in &found.records {
                    let listed = read_shard(&record.value);
                    shards = shards.max(listed.shards);
                    let peer = record.announcer.id;
                    let may_be = |topic: &Name| {
                        let access = Access { peer, realm, action: Action::Publish(topic) };
                        pattern.matches(topic) && self.gate.check(access).is_ok()
                    };
                    topics.extend(listed.topics.into_iter().filter(may_be));
                }
            }
            while topics.len() > TOPICS_READ_MAX {
                topics.pop_last();
                *failed += 1;
            }
        }
        topics
    }

    /// Looks up many keys, some at a time. What fails, or is not answered by the deadline, is counted.
    async fn find_all<X: Send + 'static>(
        &self,
        wanted: Vec<(Key, X)>,
        deadline: Instant,
        failed: &mut usize,
    ) -> Vec<(X, Found)> {
        let mut wanted = wanted.into_iter();
        let (mut running, mut answers) = (JoinSet::new(), Vec::new());
        loop {
            while running.len() < LOOKUPS_MAX
                && let Some((key, what)) = wanted.next()
            {
                let directory = self.directory.clone();
                let find = async move { directory.find(key).await };
                running.spawn(async move { (what, tokio::time::timeout_at(deadline, find).await) });
            }
            match running.join_next().await {
                Some(Ok((what, Ok(Ok(found))))) => answers.push((what, found)),
                Some(_) => *failed += 1,
                None => return answers,
            }
        }
    }
}

/// Tells the directory about some records. Returns what became of the first; the first failure if there is one, and then the
/// rest is tried all the same, and what failed is tried again in the background.
async fn bring_in_step<D: Directory, R: Records>(
    announcer: &Arc<Announcer<D, R>>,
    keys: Vec<Key>,
) -> Result<Announced, DirectoryError> {
    let first = keys.first().copied();
    let mut running = JoinSet::new();
    for key in keys {
        let announcer = announcer.clone();
        running.spawn(async move {
            let outcome = announcer.sync(key).await;
            if outcome.is_err() {
                announcer.sync_later(key);
            }
            (key, outcome)
        });
    }
    let mut outcome = Ok(Announced::default());
    while let Some(done) = running.join_next().await {
        match done {
            Ok((key, Ok(announced))) if Some(key) == first => outcome = outcome.map(|_| announced),
            Ok((_, Ok(_))) | Err(_) => {}
            Ok((_, Err(error))) => outcome = outcome.and(Err(error)),
        }
    }
    outcome
}
