//! The narrow trait: what an application needs of procedures and calls.

use std::future::Future;
use std::time::Duration;

use macula_dht::DirectoryError;
use macula_proto::{Contact, Name, Realm};

use crate::{
    CallError, CallRequest, Handler, PartSender, RegisterError, RegisterOptions, Registration, Reply,
    ResultStream,
};

/// Offers and calls procedures. Cheap to clone; all clones are the same node's.
///
/// # Guarantees
/// - A handler is never run twice for one call, unless the call says that it is idempotent: once the request may have been
///   delivered, a failure is reported ([`CallError::may_have_run`]) and not retried elsewhere.
/// - When the future of a call, or its [`ResultStream`], is dropped, or the deadline passes, the handler is stopped.
/// - A local handler is run under the same limits as a remote one: concurrency, deadline, sizes, policy.
pub trait Procedures: Clone + Send + Sync + 'static {
    /// Offers a procedure on this node; returns once others can find it.
    ///
    /// # Errors
    /// [`RegisterError`]; nothing is left behind then.
    fn register(
        &self,
        realm: Realm,
        procedure: Name,
        options: RegisterOptions,
        handler: impl Handler,
    ) -> impl Future<Output = Result<Registration, RegisterError>> + Send;

    /// Calls a procedure and waits for its answer. Progress that the handler sends is dropped.
    ///
    /// # Errors
    /// [`CallError`]: why there is no answer.
    fn call(&self, request: CallRequest) -> impl Future<Output = Result<Reply, CallError>> + Send;

    /// Calls a procedure; returns once a provider has started the handler, whose results then come in parts.
    ///
    /// # Errors
    /// [`CallError`]: why no handler was started.
    fn call_stream(
        &self,
        request: CallRequest,
    ) -> impl Future<Output = Result<ResultStream, CallError>> + Send;

    /// The same, with parts of the request to follow as well.
    ///
    /// # Errors
    /// [`CallError`]: why no handler was started.
    fn call_duplex(
        &self,
        request: CallRequest,
    ) -> impl Future<Output = Result<(PartSender, ResultStream), CallError>> + Send;

    /// Who offers a procedure, in order of node id.
    ///
    /// # Errors
    /// [`DirectoryError`] if they could not be looked up.
    fn providers(
        &self,
        realm: Realm,
        procedure: Name,
    ) -> impl Future<Output = Result<Vec<ProviderInfo>, DirectoryError>> + Send;
}

/// One provider of a procedure.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProviderInfo {
    /// Who, and where to reach it.
    pub contact: Contact,
    /// Whether that is this very node.
    pub local: bool,
    /// What it says about the procedure, for people.
    pub description: String,
    /// Calls that it runs at once, by its own word; zero if it does not say.
    pub concurrency_max: u32,
    /// Calls that run there, as far as this node knows.
    pub load: u32,
    /// It failed lately, or is held for dead, and others are chosen first.
    pub penalised: bool,
    /// How long an answer of it may be kept, by its own word.
    pub cache_for: Option<Duration>,
}
