//! Keeps the directory in step with the table of registrations.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use macula_dht::{Directory, DirectoryError};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::registry::{Procedure, Registry, Withdrawal};

/// Procedures are spread over so many locks; two of one lock wait for each other.
const LOCKS: usize = 64;

/// Announces what is registered and withdraws what is not.
pub(crate) struct Announcer<D> {
    directory: D,
    registry: Arc<Registry>,
    /// One change of a procedure at a time: the last word in the directory is the table's last word.
    locks: [tokio::sync::Mutex<()>; LOCKS],
    /// Dropped registrations, to be withdrawn. No more than were ever registered.
    dropped: Mutex<BTreeSet<Procedure>>,
    has_dropped: Notify,
}

impl<D: Directory> Announcer<D> {
    pub(crate) fn new(directory: D, registry: Arc<Registry>) -> Self {
        let locks = std::array::from_fn(|_| tokio::sync::Mutex::default());
        Self { directory, registry, locks, dropped: Mutex::default(), has_dropped: Notify::new() }
    }

    /// Tells the directory what the table says about one procedure.
    pub(crate) async fn reconcile(&self, procedure: &Procedure) -> Result<(), DirectoryError> {
        let key = procedure.key();
        let _one_at_a_time = self.locks[usize::from(key.as_bytes()[0]) % LOCKS].lock().await;
        match self.registry.get(procedure).filter(|_| !self.registry.is_closing()) {
            Some(offer) => self.directory.announce(key, offer.to_record()).await.map(drop),
            None => self.directory.withdraw(key).await,
        }
    }

    /// Waits for dropped registrations and takes one.
    pub(crate) async fn next_dropped(&self) -> Procedure {
        loop {
            let next = self.dropped.lock().pop_first();
            match next {
                Some(procedure) => return procedure,
                None => self.has_dropped.notified().await,
            }
        }
    }

    /// Withdraws; a failure only means that the record goes later, with its time to live. If the future is dropped
    /// half way, the withdrawal is left to the maintenance.
    pub(crate) async fn withdraw(&self, procedure: Procedure) {
        let mut unfinished = Unfinished { announcer: self, procedure: Some(procedure) };
        let Some(procedure) = &unfinished.procedure else { return };
        if let Err(error) = self.reconcile(procedure).await {
            tracing::warn!(realm = %procedure.realm, procedure = %procedure.name, %error, "not withdrawn");
        }
        unfinished.procedure = None;
    }
}

/// A withdrawal under way.
struct Unfinished<'a, D: Directory> {
    announcer: &'a Announcer<D>,
    procedure: Option<Procedure>,
}

impl<D: Directory> Drop for Unfinished<'_, D> {
    fn drop(&mut self) {
        if let Some(procedure) = self.procedure.take() {
            self.announcer.later(procedure);
        }
    }
}

impl<D: Directory> Withdrawal for Announcer<D> {
    fn now(&self, procedure: Procedure) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.withdraw(procedure))
    }

    fn later(&self, procedure: Procedure) {
        self.dropped.lock().insert(procedure);
        self.has_dropped.notify_one();
    }
}
