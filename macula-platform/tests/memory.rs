//! What objects cost: measured.

use std::time::Duration;

use allocation_counter::measure;
use macula_platform::{
    Answer, Command, Effects, Group, GroupId, GroupStatus, LogIndex, MemoryStore, Nonce, Objects, Request,
    RequestId, Standing, Timing, VoterId,
};
use macula_proto::{NodeId, UnixMillis};
use macula_transport::Transport as _;
use macula_transport::memory::MemoryNetwork;

const ELECTIONS: u64 = 10_000;

fn asked(request: Request) -> Command {
    Command::Asked { by: NodeId::from_bytes([1; 32]), stamp: UnixMillis(0), request }
}

fn session_of(objects: &mut Objects) -> macula_platform::SessionId {
    let open = Request::OpenSession { nonce: Nonce(1), ttl: Duration::from_secs(1) };
    let answer = objects.apply(LogIndex(1), asked(open), &mut Effects::default());
    let Answer::SessionOpened { session, .. } = answer else { panic!("{answer:?}") };
    session
}

/// Held bytes after each election has a leader with a value as long as an address.
#[test]
fn ten_thousand_elections_take_two_megabytes() {
    let mut objects = Objects::default();
    let session = session_of(&mut objects);
    let held = measure(|| {
        for n in 0..ELECTIONS {
            let campaign = Request::Campaign {
                session,
                election: format!("service.{n}").parse().expect("a name"),
                request: RequestId(n + 1),
                value: "192.168.100.100:4433".into(),
            };
            let answer = objects.apply(LogIndex(n + 2), asked(campaign), &mut Effects::default());
            assert!(matches!(answer, Answer::Standing(Standing::Granted(_))), "{answer:?}");
        }
    });
    let bytes = held.bytes_current as u64;
    println!(
        "{} bytes an election, {} of a snapshot",
        bytes / ELECTIONS,
        objects.encode().len() as u64 / ELECTIONS
    );
    assert!(bytes <= 2_100_000, "{bytes} bytes for {ELECTIONS} elections");
    let freed = measure(|| {
        objects.apply(
            LogIndex(ELECTIONS + 2),
            Command::Expire { sessions: vec![session] },
            &mut Effects::default(),
        );
    });
    assert_eq!(objects.counts().elections, 0);
    // An empty map and the counter of the node stay.
    assert!(
        -freed.bytes_current as u64 + 1_000 >= bytes,
        "{} of {bytes} bytes came back",
        -freed.bytes_current
    );
}

/// Held bytes after a group of one member has begun to work, engine, tables and all that is made once a process.
#[test]
fn a_group_takes_less_than_three_megabytes() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let transport = MemoryNetwork::new(1).node(1);
    let me = VoterId { node: transport.local().id, storage: 1 };
    let mut group = None;
    let held = measure(|| {
        group = Some(runtime.block_on(async {
            let store = MemoryStore::default().into();
            let group = Group::<MemoryStore>::open(GroupId(1), me, transport, store, Timing::LAN).await;
            let group = group.expect("the store is empty");
            group.found([me].into()).await.expect("nobody founded it");
            let leads = group.wait_until(Duration::from_secs(10), GroupStatus::is_leader).await;
            assert!(leads.is_some());
            for index in 0..100 {
                let open = Request::OpenSession { nonce: Nonce(index), ttl: Duration::from_secs(1) };
                group.propose(&asked(open)).await.expect("it leads");
            }
            group
        }));
    });
    let bytes = held.bytes_current;
    println!("{bytes} bytes for a group");
    assert!(bytes <= 3_000_000, "{bytes} bytes for a group");
    runtime.block_on(group.expect("it was opened").stop());
}
