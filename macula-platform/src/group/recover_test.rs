//! Whole nodes that lose their quorum.

use super::*;
use crate::objects::limits::TTL_MAX;
use crate::objects::{LogIndex, Refusal};

impl Mesh {
    /// Three voters and so many clients beside them; the first voter and the others.
    async fn three_voters(seed: u64, clients: u8) -> Self {
        let mesh = Self::founded(seed, 2 + clients).await;
        mesh.until(|mesh| mesh.places.iter().filter(|place| votes(place)).count() == 3).await;
        mesh
    }

    fn voters_first(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|at| votes(&self.places[*at])).collect()
    }

    /// The nodes are gone, and membership has noticed.
    async fn lose(&mut self, nodes: &[usize]) {
        for at in nodes {
            self.kill(*at).await;
        }
        // tidy: allow(sleep): paused time; membership notices
        tokio::time::sleep(Duration::from_secs(6)).await;
    }

    async fn read_all(&self, at: usize) -> Vec<Bytes> {
        let page = self.log(at).read(LogOffset(0)).await.unwrap();
        page.entries.into_iter().map(|entry| entry.entry).collect()
    }

    fn kinship(&self, at: usize) -> Option<Kinship> {
        Some(self.places[at].status()?.foreign?.kinship)
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_member_goes_on_with_all_that_it_had_and_with_larger_tokens() {
    let mut mesh = Mesh::three_voters(40, 0).await;
    let (survivor, others) = (1, [0, 2]);
    for number in 0..20 {
        mesh.log(number % 3).append(format!("entry {number}")).await.unwrap();
    }
    let guard = mesh.lock(survivor).acquire(PATIENCE).await.unwrap();
    let token = guard.token();
    let before = mesh.places[survivor].status().unwrap().group.unwrap();
    // The last entry has reached the survivor once the followers agree.
    mesh.until(|mesh| {
        let applied = |place: &Place| place.member().and_then(|member| member.applied);
        mesh.places.iter().all(|place| applied(place) == applied(&mesh.places[0]))
    })
    .await;
    mesh.lose(&others).await;
    let begun = Instant::now();
    let recovered = mesh.node(survivor).recover(&Realm::default(), false).await.unwrap();
    assert_eq!((recovered.replaced, recovered.lost.len()), (before, 2));
    assert_ne!(recovered.group, before);
    let status = mesh.places[survivor].status().unwrap();
    assert!(status.recovering && status.member.unwrap().is_leader());
    let expected: Vec<_> = (0..20).map(|number| Bytes::from(format!("entry {number}"))).collect();
    assert_eq!(mesh.read_all(survivor).await, expected);
    assert_eq!(mesh.log(survivor).append("goes on").await.unwrap(), LogOffset(20), "logs need not wait");
    assert!(!guard.is_held(), "nobody knows who else was granted it");
    // Those who lost everything come back before the pause is over, and whoever leads then waits in full.
    for at in others {
        mesh.places[at].disk = MemoryStore::default();
        mesh.start(at);
    }
    mesh.until(|mesh| mesh.places.iter().filter(|place| votes(place) && place.voters() == 3).count() == 3)
        .await;
    let early = mesh.lock(others[0]).acquire(Duration::from_secs(5)).await;
    assert!(matches!(early, Err(CoordinationError::Timeout(_))));
    let again = mesh.lock(others[0]).acquire(TTL_MAX * 2).await.unwrap();
    assert!(begun.elapsed() >= TTL_MAX, "{:?}", begun.elapsed());
    assert!(
        again.is_held(),
        "its lease counts from when the session was opened, not from when it was wanted"
    );
    assert!(again.token() > token, "{} after {token}", again.token());
    assert_eq!(again.token().epoch, recovered.epoch);
    assert!(!mesh.places[survivor].status().unwrap().recovering);
    assert_eq!(mesh.read_all(others[1]).await.len(), 21);
}

#[tokio::test(start_paused = true)]
async fn what_only_the_lost_members_had_is_noticed_by_those_who_read_it() {
    let mut mesh = Mesh::three_voters(41, 1).await;
    let voters = mesh.voters_first();
    let client = (0..4).find(|at| !voters.contains(at)).unwrap();
    let leader = mesh.group_leader().unwrap();
    let survivor = voters.iter().copied().find(|at| *at != leader).unwrap();
    let others: Vec<_> = voters.iter().copied().filter(|at| *at != survivor).collect();
    let log = mesh.log(client);
    let mut tail = log.tail(LogOffset(0));
    for number in 0..5 {
        log.append(format!("known {number}")).await.unwrap();
        tail.next().await.unwrap();
    }
    // tidy: allow(sleep): paused time; the last entry gets to the survivor
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ids: Vec<_> = others.iter().map(|at| mesh.node(*at).me()).collect();
    mesh.network.partition_sides(&[mesh.node(survivor).me()], &ids);
    for number in 5..8 {
        log.append(format!("lost {number}")).await.unwrap();
        tail.next().await.unwrap();
    }
    mesh.lose(&others).await;
    let recovered = mesh.node(survivor).recover(&Realm::default(), false).await.unwrap();
    // The same writer, whose last appends are not there any more, and the same tail.
    assert_eq!(log.append("another").await.unwrap(), LogOffset(5));
    match tail.next().await {
        Err(CoordinationError::LogRewound { from, epoch, .. }) => {
            assert_eq!((from, epoch), (LogOffset(5), recovered.epoch));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(tail.next().await.unwrap().entry, Bytes::from("another"));
    let info = log.info().await.unwrap().unwrap();
    assert_eq!(info.recovered.len(), 1);
    assert_eq!(mesh.places[client].status().unwrap().group, Some(recovered.group), "clients go over");
    assert_eq!(mesh.kinship(client), None);
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_with_the_old_group_serves_nobody_and_both_sides_say_so() {
    let mut mesh = Mesh::three_voters(42, 0).await;
    mesh.log(0).append("kept").await.unwrap();
    // tidy: allow(sleep): paused time; the entry gets to all
    tokio::time::sleep(Duration::from_secs(1)).await;
    mesh.lose(&[1, 2]).await;
    let recovered = mesh.node(0).recover(&Realm::default(), false).await.unwrap();
    // Both of them: the old group would have a majority again.
    mesh.start(1);
    mesh.start(2);
    mesh.until(|mesh| mesh.kinship(0) == Some(Kinship::Older)).await;
    mesh.until(|mesh| (1..3).all(|at| mesh.kinship(at) == Some(Kinship::Newer))).await;
    mesh.until(|mesh| {
        (1..3).all(|at| mesh.places[at].member().is_some_and(|member| member.stopped.is_some()))
    })
    .await;
    let refused = mesh.log(1).append("to the old one").await;
    assert!(matches!(refused, Err(CoordinationError::Unavailable { .. })), "{refused:?}");
    let again = mesh.node(1).recover(&Realm::default(), false).await;
    assert!(matches!(again, Err(CoordinationError::Unwilling(_))), "{again:?}");
    for at in 1..3 {
        assert_eq!(mesh.node(at).abandon(&Realm::default()).await.unwrap(), recovered.replaced);
    }
    mesh.until(|mesh| mesh.places.iter().all(|place| votes(place) && place.voters() == 3)).await;
    mesh.until(|mesh| mesh.places.iter().all(|place| place.status().unwrap().foreign.is_none())).await;
    assert_eq!(mesh.read_all(2).await, [Bytes::from("kept")]);
    // The recovered group is found again after a restart, under the number that it has now.
    mesh.kill(0).await;
    mesh.start(0);
    mesh.until(|mesh| {
        mesh.places[0].status().unwrap().group == Some(recovered.group) && votes(&mesh.places[0])
    })
    .await;
    mesh.log(0).append("after a restart").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_group_that_is_not_lost_is_recovered_by_force_alone() {
    let mut mesh = Mesh::three_voters(43, 0).await;
    let refused = mesh.node(1).recover(&Realm::default(), false).await;
    assert!(matches!(refused, Err(CoordinationError::Unwilling(_))), "it has a leader: {refused:?}");
    // Two that seem to run, and lost their disks.
    mesh.log(0).append("kept").await.unwrap();
    // tidy: allow(sleep): paused time; the entry gets to all
    tokio::time::sleep(Duration::from_secs(1)).await;
    for at in [1, 2] {
        mesh.kill(at).await;
        mesh.places[at].disk = MemoryStore::default();
    }
    // tidy: allow(sleep): paused time; membership has noticed that they were gone
    tokio::time::sleep(Duration::from_secs(6)).await;
    mesh.start(1);
    mesh.start(2);
    let refused = mesh.node(0).recover(&Realm::default(), false).await;
    assert!(
        matches!(&refused, Err(CoordinationError::Unwilling(why)) if why.contains("3 of the 3")),
        "{refused:?}"
    );
    mesh.node(0).recover(&Realm::default(), true).await.unwrap();
    mesh.until(|mesh| mesh.places.iter().all(|place| votes(place) && place.voters() == 3)).await;
    assert_eq!(mesh.read_all(1).await, [Bytes::from("kept")]);
    let stranger = mesh.node(0).recover(&"elsewhere".parse().unwrap(), true).await;
    assert!(matches!(stranger, Err(CoordinationError::NotInRealm(_))));
}

#[tokio::test(start_paused = true)]
async fn a_recovery_that_a_loss_of_power_undoes_leaves_the_old_group() {
    let mut mesh = Mesh::three_voters(44, 0).await;
    mesh.log(0).append("kept").await.unwrap();
    // tidy: allow(sleep): paused time; the entry gets to all
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = mesh.places[0].status().unwrap().group;
    mesh.lose(&[1, 2]).await;
    let disk = mesh.places[0].disk.clone();
    disk.set_faults(crate::MemoryFaults { lies: true, ..Default::default() });
    mesh.node(0).recover(&Realm::default(), false).await.unwrap();
    mesh.log(0).append("lost with the power").await.unwrap();
    mesh.kill(0).await;
    disk.set_faults(crate::MemoryFaults::default());
    for at in 0..3 {
        mesh.start(at);
    }
    mesh.until(|mesh| mesh.group_leader().is_some()).await;
    assert!(mesh.places.iter().all(|place| place.status().unwrap().group == before));
    assert_eq!(mesh.read_all(0).await, [Bytes::from("kept")]);
    assert_eq!(mesh.log(1).append("goes on").await.unwrap(), LogOffset(1));
}

#[tokio::test(start_paused = true)]
async fn entries_that_were_only_logged_are_kept_and_a_disk_that_fails_changes_nothing() {
    let mut mesh = Mesh::three_voters(45, 0).await;
    let leader = mesh.group_leader().unwrap();
    let others: Vec<_> = (0..3).filter(|at| *at != leader).collect();
    let log = mesh.log(leader);
    log.append("committed").await.unwrap();
    // The others die while the leader goes on: what it takes in is on its own disk alone.
    for at in &others {
        mesh.kill(*at).await;
    }
    let appending = tokio::spawn(async move { log.append("perhaps").await });
    let last = mesh.places[leader].member().unwrap().last;
    mesh.until(|mesh| mesh.places[leader].member().is_some_and(|member| member.last > last)).await;
    // tidy: allow(sleep): paused time; membership notices
    tokio::time::sleep(Duration::from_secs(6)).await;
    let disk = mesh.places[leader].disk.clone();
    disk.set_faults(crate::MemoryFaults { fails: true, ..Default::default() });
    let failed = mesh.node(leader).recover(&Realm::default(), false).await;
    assert!(matches!(failed, Err(CoordinationError::Store(_))), "{failed:?}");
    disk.set_faults(crate::MemoryFaults::default());
    // The engine may have met the failing disk as well: it is opened again.
    mesh.until(|mesh| mesh.places[leader].member().is_some_and(|member| member.stopped.is_none())).await;
    let recovered = mesh.node(leader).recover(&Realm::default(), false).await.unwrap();
    assert!(recovered.uncertain > 0);
    assert!(LogIndex(recovered.last) > LogIndex(last.unwrap()));
    assert_eq!(mesh.read_all(leader).await[..2], [Bytes::from("committed"), Bytes::from("perhaps")]);
    // Whether it was told or not, it was appended once.
    match appending.await.unwrap() {
        Ok(offset) => assert_eq!(offset, LogOffset(1)),
        Err(
            CoordinationError::Unavailable { .. } | CoordinationError::Refused(Refusal::WriterUnknown(_)),
        ) => {}
        Err(other) => panic!("{other}"),
    }
    assert_eq!(mesh.read_all(leader).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_hears_of_the_next_leader_before_it_gives_up_the_dead_one() {
    let mut mesh = Mesh::three_voters(46, 1).await;
    let voters = mesh.voters_first();
    let client = (0..4).find(|at| !voters.contains(at)).unwrap();
    let log = mesh.log(client);
    log.append("before").await.unwrap();
    let leader = mesh.group_leader().unwrap();
    mesh.kill(leader).await;
    let died = Instant::now();
    log.append("after").await.unwrap();
    assert!(died.elapsed() <= Duration::from_millis(900), "{:?}", died.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_node_watches_with_few_streams_at_a_time() {
    use macula_transport::{StreamRx as _, StreamTx as _};
    let mesh = Mesh::three_voters(47, 1).await;
    let at = mesh.voters_first()[0];
    let group = mesh.places[at].status().unwrap().group.unwrap();
    let transport = mesh.network.node(200);
    mesh.network.introduce_all();
    let interest = feed::Interest::default();
    let first = interest.to_frames(&Realm::default(), group).unwrap().remove(0);
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(transport.stream(mesh.node(at).me(), first.clone()).await.unwrap());
    }
    let (_tx, mut fifth) = transport.stream(mesh.node(at).me(), first.clone()).await.unwrap();
    assert!(fifth.recv().await.is_err(), "it is refused");
    for (mut tx, _) in open.drain(..) {
        tx.finish().unwrap();
    }
    // tidy: allow(sleep): paused time; the member hears that they are over
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (_tx, mut again) = transport.stream(mesh.node(at).me(), first).await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(1), again.recv()).await;
    assert!(told.is_err(), "it waits for changes");
}
