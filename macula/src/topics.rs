//! Publish and subscribe.

use std::time::Duration;

use macula_proto::{Key, Name, Realm};
use macula_pubsub::{
    Acknowledged, Pattern, Published, Retained, RetainedFound, RouteInfo, SubscribeOptions, Subscription,
    SubscriptionInfo, TreeInfo,
};

use crate::{Error, IntoPayload, Node, Publish, Publisher};

/// Publish and subscribe.
impl Node {
    /// Subscribes to a topic, or to a pattern: `*` is one segment, `#` zero or more.
    ///
    /// # Errors
    /// [`Error::Pattern`] with the rule that the pattern breaks, or [`Error::Subscribe`].
    pub async fn subscribe(&self, pattern: &str) -> Result<Subscription, Error> {
        self.subscribe_in(self.realm(), pattern, SubscribeOptions::default()).await
    }

    /// As [`subscribe`](Self::subscribe), in a given realm and with options.
    ///
    /// ```no_run
    /// # async fn example(node: macula::Node) -> Result<(), macula::Error> {
    /// use macula::SubscribeOptions;
    ///
    /// let large = SubscribeOptions::default().filter(r#"header.kind == "order" && json.amount > 10"#)?;
    /// let mut orders = node.subscribe_in(node.realm(), "shop.*", large.group("workers")?).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The same.
    pub async fn subscribe_in(
        &self,
        realm: Realm,
        pattern: &str,
        options: SubscribeOptions,
    ) -> Result<Subscription, Error> {
        let pattern = pattern.parse()?;
        let pubsub = self.inner.core.pubsub.clone();
        Ok(self.on_node(async move { pubsub.subscribe(&realm, pattern, options).await }).await??)
    }

    /// As [`subscribe_in`](Self::subscribe_in); the first messages are the retained values
    /// ([`Message::is_retained`](macula_pubsub::Message)): the last ones that were
    /// [published to be retained](Self::publish_retained), one for each topic and publisher.
    ///
    /// # Errors
    /// The same; queue groups get no retained values.
    pub async fn subscribe_with_retained(
        &self,
        realm: Realm,
        pattern: &str,
        options: SubscribeOptions,
    ) -> Result<Subscription, Error> {
        let pattern = pattern.parse()?;
        let pubsub = self.inner.core.pubsub.clone();
        let subscribed = async move { pubsub.subscribe_with_retained(&realm, pattern, options).await };
        Ok(self.on_node(subscribed).await??)
    }

    /// Ends a subscription, and returns once the directory knows. Dropping it does the same in the background.
    ///
    /// # Errors
    /// [`Error::Directory`] if the directory could not be told; the announcement then expires.
    pub async fn unsubscribe(&self, subscription: Subscription) -> Result<(), Error> {
        Ok(self.on_node(async move { subscription.unsubscribe().await }).await??)
    }

    /// Publishes to a topic, and says whom it reached.
    ///
    /// # Errors
    /// [`Error::Name`] with the rule that the topic breaks, [`Error::Codec`], or [`Error::Publish`].
    pub async fn publish(&self, topic: &str, payload: impl IntoPayload) -> Result<Published, Error> {
        self.publish_with(Publish::new(topic, payload)?).await
    }

    /// As [`publish`](Self::publish), with everything that can be said about a message.
    ///
    /// # Errors
    /// The same.
    pub async fn publish_with(&self, message: Publish) -> Result<Published, Error> {
        let realm = message.realm.unwrap_or_else(|| self.realm());
        let pubsub = &self.inner.core.pubsub;
        Ok(pubsub.publish_with(&realm, &message.topic, message.payload, message.options).await?)
    }

    /// A topic to publish to often: what is known of it is kept at hand, so that each message costs less.
    ///
    /// ```no_run
    /// # async fn example(node: macula::Node) -> Result<(), macula::Error> {
    /// let kitchen = node.publisher("home.kitchen")?;
    /// for celsius in ["20.5", "21.0", "21.5"] {
    ///     kitchen.publish(celsius).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Name`] with the rule that the topic breaks.
    pub fn publisher(&self, topic: &str) -> Result<Publisher, Error> {
        Ok(Publisher::new(self.inner.core.pubsub.publisher(&self.realm(), &topic.parse()?)))
    }

    /// Publishes a message and waits until everybody who subscribes now took it, for at most `within`; says who did. What may
    /// be lost with a connection is sent again. "Took it" means that the application received the message and dropped it.
    ///
    /// ```no_run
    /// # async fn example(node: macula::Node) -> Result<(), macula::Error> {
    /// use std::time::Duration;
    /// use macula::Publish;
    ///
    /// let order = Publish::new("shop.web", "three apples")?;
    /// let acknowledged = node.publish_acknowledged(order, Duration::from_secs(5)).await?;
    /// for missed in &acknowledged.missed {
    ///     eprintln!("{}: {}", missed.node, missed.reason);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Publish`]; nothing was sent then. That somebody did not take it is no error.
    pub async fn publish_acknowledged(
        &self,
        message: Publish,
        within: Duration,
    ) -> Result<Acknowledged, Error> {
        let realm = message.realm.unwrap_or_else(|| self.realm());
        let pubsub = &self.inner.core.pubsub;
        let Publish { topic, payload, options, .. } = message;
        Ok(pubsub.publish_acknowledged(&realm, &topic, payload, options, within).await?)
    }

    /// Publishes a message and has it kept as this node's last value of the topic, for those who subscribe
    /// [with retained values](Self::subscribe_with_retained) later: by the nodes closest to the topic's key, which can read
    /// it, for as long as this node runs and then until it expires (an hour by default).
    ///
    /// ```no_run
    /// # async fn example(node: macula::Node) -> Result<(), macula::Error> {
    /// use macula::{Publish, SubscribeOptions};
    ///
    /// node.publish_retained(Publish::new("home.kitchen.light", "on")?).await?;
    /// // Any time later, anywhere:
    /// let mut home = node.subscribe_with_retained(node.realm(), "home.#", SubscribeOptions::default()).await?;
    /// assert!(home.recv().await.is_some_and(|message| message.is_retained));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Retain`]: what breaks which limit, or why the value is not kept yet.
    pub async fn publish_retained(&self, message: Publish) -> Result<Retained, Error> {
        let realm = message.realm.unwrap_or_else(|| self.realm());
        let pubsub = self.inner.core.pubsub.clone();
        let Publish { topic, payload, options, .. } = message;
        let published = async move { pubsub.publish_retained(&realm, &topic, payload, options).await };
        Ok(self.on_node(published).await??)
    }

    /// Has this node's retained value of a topic kept no longer; says whether there was one.
    ///
    /// # Errors
    /// [`Error::Name`], or [`Error::Directory`] if the directory could not be told yet.
    pub async fn clear_retained(&self, realm: Realm, topic: &str) -> Result<bool, Error> {
        let topic: Name = topic.parse()?;
        let pubsub = self.inner.core.pubsub.clone();
        Ok(self.on_node(async move { pubsub.clear_retained(&realm, &topic).await }).await??)
    }

    /// The retained values of a topic, or of all topics that a pattern matches.
    ///
    /// # Errors
    /// [`Error::Pattern`], or [`Error::Subscribe`]: it takes the same right as to subscribe.
    pub async fn retained(&self, realm: Realm, pattern: &str) -> Result<RetainedFound, Error> {
        let pattern: Pattern = pattern.parse()?;
        let pubsub = self.inner.core.pubsub.clone();
        Ok(self.on_node(async move { pubsub.retained(&realm, &pattern).await }).await??)
    }

    /// The live subscriptions.
    pub fn subscriptions(&self) -> Vec<SubscriptionInfo> {
        self.inner.core.pubsub.subscriptions()
    }

    /// The topics that this node published to lately, and who gets them.
    pub fn topics(&self) -> Vec<RouteInfo> {
        self.inner.core.pubsub.routes()
    }

    /// The trees in which this node takes part: of subscribers to one pattern that are too many for publishers to send to each.
    pub fn trees(&self) -> Vec<TreeInfo> {
        self.inner.core.pubsub.trees()
    }

    /// The directory key at which exact subscriptions to a topic are announced.
    ///
    /// # Errors
    /// [`Error::Name`].
    pub fn topic_key(&self, topic: &str) -> Result<Key, Error> {
        let topic = Pattern::from(&topic.parse::<Name>()?);
        Ok(macula_pubsub::announced_at(&self.realm(), &topic))
    }
}
