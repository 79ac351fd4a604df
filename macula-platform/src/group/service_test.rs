//! Whole nodes on the in-memory network, under paused time.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use macula_proto::{AllowAll, Frame, Liveness, NodeId, Realm};
use macula_transport::memory::{Faults, MemoryNetwork, MemoryRx, MemoryTransport, MemoryTx};
use macula_transport::{Inbound, LaneId, PeerEvent, TokioClock, Transport};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::MemoryStore;
use crate::objects::{LockMode, LogOffset, Standing};

/// No step of a test takes longer, in the time of the test.
const PATIENCE: Duration = Duration::from_secs(30);

type Node = Coordination<MemoryTransport, MemoryStore>;

#[derive(Clone, Default)]
struct Handler(Arc<OnceLock<Node>>);

impl Inbound<MemoryTransport> for Handler {
    fn on_peer(&self, _event: PeerEvent) {}
    fn on_datagram(&self, _from: NodeId, _frame: Frame) {}
    async fn on_lane(&self, _from: NodeId, _lane: LaneId, _frame: Frame) {}
    async fn on_stream(&self, from: NodeId, first: Frame, tx: MemoryTx, rx: MemoryRx) {
        if let Some(node) = self.0.get() {
            node.on_stream(from, first, tx, rx).await;
        }
    }
}

/// Who is around: what a test says.
#[derive(Clone, Default)]
struct Around(Arc<Mutex<(BTreeSet<NodeId>, BTreeSet<NodeId>)>>);

impl Liveness for Around {
    fn is_gone(&self, id: &NodeId) -> bool {
        self.0.lock().1.contains(id)
    }
}

struct Others {
    me: NodeId,
    around: Around,
}

impl Liveness for Others {
    fn is_gone(&self, id: &NodeId) -> bool {
        self.around.is_gone(id)
    }
}

impl Peers for Others {
    fn others(&self, _realm: &Realm) -> Vec<NodeId> {
        let around = self.around.0.lock();
        around.0.iter().filter(|node| **node != self.me && !around.1.contains(node)).copied().collect()
    }
}

struct Place {
    number: u8,
    config: CoordinationConfig,
    disk: MemoryStore,
    running: Option<Running>,
}

struct Running {
    node: Node,
    stop: CancellationToken,
    task: JoinHandle<()>,
    network_stop: CancellationToken,
    served: JoinHandle<()>,
}

struct Mesh {
    network: MemoryNetwork,
    around: Around,
    places: Vec<Place>,
    /// Another seed for each start.
    draw: u64,
}

impl Mesh {
    fn new(seed: u64) -> Self {
        let network = MemoryNetwork::new(seed);
        network.set_faults(Faults::lan());
        Self { network, around: Around::default(), places: Vec::new(), draw: seed }
    }

    /// One founder, and so many that join it.
    async fn founded(seed: u64, joining: u8) -> Self {
        let mut mesh = Self::new(seed);
        mesh.add(CoordinationConfig { founding: Founding::Alone, ..CoordinationConfig::default() });
        for _ in 0..joining {
            mesh.add(CoordinationConfig::default());
        }
        let voters = usize::from(joining + 1).min(3);
        mesh.until(|mesh| mesh.places.iter().any(|place| votes(place) && place.voters() == voters)).await;
        mesh
    }

    fn add(&mut self, config: CoordinationConfig) {
        let number = self.places.len() as u8 + 1;
        self.places.push(Place { number, config, disk: MemoryStore::default(), running: None });
        self.start(usize::from(number) - 1);
    }

    fn start(&mut self, at: usize) {
        self.draw += 1_000;
        let place = &mut self.places[at];
        let transport = self.network.node(place.number);
        let me = transport.local().id;
        self.network.introduce_all();
        {
            let mut around = self.around.0.lock();
            around.0.insert(me);
            around.1.remove(&me);
        }
        let (handler, network_stop) = (Handler::default(), CancellationToken::new());
        let served = tokio::spawn({
            let (transport, handler, stop) = (transport.clone(), handler.clone(), network_stop.clone());
            async move { transport.serve(handler, stop).await }
        });
        let environment = CoordinationEnvironment {
            transport,
            store: Arc::new(place.disk.clone()),
            peers: Arc::new(Others { me, around: self.around.clone() }),
            clock: Arc::new(TokioClock::default()),
            gate: Arc::new(AllowAll),
            seed: self.draw,
        };
        let node = Node::new(environment, [Realm::default()], &place.config);
        node.need();
        assert!(handler.0.set(node.clone()).is_ok());
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (node, stop) = (node.clone(), stop.clone());
            async move { node.run(stop).await }
        });
        place.running = Some(Running { node, stop, task, network_stop, served });
    }

    /// The process is gone; membership notices after a while.
    async fn kill(&mut self, at: usize) {
        let place = &mut self.places[at];
        let Running { node, task, network_stop, served, .. } = place.running.take().expect("it runs");
        self.network.crash(node.me());
        task.abort();
        network_stop.cancel();
        node.crash().await;
        served.await.unwrap();
        place.disk.power_cut();
        let (around, id) = (self.around.clone(), node.me());
        tokio::spawn(async move {
            // tidy: allow(sleep): paused time; how long membership takes to notice
            tokio::time::sleep(Duration::from_secs(5)).await;
            around.0.lock().1.insert(id);
        });
    }

    /// The process ends in order.
    async fn stop(&mut self, at: usize) {
        let Running { stop, task, network_stop, served, .. } =
            self.places[at].running.take().expect("it runs");
        stop.cancel();
        task.await.unwrap();
        network_stop.cancel();
        served.await.unwrap();
    }

    async fn until(&self, is_so: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !is_so(self) {
                // tidy: allow(sleep): paused time; looks again
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let states = || {
            self.places
                .iter()
                .filter_map(|place| Some(place.running.as_ref()?.node.status()))
                .collect::<Vec<_>>()
        };
        assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "{:#?}", states());
    }

    fn node(&self, at: usize) -> &Node {
        &self.places[at].running.as_ref().expect("it runs").node
    }

    fn election(&self, at: usize) -> Election<MemoryTransport, MemoryStore> {
        self.node(at).election(&Realm::default(), "matchmaking".parse().unwrap()).unwrap()
    }

    fn lock(&self, at: usize) -> Lock<MemoryTransport, MemoryStore> {
        self.node(at).lock(&Realm::default(), "inventory".parse().unwrap()).unwrap()
    }

    fn log(&self, at: usize) -> Log<MemoryTransport, MemoryStore> {
        self.node(at).log(&Realm::default(), "orders".parse().unwrap()).unwrap()
    }

    /// Which of the running nodes leads the group.
    fn group_leader(&self) -> Option<usize> {
        let leads = |place: &Place| place.member().is_some_and(|member| member.is_leader());
        self.places.iter().position(leads)
    }
}

impl Place {
    fn status(&self) -> Option<RealmStatus> {
        self.running.as_ref()?.node.status().pop()
    }

    fn member(&self) -> Option<crate::GroupStatus> {
        self.status()?.member
    }

    fn voters(&self) -> usize {
        self.member().map_or(0, |member| member.voters.len())
    }
}

fn votes(place: &Place) -> bool {
    place.member().is_some_and(|member| member.voters.contains(&member.me) && !member.is_changing)
}

#[tokio::test(start_paused = true)]
async fn a_founder_and_those_who_join_become_three_voters_and_clients() {
    let mesh = Mesh::founded(1, 4).await;
    mesh.until(|mesh| mesh.places.iter().filter(|place| votes(place)).count() == 3).await;
    let groups: BTreeSet<_> = mesh.places.iter().filter_map(|place| place.status()?.group).collect();
    assert_eq!(groups.len(), 1, "all know the same group");
    for at in 0..5 {
        let offset = mesh.log(at).append(format!("from {at}")).await.unwrap();
        assert_eq!(offset, LogOffset(at as u64), "node {at}");
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_with_one_list_found_a_group_together_within_a_second() {
    let mut mesh = Mesh::new(2);
    let ids: BTreeSet<_> = (1..=3u8).map(|number| mesh.network.node(number).local().id).collect();
    let begun = Instant::now();
    for _ in 0..3 {
        mesh.add(CoordinationConfig {
            founding: Founding::With(ids.clone()),
            ..CoordinationConfig::default()
        });
    }
    mesh.until(|mesh| mesh.group_leader().is_some_and(|at| mesh.places[at].voters() == 3)).await;
    assert!(begun.elapsed() <= Duration::from_secs(1), "{:?}", begun.elapsed());
    mesh.log(0).append("first").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_candidate_leads_and_the_next_follows_when_it_dies() {
    let mut mesh = Mesh::founded(3, 3).await;
    for at in 0..4 {
        let standing = mesh.election(at).campaign(Bytes::from(format!("node {at}"))).await.unwrap();
        match at {
            0 => assert!(matches!(standing, Standing::Granted(_))),
            _ => assert_eq!(standing, Standing::Waiting { ahead: at as u64 - 1 }),
        }
    }
    let elections: Vec<_> = (0..4).map(|at| mesh.election(at)).collect();
    mesh.until(|_| elections[0].is_leader()).await;
    let first = elections[0].token().unwrap();
    assert_eq!(elections[3].get_members().await.unwrap().len(), 4);
    // Nobody else leads before the lease of the dead one is over; then the next one does, soon.
    mesh.kill(0).await;
    let died = Instant::now();
    mesh.until(|_| elections[1..].iter().any(Election::is_leader)).await;
    let took = died.elapsed();
    assert!(took >= Duration::from_millis(650) && took <= Duration::from_millis(2_000), "{took:?}");
    assert!(elections[1].is_leader(), "in the order in which they came");
    assert!(elections[1].token().unwrap() > first);
    let leader = elections[3].get_leader().await.unwrap().unwrap();
    assert_eq!(leader.value, Bytes::from("node 1"));
}

#[tokio::test(start_paused = true)]
async fn who_resigns_is_followed_at_once_and_may_campaign_again() {
    let mesh = Mesh::founded(4, 2).await;
    let elections: Vec<_> = (0..3).map(|at| mesh.election(at)).collect();
    for election in &elections {
        election.campaign(Bytes::new()).await.unwrap();
    }
    mesh.until(|_| elections[0].is_leader()).await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let noted = heard.clone();
    let callback =
        elections[1].register_callback(move |view| noted.lock().push((view.is_leader, Instant::now())));
    let begun = Instant::now();
    elections[0].resign().await.unwrap();
    assert!(!elections[0].is_leader());
    mesh.until(|_| heard.lock().last().is_some_and(|(leads, _)| *leads)).await;
    let took = heard.lock().last().unwrap().1 - begun;
    assert!(took <= Duration::from_millis(50), "{took:?}");
    elections[0].campaign(Bytes::new()).await.unwrap();
    assert!(!elections[0].is_leader(), "it is behind the others now");
    elections[1].resign().await.unwrap();
    mesh.until(|_| elections[2].is_leader()).await;
    elections[2].resign().await.unwrap();
    mesh.until(|_| elections[0].is_leader()).await;
    assert!(elections[1].unregister_callback(callback));
    assert!(!elections[1].unregister_callback(callback));
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_given_in_order_and_lost_with_its_session() {
    let mut mesh = Mesh::founded(5, 3).await;
    let guard = mesh.lock(3).acquire(PATIENCE).await.unwrap();
    assert!(guard.is_held());
    let busy = mesh.lock(1).try_lock(LockMode::Exclusive).await;
    assert!(matches!(busy, Err(CoordinationError::Busy)));
    let late = mesh.lock(1).acquire(Duration::from_millis(300)).await;
    assert!(matches!(late, Err(CoordinationError::Timeout(_))));
    let waiting: Vec<_> = (0..2)
        .map(|at| {
            let lock = mesh.lock(at);
            tokio::spawn(async move { lock.acquire(PATIENCE).await.map(|guard| guard.token()) })
        })
        .collect();
    mesh.until(|mesh| mesh.node(0).status()[0].member.is_some()).await;
    while mesh.lock(2).requests().await.unwrap().len() < 3 {
        // tidy: allow(sleep): paused time; the others get in line
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let token = guard.token();
    // Its node dies: the lock goes on.
    let lock = mesh.lock(3);
    drop(lock);
    mesh.kill(3).await;
    for waiter in waiting {
        assert!(waiter.await.unwrap().unwrap() > token);
    }
    guard.lost().await;
    assert!(!guard.is_held());
    let shared = mesh.lock(0).acquire_shared(PATIENCE).await.unwrap();
    let also = mesh.lock(1).acquire_shared(PATIENCE).await.unwrap();
    assert!(shared.is_held() && also.is_held());
    shared.release().await.unwrap();
    also.release().await.unwrap();
    mesh.lock(2).try_lock(LockMode::Exclusive).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_tail_goes_on_through_deaths_and_has_each_entry_once() {
    let mut mesh = Mesh::founded(6, 3).await;
    mesh.until(|mesh| mesh.places.iter().filter(|place| votes(place)).count() == 3).await;
    let client = (0..4).find(|at| !votes(&mesh.places[*at])).unwrap();
    let mut tail = mesh.log(client).tail(LogOffset(0));
    let reading = tokio::spawn(async move {
        let mut entries = Vec::new();
        while entries.len() < 60 {
            match tail.next().await {
                Ok(entry) => entries.push(entry.entry),
                Err(CoordinationError::Unavailable { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        entries
    });
    let log = mesh.log(client);
    for number in 0..60 {
        if number == 20 {
            let leader = mesh.group_leader().unwrap();
            mesh.kill(leader).await;
            log.append(format!("entry {number}")).await.unwrap();
            mesh.start(leader);
            continue;
        }
        log.append(format!("entry {number}")).await.unwrap();
    }
    let expected: Vec<_> = (0..60).map(|number| Bytes::from(format!("entry {number}"))).collect();
    assert_eq!(reading.await.unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn two_groups_of_one_realm_are_noticed_and_one_can_be_abandoned() {
    let mut mesh = Mesh::new(7);
    let ids: Vec<_> = (1..=2u8).map(|number| mesh.network.node(number).local().id).collect();
    mesh.network.partition(ids[0], ids[1]);
    for _ in 0..2 {
        mesh.add(CoordinationConfig { founding: Founding::Alone, ..CoordinationConfig::default() });
    }
    mesh.until(|mesh| mesh.places.iter().all(|place| place.status().unwrap().group.is_some())).await;
    mesh.network.heal_all();
    mesh.until(|mesh| mesh.places.iter().all(|place| place.status().unwrap().foreign.is_some())).await;
    mesh.log(0).append("kept").await.unwrap();
    mesh.log(1).append("given up").await.unwrap();
    let groups: Vec<_> = mesh.places.iter().map(|place| place.status().unwrap().group.unwrap()).collect();
    assert_ne!(groups[0], groups[1]);
    assert_eq!(mesh.node(1).abandon(&Realm::default()).await.unwrap(), groups[1]);
    mesh.until(|mesh| mesh.places[1].status().unwrap().group == Some(groups[0])).await;
    let page = mesh.log(1).read(LogOffset(0)).await.unwrap();
    assert_eq!(page.entries[0].entry, Bytes::from("kept"));
}

#[tokio::test(start_paused = true)]
async fn nodes_that_may_all_found_alone_found_one_group_if_they_see_each_other() {
    let mut mesh = Mesh::new(11);
    for _ in 0..3 {
        mesh.add(CoordinationConfig { founding: Founding::Alone, ..CoordinationConfig::default() });
    }
    mesh.until(|mesh| mesh.places.iter().filter(|place| votes(place)).count() == 3).await;
    assert!(mesh.places.iter().all(|place| place.status().unwrap().foreign.is_none()));
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_lost_its_disk_comes_back_as_another() {
    let mut mesh = Mesh::founded(8, 2).await;
    mesh.until(|mesh| mesh.places.iter().filter(|place| votes(place)).count() == 3).await;
    mesh.log(0).append("before").await.unwrap();
    let lost = (0..3).find(|at| mesh.group_leader() != Some(*at) && *at != 0).unwrap();
    let before = mesh.places[lost].member().unwrap().me;
    mesh.kill(lost).await;
    mesh.places[lost].disk = MemoryStore::default();
    mesh.start(lost);
    mesh.until(|mesh| votes(&mesh.places[lost])).await;
    let after = mesh.places[lost].member().unwrap();
    assert_eq!(after.me.node, before.node);
    assert_ne!(after.me.storage, before.storage);
    assert!(!after.voters.contains(&before));
    assert_eq!(after.voters.len(), 3);
    mesh.log(lost).append("after").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_in_order_hands_over_what_it_holds() {
    let mut mesh = Mesh::founded(9, 2).await;
    mesh.until(|mesh| mesh.places.iter().filter(|place| votes(place)).count() == 3).await;
    let leader = mesh.group_leader().unwrap();
    let other = (leader + 1) % 3;
    mesh.election(leader).campaign(Bytes::new()).await.unwrap();
    let election = mesh.election(other);
    election.campaign(Bytes::new()).await.unwrap();
    let begun = Instant::now();
    let stopping = mesh.stop(leader);
    stopping.await;
    mesh.until(|_| election.is_leader()).await;
    assert!(begun.elapsed() <= Duration::from_millis(300), "{:?}", begun.elapsed());
    mesh.log(other).append("goes on").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn never_two_leaders_while_nodes_are_cut_off_again_and_again() {
    for seed in 20..22 {
        let mesh = Mesh::founded(seed, 3).await;
        let elections: Vec<_> = (0..4).map(|at| mesh.election(at)).collect();
        for election in &elections {
            election.campaign(Bytes::new()).await.unwrap();
        }
        let ids: Vec<_> = (0..4).map(|at| mesh.node(at).me()).collect();
        let (mut changes, mut last) = (0, None);
        for step in 0..2_400u32 {
            if step % 600 == 100 {
                let cut = ids[(step / 600) as usize % 4];
                let others: Vec<_> = ids.iter().filter(|id| **id != cut).copied().collect();
                mesh.network.partition_sides(&[cut], &others);
            }
            if step % 600 == 400 {
                mesh.network.heal_all();
            }
            let leaders: Vec<_> = elections.iter().filter_map(Election::token).collect();
            assert!(leaders.len() <= 1, "seed {seed}, step {step}: {leaders:?}");
            if let Some(token) = leaders.first() {
                assert!(last.is_none_or(|last| last <= *token), "tokens only grow");
                changes += u32::from(last != Some(*token));
                last = Some(*token);
            }
            // tidy: allow(sleep): paused time; looks again
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(changes >= 2, "seed {seed}: the leader changed {changes} times only");
    }
}

#[path = "recover_test.rs"]
mod recovery;
