//! The quick way of a plain message: to peers that are connected, with nothing to wait for and nothing to look up.
//!
//! ```text
//!   known who subscribes? nobody with a filter or in a group? nobody here?
//!     │ yes: number ─▶ header from the last one's ─▶ lanes           no: the way of all messages (`publish.rs`)
//! ```
//!
//! What most messages of a busy topic have in common is kept with the route: all of the header but the number. So nothing
//! is formatted, looked up or awaited for the next one.

use std::sync::Arc;
use std::time::Duration;

use macula_dht::Directory;
use macula_proto::{Frame, FrameKind, Name, Realm, wire};
use macula_transport::Transport;
use parking_lot::Mutex;
use prost::Message as _;

use crate::link::Offered;
use crate::message::Content;
use crate::publish::Departure;
use crate::pubsub::{Inner, PubSub};
use crate::route::Route;
use crate::{Payload, PublishError, PublishOptions, Published};

/// What became of an attempt at the quick way.
pub(crate) enum Quick {
    /// Everybody has it.
    Done(Published),
    /// It has left; some copies wait.
    Waits(Box<Departure>),
    /// Nothing was done: it must go the way of all messages.
    NotPlain(Payload),
}

/// The header of a topic's plain messages, without its number.
#[derive(Debug)]
pub(crate) struct Template {
    content_type: Arc<str>,
    wait: Duration,
    before: Vec<u8>,
    after: Vec<u8>,
}

/// The number's field in [`wire::Publish`]: field 5, a varint.
const SEQUENCE_TAG: u8 = 5 << 3;
/// The tag, and the longest varint.
const SEQUENCE_BYTES_MAX: usize = 11;

/// A topic to publish to often: what is known of it is kept at hand. Cheap to make; each topic's publishers share its
/// order.
///
/// ```no_run
/// # async fn example<T: macula_transport::Transport, D: macula_dht::Directory>(
/// #     pubsub: macula_pubsub::PubSub<T, D>,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// use macula_pubsub::{Payload, PublishOptions};
///
/// let kitchen = pubsub.publisher(&macula_proto::Realm::default(), &"home.kitchen".parse()?);
/// for celsius in 20..25 {
///     kitchen.publish(Payload::new(celsius.to_string()), PublishOptions::default()).await?;
/// }
/// # Ok(())
/// # }
/// ```
pub struct Publisher<T: Transport, D: Directory> {
    pubsub: PubSub<T, D>,
    realm: Realm,
    topic: Name,
    route: Mutex<Arc<Route>>,
}

impl<T: Transport, D: Directory> PubSub<T, D> {
    /// A topic to publish to often.
    pub fn publisher(&self, realm: &Realm, topic: &Name) -> Publisher<T, D> {
        let inner = &self.inner;
        let route = inner.routes.get(realm, topic, inner.clock.now(), &inner.metrics);
        Publisher {
            pubsub: self.clone(),
            realm: realm.clone(),
            topic: topic.clone(),
            route: Mutex::new(route),
        }
    }
}

impl<T: Transport, D: Directory> Publisher<T, D> {
    /// Publishes one message, as [`PubSub::publish_with`] does.
    ///
    /// # Errors
    /// The same.
    pub async fn publish(
        &self,
        payload: Payload,
        options: PublishOptions,
    ) -> Result<Published, PublishError> {
        let inner = &self.pubsub.inner;
        inner.may_publish(&self.realm, &self.topic, &payload)?;
        match inner.publish_quickly(&self.route(), payload, options) {
            Quick::Done(published) => Ok(published),
            Quick::Waits(departure) => Ok(Box::pin(inner.settle(*departure, options)).await),
            Quick::NotPlain(payload) => {
                let content = inner.content(&self.realm, &self.topic, payload);
                Box::pin(inner.publish(content, options)).await
            }
        }
    }

    /// In which realm it publishes.
    pub const fn realm(&self) -> &Realm {
        &self.realm
    }

    /// To which topic.
    pub const fn topic(&self) -> &Name {
        &self.topic
    }

    /// The topic's route; another one if that was given up meanwhile.
    fn route(&self) -> Arc<Route> {
        let inner = &self.pubsub.inner;
        let mut route = self.route.lock();
        if route.is_ready() {
            route.touch();
        } else {
            *route = inner.routes.get(&self.realm, &self.topic, inner.clock.now(), &inner.metrics);
        }
        route.clone()
    }
}

impl<T: Transport, D: Directory> std::fmt::Debug for Publisher<T, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Publisher({} in {})", self.topic, self.realm)
    }
}

impl<T: Transport, D: Directory> Inner<T, D> {
    /// Publishes if that is possible without looking anything up.
    pub(crate) fn publish_quickly(
        &self,
        route: &Arc<Route>,
        payload: Payload,
        options: PublishOptions,
    ) -> Quick {
        if !payload.headers.is_empty() || !route.is_complete() {
            return Quick::NotPlain(payload);
        }
        let reading = self.routes.read(route, self.gate.as_ref(), &self.metrics);
        if !reading.is_plain() {
            return Quick::NotPlain(payload);
        }
        let Some(mut order) = route.order() else { return Quick::NotPlain(payload) };
        let generation = self.local.generation();
        if order.alone_at != Some(generation) {
            if !self.local.matching(route.realm(), route.topic()).is_empty() {
                return Quick::NotPlain(payload);
            }
            order.alone_at = Some(generation);
        }
        let sequence = order.last_sequence + 1;
        let template = match order.template.take() {
            Some(template) if template.is_for(&payload, options) => template,
            _ => Template::new(&self.content(route.realm(), route.topic(), payload.clone()), options.wait),
        };
        let frame = template.frame(sequence, &payload);
        order.template = Some(template);
        let Some(frame) = frame else { return Quick::NotPlain(payload) };
        order.last_sequence = sequence;
        self.metrics.published.inc();
        self.metrics.message_bytes.observe(payload.bytes.len() as f64);
        let mut published = Published::default();
        let mut departure: Option<Box<Departure>> = None;
        let mut offer = |link, frame| match (self.offer(link, frame, options), &mut departure) {
            (Offered::Sent, None) => published.peers += 1,
            // Made only if it is needed: most messages leave at once.
            (offered, none @ None) => {
                let some = none.insert(Box::new(Departure::after(published)));
                some.add(offered, Vec::new());
            }
            (offered, Some(some)) => some.add(offered, Vec::new()),
        };
        if let Some((last, others)) = reading.links.split_last() {
            others.iter().for_each(|link| offer(link, frame.clone()));
            offer(last, frame);
        }
        drop(order);
        let mut published = departure.as_ref().map_or(published, |departure| departure.published);
        self.count_copies(&Published::default(), &published);
        published.unnamed = reading.unnamed;
        match departure {
            Some(mut departure) if !departure.is_settled() => {
                departure.published = published;
                Quick::Waits(departure)
            }
            _ => Quick::Done(published),
        }
    }
}

impl Template {
    fn new(content: &Content, wait: Duration) -> Self {
        let mut header = content.to_header(wait);
        // The fields on both sides of the number, in the order in which they are encoded anyway.
        let after = wire::Publish {
            content_type: std::mem::take(&mut header.content_type),
            wait_millis: std::mem::take(&mut header.wait_millis),
            ..wire::Publish::default()
        };
        Self {
            content_type: content.payload.content_type.clone(),
            wait,
            before: header.encode_to_vec(),
            after: after.encode_to_vec(),
        }
    }

    fn is_for(&self, payload: &Payload, options: PublishOptions) -> bool {
        let same_type = Arc::ptr_eq(&self.content_type, &payload.content_type)
            || self.content_type == payload.content_type;
        same_type && self.wait == options.wait
    }

    /// `None` if the frame would break a limit.
    fn frame(&self, sequence: u64, payload: &Payload) -> Option<Frame> {
        let mut number = [0; SEQUENCE_BYTES_MAX];
        number[0] = SEQUENCE_TAG;
        let (mut rest, mut at) = (sequence, 1);
        while rest >= 0x80 {
            number[at] = rest as u8 | 0x80;
            (rest, at) = (rest >> 7, at + 1);
        }
        number[at] = rest as u8;
        let parts = [self.before.as_slice(), &number[..=at], &self.after];
        Frame::with_header(FrameKind::PUBLISH, &parts, payload.bytes.clone()).ok()
    }
}

#[cfg(test)]
mod tests {
    use macula_proto::NodeId;
    use proptest::prelude::*;

    use super::*;
    use crate::group::Scope;

    proptest! {
        #[test]
        fn the_quick_way_makes_the_same_frames(
            sequence in 1_u64..,
            epoch: u64,
            millis in 0_u64..1 << 40,
            content_type in "[a-z/]{0,20}",
            realm in "[a-z]{1,8}",
            bytes: Vec<u8>,
        ) {
            let content = Content {
                realm: realm.parse().unwrap(),
                topic: "a.b".parse().unwrap(),
                payload: Payload::new(bytes).content_type(&content_type),
                publisher: NodeId::from_bytes([1; 32]),
                epoch,
                sequence: 0,
                retained_as: 0,
            };
            let wait = Duration::from_millis(millis);
            let template = Template::new(&content, wait);
            let frame = template.frame(sequence, &content.payload);
            let expected = Content { sequence, ..content }.to_frame(wait, &Scope::default()).unwrap();
            prop_assert_eq!(frame, Some(expected));
        }
    }
}
