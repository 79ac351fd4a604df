//! Messages: what is published, what is received, and how it looks on the wire.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use macula_proto::limits::PAYLOAD_BYTES_MAX;
use macula_proto::{Frame, FrameKind, Name, NodeId, Realm, wire};

use crate::acks::Number;
use crate::group::{GROUPS_MAX, Scope};
use crate::receipt::Receipt;
use crate::{Group, Pattern, PayloadError, SubscriptionId};

/// Longest content type, in bytes.
pub const CONTENT_TYPE_BYTES_MAX: usize = 128;

/// Most headers of a message.
pub const HEADERS_MAX: usize = 32;

/// Longest header name, in bytes.
pub const HEADER_NAME_BYTES_MAX: usize = 64;

/// All headers of a message together, names and values, in bytes.
pub const HEADERS_BYTES_MAX: usize = 16 * 1024;

/// What an application publishes: bytes, and what they are.
///
/// ```
/// use macula_pubsub::Payload;
///
/// let payload = Payload::new("21.5").content_type("text/plain").header("unit", "celsius");
/// assert_eq!(payload.bytes.len(), 4);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// The content; at most 1 MiB. It is never copied or looked at.
    pub bytes: Bytes,
    /// How the content is encoded, as a media type; empty if it goes without saying.
    pub content_type: Arc<str>,
    /// The application's own headers.
    pub headers: Headers,
}

/// A message's headers, in the publisher's order; a name may occur more than once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Arc<Vec<(Box<str>, Bytes)>>);

/// What a subscriber receives. What it has in common with its neighbours is in its [`Envelope`], whose fields read like its
/// own: `message.topic`.
#[derive(Clone, Debug)]
pub struct Message {
    /// The content.
    pub payload: Bytes,
    /// Grows with every message of this publisher and epoch on this topic. Not gapless: a gap is no proof of loss.
    pub sequence: u64,
    /// Whether this is a retained value: published before the subscription was made, and kept by the directory.
    pub is_retained: bool,
    /// The number of the retained value that says the same; 0 if none does.
    pub(crate) retained_as: u64,
    pub(crate) envelope: Arc<Envelope>,
    /// For a publisher that waits for an acknowledgement.
    pub(crate) receipt: Option<Receipt>,
}

/// All of a message but its content and its number: messages of one publisher, topic and subscription share it, unless their
/// headers differ.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Envelope {
    /// In which realm it was published.
    pub realm: Realm,
    /// On which topic.
    pub topic: Name,
    /// How the content is encoded, in the publisher's words; may be empty.
    pub content_type: Arc<str>,
    /// The application's own headers.
    pub headers: Headers,
    /// Who published it, proven by the connection on which it came.
    pub publisher: NodeId,
    /// Which run of the publisher's process; drawn anew at each start.
    pub epoch: u64,
    /// Which subscription received it.
    pub subscription: SubscriptionId,
    /// That subscription's pattern.
    pub pattern: Pattern,
}

impl Deref for Message {
    type Target = Envelope;

    fn deref(&self) -> &Envelope {
        &self.envelope
    }
}

impl Message {
    /// Acknowledges the message now, if its publisher waits for that. Otherwise this happens when the message (and all its
    /// clones) is dropped, unless by a panic.
    pub fn acknowledge(&mut self) {
        self.receipt = None;
    }

    /// Says to a publisher that waits for an acknowledgement that the message was lost here. Dropping it does not take that
    /// back.
    pub fn decline(&mut self) {
        if let Some(receipt) = self.receipt.take() {
            receipt.lost();
        }
    }
}

impl Payload {
    /// A payload of these bytes, without content type or headers.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), ..Self::default() }
    }

    /// Says how the bytes are encoded.
    #[must_use]
    pub fn content_type(mut self, content_type: &str) -> Self {
        self.content_type = content_type.into();
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Bytes>) -> Self {
        Arc::make_mut(&mut self.headers.0).push((name.into(), value.into()));
        self
    }

    /// Whether it keeps to the limits.
    ///
    /// # Errors
    /// The first limit that it breaks.
    pub fn check(&self) -> Result<(), PayloadError> {
        if self.bytes.len() > PAYLOAD_BYTES_MAX {
            return Err(PayloadError::Bytes(self.bytes.len()));
        }
        if self.content_type.len() > CONTENT_TYPE_BYTES_MAX {
            return Err(PayloadError::ContentType(self.content_type.len()));
        }
        self.headers.check()
    }
}

impl Headers {
    pub(crate) fn new(headers: Vec<(Box<str>, Bytes)>) -> Self {
        Self(Arc::new(headers))
    }

    /// The first value of a name.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// All names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn check(&self) -> Result<(), PayloadError> {
        if self.len() > HEADERS_MAX {
            return Err(PayloadError::Headers(self.len()));
        }
        if let Some((name, _)) =
            self.iter().find(|(name, _)| !(1..=HEADER_NAME_BYTES_MAX).contains(&name.len()))
        {
            return Err(PayloadError::HeaderName(name.len()));
        }
        let bytes = self.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > HEADERS_BYTES_MAX { Err(PayloadError::HeadersBytes(bytes)) } else { Ok(()) }
    }
}

/// What all subscribers of one message share.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) realm: Realm,
    pub(crate) topic: Name,
    pub(crate) payload: Payload,
    pub(crate) publisher: NodeId,
    pub(crate) epoch: u64,
    pub(crate) sequence: u64,
    /// The number of the retained value that says the same; 0 if none does.
    pub(crate) retained_as: u64,
}

impl Content {
    pub(crate) fn to_message(&self, subscription: SubscriptionId, pattern: &Pattern) -> Message {
        Message {
            payload: self.payload.bytes.clone(),
            sequence: self.sequence,
            is_retained: false,
            retained_as: self.retained_as,
            envelope: Arc::new(self.envelope(subscription, pattern)),
            receipt: None,
        }
    }

    pub(crate) fn envelope(&self, subscription: SubscriptionId, pattern: &Pattern) -> Envelope {
        Envelope {
            realm: self.realm.clone(),
            topic: self.topic.clone(),
            content_type: self.payload.content_type.clone(),
            headers: self.payload.headers.clone(),
            publisher: self.publisher,
            epoch: self.epoch,
            subscription,
            pattern: pattern.clone(),
        }
    }

    /// The frame for every remote subscriber in `scope`. The publisher's id is left out: it is the sender's.
    pub(crate) fn to_frame(&self, wait: Duration, scope: &Scope) -> Result<Frame, PayloadError> {
        self.encode(wait, scope, None, Vec::new())
    }

    /// The same, with its places in trees.
    pub(crate) fn to_frame_at(
        &self,
        wait: Duration,
        scope: &Scope,
        places: &[Place],
    ) -> Result<Frame, PayloadError> {
        self.encode(wait, scope, None, places.iter().map(Place::to_wire).collect())
    }

    /// The same, to be acknowledged.
    pub(crate) fn to_frame_with(
        &self,
        wait: Duration,
        scope: &Scope,
        number: Number,
    ) -> Result<Frame, PayloadError> {
        self.encode(wait, scope, Some(number), Vec::new())
    }

    /// The header for whoever wants the topic, without regard to groups.
    pub(crate) fn to_header(&self, wait: Duration) -> wire::Publish {
        self.to_wire(wait, &Scope::default(), None, Vec::new())
    }

    fn encode(
        &self,
        wait: Duration,
        scope: &Scope,
        number: Option<Number>,
        places: Vec<wire::TreePlace>,
    ) -> Result<Frame, PayloadError> {
        let header = self.to_wire(wait, scope, number, places);
        Frame::new(FrameKind::PUBLISH, &header, self.payload.bytes.clone()).map_err(PayloadError::Frame)
    }

    /// The header. The publisher's id is left out.
    pub(crate) fn to_wire(
        &self,
        wait: Duration,
        scope: &Scope,
        number: Option<Number>,
        places: Vec<wire::TreePlace>,
    ) -> wire::Publish {
        let headers = self.payload.headers.iter();
        wire::Publish {
            realm: self.realm.to_wire(),
            topic: self.topic.to_string(),
            publisher: Bytes::new(),
            epoch: self.epoch,
            sequence: self.sequence,
            content_type: self.payload.content_type.to_string(),
            headers: headers.map(|(name, value)| header_to_wire(name, value)).collect(),
            wait_millis: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            groups: scope.groups.iter().map(ToString::to_string).collect(),
            grouped: scope.grouped,
            handed_over: scope.handed_over,
            apart: scope.apart,
            acknowledge: number.map_or(0, |Number(number)| number),
            retained: self.retained_as,
            places,
        }
    }
}

/// Most places of a message in trees that are told, and read.
pub(crate) const PLACES_MAX: usize = 8;

/// The place of a message among those of its publisher in one tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The subscribers to this very pattern make the tree.
    pub(crate) pattern: Pattern,
    pub(crate) run: u64,
    pub(crate) number: u64,
    pub(crate) since: u64,
    pub(crate) continued: bool,
}

impl Place {
    pub(crate) fn to_wire(&self) -> wire::TreePlace {
        wire::TreePlace {
            pattern: self.pattern.to_string(),
            run: self.run,
            number: self.number,
            since: self.since,
            continued: self.continued,
        }
    }

    /// `None`: it cannot be one.
    pub(crate) fn from_wire(place: &wire::TreePlace) -> Option<Self> {
        let wire::TreePlace { pattern, run, number, since, continued } = place;
        let is_numbered = (1..=*number).contains(since);
        let pattern = pattern.parse().ok().filter(|_| is_numbered)?;
        Some(Self { pattern, run: *run, number: *number, since: *since, continued: *continued })
    }
}

/// A message as it came in, checked.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) content: Content,
    /// How long the publisher lets a full subscriber wait.
    pub(crate) wait: Duration,
    /// Whom this copy is for.
    pub(crate) scope: Scope,
    /// If it is to be acknowledged.
    pub(crate) number: Option<Number>,
    /// Where it belongs in trees that match its topic.
    pub(crate) places: Vec<Place>,
}

/// Why an incoming frame is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadFrame {
    /// Not the message it should be, or past a limit.
    Malformed,
    /// It names another publisher than its sender.
    Publisher,
}

impl Incoming {
    pub(crate) fn from_frame(from: NodeId, frame: Frame) -> Result<Self, BadFrame> {
        let header: wire::Publish = frame.header().map_err(|_| BadFrame::Malformed)?;
        Self::from_wire(from, header, frame.into_payload())
    }

    /// A message of which `from` is proven to be the publisher.
    pub(crate) fn from_wire(from: NodeId, header: wire::Publish, payload: Bytes) -> Result<Self, BadFrame> {
        if !header.publisher.is_empty() && header.publisher.as_ref() != from.as_bytes() {
            return Err(BadFrame::Publisher);
        }
        let realm = Realm::from_wire(&header.realm).map_err(|_| BadFrame::Malformed)?;
        let topic: Name = header.topic.parse().map_err(|_| BadFrame::Malformed)?;
        if header.groups.len() > GROUPS_MAX {
            return Err(BadFrame::Malformed);
        }
        let groups: Result<Vec<Group>, _> = header.groups.iter().map(|group| group.parse()).collect();
        let scope = Scope {
            groups: groups.map_err(|_| BadFrame::Malformed)?,
            grouped: header.grouped,
            handed_over: header.handed_over,
            apart: header.apart,
        };
        let places = header.places.iter().take(PLACES_MAX).filter_map(Place::from_wire);
        let places = places.filter(|place| place.pattern.matches(&topic)).collect();
        let headers = header.headers.into_iter().map(|entry| (entry.name.into(), entry.value)).collect();
        let payload = Payload {
            bytes: payload,
            content_type: header.content_type.into(),
            headers: Headers::new(headers),
        };
        payload.check().map_err(|_| BadFrame::Malformed)?;
        let wait = Duration::from_millis(header.wait_millis.into());
        let (epoch, sequence, retained_as) = (header.epoch, header.sequence, header.retained);
        let number = (header.acknowledge > 0).then_some(Number(header.acknowledge));
        let content = Content { realm, topic, payload, publisher: from, epoch, sequence, retained_as };
        Ok(Self { content, wait, scope, number, places })
    }
}

pub(crate) fn header_to_wire(name: &str, value: &Bytes) -> wire::PublishHeader {
    wire::PublishHeader { name: name.to_owned(), value: value.clone() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn content(payload: Payload) -> Content {
        Content {
            realm: Realm::default(),
            topic: "a.b".parse().unwrap(),
            payload,
            publisher: NodeId::from_bytes([1; 32]),
            epoch: 7,
            sequence: 9,
            retained_as: 5,
        }
    }

    #[test]
    fn a_message_survives_the_wire() {
        let sent = content(Payload::new("hi").content_type("text/plain").header("k", "v"));
        let scope = Scope { grouped: true, groups: vec!["workers".parse().unwrap()], ..Scope::default() };
        let frame = sent.to_frame(Duration::from_millis(250), &scope).unwrap();
        let received = Incoming::from_frame(sent.publisher, frame).unwrap();
        assert_eq!(received.content.payload, sent.payload);
        let Content { epoch, sequence, retained_as, .. } = received.content;
        assert_eq!((epoch, sequence, retained_as), (7, 9, 5));
        assert_eq!(received.wait, Duration::from_millis(250));
        assert_eq!(received.scope, scope);
        assert_eq!(received.content.payload.headers.get("k").unwrap(), "v");
    }

    #[test]
    fn a_header_that_names_another_publisher_is_refused() {
        let header = wire::Publish {
            topic: "a".into(),
            publisher: Bytes::from(vec![2; 32]),
            ..wire::Publish::default()
        };
        let frame = Frame::new(FrameKind::PUBLISH, &header, Bytes::new()).unwrap();
        let refused = Incoming::from_frame(NodeId::from_bytes([1; 32]), frame.clone());
        assert_eq!(refused.unwrap_err(), BadFrame::Publisher);
        assert!(Incoming::from_frame(NodeId::from_bytes([2; 32]), frame).is_ok());
    }

    #[test]
    fn bad_topics_and_realms_are_refused() {
        for (realm, topic) in [("", ""), ("", "a.*"), ("", "a..b"), ("Bad", "a")] {
            let header =
                wire::Publish { realm: realm.into(), topic: topic.into(), ..wire::Publish::default() };
            let frame = Frame::new(FrameKind::PUBLISH, &header, Bytes::new()).unwrap();
            let refused = Incoming::from_frame(NodeId::from_bytes([1; 32]), frame);
            assert_eq!(refused.unwrap_err(), BadFrame::Malformed);
        }
    }

    #[test]
    fn each_limit_has_its_error() {
        let with_headers = |count: usize| {
            (0..count).fold(Payload::new(""), |payload, n| payload.header(&format!("h{n}"), "v"))
        };
        assert_eq!(with_headers(HEADERS_MAX).check(), Ok(()));
        assert_eq!(with_headers(HEADERS_MAX + 1).check(), Err(PayloadError::Headers(HEADERS_MAX + 1)));
        assert_eq!(Payload::new("").header("", "v").check(), Err(PayloadError::HeaderName(0)));
        let heavy = Payload::new("").header("h", vec![0; HEADERS_BYTES_MAX]);
        assert_eq!(heavy.check(), Err(PayloadError::HeadersBytes(HEADERS_BYTES_MAX + 1)));
        let long = Payload::new("").content_type(&"x".repeat(129));
        assert_eq!(long.check(), Err(PayloadError::ContentType(129)));
        let large = Payload::new(vec![0; PAYLOAD_BYTES_MAX + 1]);
        assert_eq!(large.check(), Err(PayloadError::Bytes(PAYLOAD_BYTES_MAX + 1)));
    }

    proptest! {
        #[test]
        fn what_a_peer_sends_is_within_the_limits_or_refused(
            realm in "[a-z.A-Z]{0,70}",
            topic in "[a-z.*#é]{0,300}",
            publisher in prop::collection::vec(any::<u8>(), 0..40),
            content_type in ".{0,140}",
            headers in prop::collection::vec((".{0,70}", prop::collection::vec(any::<u8>(), 0..900)), 0..40),
            wait_millis: u32,
        ) {
            let headers = headers.iter().map(|(name, value)| header_to_wire(name, &value.clone().into()));
            let header = wire::Publish {
                realm,
                topic,
                publisher: publisher.into(),
                content_type,
                headers: headers.collect(),
                wait_millis,
                ..wire::Publish::default()
            };
            let frame = Frame::new(FrameKind::PUBLISH, &header, Bytes::new()).unwrap();
            if let Ok(incoming) = Incoming::from_frame(NodeId::from_bytes([1; 32]), frame) {
                prop_assert_eq!(incoming.content.payload.check(), Ok(()));
                prop_assert_eq!(incoming.content.topic.as_str(), header.topic);
                prop_assert!(header.publisher.is_empty());
            }
        }
    }
}
