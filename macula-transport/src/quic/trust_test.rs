//! Each way in which authentication fails, on each side of a real connection.

use macula_proto::{NodeId, SecretKey};

use super::*;
use crate::identity::{CertificateKey, certificate_params};
use crate::quic::testing::*;
use crate::{CloseReason, Identity, QuicConfig, Target, Transport as _, TransportError};

/// Dials a good node from a bad one, and the other way round. Both times the dial must fail as the refusal says, and
/// the good node must count it.
async fn refused_both_ways(good: QuicConfig, bad: QuicConfig, refusal: Refusal) {
    let (good, bad) = (start(good), start(bad));
    let found = bad.transport.connect(Target::Addr(good.addr())).await.map(|info| info.id);
    assert!(
        matches!(&found, Err(TransportError::Refused { refusal: said, .. }) if *said == refusal),
        "{found:?}"
    );
    eventually("the listener counts it", || good.transport.metrics().refusals(&refusal) == 1).await;
    let found = good.transport.connect(Target::Addr(bad.addr())).await.map(|info| info.id);
    assert!(
        matches!(&found, Err(TransportError::Refused { refusal: said, .. }) if *said == refusal),
        "{found:?}"
    );
    assert_eq!(good.transport.metrics().refusals(&refusal), 2);
    assert!(good.transport.peers().is_empty() && bad.transport.peers().is_empty());
}

fn signed_by(signer: &SecretKey, subject: NodeId, past: bool) -> Identity {
    let mut params = certificate_params(&subject);
    if past {
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    }
    let certificate = params.self_signed(&CertificateKey::new(signer)).unwrap();
    Identity::from_parts(signer.clone(), vec![certificate.der().clone()])
}

#[tokio::test]
async fn another_node_at_the_address_is_a_wrong_peer() {
    let (a, b, c) = (start(config()), start(config()), start(config()));
    let mut contact = c.contact();
    contact.addrs = vec![b.addr()];
    let error = a.transport.connect(Target::Contact(contact)).await.unwrap_err();
    assert!(
        matches!(error, TransportError::WrongPeer { expected, found, .. } if expected == c.id() && found == b.id()),
        "{error}"
    );
    assert!(b.transport.peers().is_empty());
}

#[tokio::test]
async fn a_certificate_without_its_key_is_refused() {
    let victim = Identity::generate();
    // Shows the victim's certificate, but has only its own key.
    let thief = Identity::from_parts(SecretKey::from_seed([9; 32]), victim.chain().to_vec());
    refused_both_ways(config(), config_of(thief), Refusal::KeyNotProven).await;
}

#[tokio::test]
async fn a_subject_that_names_another_id_is_refused() {
    let secret = SecretKey::from_seed([9; 32]);
    let liar = signed_by(&secret, Identity::generate().id(), false);
    refused_both_ways(config(), config_of(liar), Refusal::SubjectMismatch).await;
}

#[tokio::test]
async fn an_expired_self_signed_certificate_is_refused() {
    let secret = SecretKey::from_seed([9; 32]);
    let late = signed_by(&secret, secret.node_id(), true);
    refused_both_ways(config(), config_of(late), Refusal::Expired).await;
}

#[tokio::test]
async fn a_certificate_that_someone_else_signed_is_not_self_signed() {
    let stranger = TestAuthority::new(8).issue(Dates::Good);
    refused_both_ways(config(), config_of(stranger), Refusal::UnknownAuthority).await;
}

#[tokio::test]
async fn nodes_under_one_authority_connect() {
    let authority = TestAuthority::new(7);
    let (a, b) = (start(config_under(&authority)), start(config_under(&authority)));
    assert_eq!(a.transport.connect(Target::Addr(b.addr())).await.unwrap().id, b.id());
}

#[tokio::test]
async fn a_self_signed_node_does_not_get_in_under_an_authority() {
    let authority = TestAuthority::new(7);
    // It would believe anyone of the authority; nobody believes it.
    let mut outsider = config();
    outsider.trust = authority.trust(&[]);
    refused_both_ways(config_under(&authority), outsider, Refusal::UnknownAuthority).await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused_under_an_authority() {
    let authority = TestAuthority::new(7);
    let mut late = config_of(authority.issue(Dates::Past));
    late.trust = authority.trust(&[]);
    refused_both_ways(config_under(&authority), late, Refusal::Expired).await;
}

#[tokio::test]
async fn a_revoked_certificate_is_refused() {
    let authority = TestAuthority::new(7);
    let revoked = config_under(&authority);
    let mut good = config_under(&authority);
    good.trust = authority.trust(&[&revoked.identity]);
    refused_both_ways(good, revoked, Refusal::Revoked).await;
}

#[tokio::test]
async fn a_peer_that_is_revoked_while_connected_goes_and_the_others_stay() {
    let authority = TestAuthority::new(7);
    let bad = config_under(&authority);
    let identity = bad.identity.clone();
    let (a, b, c) = (start(config_under(&authority)), start(bad), start(config_under(&authority)));
    for peer in [&b, &c] {
        a.transport.connect(Target::Addr(peer.addr())).await.unwrap();
    }
    a.transport.reload_trust(&authority.trust(&[&identity])).unwrap();
    assert_eq!(a.until_down(&b).await, CloseReason::Revoked);
    assert_eq!(b.until_down(&a).await, CloseReason::Revoked);
    assert_eq!(a.transport.peers()[0].id, c.id());
    let again = b.transport.connect(Target::Addr(a.addr())).await.unwrap_err();
    assert!(matches!(again, TransportError::Refused { refusal: Refusal::Revoked, .. }), "{again}");
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart_and_another_key_is_not() {
    let authority = TestAuthority::new(7);
    let mut late = config_of(authority.issue(Dates::Past));
    late.trust = authority.trust(&[]);
    let key = late.identity.key_pem();
    let secret = late.identity.secret().clone();
    let (a, b) = (start(config_under(&authority)), start(late));
    assert!(b.transport.connect(Target::Addr(a.addr())).await.is_err());
    let renewed = authority.renew(&secret);
    assert_eq!(renewed.key_pem(), key);
    b.transport.reload_identity(renewed).unwrap();
    b.transport.connect(Target::Addr(a.addr())).await.unwrap();
    assert!(b.transport.reload_identity(Identity::generate()).is_err());
}

#[test]
fn trust_that_cannot_work_says_why() {
    let algorithms: &'static [&'static dyn SignatureVerificationAlgorithm] = &[];
    let none = Trust::Authority { roots: Vec::new(), crls: Vec::new() };
    assert!(matches!(TrustStore::new(&none, algorithms), Err(TrustError::NoRoots)));
    let garbage = Trust::Authority { roots: vec![vec![1, 2, 3].into()], crls: Vec::new() };
    assert!(matches!(TrustStore::new(&garbage, algorithms), Err(TrustError::Root { index: 0, .. })));
    let root = TestAuthority::new(7).root;
    let bad_list = Trust::Authority { roots: vec![root], crls: vec![vec![1].into()] };
    assert!(matches!(TrustStore::new(&bad_list, algorithms), Err(TrustError::Crl { index: 0, .. })));
}

#[tokio::test]
async fn peers_share_an_application_protocol_or_do_not_connect() {
    let speaking = |names: &[&str]| {
        let mut config = config();
        config.alpn = names.iter().map(|name| (*name).to_owned()).collect();
        config
    };
    let (both, own, usual) =
        (start(speaking(&["acme/1", "macula/1"])), start(speaking(&["acme/1"])), start(config()));
    both.transport.connect(Target::Addr(own.addr())).await.unwrap();
    both.transport.connect(Target::Addr(usual.addr())).await.unwrap();
    let refused = own.transport.connect(Target::Addr(usual.addr())).await.unwrap_err();
    assert!(matches!(&refused, TransportError::Refused { refusal: Refusal::Version, .. }), "{refused}");
    eventually("counted", || usual.transport.metrics().refusals(&Refusal::Version) == 1).await;
}
