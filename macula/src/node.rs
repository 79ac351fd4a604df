//! [`Node`]: one node of a mesh, as an application sees it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use macula_dht::Found;
use macula_dht::kademlia::{LookupTrace, TableSnapshot};
use macula_membership::{EventError, Member, Membership};
use macula_proto::{Contact, Key, NodeId, Realm, Timestamp};
use macula_transport::{PeerInfo, QuicTransport, Transport};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use crate::bootstrap::{SeedEntry, SeedError, SeedOrigin};
use crate::builder::NodeBuilder;
use crate::config::{Config, ConfigError, Entry, Raw};
use crate::core::Core;
use crate::data_dir::DataDir;
use crate::join::{Joined, Presence};
use crate::supervisor::{Supervisor, TaskStatus};
use crate::{Error, StartError, tags, thread};

/// One node of a mesh. Cheap to clone; all clones are the same node, and when the last goes without
/// [`shutdown`](Self::shutdown), the node stops without saying goodbye.
///
/// A node runs on a thread of its own; handlers of procedures run on the tokio runtime from which it was started.
///
/// # Guarantees
/// - A peer is who its certificate says; everything that leaves the machine is encrypted.
/// - [`subscribe`](Self::subscribe) returns once the interest is announced: what a publisher that watches the topic sends
///   from then on arrives, per publisher and topic in order, each message at most once.
/// - A handler is never run twice for one call, unless the call says that it is idempotent.
/// - A task that fails restarts alone, and what the application asked for (subscriptions, registrations) stands.
#[derive(Clone)]
pub struct Node {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) core: Core<QuicTransport>,
    pub(crate) supervisor: Supervisor,
    pub(crate) config: ArcSwap<Config>,
    /// Serialises changes of `config`.
    pub(crate) changing: Mutex<()>,
    pub(crate) presence: Arc<Presence<QuicTransport>>,
    pub(crate) registry: Registry,
    pub(crate) clock: Arc<dyn macula_proto::Clock>,
    pub(crate) admin_socket: std::path::PathBuf,
    pub(crate) data: Option<DataDir>,
    pub(crate) started: Instant,
    pub(crate) runtime: Handle,
    /// Set once the node has shut down.
    pub(crate) closed: CancellationToken,
    /// Ends the node's thread when the last clone is dropped.
    pub(crate) _thread: DropGuard,
    pub(crate) shutdown: tokio::sync::Mutex<()>,
}

/// Whether the node does its work.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Every task runs.
    Healthy,
    /// It works, but not as it should, for this reason.
    Degraded(String),
    /// Something failed too often and stays down.
    Unhealthy(String),
}

/// Its life.
impl Node {
    /// Starts from defaults: an identity that is not kept, and a free port.
    pub fn builder() -> NodeBuilder {
        NodeBuilder::new()
    }

    /// Starts a node with this configuration: its data directory is opened and locked, its identity read or made.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        thread::start(config, thread::Extras::kept()).await
    }

    pub(crate) fn from_inner(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// Shuts down in order: stop taking work, say goodbye, finish what is under way, close. Each stage has a deadline.
    /// Returns when the node is down; calling it again waits for the same end.
    pub async fn shutdown(&self) {
        let inner = self.inner.clone();
        let ended = self.inner.runtime.spawn(async move { crate::shutdown::shutdown(&inner).await });
        // The thread may already be gone, and the task with it: that is what was wanted.
        let _ = ended.await;
        self.inner.closed.cancelled().await;
    }

    /// Cancelled once the node has shut down.
    pub fn closed(&self) -> CancellationToken {
        self.inner.closed.clone()
    }
}

/// Who it is, and how.
impl Node {
    /// Its id: the hash of its public key.
    pub fn node_id(&self) -> NodeId {
        self.inner.core.transport.local().id
    }

    /// Its name on this machine.
    pub fn name(&self) -> String {
        self.config().node.name.clone()
    }

    /// Its id and the addresses that others are told.
    pub fn contact(&self) -> Contact {
        self.inner.core.transport.local()
    }

    /// The socket that it listens on.
    pub fn listen_addrs(&self) -> Vec<SocketAddr> {
        vec![self.inner.core.transport.local_addr()]
    }

    /// The realm that operations without a realm are for: the first one configured.
    pub fn realm(&self) -> Realm {
        self.config().node.realms.first().cloned().unwrap_or_default()
    }

    /// The realms that it is in.
    pub fn realms(&self) -> Vec<Realm> {
        self.config().node.realms.clone()
    }

    /// Time since the start.
    pub fn uptime(&self) -> Duration {
        self.inner.started.elapsed()
    }

    /// Time since a moment that one of its layers recorded.
    pub fn since(&self, moment: Timestamp) -> Duration {
        self.inner.clock.now().since(moment)
    }

    /// Whether it does its work.
    pub fn health(&self) -> Health {
        let failed = self.inner.supervisor.failed();
        let failed: Vec<_> = failed.borrow().iter().map(ToString::to_string).collect();
        if !failed.is_empty() {
            return Health::Unhealthy(format!("failed too often and stay down: {}", failed.join(", ")));
        }
        if let Some(rival) = self.inner.core.swim.rival() {
            let addrs: Vec<_> = rival.addrs.iter().map(ToString::to_string).collect();
            let at = addrs.join(", ");
            return Health::Degraded(format!(
                "another process uses this node's key, at {at}: others see only one"
            ));
        }
        self.groups_health()
    }

    fn groups_health(&self) -> Health {
        for status in self.groups() {
            let realm = &status.realm;
            if let Some(foreign) = status.foreign {
                let (node, kinship) = (foreign.node.short(), foreign.kinship);
                return Health::Degraded(format!(
                    "realm `{realm}` has two groups, the other one at {node}: {kinship}"
                ));
            }
            if let Some(why) = status.member.and_then(|member| member.stopped) {
                return Health::Unhealthy(format!("the group of realm `{realm}` has stopped here: {why}"));
            }
        }
        Health::Healthy
    }

    /// Its supervised tasks.
    pub fn tasks(&self) -> Vec<TaskStatus> {
        self.inner.supervisor.status()
    }

    /// Makes one of its tasks fail, as if it had crashed, to see that the node survives; says whether there was one.
    pub fn kill_task(&self, name: &str) -> bool {
        self.inner.supervisor.kill(name)
    }

    /// All counters, gauges and histograms, in the OpenMetrics text format. A counter by reason (`transport_refusals`,
    /// `transport_dropped`, `membership_refused`, `dht_stores_refused`, …) shows a reason once it has occurred. Datagrams
    /// that are no QUIC, or cannot be decrypted, are discarded by QUIC itself before anything could count them.
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.inner.registry);
        text
    }

    /// Where `macula_ctl` expects this node's admin socket.
    pub fn admin_socket(&self) -> &Path {
        &self.inner.admin_socket
    }

    /// Where it keeps its key and its peers, if it keeps them.
    pub fn data_dir(&self) -> Option<&Path> {
        self.inner.data.as_ref().map(DataDir::path)
    }
}

/// The mesh around it.
impl Node {
    /// Joins a mesh through one of its nodes, given as `host:port`.
    ///
    /// # Errors
    /// [`JoinError`](crate::JoinError): nobody there, or nobody who lets this node in.
    pub async fn join(&self, addr: &str) -> Result<Joined, Error> {
        let (presence, addr) = (self.inner.presence.clone(), addr.to_owned());
        Ok(self.on_node(async move { presence.join(&addr).await }).await??)
    }

    /// Waits until another member is known. Starting does not wait for the seeds: they may come up later, and are tried
    /// until one answers. Bound it with a timeout.
    ///
    /// # Errors
    /// [`Error::Closed`] if the node is shut down.
    pub async fn joined(&self) -> Result<(), Error> {
        let mut events = self.member_events();
        let closed = self.closed();
        while self.members().len() < 2 {
            tokio::select! {
                () = closed.cancelled() => return Err(Error::Closed),
                event = events.recv() => {
                    if matches!(event, Err(EventError::Closed)) {
                        return Err(Error::Closed);
                    }
                }
            }
        }
        Ok(())
    }

    /// Says goodbye to the mesh and goes on alone: others neither call it nor publish to it any more. Seeds are not tried
    /// again until the next [`join`](Self::join).
    ///
    /// # Errors
    /// [`Error::Closed`] if the node is shut down.
    pub async fn leave(&self) -> Result<(), Error> {
        let presence = self.inner.presence.clone();
        self.on_node(async move { presence.leave().await }).await
    }

    /// The members that are alive, or only suspected not to be; this node is one of them. After [`leave`](Self::leave)
    /// it is the only one, and has left.
    pub fn members(&self) -> Arc<[Member]> {
        self.inner.core.swim.members()
    }

    /// The members that are known to be dead or to have left, until they are forgotten; their addresses are the last ones
    /// known, and whoever left has no tags any more.
    pub fn gone_members(&self) -> Vec<Member> {
        let mut gone = self.inner.core.swim.gone_members();
        for member in gone.iter_mut().filter(|member| member.contact.addrs.is_empty()) {
            let id = member.id();
            member.contact = Arc::new(Contact { id, addrs: self.inner.core.book.addrs(&id) });
        }
        gone
    }

    /// Changes of the members, from now on.
    pub fn member_events(&self) -> macula_membership::EventReceiver {
        self.inner.core.swim.subscribe()
    }

    /// The open connections.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.inner.core.transport.peers()
    }

    /// The directory's routing table.
    ///
    /// # Errors
    /// [`Error::Directory`] if the directory's task is down.
    pub async fn routing_table(&self) -> Result<TableSnapshot, Error> {
        Ok(self.inner.core.directory.routing_table().await?)
    }

    /// Looks a key up in the directory: every question on the way to the nodes closest to it, and the records there.
    ///
    /// # Errors
    /// [`Error::Directory`] if nobody answers.
    pub async fn lookup(&self, key: Key) -> Result<(LookupTrace, Found), Error> {
        let directory = self.inner.core.directory.clone();
        Ok(self.on_node(async move { directory.lookup_trace(key).await }).await??)
    }

    /// The seeds, and who named them.
    pub fn seeds(&self) -> Vec<SeedEntry> {
        self.inner.presence.seeds.lock().entries()
    }

    /// Adds a seed, as `host:port`: it is tried when the node is alone.
    ///
    /// # Errors
    /// [`SeedError`] if it is none, or the list is full.
    pub fn add_seed(&self, addr: &str) -> Result<(), SeedError> {
        self.inner.presence.seeds.lock().add(addr.parse()?, SeedOrigin::Runtime)?;
        self.inner.presence.changed.notify_one();
        Ok(())
    }

    /// Removes a seed; says whether it was there.
    pub fn remove_seed(&self, addr: &str) -> bool {
        addr.parse().is_ok_and(|seed| self.inner.presence.seeds.lock().remove(&seed))
    }
}

/// Configuration.
impl Node {
    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.inner.config.load_full()
    }

    /// A key's value, and who set it.
    ///
    /// # Errors
    /// [`ConfigError::Unknown`], with a hint.
    pub fn get_config(&self, key: &str) -> Result<Entry, ConfigError> {
        self.inner.config.load().entry(key)
    }

    /// Changes a key while the node runs, and hands the new value to whoever uses it.
    ///
    /// # Errors
    /// [`ConfigError::Fixed`] for a key that needs a restart, [`ConfigError::Invalid`] with the rule that the value
    /// breaks; then nothing has changed.
    pub fn set_config(&self, key: &str, value: impl Into<Raw>) -> Result<Entry, ConfigError> {
        self.change_config(key, |_| value.into())
    }

    /// The same, with a value that follows from the configuration in force.
    pub(crate) fn change_config(
        &self,
        key: &str,
        value: impl FnOnce(&Config) -> Raw,
    ) -> Result<Entry, ConfigError> {
        let _one_at_a_time = self.inner.changing.lock();
        let mut config = Config::clone(&self.inner.config.load());
        let value = value(&config);
        let entry = config.set(key, value)?;
        match entry.key.name {
            "bootstrap.seeds" => self.inner.presence.configured(&config.bootstrap.seeds),
            "node.tags" => tags::apply(&self.inner.core, &config.node.tags),
            _ => {}
        }
        self.inner.config.store(Arc::new(config));
        Ok(entry)
    }

    /// Every key with its value and who set it.
    pub fn config_entries(&self) -> Vec<Entry> {
        self.inner.config.load().entries()
    }
}

impl Node {
    /// Runs something on the node's own thread, where its timers and tasks live. Dropping the future aborts it.
    pub(crate) async fn on_node<F>(&self, work: F) -> Result<F::Output, Error>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let task = AbortOnDropHandle::new(self.inner.runtime.spawn(work));
        match task.await {
            Ok(output) => Ok(output),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Error::Closed),
        }
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.node_id().short())
    }
}
