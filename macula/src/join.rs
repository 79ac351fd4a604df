//! Finding a mesh, staying in it, leaving it.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use macula_membership::{Membership, MembershipError};
use macula_proto::{Clock, Contact, NodeId, UnixMillis};
use macula_transport::{Target, Transport, TransportError};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::{JoinError as JoinFailure, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::JoinError;
use crate::bootstrap::{
    BootstrapPlan, BootstrapTarget, KnownPeer, PEERS_MAX, PeersFile, PlanConfig, Seed, SeedList, SeedOrigin,
    TableFile,
};
use crate::core::Core;

/// How long joining may take, name resolution and all.
const JOIN_PATIENCE: Duration = Duration::from_secs(20);

/// How long a goodbye may take.
const LEAVE_PATIENCE: Duration = Duration::from_secs(2);

/// How often the peers are written to disk while nothing changes.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);

/// How soon a change of the members is on disk, should the process be killed; also the shortest time between writes.
const SAVE_SOON: Duration = Duration::from_secs(1);

/// The directory's driver gives its routing table within this time, or it is not saved this time.
const EXPORT_PATIENCE: Duration = Duration::from_secs(1);

/// The plan is looked at at least this often, whatever its deadline says.
const POLL_MAX: Duration = Duration::from_secs(5);

/// What a join achieved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Who answered at the address.
    pub seed: NodeId,
    /// Live members known now, this node included.
    pub members: usize,
    /// How long it took.
    pub took: Duration,
}

/// What outlives the process, so that the next one finds back.
#[derive(Clone, Debug)]
pub(crate) struct KeptFiles {
    /// Members.
    pub(crate) peers: PeersFile,
    /// Contacts of the directory.
    pub(crate) table: TableFile,
}

/// A node's place in the mesh: whom it may join through, and whether it wants to be in at all.
pub(crate) struct Presence<T: Transport> {
    core: Core<T>,
    clock: Arc<dyn Clock>,
    pub(crate) seeds: Mutex<SeedList>,
    /// The list of seeds has changed, or the node wants to be in again.
    pub(crate) changed: Notify,
    /// The operator said `leave`: nothing is joined until they say `join`.
    left: AtomicBool,
    /// Cancelled by `leave`: a join that is still under way must not bring the node back.
    stay: Mutex<CancellationToken>,
    /// How many other members the log last spoke of: several seeds that answer at once are one join.
    told: AtomicUsize,
    kept: Option<KeptFiles>,
    /// Files that could not be written the last time.
    unsaved: Mutex<BTreeSet<PathBuf>>,
    seed: u64,
}

impl<T: Transport> Presence<T> {
    pub(crate) fn new(
        core: Core<T>,
        clock: Arc<dyn Clock>,
        seeds: SeedList,
        kept: Option<KeptFiles>,
        seed: u64,
    ) -> Self {
        let (seeds, changed, left) = (Mutex::new(seeds), Notify::new(), AtomicBool::new(false));
        let (stay, told, unsaved) = (Mutex::default(), AtomicUsize::new(0), Mutex::default());
        Self { core, clock, seeds, changed, left, stay, told, kept, unsaved, seed }
    }

    /// Joins through whoever listens at `host:port`.
    pub(crate) async fn join(&self, addr: &str) -> Result<Joined, JoinError> {
        let seed: Seed = addr
            .parse()
            .map_err(|error| JoinError::Address { addr: addr.into(), cause: format!("{error}") })?;
        self.left.store(false, Ordering::Relaxed);
        self.changed.notify_one();
        let stay = self.stay.lock().clone();
        let timeout = || JoinError::Timeout { addr: addr.into(), waited: JOIN_PATIENCE };
        let gone =
            || JoinError::Sync { addr: addr.into(), cause: "the node was told to leave meanwhile".into() };
        tokio::select! {
            biased;
            () = stay.cancelled() => Err(gone()),
            joined = tokio::time::timeout(JOIN_PATIENCE, self.through(&seed)) => {
                joined.unwrap_or_else(|_| Err(timeout()))
            }
        }
    }

    /// Says goodbye, and forgets who else takes part.
    pub(crate) async fn leave(&self) {
        let others: Vec<NodeId> = self.core.swim.members().iter().map(|member| member.contact.id).collect();
        self.say_goodbye().await;
        others.into_iter().for_each(|id| self.core.directory.peer_lost(id));
    }

    /// Says goodbye.
    pub(crate) async fn say_goodbye(&self) {
        self.left.store(true, Ordering::Relaxed);
        std::mem::take(&mut *self.stay.lock()).cancel();
        if let Err(MembershipError::GoodbyeUnheard(patience)) = self.core.swim.leave(LEAVE_PATIENCE).await {
            tracing::debug!(?patience, "nobody acknowledged the goodbye");
        }
    }

    /// The configured seeds are these now; those that were added at run time stay.
    pub(crate) fn configured(&self, seeds: &[Seed]) {
        self.seeds.lock().replace(SeedOrigin::Config, seeds);
        self.changed.notify_one();
    }

    /// Keeps the node in the mesh until `stop`: tries seeds and known peers as the plan says, and saves
    /// peers and routing table.
    pub(crate) async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let mut plan = BootstrapPlan::new(PlanConfig::default(), self.seed);
        self.recall(&mut plan);
        let mut events = self.core.swim.subscribe();
        let mut save_at = tokio::time::Instant::now() + SAVE_SOON;
        let mut attempts: JoinSet<(BootstrapTarget, Option<Result<(), JoinError>>)> = JoinSet::new();
        let (mut due, mut known) = (Vec::new(), BTreeSet::new());
        loop {
            let now = self.clock.now();
            self.follow_seeds(&mut plan, &mut known);
            plan.on_members(now, self.others());
            if !self.left.load(Ordering::Relaxed) {
                plan.poll(now, &mut due);
            }
            for target in due.drain(..) {
                let presence = self.clone();
                attempts.spawn(async move { (target.clone(), presence.attempt(&target).await) });
            }
            let pause = plan.deadline().map_or(POLL_MAX, |deadline| deadline.since(now).min(POLL_MAX));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(done) = attempts.join_next() => self.report(&mut plan, done.ok()),
                () = self.changed.notified() => {}
                // Lagging behind is fine: the members themselves are read from their snapshot.
                _ = events.recv() => save_at = save_at.min(tokio::time::Instant::now() + SAVE_SOON),
                () = tokio::time::sleep_until(save_at) => {
                    self.save().await;
                    save_at = tokio::time::Instant::now() + SAVE_INTERVAL;
                }
                () = tokio::time::sleep(pause.max(Duration::from_millis(10))) => {}
            }
        }
        self.save().await;
    }

    /// Connects to the first of a seed's addresses that answers, and learns the mesh from there.
    async fn through(&self, seed: &Seed) -> Result<Joined, JoinError> {
        let started = Instant::now();
        let addr = seed.to_string();
        let unresolved = |cause: String| JoinError::Address { addr: addr.clone(), cause };
        let addrs = seed.resolve().await.map_err(|error| unresolved(error.to_string()))?;
        let mut failure = unresolved("the name stands for no address".into());
        for at in addrs {
            match self.core.transport.connect(Target::Addr(at)).await {
                Ok(peer) => {
                    let (seed, members) = self.sync_at(&addr, at, peer.id).await?;
                    return Ok(Joined { seed, members, took: started.elapsed() });
                }
                // Its own address may well be in a list of seeds that all nodes share.
                Err(TransportError::Myself) if self.others() > 0 => {
                    let seed = self.core.transport.local().id;
                    return Ok(Joined { seed, members: self.others() + 1, took: started.elapsed() });
                }
                Err(cause) => failure = JoinError::Connect { addr: addr.clone(), cause },
            }
        }
        Err(failure)
    }

    /// Learns the mesh from whoever is at an address. The first answer may be that of a connection to a process that
    /// was there before and has died unnoticed: using it shows that, and the address is dialled anew.
    async fn sync_at(&self, addr: &str, at: SocketAddr, peer: NodeId) -> Result<(NodeId, usize), JoinError> {
        let failure = match self.sync(addr, peer).await {
            Ok(members) => return Ok((peer, members)),
            Err(failure) => failure,
        };
        match self.core.transport.connect(Target::Addr(at)).await {
            Ok(now) if now.id != peer => Ok((now.id, self.sync(addr, now.id).await?)),
            _ => Err(failure),
        }
    }

    /// Learns members and contacts from a peer (the spec's bootstrap flow: find self, then random keys).
    async fn sync(&self, addr: &str, peer: NodeId) -> Result<usize, JoinError> {
        let failed = |cause: String| JoinError::Sync { addr: addr.into(), cause };
        self.core.swim.join(vec![Target::Id(peer)]).await.map_err(|error| failed(error.to_string()))?;
        self.core
            .directory
            .bootstrap(vec![Target::Id(peer)])
            .await
            .map_err(|error| failed(error.to_string()))?;
        Ok(self.others() + 1)
    }

    /// One attempt of the plan. `None`: the node was told to leave meanwhile.
    async fn attempt(&self, target: &BootstrapTarget) -> Option<Result<(), JoinError>> {
        let stay = self.stay.lock().clone();
        tokio::select! {
            biased;
            () = stay.cancelled() => None,
            outcome = self.rejoin(target) => Some(outcome),
        }
    }

    async fn rejoin(&self, target: &BootstrapTarget) -> Result<(), JoinError> {
        let before = self.others();
        self.told.fetch_min(before, Ordering::Relaxed);
        let joined = self.rejoin_through(target).await;
        let now = self.others();
        // Looking for lost members where they may be again is nothing to talk about until they are.
        if joined.is_ok() && now > before && now > self.told.fetch_max(now, Ordering::Relaxed) {
            tracing::info!(through = %target, members = now + 1, "joined");
        }
        joined
    }

    async fn rejoin_through(&self, target: &BootstrapTarget) -> Result<(), JoinError> {
        match target {
            BootstrapTarget::Seed(seed) => {
                let timeout = JoinError::Timeout { addr: seed.to_string(), waited: JOIN_PATIENCE };
                let joined = tokio::time::timeout(JOIN_PATIENCE, self.through(seed)).await;
                joined.unwrap_or(Err(timeout)).map(drop)
            }
            BootstrapTarget::Peer(id) => {
                let addr = id.short();
                match self.core.transport.connect(Target::Id(*id)).await {
                    Ok(peer) => self.sync(&addr, peer.id).await.map(drop),
                    Err(cause) => Err(JoinError::Connect { addr, cause }),
                }
            }
        }
    }

    fn report(
        &self,
        plan: &mut BootstrapPlan,
        done: Option<(BootstrapTarget, Option<Result<(), JoinError>>)>,
    ) {
        let now = self.clock.now();
        match done {
            Some((target, Some(Ok(())))) => plan.on_success(now, &target),
            Some((target, None)) => plan.on_failure(now, &target),
            Some((target, Some(Err(error)))) => {
                tracing::warn!(%error, "could not join; it is tried again");
                plan.on_failure(now, &target);
            }
            // A panicked attempt is reported by nobody: the plan counts it as failed in time.
            None => {}
        }
    }

    fn others(&self) -> usize {
        let own = self.core.transport.local().id;
        let members = self.core.swim.members();
        members.iter().filter(|member| member.state.is_present() && member.contact.id != own).count()
    }

    fn follow_seeds(&self, plan: &mut BootstrapPlan, known: &mut BTreeSet<Seed>) {
        let now = self.clock.now();
        let seeds: BTreeSet<Seed> = self.seeds.lock().entries().into_iter().map(|entry| entry.seed).collect();
        for gone in known.difference(&seeds) {
            plan.remove(&BootstrapTarget::Seed(gone.clone()));
        }
        for new in seeds.difference(known) {
            plan.add(now, BootstrapTarget::Seed(new.clone()));
        }
        *known = seeds;
    }

    /// Reads what the last run left: its members are joined through, and so are its contacts where members are few;
    /// every contact that answers gets back into the routing table.
    fn recall(&self, plan: &mut BootstrapPlan) {
        let Some(kept) = &self.kept else { return };
        let members = kept.peers.load().into_iter().map(|peer| peer.contact);
        let table = kept.table.load();
        let contacts = table.iter().flat_map(|table| table.contacts.iter().cloned());
        for (place, contact) in members.chain(contacts).enumerate() {
            self.core.book.learn(&contact);
            if place < PEERS_MAX {
                plan.add(self.clock.now(), BootstrapTarget::Peer(contact.id));
            }
        }
        if let Some(table) = table {
            let tried = self.core.directory.import_table(table.bytes);
            tracing::info!(contacts = tried, "the routing table of the last run is tried");
        }
    }

    /// Writes peers and routing table, on a thread that may wait for the disk: this one carries the node's traffic.
    async fn save(&self) {
        let Some(kept) = self.kept.clone() else { return };
        self.save_peers(kept.peers).await;
        self.save_table(kept.table).await;
    }

    async fn save_table(&self, file: TableFile) {
        let Ok(exported) = tokio::time::timeout(EXPORT_PATIENCE, self.core.directory.export_table()).await
        else {
            // The directory's task is being restarted.
            return;
        };
        // Alone, the last known contacts are worth more than an empty table.
        let Some(table) = exported.ok().filter(|table| !table.is_empty()) else { return };
        let path = file.path().to_owned();
        self.note_saved(path, tokio::task::spawn_blocking(move || file.save(&table)).await);
    }

    async fn save_peers(&self, file: PeersFile) {
        let (own, last_seen): (_, UnixMillis) = (self.core.transport.local().id, self.clock.unix());
        let members = self.core.swim.members();
        let others = members.iter().filter(|member| member.state.is_present() && member.contact.id != own);
        let peers: Vec<_> =
            others.map(|member| KnownPeer { contact: Contact::clone(&member.contact), last_seen }).collect();
        // Alone, the last known peers are worth more than an empty list.
        if peers.is_empty() {
            return;
        }
        let path = file.path().to_owned();
        self.note_saved(path, tokio::task::spawn_blocking(move || file.save(peers)).await);
    }

    /// A file that cannot be written is logged when that begins and when it ends, not each time.
    fn note_saved(&self, path: PathBuf, outcome: Result<io::Result<()>, JoinFailure>) {
        let error = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        let mut unsaved = self.unsaved.lock();
        let shown = path.display().to_string();
        match error {
            None if unsaved.remove(&path) => tracing::info!(path = shown, "can be saved again"),
            Some(error) if unsaved.insert(path) => {
                tracing::warn!(path = shown, %error, "could not be saved; it is tried further, without another word");
            }
            None | Some(_) => {}
        }
    }
}
