//! Messages and replies with typed payloads.

use std::time::Duration;

use bytes::Bytes;
use macula_dht::Kademlia;
use macula_proto::{Name, Realm};
use macula_pubsub::{Message, Payload, PublishOptions, Published};
use macula_rpc::{Call, HandlerError, Reply};
use macula_transport::QuicTransport;

use crate::payload::CodecError;
use crate::{Error, FromPayload, IntoPayload};

/// A message to be published: see [`Node::publish_with`](crate::Node::publish_with).
#[derive(Clone, Debug)]
pub struct Publish {
    pub(crate) topic: Name,
    pub(crate) realm: Option<Realm>,
    pub(crate) payload: Payload,
    pub(crate) options: PublishOptions,
}

impl Publish {
    /// A message for a topic, in the node's first realm.
    ///
    /// # Errors
    /// [`Error::Name`] or [`Error::Codec`].
    pub fn new(topic: &str, payload: impl IntoPayload) -> Result<Self, Error> {
        let topic = topic.parse()?;
        let (bytes, content_type) = payload.into_payload()?;
        let payload = Payload::new(bytes).content_type(content_type);
        Ok(Self { topic, realm: None, payload, options: PublishOptions::default() })
    }

    /// In this realm.
    #[must_use]
    pub fn realm(mut self, realm: Realm) -> Self {
        self.realm = Some(realm);
        self
    }

    /// With this header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Bytes>) -> Self {
        self.payload = self.payload.header(name, value);
        self
    }

    /// Waiting at most so long for room: here in the queue to a busy peer, there at a subscriber that asked for
    /// back-pressure. Without it nothing waits, and what finds no room is dropped and counted.
    #[must_use]
    pub const fn wait(mut self, wait: Duration) -> Self {
        self.options.wait = wait;
        self
    }
}

/// A topic to publish to often: see [`Node::publisher`](crate::Node::publisher).
#[derive(Debug)]
pub struct Publisher {
    inner: macula_pubsub::Publisher<QuicTransport, Kademlia<QuicTransport>>,
    options: PublishOptions,
}

impl Publisher {
    pub(crate) fn new(inner: macula_pubsub::Publisher<QuicTransport, Kademlia<QuicTransport>>) -> Self {
        Self { inner, options: PublishOptions::default() }
    }

    /// As [`Publish::wait`], for each message.
    #[must_use]
    pub const fn wait(mut self, wait: Duration) -> Self {
        self.options.wait = wait;
        self
    }

    /// Publishes one message, and says whom it reached.
    ///
    /// # Errors
    /// [`Error::Codec`] or [`Error::Publish`].
    pub async fn publish(&self, payload: impl IntoPayload) -> Result<Published, Error> {
        let (bytes, content_type) = payload.into_payload()?;
        let mut payload = Payload::new(bytes);
        if !content_type.is_empty() {
            payload = payload.content_type(content_type);
        }
        Ok(self.inner.publish(payload, self.options).await?)
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        self.inner.topic().as_str()
    }
}

/// Reads the payload of what arrived.
///
/// ```
/// use macula::{Decode, Json, Reply};
///
/// let reply = Reply::new("[1, 2]");
/// let Json(numbers) = reply.decode::<Json<Vec<u8>>>()?;
/// assert_eq!((numbers, reply.text()?), (vec![1, 2], "[1, 2]".to_owned()));
/// # Ok::<(), macula::CodecError>(())
/// ```
pub trait Decode {
    /// The payload's bytes.
    fn bytes(&self) -> &Bytes;

    /// The payload as a value.
    ///
    /// # Errors
    /// [`CodecError`] if the bytes are not in the format.
    fn decode<P: FromPayload>(&self) -> Result<P, CodecError> {
        P::from_payload(self.bytes())
    }

    /// The payload as text.
    ///
    /// # Errors
    /// [`CodecError`] if it is not UTF-8.
    fn text(&self) -> Result<String, CodecError> {
        self.decode()
    }
}

impl Decode for Message {
    fn bytes(&self) -> &Bytes {
        &self.payload
    }
}

impl Decode for Call {
    fn bytes(&self) -> &Bytes {
        &self.payload
    }
}

impl Decode for Reply {
    fn bytes(&self) -> &Bytes {
        &self.payload
    }
}

/// A handler's answer, from a typed payload.
///
/// # Errors
/// [`HandlerError`] if the payload does not fit its format.
pub fn reply(payload: impl IntoPayload) -> Result<Reply, HandlerError> {
    let (bytes, content_type) = payload.into_payload()?;
    Ok(Reply::new(bytes).content_type(content_type))
}
