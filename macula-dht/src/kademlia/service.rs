//! The handle: what users and the rest of the node call.

use std::sync::Arc;

use bytes::Bytes;
use macula_proto::{Capabilities, Clock, Contact, Frame, Gate, Key, NodeId, Signer, Verifier};
use macula_transport::{PeerInfo, ResetCode, StreamTx, Target, Transport};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;

use super::board::Board;
use super::config::KademliaConfig;
use super::driver::{Command, KademliaDriver, State};
use super::lookup::LookupTrace;
use super::message::Request;
use super::metrics::DhtMetrics;
use super::table::{Table, TableSnapshot};
use crate::{Announced, Directory, DirectoryError, Found, Watch};

/// Commands that may wait for the driver.
const COMMANDS_MAX: usize = 1_024;

/// Seeds that are dialled at a time.
const DIALS_MAX: usize = 16;

/// A [`Directory`] made of all nodes together. Cheap to clone; all clones are the same node.
///
/// Nothing happens until its [`KademliaDriver`] runs, and nobody is known until [`bootstrap`](Self::bootstrap),
/// [`peer_up`](Self::peer_up) or [`add_contact`](Self::add_contact). Incoming streams of
/// [`Service::Directory`](macula_proto::Service::Directory) go to [`on_stream`](Self::on_stream).
pub struct Kademlia<T> {
    transport: T,
    commands: mpsc::Sender<Command>,
    board: Arc<Board>,
    metrics: DhtMetrics,
    state: Arc<Mutex<State<T>>>,
}

impl<T: Transport> std::fmt::Debug for Kademlia<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kademlia(of {})", self.transport.local().id.short())
    }
}

impl<T: Clone> Clone for Kademlia<T> {
    fn clone(&self) -> Self {
        Self {
            transport: self.transport.clone(),
            commands: self.commands.clone(),
            board: self.board.clone(),
            metrics: self.metrics.clone(),
            state: self.state.clone(),
        }
    }
}

impl<T: Transport> Kademlia<T> {
    /// The directory of the node whose transport this is, and the driver that must [run](KademliaDriver::run).
    ///
    /// `signer` must hold the key of `transport.local().id`. `seed` is for random choices: draw it.
    pub fn new(
        transport: T,
        config: KademliaConfig,
        signer: Arc<dyn Signer>,
        verifier: Arc<dyn Verifier>,
        clock: Arc<dyn Clock>,
        gate: Arc<dyn Gate>,
        seed: u64,
    ) -> (Self, KademliaDriver<T>) {
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let board = Arc::new(Board::default());
        let metrics = DhtMetrics::default();
        let now = super::driver::now(&*clock);
        let local = transport.local();
        let node = super::Node::new(now, local, config, signer, verifier, gate, metrics.clone(), seed);
        let state = Arc::new(Mutex::new(State::new(transport.clone(), node, clock, inbox, board.clone())));
        let driver = KademliaDriver::new(state.clone());
        (Self { transport, commands, board, metrics, state }, driver)
    }

    /// Another driver, to take over from one whose task died. Records, watches and announcements are kept.
    pub fn driver(&self) -> KademliaDriver<T> {
        KademliaDriver::new(self.state.clone())
    }

    /// Joins the mesh: connects to `seeds`, looks itself up through them and fills the routing table. Returns how many
    /// contacts the table has then. Call it again whenever the table has run empty.
    ///
    /// # Errors
    /// [`DirectoryError::Unreachable`] if no seed could be reached, [`DirectoryError::NoPeers`] if there are none and
    /// nobody is known; [`DirectoryError::Closed`].
    pub async fn bootstrap(&self, seeds: Vec<Target>) -> Result<usize, DirectoryError> {
        let asked = seeds.len();
        let started = tokio::time::Instant::now();
        let mut reached = 0;
        let mut seeds = seeds.into_iter();
        let mut dials = JoinSet::new();
        loop {
            while dials.len() < DIALS_MAX
                && let Some(seed) = seeds.next()
            {
                let transport = self.transport.clone();
                dials.spawn(async move { transport.connect(seed).await });
            }
            let Some(dialled) = dials.join_next().await else { break };
            if let Ok(Ok(peer)) = dialled {
                reached += 1;
                self.command(Command::PeerUp(contact_of(&peer))).await?;
            }
        }
        let outcome = self.ask(Command::Bootstrap).await?;
        match outcome {
            Err(DirectoryError::NoPeers) if asked > 0 && reached == 0 => {
                Err(DirectoryError::Unreachable { asked, waited: started.elapsed() })
            }
            other => other,
        }
    }

    /// A contact by hearsay, as from membership: it gets into the routing table once it answered. Dropped (and counted) if
    /// too much is waiting.
    pub fn add_contact(&self, contact: Contact) {
        self.hint(Command::Contact(contact));
    }

    /// A connection is up: that counts as an answer. Peers that do not take part in the directory are passed over.
    pub fn peer_up(&self, peer: &PeerInfo) {
        if peer.capabilities.contains(Capabilities::DIRECTORY) {
            self.hint(Command::PeerUp(contact_of(peer)));
        }
    }

    /// A node is dead or has left, as membership says. Not for a connection that merely was closed. What it announced is
    /// shown to nobody until it is [back](Self::peer_back).
    pub fn peer_lost(&self, id: NodeId) {
        self.hint(Command::PeerLost(id));
    }

    /// A node is in this run of its process, as membership says: what it announced in earlier ones counts for nothing, unless
    /// it was to last.
    pub fn peer_is(&self, id: NodeId, life: u64) {
        self.hint(Command::PeerIs(id, life));
    }

    /// A node that was lost is there again, as membership says, in this run of its process.
    pub fn peer_back(&self, id: NodeId, life: u64) {
        self.hint(Command::PeerBack(id, life));
    }

    /// Serves one incoming stream: one request, one response. Runs as long as that takes.
    pub async fn on_stream(&self, from: NodeId, first: Frame, mut tx: T::Tx, rx: T::Rx) {
        let Ok((sender, request)) = Request::from_frame(&first) else {
            self.metrics.garbage.inc();
            tx.reset(ResetCode::PROTOCOL);
            return;
        };
        let answer = self.ask(|reply| Command::Request { from, sender, request, reply }).await;
        let frame = answer.ok().and_then(|response| response.to_frame().ok());
        let Some(frame) = frame else {
            tx.reset(ResetCode::OVERLOADED);
            return;
        };
        // If the peer is gone, nobody is left to tell.
        if tx.send(frame).await.is_ok() && tx.finish().is_ok() {
            let _ = tx.closed().await;
        }
        drop(rx);
    }

    /// The k nodes closest to `key`, closest first.
    ///
    /// # Errors
    /// As [`Directory::find`].
    pub async fn find_node(&self, key: Key) -> Result<Vec<Contact>, DirectoryError> {
        let trace = self.ask(|reply| Command::Nodes { key, reply }).await??;
        Ok(trace.closest)
    }

    /// Looks up the records at `key`, hears out all of the closest nodes, and tells how it went, question by question.
    ///
    /// # Errors
    /// As [`Directory::find`].
    pub async fn lookup_trace(&self, key: Key) -> Result<(LookupTrace, Found), DirectoryError> {
        self.ask(|reply| Command::Trace { key, reply }).await?
    }

    /// Like [`Directory::find`], over `paths` ways that have no node in common, 1 to 8, whatever is
    /// [configured](super::KademliaConfig::paths): a hostile node can spoil one of them at most.
    ///
    /// # Errors
    /// As [`Directory::find`].
    pub async fn find_disjoint(&self, key: Key, paths: usize) -> Result<Found, DirectoryError> {
        self.ask(|reply| Command::Find { key, paths: Some(paths), reply }).await?
    }

    /// The routing table at this moment.
    ///
    /// # Errors
    /// [`DirectoryError::Closed`].
    pub async fn routing_table(&self) -> Result<TableSnapshot, DirectoryError> {
        self.ask(Command::Snapshot).await
    }

    /// The routing table's contacts as bytes to keep on disk, so that a restart needs no seeds.
    ///
    /// # Errors
    /// [`DirectoryError::Closed`].
    pub async fn export_table(&self) -> Result<Bytes, DirectoryError> {
        self.ask(Command::Save).await
    }

    /// Takes what [`export_table`](Self::export_table) gave: each contact is asked, and gets in once it answers. Returns
    /// how many are being tried; nothing is if the bytes are damaged.
    pub fn import_table(&self, saved: Bytes) -> usize {
        let Ok(contacts) = Table::saved(saved) else {
            self.metrics.garbage.inc();
            return 0;
        };
        let count = contacts.len();
        contacts.into_iter().for_each(|contact| self.add_contact(contact));
        count
    }

    /// What this node counts.
    pub fn metrics(&self) -> &DhtMetrics {
        &self.metrics
    }

    async fn ask<A>(&self, command: impl FnOnce(oneshot::Sender<A>) -> Command) -> Result<A, DirectoryError> {
        let (reply, answer) = oneshot::channel();
        self.command(command(reply)).await?;
        answer.await.map_err(|_| DirectoryError::Closed)
    }

    async fn command(&self, command: Command) -> Result<(), DirectoryError> {
        self.commands.send(command).await.map_err(|_| DirectoryError::Closed)
    }

    fn hint(&self, command: Command) {
        if self.commands.try_send(command).is_err() {
            self.metrics.overloads.inc();
        }
    }
}

impl<T: Transport> Directory for Kademlia<T> {
    async fn announce(&self, key: Key, value: Bytes) -> Result<Announced, DirectoryError> {
        self.ask(|reply| Command::Announce { key, value, lasting: false, reply }).await?
    }

    async fn announce_lasting(&self, key: Key, value: Bytes) -> Result<Announced, DirectoryError> {
        self.ask(|reply| Command::Announce { key, value, lasting: true, reply }).await?
    }

    async fn withdraw(&self, key: Key) -> Result<(), DirectoryError> {
        self.ask(|reply| Command::Withdraw { key, reply }).await?
    }

    async fn find(&self, key: Key) -> Result<Found, DirectoryError> {
        self.ask(|reply| Command::Find { key, paths: None, reply }).await?
    }

    fn watch(&self, key: Key) -> Watch {
        self.board.watch(key)
    }
}

/// Where a connected peer can be reached: where it says so, or at least where it is now.
fn contact_of(peer: &PeerInfo) -> Contact {
    let mut contact = peer.contact.clone();
    if contact.addrs.is_empty() && peer.dialled {
        contact.addrs.push(peer.remote);
    }
    contact
}
