//! Procedures and calls of a [`Node`].

use macula_proto::{Key, Name, Realm};
use macula_rpc::{
    Caching, CallRequest, Handler, PartSender, Procedures, ProviderInfo, RegisterOptions, Registration,
    RegistrationInfo, Reply, ResultStream,
};

use crate::{Error, IntoPayload, Node};

/// Procedures and calls.
impl Node {
    /// Offers a procedure. It is offered until the [`Registration`] is dropped.
    ///
    /// # Errors
    /// [`Error::Name`] with the rule that the name breaks, or [`Error::Register`].
    pub async fn register(&self, procedure: &str, handler: impl Handler) -> Result<Registration, Error> {
        self.register_in(self.realm(), procedure, RegisterOptions::default(), handler).await
    }

    /// As [`register`](Self::register), in a given realm and with options.
    ///
    /// # Errors
    /// The same.
    pub async fn register_in(
        &self,
        realm: Realm,
        procedure: &str,
        options: RegisterOptions,
        handler: impl Handler,
    ) -> Result<Registration, Error> {
        let procedure = procedure.parse()?;
        let rpc = self.inner.core.rpc.clone();
        Ok(self.on_node(async move { rpc.register(realm, procedure, options, handler).await }).await??)
    }

    /// Takes a procedure back, and returns once the directory knows. Dropping the registration does the same in the
    /// background.
    ///
    /// # Errors
    /// [`Error::Closed`] if the node is shut down.
    pub async fn unregister(&self, registration: Registration) -> Result<(), Error> {
        self.on_node(async move { registration.unregister().await }).await
    }

    /// Calls a procedure, wherever in the mesh it is offered.
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::Codec`], or [`Error::Call`] with what went wrong and whether the handler may have
    /// run.
    pub async fn call(&self, procedure: &str, payload: impl IntoPayload) -> Result<Reply, Error> {
        let (bytes, content_type) = payload.into_payload()?;
        let request = CallRequest::new(procedure.parse()?).realm(self.realm());
        self.call_with(request.payload(bytes).content_type(content_type)).await
    }

    /// As [`call`](Self::call), with everything that can be said about a call.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub async fn call_with(&self, request: CallRequest) -> Result<Reply, Error> {
        Ok(self.inner.core.rpc.call(self.with_defaults(request)).await?)
    }

    /// As [`call_with`](Self::call_with), for a handler that answers in parts.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub async fn call_stream(&self, request: CallRequest) -> Result<ResultStream, Error> {
        Ok(self.inner.core.rpc.call_stream(self.with_defaults(request)).await?)
    }

    /// As [`call_stream`](Self::call_stream), for a request that comes in parts as well.
    ///
    /// ```no_run
    /// # async fn example(node: macula::Node) -> Result<(), Box<dyn std::error::Error>> {
    /// use macula::{CallRequest, Decode};
    ///
    /// let (mut parts, results) = node.call_duplex(CallRequest::new("text.count".parse()?)).await?;
    /// for line in ["one", "two"] {
    ///     // Waits while the handler takes them slowly, for as long as the call's deadline allows.
    ///     parts.send(line).await?;
    /// }
    /// parts.finish();
    /// println!("{}", results.reply().await?.text()?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Call`].
    pub async fn call_duplex(&self, request: CallRequest) -> Result<(PartSender, ResultStream), Error> {
        Ok(self.inner.core.rpc.call_duplex(self.with_defaults(request)).await?)
    }

    /// Who offers a procedure, in order of node id, and how they fare as far as this node knows.
    ///
    /// # Errors
    /// [`Error::Name`], or [`Error::Directory`] if they could not be looked up.
    pub async fn providers(&self, procedure: &str) -> Result<Vec<ProviderInfo>, Error> {
        self.providers_in(self.realm(), procedure).await
    }

    /// As [`providers`](Self::providers), in a given realm.
    ///
    /// # Errors
    /// The same.
    pub async fn providers_in(&self, realm: Realm, procedure: &str) -> Result<Vec<ProviderInfo>, Error> {
        let procedure = procedure.parse()?;
        let rpc = self.inner.core.rpc.clone();
        Ok(self.on_node(async move { rpc.providers(realm, procedure).await }).await??)
    }

    /// The procedures on offer.
    pub fn registrations(&self) -> Vec<RegistrationInfo> {
        self.inner.core.rpc.registrations()
    }

    /// The directory key at which providers of a procedure announce themselves.
    ///
    /// # Errors
    /// [`Error::Name`].
    pub fn procedure_key(&self, procedure: &str) -> Result<Key, Error> {
        let procedure: Name = procedure.parse()?;
        Ok(Key::derive("procedure", &self.realm(), procedure.as_str()))
    }

    /// Deadline, strategy and whether answers are kept may change while the node runs, so they are read at each call.
    fn with_defaults(&self, mut request: CallRequest) -> CallRequest {
        let config = self.inner.config.load();
        request.timeout.get_or_insert(config.rpc.default_timeout);
        request.strategy.get_or_insert(config.rpc.routing_strategy.into());
        if !config.rpc.cache_enabled {
            request.caching = Some(Caching::Off);
        }
        request
    }
}
