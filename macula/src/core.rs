//! The layers of one node, wired together over any transport. It decides nothing.
//!
//! ```text
//!   transport ──► router ──┬─► swim ── events ──► bridge ──► address book, routing table, …
//!                          ├─► directory ◄──┬── announce, watch
//!                          ├─► pubsub ──────┤
//!                          ├─► rpc ─────────┘
//!                          └─► coordination
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use macula_dht::{Kademlia, KademliaConfig};
use macula_membership::{Event, EventError, Member, MemberState, Membership, Swim, SwimConfig};
use macula_platform::{Coordination, CoordinationConfig, CoordinationEnvironment, Peers, RedbStore};
use macula_proto::{Clock, Ed25519Verifier, Gate, Liveness, NodeId, Realm, Signer};
use macula_pubsub::{PubSub, PubSubConfig};
use macula_rpc::{Rpc, RpcConfig};
use macula_transport::{AddressBook, HangUp, Transport};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::router::Router;
use crate::supervisor::{SpawnError, Supervisor};

/// What the layers need to know.
pub(crate) struct CoreConfig {
    pub(crate) swim: SwimConfig,
    pub(crate) directory: KademliaConfig,
    pub(crate) pubsub: PubSubConfig,
    pub(crate) rpc: RpcConfig,
    pub(crate) coordination: CoordinationConfig,
    /// The realms that the node coordinates in.
    pub(crate) realms: Vec<Realm>,
}

/// What is injected: key, time, policy, randomness.
pub(crate) struct Environment {
    pub(crate) signer: Arc<dyn Signer>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) gate: Arc<dyn Gate>,
    pub(crate) seed: u64,
    /// Drawn anew at each start of the process.
    pub(crate) epoch: u64,
    /// Where groups are kept.
    pub(crate) store: Arc<RedbStore>,
    /// For leases: a clock that goes on while the machine sleeps.
    pub(crate) boot_clock: Arc<dyn Clock>,
}

/// One node's layers. Cheap to clone; all clones are the same node.
#[derive(Clone)]
pub(crate) struct Core<T: Transport> {
    pub(crate) transport: T,
    pub(crate) book: Arc<AddressBook>,
    pub(crate) swim: Swim<T>,
    pub(crate) directory: Kademlia<T>,
    pub(crate) pubsub: PubSub<T, Kademlia<T>>,
    pub(crate) rpc: Rpc<T, Kademlia<T>>,
    pub(crate) coordination: Coordination<T, RedbStore>,
    gone: Arc<Gone>,
    misplaced: Counter,
}

/// The names of the supervised tasks.
pub(crate) mod task {
    pub(crate) const TRANSPORT: &str = "transport";
    pub(crate) const MEMBERSHIP: &str = "membership";
    pub(crate) const DIRECTORY: &str = "directory";
    pub(crate) const PUBSUB: &str = "pubsub";
    pub(crate) const RPC: &str = "rpc";
    pub(crate) const COORDINATION: &str = "coordination";
    pub(crate) const BRIDGE: &str = "bridge";
    pub(crate) const BOOTSTRAP: &str = "bootstrap";
}

impl<T: HangUp> Core<T> {
    pub(crate) fn new(transport: T, book: Arc<AddressBook>, config: CoreConfig, env: Environment) -> Self {
        let Environment { signer, clock, gate, seed, epoch, store, boot_clock } = env;
        let verifier = Arc::new(Ed25519Verifier);
        // Drivers are made anew for each start of their tasks: see `spawn`.
        let (swim, _) =
            Swim::new(transport.clone(), config.swim, signer.clone(), verifier.clone(), clock.clone(), seed);
        let (directory, _) = Kademlia::new(
            transport.clone(),
            KademliaConfig { life: swim.local().instance, ..config.directory },
            signer.clone(),
            verifier.clone(),
            clock.clone(),
            gate.clone(),
            seed.wrapping_add(1),
        );
        let gone = Arc::new(Gone::default());
        let pubsub = PubSub::new(
            transport.clone(),
            directory.clone(),
            gate.clone(),
            gone.clone(),
            clock.clone(),
            epoch,
            config.pubsub,
        )
        .with_trees(signer, verifier, seed.wrapping_add(2));
        let rpc =
            Rpc::new(transport.clone(), directory.clone(), gate.clone(), gone.clone(), clock, config.rpc);
        let peers = Arc::new(Around { swim: swim.clone(), transport: transport.clone(), gone: gone.clone() });
        let environment = CoordinationEnvironment {
            transport: transport.clone(),
            store,
            peers,
            clock: boot_clock,
            gate,
            seed: seed.wrapping_add(5),
        };
        let coordination = Coordination::new(environment, config.realms, &config.coordination);
        let misplaced = Counter::default();
        Self { transport, book, swim, directory, pubsub, rpc, coordination, gone, misplaced }
    }

    /// Starts a supervised task for each layer. A layer's state lives in its handle, so a task that is restarted
    /// goes on where the failed one stopped.
    pub(crate) fn spawn(&self, supervisor: &Supervisor) -> Result<(), SpawnError> {
        let core = self.clone();
        supervisor.spawn(task::TRANSPORT, move |stop| {
            let core = core.clone();
            async move { core.transport.serve(core.router(), stop).await }
        })?;
        let swim = self.swim.clone();
        supervisor.spawn(task::MEMBERSHIP, move |stop| swim.driver().run(stop))?;
        let (directory, replay) = (self.directory.clone(), self.clone());
        let replay = move || {
            let core = replay.clone();
            async move { core.replay().await }
        };
        supervisor
            .task(task::DIRECTORY)
            .on_restart(replay)
            .spawn(move |stop| directory.driver().run(stop))?;
        let pubsub = self.pubsub.clone();
        supervisor.spawn(task::PUBSUB, move |stop| {
            let pubsub = pubsub.clone();
            async move { pubsub.run(stop).await }
        })?;
        let rpc = self.rpc.clone();
        supervisor.spawn(task::RPC, move |stop| {
            let rpc = rpc.clone();
            async move { rpc.run(stop).await }
        })?;
        let coordination = self.coordination.clone();
        supervisor.spawn(task::COORDINATION, move |stop| {
            let coordination = coordination.clone();
            async move { coordination.run(stop).await }
        })?;
        let core = self.clone();
        supervisor.spawn(task::BRIDGE, move |stop| {
            let core = core.clone();
            async move { core.bridge(stop).await }
        })
    }

    /// Adds every layer's metrics.
    pub(crate) fn register_metrics(&self, registry: &mut Registry) {
        self.swim.metrics().register(registry);
        self.directory.metrics().register(registry);
        self.pubsub.metrics().register(registry);
        self.rpc.metrics().register(registry);
        registry.register(
            "frames_misplaced",
            "Frames skipped because nobody serves their kind on the verb that they came on",
            self.misplaced.clone(),
        );
    }

    fn router(&self) -> Router<T> {
        Router {
            swim: self.swim.clone(),
            directory: self.directory.clone(),
            pubsub: self.pubsub.clone(),
            rpc: self.rpc.clone(),
            coordination: self.coordination.clone(),
            misplaced: self.misplaced.clone(),
        }
    }

    /// After the directory's task was restarted: subscriptions and procedures are announced again.
    async fn replay(&self) {
        if let Err(error) = self.pubsub.replay().await {
            tracing::warn!(%error, "not every subscription could be announced again; they are tried further");
        }
        if let Err(error) = self.rpc.replay().await {
            tracing::warn!(%error, "not every procedure could be announced again; they are tried further");
        }
    }

    /// Tells the address book and the routing table what membership learns.
    async fn bridge(&self, stop: CancellationToken) {
        let mut events = self.swim.subscribe();
        self.learn_all();
        loop {
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                event = events.recv() => event,
            };
            match event {
                Ok(event) => self.learn(&event),
                Err(EventError::Closed) => return,
                // The snapshot has whatever the lost events said.
                Err(_) => self.learn_all(),
            }
        }
    }

    fn learn_all(&self) {
        for member in self.swim.members().iter() {
            self.book.learn(&member.contact);
            self.directory.peer_is(member.contact.id, member.instance);
        }
        self.note_gone();
    }

    fn learn(&self, event: &Event) {
        let member = event.member();
        match event {
            Event::Confirmed(_) => {
                self.directory.peer_lost(member.contact.id);
                // What waits for the dead fails now, not when the connection notices.
                self.transport.hang_up(&member.contact.id);
            }
            // It still receives what is on its way.
            Event::Left(_) => self.directory.peer_lost(member.contact.id),
            Event::Joined(_) => {
                self.book.learn(&member.contact);
                self.directory.peer_back(member.contact.id, member.instance);
                // Most who join were never here.
                if !self.gone.is_gone(&member.contact.id) {
                    return;
                }
            }
            Event::Updated(_) => {
                self.directory.peer_is(member.contact.id, member.instance);
                return self.book.learn(&member.contact);
            }
            _ => return self.book.learn(&member.contact),
        }
        self.note_gone();
    }

    fn note_gone(&self) {
        self.gone.0.store(Arc::new(self.swim.gone()));
        self.pubsub.liveness_changed();
    }
}

/// What coordination wants to know of the mesh.
struct Around<T: Transport> {
    swim: Swim<T>,
    transport: T,
    gone: Arc<Gone>,
}

impl<T: Transport> Liveness for Around<T> {
    fn is_gone(&self, id: &NodeId) -> bool {
        self.gone.is_gone(id)
    }

    fn has_left(&self, id: &NodeId) -> bool {
        self.gone.has_left(id)
    }
}

impl<T: Transport> Peers for Around<T> {
    /// Membership knows no realms: who is in another one says so when it is asked.
    fn others(&self, _realm: &Realm) -> Vec<NodeId> {
        let me = self.transport.local().id;
        let members = self.swim.members();
        let mut others: Vec<_> = members.iter().map(Member::id).filter(|id| *id != me).collect();
        others.sort_by_key(|id| !self.transport.is_connected(id));
        others
    }
}

/// Who is gone, as membership last said. Publications and calls read it, and never wait for membership.
#[derive(Default)]
struct Gone(ArcSwap<BTreeMap<NodeId, MemberState>>);

impl Liveness for Gone {
    fn is_gone(&self, id: &NodeId) -> bool {
        self.0.load().contains_key(id)
    }

    fn has_left(&self, id: &NodeId) -> bool {
        self.0.load().get(id) == Some(&MemberState::Left)
    }
}

#[cfg(test)]
#[path = "core_test.rs"]
mod tests;
