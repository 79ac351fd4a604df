//! The [`Bus`] trait: subscribe and publish.

use std::future::Future;
use std::time::Duration;

use macula_proto::{Name, Realm};

use crate::{
    Acknowledged, Pattern, Payload, PublishError, PublishOptions, Published, SubscribeError,
    SubscribeOptions, Subscription,
};

/// One node's way to publish and subscribe. Cheap to clone; all clones are the same node.
///
/// # Guarantees
/// - Messages of one publisher on one topic arrive at each subscription in order, and none twice.
/// - After [`subscribe`](Self::subscribe) returned, every later message of a publisher that already watches is
///   delivered, or counted as lost.
/// - At most once, unless an acknowledgement is waited for: nothing is sent again. A subscription that lags loses messages by its own policy and counts them.
/// - Two subscriptions that match both get the message, unless they are in one queue group; a realm's messages stay in it.
pub trait Bus: Clone + Send + Sync + 'static {
    /// Subscribes, and returns once the subscription is announced.
    ///
    /// # Errors
    /// Why there is no subscription: see [`SubscribeError`].
    fn subscribe(
        &self,
        realm: &Realm,
        pattern: Pattern,
        options: SubscribeOptions,
    ) -> impl Future<Output = Result<Subscription, SubscribeError>> + Send;

    /// Publishes one message, and says whom it reached. Dropping the future gives up copies that still wait for a
    /// connection or for room; those already handed over go their way.
    ///
    /// # Errors
    /// Why it was not published, or not to all: see [`PublishError`].
    fn publish_with(
        &self,
        realm: &Realm,
        topic: &Name,
        payload: Payload,
        options: PublishOptions,
    ) -> impl Future<Output = Result<Published, PublishError>> + Send;

    /// Publishes one message and waits until everybody who subscribes now took it, for at most `within`: the application
    /// received the message and dropped it. Nothing is promised past the end of the call.
    ///
    /// # Errors
    /// Why nothing was published. That somebody did not take it is none.
    fn publish_acknowledged(
        &self,
        realm: &Realm,
        topic: &Name,
        payload: Payload,
        options: PublishOptions,
        within: Duration,
    ) -> impl Future<Output = Result<Acknowledged, PublishError>> + Send;

    /// Publishes with the default options.
    ///
    /// # Errors
    /// As [`publish_with`](Self::publish_with).
    fn publish(
        &self,
        realm: &Realm,
        topic: &Name,
        payload: Payload,
    ) -> impl Future<Output = Result<Published, PublishError>> + Send {
        self.publish_with(realm, topic, payload, PublishOptions::default())
    }
}
