//! Nodes for tests: real sockets on loopback, and a handler that records.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use macula_proto::{Contact, Frame, FrameKind, NodeId, SecretKey, wire};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod,
    KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::identity::{CertificateKey, certificate_params};
use crate::{
    AddressBook, CloseReason, Identity, Inbound, LaneId, PeerEvent, QuicConfig, QuicRx, QuicTransport,
    QuicTx, ResetCode, StreamError, StreamRx as _, StreamTx as _, Transport as _, Trust,
};

/// Longer than anything in these tests takes; only a broken test waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a node's handler saw.
/// More than any test makes a node see.
const SEEN_MAX: usize = 65_536;

#[derive(Debug)]
pub(crate) enum Seen {
    Up(NodeId),
    Down(NodeId, CloseReason),
    Datagram(Frame),
    Lane(LaneId, Frame),
    StreamEnd(Result<(), StreamError>),
}

pub(crate) struct Node {
    pub(crate) transport: QuicTransport,
    pub(crate) book: Arc<AddressBook>,
    seen: Mutex<mpsc::Receiver<Seen>>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

/// Echoes streams, records everything else.
struct Recorder {
    seen: mpsc::Sender<Seen>,
    lane_pause: Duration,
}

impl Inbound<QuicTransport> for Recorder {
    fn on_peer(&self, event: PeerEvent) {
        let _ = self.seen.try_send(match event {
            PeerEvent::Up(info) => Seen::Up(info.id),
            PeerEvent::Down { id, reason } => Seen::Down(id, reason),
        });
    }

    fn on_datagram(&self, _from: NodeId, frame: Frame) {
        let _ = self.seen.try_send(Seen::Datagram(frame));
    }

    async fn on_lane(&self, _from: NodeId, lane: LaneId, frame: Frame) {
        tokio::time::sleep(self.lane_pause).await;
        let _ = self.seen.try_send(Seen::Lane(lane, frame));
    }

    async fn on_stream(&self, _from: NodeId, first: Frame, mut tx: QuicTx, mut rx: QuicRx) {
        let mut next = Ok(Some(first));
        let end = loop {
            match next {
                Ok(Some(frame)) => {
                    if let Err(error) = tx.send(frame).await {
                        break Err(error);
                    }
                }
                Ok(None) => break tx.finish(),
                Err(error) => break Err(error),
            }
            next = rx.recv().await;
        };
        let _ = self.seen.try_send(Seen::StreamEnd(end));
    }
}

pub(crate) fn config() -> QuicConfig {
    config_of(Identity::generate())
}

pub(crate) fn config_of(identity: Identity) -> QuicConfig {
    QuicConfig::new(identity, "127.0.0.1:0".parse().unwrap())
}

pub(crate) fn start(config: QuicConfig) -> Node {
    start_slow(config, Duration::ZERO)
}

/// A node whose handler takes a while over each lane frame.
pub(crate) fn start_slow(config: QuicConfig, lane_pause: Duration) -> Node {
    let book = Arc::new(AddressBook::new(100));
    let transport = QuicTransport::bind(config, book.clone()).unwrap();
    let (seen, receiver) = mpsc::channel(SEEN_MAX);
    let stop = CancellationToken::new();
    let serving = tokio::spawn({
        let (transport, stop) = (transport.clone(), stop.clone());
        async move { transport.serve(Recorder { seen, lane_pause }, stop).await }
    });
    Node { transport, book, seen: Mutex::new(receiver), stop, serving }
}

impl Node {
    pub(crate) fn id(&self) -> NodeId {
        self.transport.local().id
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.transport.local_addr()
    }

    pub(crate) fn contact(&self) -> Contact {
        self.transport.local()
    }

    pub(crate) fn knows(&self, other: &Self) -> &Self {
        self.book.learn(&other.contact());
        self
    }

    /// The next thing that the handler sees.
    pub(crate) async fn next(&self) -> Seen {
        timeout(PATIENCE, self.seen.lock().await.recv())
            .await
            .expect("something is seen in time")
            .expect("serving")
    }

    /// Skips what the handler sees until `pick` picks something.
    pub(crate) async fn until<T>(&self, pick: impl Fn(Seen) -> Option<T>) -> T {
        loop {
            if let Some(picked) = pick(self.next().await) {
                return picked;
            }
        }
    }

    pub(crate) async fn until_down(&self, peer: &Self) -> CloseReason {
        let id = peer.id();
        self.until(|seen| match seen {
            Seen::Down(down, reason) if down == id => Some(reason),
            _ => None,
        })
        .await
    }

    pub(crate) async fn until_up(&self, peer: &Self) {
        let id = peer.id();
        self.until(|seen| matches!(seen, Seen::Up(up) if up == id).then_some(())).await;
    }

    pub(crate) async fn until_lane_number(&self) -> u32 {
        self.until(|seen| match seen {
            Seen::Lane(_, frame) => Some(number_of(&frame)),
            _ => None,
        })
        .await
    }

    pub(crate) async fn stop(self) -> Vec<Seen> {
        self.stop.cancel();
        timeout(PATIENCE, self.serving).await.expect("it stops in time").expect("no panic");
        let mut rest = Vec::new();
        let mut seen = self.seen.into_inner();
        while let Ok(one) = seen.try_recv() {
            rest.push(one);
        }
        rest
    }
}

/// A frame that carries a number.
pub(crate) fn numbered(n: u32, payload_bytes: usize) -> Frame {
    Frame::new(FrameKind::PUBLISH, &wire::LaneOpen { lane: n }, Bytes::from(vec![n as u8; payload_bytes]))
        .unwrap()
}

pub(crate) fn number_of(frame: &Frame) -> u32 {
    frame.header::<wire::LaneOpen>().unwrap().lane
}

/// Polls until something that no event announces holds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let polled = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, polled).await.is_ok(), "never: {what}");
}

pub(crate) const CANCELLED: StreamError = StreamError::Reset(ResetCode::CANCELLED);

/// An authority that issues and revokes.
pub(crate) struct TestAuthority {
    secret: SecretKey,
    params: CertificateParams,
    pub(crate) root: CertificateDer<'static>,
}

/// A certificate's dates.
pub(crate) enum Dates {
    Good,
    Past,
}

impl TestAuthority {
    pub(crate) fn new(seed: u8) -> Self {
        let secret = SecretKey::from_seed([seed; 32]);
        let mut params = certificate_params(&secret.node_id());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&CertificateKey::new(&secret)).unwrap().der().clone();
        Self { secret, params, root }
    }

    fn issuer(&self) -> Issuer<'_, CertificateKey<'_>> {
        Issuer::new(self.params.clone(), CertificateKey::new(&self.secret))
    }

    pub(crate) fn issue(&self, dates: Dates) -> Identity {
        self.certify(SecretKey::generate(&mut rand::rng()), dates)
    }

    pub(crate) fn renew(&self, secret: &SecretKey) -> Identity {
        self.certify(secret.clone(), Dates::Good)
    }

    fn certify(&self, secret: SecretKey, dates: Dates) -> Identity {
        let mut params = certificate_params(&secret.node_id());
        if matches!(dates, Dates::Past) {
            params.not_after = date_time_ymd(2001, 1, 1);
        }
        let leaf = params.signed_by(&CertificateKey::new(&secret), &self.issuer()).unwrap();
        Identity::from_parts(secret, vec![leaf.der().clone()])
    }

    /// Trust in this authority, except for those revoked.
    pub(crate) fn trust(&self, revoked: &[&Identity]) -> Trust {
        let revoked_certs = revoked.iter().map(|identity| RevokedCertParams {
            serial_number: certificate_params(&identity.id()).serial_number.unwrap(),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let crl = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(4000, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::PreSpecified(vec![1]),
        };
        let crl = crl.signed_by(&self.issuer()).unwrap();
        Trust::Authority { roots: vec![self.root.clone()], crls: vec![crl.der().clone()] }
    }
}

/// A node that trusts the authority and has its certificate.
pub(crate) fn config_under(authority: &TestAuthority) -> QuicConfig {
    let mut config = config_of(authority.issue(Dates::Good));
    config.trust = authority.trust(&[]);
    config
}
