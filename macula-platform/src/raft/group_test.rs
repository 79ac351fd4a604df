//! Groups of several members on the in-memory network, under paused time.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use macula_proto::{Frame, NodeId, UnixMillis};
use macula_transport::memory::{Faults, MemoryNetwork, MemoryRx, MemoryTransport, MemoryTx};
use macula_transport::{Inbound, LaneId, PeerEvent, Transport};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Group, GroupError, GroupStatus, Timing, VoterId};
use crate::objects::{Answer, Command, LogName, LogOffset, Nonce, Request, WriterId, WriterSequence};
use crate::{GroupId, MemoryFaults, MemoryStore};

const GROUP: GroupId = GroupId(0xfeed);
const LOG: &str = "orders";

/// No step of a test takes longer, in the time of the test.
const PATIENCE: Duration = Duration::from_secs(20);

/// Gives a group's streams to it, once it is there.
#[derive(Clone, Default)]
struct Handler(Arc<OnceLock<Group<MemoryStore>>>);

impl Inbound<MemoryTransport> for Handler {
    fn on_peer(&self, _event: PeerEvent) {}
    fn on_datagram(&self, _from: NodeId, _frame: Frame) {}
    async fn on_lane(&self, _from: NodeId, _lane: LaneId, _frame: Frame) {}
    async fn on_stream(&self, from: NodeId, first: Frame, tx: MemoryTx, rx: MemoryRx) {
        if let Some(group) = self.0.get() {
            group.serve(from, first, tx, rx).await;
        }
    }
}

/// One member: its disk outlives it.
struct Member {
    number: u8,
    storage: u64,
    disk: MemoryStore,
    running: Option<Running>,
}

struct Running {
    group: Group<MemoryStore>,
    stop: CancellationToken,
    served: JoinHandle<()>,
}

struct Mesh {
    network: MemoryNetwork,
    members: Vec<Member>,
}

impl Member {
    fn group(&self) -> &Group<MemoryStore> {
        &self.running.as_ref().expect("the member runs").group
    }

    fn node(&self) -> NodeId {
        self.group().me().node
    }
}

impl Mesh {
    /// So many members that know where the others are, and nothing else.
    async fn new(seed: u64, count: u8) -> Self {
        let network = MemoryNetwork::new(seed);
        network.set_faults(Faults::lan());
        let members = (1..=count)
            .map(|number| Member { number, storage: 1, disk: MemoryStore::default(), running: None })
            .collect();
        let mut mesh = Self { network, members };
        for at in 0..usize::from(count) {
            mesh.start(at).await;
        }
        mesh
    }

    /// So many voters of one group, with a leader.
    async fn founded(seed: u64, count: u8) -> Self {
        let mesh = Self::new(seed, count).await;
        let voters = mesh.members.iter().map(|member| member.group().me()).collect();
        mesh.members[0].group().found(voters).await.unwrap();
        mesh.leader().await;
        mesh
    }

    async fn start(&mut self, at: usize) {
        let member = &mut self.members[at];
        let transport = self.network.node(member.number);
        let me = VoterId { node: transport.local().id, storage: member.storage };
        self.network.introduce_all();
        let (handler, stop) = (Handler::default(), CancellationToken::new());
        let served = tokio::spawn({
            let (transport, handler, stop) = (transport.clone(), handler.clone(), stop.clone());
            async move { transport.serve(handler, stop).await }
        });
        let store = Arc::new(member.disk.clone());
        let group = Group::open(GROUP, me, transport, store, Timing::LAN).await.unwrap();
        assert!(handler.0.set(group.clone()).is_ok());
        member.running = Some(Running { group, stop, served });
    }

    /// The process is gone, and nobody is told; what was not synced goes with it.
    async fn kill(&mut self, at: usize) {
        let member = &mut self.members[at];
        let running = member.running.take().expect("the member runs");
        self.network.crash(running.group.me().node);
        running.stop.cancel();
        running.group.stop().await;
        running.served.await.unwrap();
        member.disk.power_cut();
    }

    fn running(&self) -> impl Iterator<Item = (usize, &Member)> {
        self.members.iter().enumerate().filter(|(_, member)| member.running.is_some())
    }

    /// Waits until a majority follows somebody, and says which of the members.
    async fn leader(&self) -> usize {
        self.leader_among(&self.running().map(|(at, _)| at).collect::<Vec<_>>()).await
    }

    async fn leader_among(&self, among: &[usize]) -> usize {
        let agreed = async {
            loop {
                for at in among {
                    let group = self.members[*at].group();
                    let status = group.status();
                    if status.is_leader() && group.read_barrier().await.is_ok() {
                        return *at;
                    }
                }
                // tidy: allow(sleep): paused time; each look asks whoever says that it leads
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, agreed).await.expect("somebody leads")
    }

    async fn all_have(&self, applied: u64) {
        for (_, member) in self.running() {
            let there = member.group().wait_until(PATIENCE, |status| status.applied >= Some(applied)).await;
            assert!(
                there.is_some(),
                "member {} does not catch up: {:?}",
                member.number,
                member.group().status()
            );
        }
    }
}

fn asked(by: NodeId, request: Request) -> Command {
    Command::Asked { by, stamp: UnixMillis(1_000), request }
}

fn log_name() -> LogName {
    LOG.parse().unwrap()
}

/// Somebody who appends numbered entries to the log, each until it was acknowledged.
struct Appender {
    by: NodeId,
    writer: WriterId,
    sequence: u64,
}

impl Appender {
    async fn open(mesh: &Mesh) -> Self {
        let by = mesh.members[0].group().me().node;
        let request = Request::OpenWriter { log: log_name(), nonce: Nonce(7) };
        match Self::insist(mesh, &asked(by, request)).await {
            Answer::WriterOpened { writer, .. } => Self { by, writer, sequence: 0 },
            other => panic!("{other:?}"),
        }
    }

    /// Asks whoever leads, again and again.
    async fn insist(mesh: &Mesh, command: &Command) -> Answer {
        let insisting = async {
            loop {
                let leader = mesh.leader().await;
                match mesh.members[leader].group().propose(command).await {
                    Ok(answer) => return answer,
                    Err(GroupError::NotLeader { .. } | GroupError::Unknown | GroupError::NoQuorum) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, insisting).await.expect("the command is committed")
    }

    /// Appends one entry, and returns its offset.
    async fn append(&mut self, mesh: &Mesh) -> u64 {
        self.sequence += 1;
        let request = Request::Append {
            log: log_name(),
            writer: self.writer,
            sequence: WriterSequence(self.sequence),
            entries: vec![entry(self.sequence - 1)],
        };
        match Self::insist(mesh, &asked(self.by, request)).await {
            Answer::Appended { first, .. } => first.0,
            other => panic!("{other:?}"),
        }
    }
}

fn entry(number: u64) -> Bytes {
    Bytes::from(format!("entry {number}"))
}

/// The whole log as a member has it.
fn entries(group: &Group<MemoryStore>) -> Vec<Bytes> {
    let Some(log) = group.look(|objects| objects.log(&log_name())) else { return Vec::new() };
    let mut from = log.first;
    let mut entries = Vec::new();
    while from < log.next {
        let more = group.log_entries(log.id, from, log.next, 100).unwrap();
        from = LogOffset(more.last().expect("an entry is missing").offset.0 + 1);
        entries.extend(more.into_iter().map(|entry| entry.entry));
    }
    entries
}

#[tokio::test(start_paused = true)]
async fn what_is_acknowledged_is_the_same_everywhere() {
    let mesh = Mesh::founded(1, 3).await;
    let mut appender = Appender::open(&mesh).await;
    for number in 0..50 {
        assert_eq!(appender.append(&mesh).await, number);
    }
    let leader = mesh.leader().await;
    let applied = mesh.members[leader].group().status().applied.unwrap();
    mesh.all_have(applied).await;
    let expected: Vec<_> = (0..50).map(entry).collect();
    let digests: BTreeSet<_> =
        mesh.members.iter().map(|member| member.group().look(crate::objects::Objects::digest)).collect();
    assert_eq!(digests.len(), 1, "the objects differ");
    for member in &mesh.members {
        assert_eq!(entries(member.group()), expected);
    }
}

/// Every member that runs has exactly the entries that were acknowledged, in order.
async fn all_have_what_was_acknowledged(mesh: &Mesh, appender: &Appender) {
    let leader = mesh.leader().await;
    mesh.all_have(mesh.members[leader].group().status().applied.unwrap()).await;
    let expected: Vec<_> = (0..appender.sequence).map(entry).collect();
    for (_, member) in mesh.running() {
        assert_eq!(entries(member.group()), expected, "member {}", member.number);
    }
}

#[tokio::test(start_paused = true)]
async fn acknowledged_entries_survive_the_death_of_one_leader_after_the_other() {
    let mut mesh = Mesh::founded(2, 3).await;
    let mut appender = Appender::open(&mesh).await;
    for round in 0..6 {
        for number in 0..10 {
            assert_eq!(appender.append(&mesh).await, round * 15 + number);
        }
        let leader = mesh.leader().await;
        mesh.kill(leader).await;
        for number in 10..15 {
            assert_eq!(appender.append(&mesh).await, round * 15 + number);
        }
        mesh.start(leader).await;
    }
    all_have_what_was_acknowledged(&mesh, &appender).await;
}

#[tokio::test(start_paused = true)]
async fn acknowledged_entries_survive_the_death_of_all() {
    let mut mesh = Mesh::founded(3, 3).await;
    let mut appender = Appender::open(&mesh).await;
    for round in 0..5 {
        for _ in 0..7 {
            appender.append(&mesh).await;
        }
        if round == 2 {
            let leader = mesh.leader().await;
            mesh.members[leader].group().write_image().await.unwrap();
        }
        for at in 0..3 {
            mesh.kill(at).await;
        }
        for at in 0..3 {
            mesh.start(at).await;
        }
    }
    all_have_what_was_acknowledged(&mesh, &appender).await;
}

#[tokio::test(start_paused = true)]
async fn disks_that_only_say_that_they_synced_are_noticed() {
    let mut mesh = Mesh::founded(4, 3).await;
    let mut appender = Appender::open(&mesh).await;
    appender.append(&mesh).await;
    for member in &mesh.members {
        member.disk.set_faults(MemoryFaults { lies: true, ..MemoryFaults::default() });
    }
    appender.append(&mesh).await;
    for at in 0..3 {
        mesh.kill(at).await;
    }
    for at in 0..3 {
        mesh.start(at).await;
    }
    let leader = mesh.leader().await;
    let kept = entries(mesh.members[leader].group());
    assert_eq!(
        kept,
        [entry(0)],
        "the second one was acknowledged, and this test must be able to see that it is lost"
    );
}

#[tokio::test(start_paused = true)]
async fn who_was_away_for_too_long_gets_an_image_with_the_entries_of_logs() {
    let mut mesh = Mesh::founded(5, 3).await;
    let mut appender = Appender::open(&mesh).await;
    appender.append(&mesh).await;
    let leader = mesh.leader().await;
    let away = (leader + 1) % 3;
    mesh.kill(away).await;
    for _ in 0..40 {
        appender.append(&mesh).await;
    }
    for (_, member) in mesh.running() {
        let last = member.group().status().applied;
        member.group().write_image().await.unwrap();
        member.group().wait_until(PATIENCE, |status| status.image >= last).await.unwrap();
        member.group().shorten_log(last.unwrap()).await.unwrap();
    }
    mesh.start(away).await;
    all_have_what_was_acknowledged(&mesh, &appender).await;
    let image = mesh.members[away].group().status().image;
    assert!(image.is_some(), "it got an image, not the log");
    // And it can be restarted from what it got.
    mesh.kill(away).await;
    mesh.start(away).await;
    appender.append(&mesh).await;
    all_have_what_was_acknowledged(&mesh, &appender).await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_comes_back_from_behind_a_cut_does_not_depose_the_leader() {
    let mesh = Mesh::founded(6, 3).await;
    let leader = mesh.leader().await;
    let before = mesh.members[leader].group().status();
    let cut = mesh.members[(leader + 1) % 3].node();
    for round in 0..5 {
        let others: Vec<_> = mesh.members.iter().map(Member::node).filter(|node| *node != cut).collect();
        mesh.network.partition_sides(&[cut], &others);
        // tidy: allow(sleep): paused time; many election timeouts
        tokio::time::sleep(Duration::from_secs(3)).await;
        mesh.network.heal_all();
        // tidy: allow(sleep): paused time; it talks to the others again
        tokio::time::sleep(Duration::from_secs(2)).await;
        let after = mesh.members[leader].group().status();
        assert_eq!((after.term, after.leader), (before.term, before.leader), "round {round}");
    }
}

#[tokio::test(start_paused = true)]
async fn members_come_and_go_one_change_at_a_time() {
    let mut mesh = Mesh::new(7, 4).await;
    let first = mesh.members[0].group().me();
    mesh.members[0].group().found([first].into()).await.unwrap();
    let again = mesh.members[0].group().found([first].into()).await;
    assert!(matches!(again, Err(GroupError::Founded)), "{again:?}");
    let mut appender = Appender::open(&mesh).await;
    appender.append(&mesh).await;
    let group = mesh.members[0].group().clone();
    let ids: Vec<_> = mesh.members.iter().map(|member| member.group().me()).collect();
    for id in &ids[1..3] {
        group.add_learner(*id).await.unwrap();
    }
    let caught_up = |status: &GroupStatus| {
        ids[1..3].iter().all(|id| status.matched.get(id).copied().flatten() >= status.last)
    };
    group.wait_until(PATIENCE, caught_up).await.expect("the learners catch up");
    group.set_voters(ids[..3].iter().copied().collect()).await.unwrap();
    let status = group.status();
    assert_eq!((status.voters.len(), status.is_changing), (3, false));
    // One is lost with its disk, and replaced.
    mesh.kill(1).await;
    group.add_learner(ids[3]).await.unwrap();
    let caught_up = |status: &GroupStatus| status.matched.get(&ids[3]).copied().flatten() >= status.last;
    group.wait_until(PATIENCE, caught_up).await.expect("the replacement catches up");
    group.set_voters([ids[0], ids[2], ids[3]].into()).await.unwrap();
    assert!(!group.status().voters.contains(&ids[1]));
    appender.append(&mesh).await;
    all_have_what_was_acknowledged(&mesh, &appender).await;
}

#[tokio::test(start_paused = true)]
async fn a_planned_change_of_leaders_is_quick() {
    let mesh = Mesh::founded(8, 3).await;
    for _ in 0..10 {
        let leader = mesh.leader().await;
        let (group, to) = (mesh.members[leader].group(), (leader + 1) % 3);
        let successor = mesh.members[to].group().me();
        group
            .wait_until(PATIENCE, |status| status.matched.get(&successor).copied().flatten() >= status.last)
            .await;
        let begun = tokio::time::Instant::now();
        group.transfer(successor, PATIENCE).await.unwrap();
        assert!(begun.elapsed() <= Duration::from_millis(50), "{:?}", begun.elapsed());
        assert_eq!(mesh.leader().await, to);
    }
    let leader = mesh.leader().await;
    let follower = mesh.members[(leader + 1) % 3].group();
    let refused = follower.transfer(follower.me(), PATIENCE).await;
    assert!(matches!(refused, Err(GroupError::NotLeader { leader: Some(_) })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_stops_its_member_and_nobody_else() {
    let mut mesh = Mesh::founded(9, 3).await;
    let mut appender = Appender::open(&mesh).await;
    appender.append(&mesh).await;
    let failing = mesh.leader().await;
    mesh.members[failing].disk.set_faults(MemoryFaults { fails: true, ..MemoryFaults::default() });
    let others: Vec<_> = (0..3).filter(|at| *at != failing).collect();
    let refused = mesh.members[failing]
        .group()
        .propose(&asked(appender.by, Request::DropLog { log: "x".parse().unwrap() }))
        .await;
    assert!(matches!(refused, Err(GroupError::Stopped(_))), "{refused:?}");
    assert!(mesh.members[failing].group().status().stopped.is_some());
    mesh.leader_among(&others).await;
    mesh.kill(failing).await;
    appender.append(&mesh).await;
    all_have_what_was_acknowledged(&mesh, &appender).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_answers_no_reads_and_commits_nothing() {
    let mesh = Mesh::founded(10, 3).await;
    let old = mesh.leader().await;
    let others: Vec<_> = (0..3).filter(|at| *at != old).collect();
    let nodes: Vec<_> = others.iter().map(|at| mesh.members[*at].node()).collect();
    mesh.network.partition_sides(&[mesh.members[old].node()], &nodes);
    let group = mesh.members[old].group().clone();
    let by = group.me().node;
    let cut_off = tokio::spawn(async move {
        let drop = asked(by, Request::DropLog { log: "x".parse().unwrap() });
        let read = tokio::time::timeout(PATIENCE, group.read_barrier()).await;
        let written = tokio::time::timeout(PATIENCE, group.propose(&drop)).await;
        (read, written)
    });
    let new = mesh.leader_among(&others).await;
    assert_ne!(new, old);
    let (read, written) = cut_off.await.unwrap();
    assert!(!matches!(read, Ok(Ok(()))), "{read:?}");
    assert!(!matches!(written, Ok(Ok(_))), "{written:?}");
}
