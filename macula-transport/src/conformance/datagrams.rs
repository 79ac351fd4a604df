//! Datagrams: small, quick, and nothing more.

use macula_proto::limits::PAYLOAD_BYTES_MAX;

use super::node::{connected_pair, frame, number, start, within};
use super::{Harness, QUIET};
use crate::{Transport, TransportError};

/// A datagram reaches the peer, from whom it says. One may be lost, many in a row are not.
pub async fn datagrams_arrive<H: Harness>(harness: &H) {
    let (a, b) = connected_pair(harness).await;
    let arrives = async {
        loop {
            a.transport.datagram(b.id(), frame(5, 500)).expect("connected");
            let arrived = b.until("a datagram", |log| !log.datagrams.is_empty());
            if tokio::time::timeout(QUIET, arrived).await.is_ok() {
                return;
            }
        }
    };
    within("a datagram arrives", arrives).await;
    let (from, received) = b.log(|log| log.datagrams[0].clone());
    assert_eq!((from, number(&received)), (a.id(), 5));
}

/// A datagram never dials.
pub async fn a_datagram_needs_a_connection<H: Harness>(harness: &H) {
    let (a, b) = (start(harness, 1).await, start(harness, 2).await);
    let sent = a.transport.datagram(b.id(), frame(1, 10));
    assert!(matches!(sent, Err(TransportError::NotConnected(id)) if id == b.id()), "{sent:?}");
    assert!(a.transport.peers().is_empty());
}

/// What does not fit a packet is the caller's error, and harms nothing.
pub async fn a_datagram_too_large_is_an_error<H: Harness>(harness: &H) {
    let (a, b) = connected_pair(harness).await;
    let sent = a.transport.datagram(b.id(), frame(1, PAYLOAD_BYTES_MAX));
    match sent {
        Err(TransportError::TooLarge { bytes, bytes_max }) => assert!(bytes > bytes_max && bytes_max > 500),
        other => panic!("a megabyte does not fit a packet: {other:?}"),
    }
    assert!(b.log(|log| log.downs(a.id()).is_empty()));
}
