//! What this node offers: the table of registrations.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use macula_proto::{Key, Name, Realm, wire};
use prost::Message;
use tokio::sync::Semaphore;

use crate::{Handler, RegisterError, RpcMetrics};

/// Longest description of a procedure, in bytes: it travels in the directory record.
pub const DESCRIPTION_BYTES_MAX: usize = 256;

/// How a procedure is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterOptions {
    /// Calls that run at once on this node; further ones are refused as overloaded, never queued. Zero counts as one.
    /// Default 64: enough for handlers that wait for others, few enough to stay responsive with those that compute.
    pub concurrency_max: u32,
    /// What the procedure does, for people; at most 256 bytes. Others see it in the directory.
    pub description: String,
    /// How long callers may give an answer again to the same request instead of asking; from a millisecond to
    /// `u32::MAX` of them. Say so only of procedures that do nothing but answer. Default `None`: not at all.
    pub cache_for: Option<Duration>,
}

impl Default for RegisterOptions {
    fn default() -> Self {
        Self { concurrency_max: 64, description: String::new(), cache_for: None }
    }
}

/// One registration, as a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegistrationInfo {
    /// In which realm.
    pub realm: Realm,
    /// Which procedure.
    pub procedure: Name,
    /// What it does, for people.
    pub description: String,
    /// Calls running now.
    pub in_flight: u32,
    /// Calls that may run at once.
    pub concurrency_max: u32,
    /// Handlers started since the registration.
    pub calls: u64,
    /// Of these, how many failed: an error, a panic or a reply that was too large.
    pub errors: u64,
    /// How long callers may keep an answer.
    pub cache_for: Option<Duration>,
}

/// A procedure on offer. Dropping it takes the offer back; calls that run go on to their end.
///
/// The directory is told by [`unregister`](Self::unregister) before it returns, or soon after a drop by the node's
/// maintenance ([`Rpc::run`](crate::Rpc::run)).
#[must_use = "dropping it unregisters the procedure"]
pub struct Registration {
    table: Arc<Registry>,
    procedure: Procedure,
    id: u64,
    withdrawal: Arc<dyn Withdrawal>,
    kept: bool,
}

impl Registration {
    /// Which procedure.
    pub const fn procedure(&self) -> &Name {
        &self.procedure.name
    }

    /// In which realm.
    pub const fn realm(&self) -> &Realm {
        &self.procedure.realm
    }

    /// Takes the offer back and waits until the directory was told. Calls that run go on to their end.
    pub async fn unregister(mut self) {
        self.kept = true;
        if self.table.remove(&self.procedure, self.id) {
            self.withdrawal.now(self.procedure.clone()).await;
        }
    }

    /// Keeps the procedure registered for as long as the node runs.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if !self.kept && self.table.remove(&self.procedure, self.id) {
            self.withdrawal.later(self.procedure.clone());
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registration({} in {})", self.procedure.name, self.procedure.realm)
    }
}

/// How a removed registration leaves the directory.
pub(crate) trait Withdrawal: Send + Sync + 'static {
    /// Before the future is done.
    fn now(&self, procedure: Procedure) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// Soon, by somebody else.
    fn later(&self, procedure: Procedure);
}

/// A procedure of a realm.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Procedure {
    pub(crate) realm: Realm,
    pub(crate) name: Name,
}

impl Procedure {
    /// Where its providers announce themselves.
    pub(crate) fn key(&self) -> Key {
        Key::derive("procedure", &self.realm, self.name.as_str())
    }
}

/// One registered procedure.
pub(crate) struct Offer {
    id: u64,
    pub(crate) handler: Box<dyn Handler>,
    options: RegisterOptions,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) calls: AtomicU64,
    pub(crate) errors: AtomicU64,
}

impl Offer {
    /// Calls running now.
    pub(crate) fn in_flight(&self) -> u32 {
        let free = u32::try_from(self.slots.available_permits()).unwrap_or(u32::MAX);
        self.options.concurrency_max.saturating_sub(free)
    }

    pub(crate) const fn options(&self) -> &RegisterOptions {
        &self.options
    }

    /// What the directory shows of it.
    pub(crate) fn to_record(&self) -> Bytes {
        let offer = wire::ProcedureOffer {
            description: self.options.description.clone(),
            concurrency_max: self.options.concurrency_max,
            cache_ms: millis(self.options.cache_for),
        };
        offer.encode_to_vec().into()
    }
}

/// All registered procedures of one node.
pub(crate) struct Registry {
    offers: DashMap<Procedure, Arc<Offer>>,
    ids: AtomicU64,
    /// How many there are.
    count: AtomicUsize,
    closing: AtomicBool,
    metrics: Arc<RpcMetrics>,
}

impl Registry {
    pub(crate) fn new(metrics: Arc<RpcMetrics>) -> Self {
        Self {
            offers: DashMap::new(),
            ids: AtomicU64::new(0),
            count: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            metrics,
        }
    }

    pub(crate) fn add(
        self: &Arc<Self>,
        procedure: Procedure,
        mut options: RegisterOptions,
        handler: impl Handler,
        withdrawal: Arc<dyn Withdrawal>,
    ) -> Result<Registration, RegisterError> {
        if self.is_closing() {
            return Err(RegisterError::Closing);
        }
        if options.description.len() > DESCRIPTION_BYTES_MAX {
            return Err(RegisterError::DescriptionTooLong(options.description.len()));
        }
        options.concurrency_max = options.concurrency_max.max(1);
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let Entry::Vacant(vacant) = self.offers.entry(procedure.clone()) else {
            let Procedure { realm, name } = procedure;
            return Err(RegisterError::AlreadyRegistered { realm, procedure: name });
        };
        vacant.insert(Arc::new(Offer {
            id,
            handler: Box::new(handler),
            slots: Arc::new(Semaphore::new(options.concurrency_max as usize)),
            options,
            calls: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        }));
        self.count.fetch_add(1, Ordering::Release);
        self.metrics.registrations_added.inc();
        tracing::debug!(realm = %procedure.realm, procedure = %procedure.name, "registration added");
        Ok(Registration { table: self.clone(), procedure, id, withdrawal, kept: false })
    }

    /// Whether that very registration was still there.
    fn remove(&self, procedure: &Procedure, id: u64) -> bool {
        let removed = self.offers.remove_if(procedure, |_, offer| offer.id == id).is_some();
        if removed {
            self.count.fetch_sub(1, Ordering::Release);
            self.metrics.registrations_removed.inc();
            tracing::debug!(realm = %procedure.realm, procedure = %procedure.name, "registration removed");
        }
        removed
    }

    pub(crate) fn get(&self, procedure: &Procedure) -> Option<Arc<Offer>> {
        self.offers.get(procedure).map(|offer| offer.clone())
    }

    /// Whether nothing is on offer.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// No new registrations and no new calls from now on.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    pub(crate) fn procedures(&self) -> Vec<Procedure> {
        let mut all: Vec<_> = self.offers.iter().map(|offer| offer.key().clone()).collect();
        all.sort();
        all
    }

    /// In order of realm and name.
    pub(crate) fn snapshot(&self) -> Vec<RegistrationInfo> {
        let mut all: Vec<_> = self.offers.iter().map(|offer| info(offer.key(), offer.value())).collect();
        all.sort_by(|a, b| (&a.realm, &a.procedure).cmp(&(&b.realm, &b.procedure)));
        all
    }
}

fn info(procedure: &Procedure, offer: &Offer) -> RegistrationInfo {
    RegistrationInfo {
        realm: procedure.realm.clone(),
        procedure: procedure.name.clone(),
        description: offer.options.description.clone(),
        in_flight: offer.in_flight(),
        concurrency_max: offer.options.concurrency_max,
        calls: offer.calls.load(Ordering::Relaxed),
        errors: offer.errors.load(Ordering::Relaxed),
        cache_for: offer.options.cache_for,
    }
}

/// How long an answer may be kept, as the wire has it.
pub(crate) fn millis(cache_for: Option<Duration>) -> u32 {
    cache_for.map_or(0, |cache_for| u32::try_from(cache_for.as_millis()).unwrap_or(u32::MAX))
}

/// The other way round.
pub(crate) fn cache_for(millis: u32) -> Option<Duration> {
    (millis > 0).then(|| Duration::from_millis(millis.into()))
}
