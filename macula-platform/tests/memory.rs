//! What objects cost: measured.

use std::time::Duration;

use allocation_counter::measure;
use macula_platform::{Answer, Command, Effects, LogIndex, Nonce, Objects, Request, RequestId, Standing};
use macula_proto::{NodeId, UnixMillis};

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
