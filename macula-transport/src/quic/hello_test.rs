use macula_proto::SecretKey;

use super::*;

const BINDING: [u8; 32] = [7; 32];
const REMOTE: &str = "192.0.2.7:4433";

fn introduction(identity: &Identity) -> Introduction {
    Introduction {
        contact: Contact::new(identity.id(), "198.51.100.1:4433".parse().unwrap()),
        realms: vec![Realm::default()],
        capabilities: Capabilities(5),
        versions: VersionRange::CURRENT,
        agent: "test/1\n".into(),
        instance: 3,
    }
}

fn two() -> (Identity, Identity) {
    (
        Identity::from_secret(SecretKey::from_seed([1; 32])),
        Identity::from_secret(SecretKey::from_seed([2; 32])),
    )
}

/// What the first of two makes of the hello that the second sends after `change`.
fn judged(change: impl FnOnce(&mut Introduction)) -> Result<Acquaintance, Refusal> {
    let (me, peer) = two();
    let mut theirs = introduction(&peer);
    change(&mut theirs);
    let frame = hello(&theirs, &peer, &BINDING).unwrap();
    check(&frame, &introduction(&me), peer.id(), &BINDING, REMOTE.parse().unwrap())
}

#[test]
fn a_good_hello_is_believed() {
    let peer = judged(|_| {}).unwrap();
    assert_eq!((peer.version, peer.instance, peer.capabilities), (Version::CURRENT, 3, Capabilities(5)));
    assert_eq!(peer.agent, "test/1", "no control characters");
    assert_eq!(peer.contact.addrs, ["198.51.100.1:4433".parse().unwrap()]);
}

#[test]
fn addresses_that_mean_nothing_are_replaced_by_the_one_seen() {
    let peer = judged(|theirs| theirs.contact.addrs = vec!["0.0.0.0:4433".parse().unwrap()]).unwrap();
    assert_eq!(peer.contact.addrs, [REMOTE.parse().unwrap()]);
}

#[test]
fn other_versions_and_realms_have_their_own_refusals() {
    let other = VersionRange { major: 2, ..VersionRange::CURRENT };
    assert_eq!(judged(|theirs| theirs.versions = other).unwrap_err(), Refusal::Version);
    assert_eq!(judged(|theirs| theirs.realms = vec!["acme".parse().unwrap()]).unwrap_err(), Refusal::Realm);
    assert_eq!(judged(|theirs| theirs.realms.clear()).unwrap_err(), Refusal::Realm);
}

#[test]
fn a_hello_of_another_connection_or_node_is_tampered() {
    let (me, peer) = two();
    let remote = REMOTE.parse().unwrap();
    let good = hello(&introduction(&peer), &peer, &BINDING).unwrap();
    let judge = |frame: &Frame, id, binding: &[u8]| {
        check(frame, &introduction(&me), id, binding, remote).unwrap_err()
    };
    assert_eq!(judge(&good, peer.id(), &[8; 32]), Refusal::TamperedHello, "replayed on another connection");
    assert_eq!(
        judge(&good, me.id(), &BINDING),
        Refusal::TamperedHello,
        "of someone else than the certificate"
    );
    let foreign = hello(&introduction(&me), &peer, &BINDING).unwrap();
    assert_eq!(judge(&foreign, peer.id(), &BINDING), Refusal::TamperedHello, "with someone else's contact");

    let mut envelope: wire::Hello = good.header().unwrap();
    let signed = envelope.signed.as_mut().unwrap();
    let mut body = signed.body.to_vec();
    *body.last_mut().unwrap() ^= 1;
    signed.body = body.into();
    let tampered = frame(FrameKind::HELLO, &envelope).unwrap();
    assert_eq!(judge(&tampered, peer.id(), &BINDING), Refusal::TamperedHello, "altered under way");
    let empty = frame(FrameKind::HELLO, &wire::Hello { signed: None }).unwrap();
    assert_eq!(judge(&empty, peer.id(), &BINDING), Refusal::TamperedHello);
}
