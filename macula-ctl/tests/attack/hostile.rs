//! Peers that mean harm: plain UDP, and QUIC clients with valid certificates and bad manners.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use macula_proto::{ALPN, Contact, Domain, Frame, FrameKind, Realm, VersionRange, seal, wire};
use macula_transport::Identity;
use prost::Message;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connecting, Connection, Endpoint, RecvStream, SendStream, VarInt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

/// Bytes that look like nothing in particular, the same in each run.
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// Sends noise of all sizes from many ports, for a while; returns how many packets.
pub(crate) fn garbage(to: SocketAddr, time: Duration) -> usize {
    let sockets: Vec<_> = (0..64).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let (mut noise, begun, mut sent) = (Noise::new(1), Instant::now(), 0);
    while begun.elapsed() < time {
        for socket in &sockets {
            let len = (noise.next() % 1_400) as usize;
            // A full socket buffer is part of a flood.
            sent += usize::from(socket.send_to(&noise.bytes(len), to).is_ok());
        }
    }
    sent
}

/// Packets that begin like a QUIC handshake and are none.
pub(crate) fn initials(to: SocketAddr, count: usize) {
    let sockets: Vec<_> = (0..64).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let mut noise = Noise::new(2);
    for n in 0..count {
        // Long header, Initial, version 1, two connection ids of 8 bytes, no token, length 1,174 (RFC 9000 §17.2.2).
        let mut packet = vec![0xc3, 0, 0, 0, 1, 8];
        packet.extend(noise.bytes(8));
        packet.push(8);
        packet.extend(noise.bytes(8));
        packet.extend([0, 0x44, 0x96]);
        packet.extend(noise.bytes(1_174));
        let _ = sockets[n % sockets.len()].send_to(&packet, to);
    }
}

/// A QUIC client with an identity of its own.
pub(crate) struct Client {
    pub(crate) identity: Identity,
    endpoint: Endpoint,
    config: ClientConfig,
}

impl Client {
    pub(crate) fn new() -> Self {
        let identity = Identity::generate();
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(BelievesAll))
            .with_client_auth_cert(identity.chain().to_vec(), key)
            .unwrap();
        tls.alpn_protocols = vec![ALPN.into()];
        tls.enable_sni = false;
        let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        Self { identity, endpoint: Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap(), config }
    }

    /// Completes the TLS handshake and says nothing.
    pub(crate) async fn connect(&self, to: SocketAddr) -> Option<Connection> {
        tokio::time::timeout(Duration::from_secs(5), self.begin(to)).await.ok()?.ok()
    }

    fn begin(&self, to: SocketAddr) -> Connecting {
        self.endpoint.connect_with(self.config.clone(), to, "macula").unwrap()
    }

    /// Behaves until it is let in. The streams of the hello come back with it, so that they stay open.
    pub(crate) async fn enter(&self, to: SocketAddr) -> Option<(Connection, SendStream, RecvStream)> {
        let connection = self.connect(to).await?;
        let (mut tx, mut rx) = connection.open_bi().await.ok()?;
        let mut binding = [0; 32];
        connection.export_keying_material(&mut binding, b"EXPORTER-macula-hello", b"").unwrap();
        tx.write_all(&self.hello(&binding)).await.ok()?;
        let mut answer = [0; 1];
        rx.read_exact(&mut answer).await.ok()?;
        let welcome = wire::Welcome { refusal: 0, reason: String::new() };
        tx.write_all(&frame(FrameKind::WELCOME, &welcome)).await.ok()?;
        Some((connection, tx, rx))
    }

    fn hello(&self, binding: &[u8]) -> Bytes {
        let versions = VersionRange::CURRENT;
        let contact = Contact::new(self.identity.id(), self.endpoint.local_addr().unwrap());
        let body = wire::HelloBody {
            major: versions.major,
            minor_min: versions.minor_min,
            minor_max: versions.minor_max,
            capabilities: 0,
            realms: vec![Realm::default().to_wire()],
            contact: Some(contact.to_wire()),
            agent: "hostile".into(),
            binding: Bytes::copy_from_slice(binding),
            instance: 1,
        };
        let signed = seal(self.identity.secret(), Domain::HELLO, body.encode_to_vec().into());
        frame(FrameKind::HELLO, &wire::Hello { signed: Some(signed) })
    }
}

fn frame(kind: FrameKind, header: &impl Message) -> Bytes {
    Frame::new(kind, header, Bytes::new()).unwrap().to_bytes()
}

/// What becomes of a handshake that was begun.
#[derive(Clone, Copy)]
pub(crate) enum Ending {
    /// The other side is told.
    BrokenOff,
    /// The client is silent from then on.
    Hanging,
}

/// Begins handshakes from one port and finishes none.
pub(crate) fn begin_handshakes(to: SocketAddr, count: usize, ending: Ending) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::new();
        let begun: Vec<Connecting> = (0..count).map(|_| client.begin(to)).collect();
        // So long it answers what the node asks back, and then says goodbye.
        // tidy: allow(sleep): the pace of the attack; nothing is hoped for
        let exchange = || tokio::time::sleep(Duration::from_millis(5));
        exchange().await;
        match ending {
            Ending::BrokenOff => {
                drop(begun);
                exchange().await;
            }
            // Nobody will send for them any more.
            Ending::Hanging => std::mem::forget(begun),
        }
    });
}

/// A frame that claims 2⁶² − 1 bytes, and one that claims as many as are allowed; both end after a few.
pub(crate) const GIANT: [&[u8]; 2] = [&[0xff; 8], &[0x80, 0x10, 0xff, 0xff, 33, 0]];

/// Opens streams without end, begins a frame on each and abandons it; returns how many it was allowed.
pub(crate) async fn abandon_streams(connection: &Connection, count: usize) -> usize {
    let mut held = Vec::new();
    for n in 0..count {
        let opening = tokio::time::timeout(Duration::from_millis(500), connection.open_bi());
        let Ok(Ok((mut tx, rx))) = opening.await else { break };
        let _ = tx.write_all(GIANT[1]).await;
        match n % 3 {
            0 => held.push((tx, rx)),
            1 => _ = tx.reset(VarInt::from_u32(9)),
            _ => _ = tx.finish(),
        }
    }
    held.len()
}

#[derive(Debug)]
struct BelievesAll;

impl ServerCertVerifier for BelievesAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
