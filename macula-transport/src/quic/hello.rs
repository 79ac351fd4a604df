//! The first exchange on a connection: who, which version, which realms, tied to this very TLS session.
//!
//! ```text
//!   dialler                         listener
//!      │──────────── HELLO ────────────▶│  checks
//!      │                               up
//!      │◀─────── HELLO, WELCOME ────────│
//!   checks                              │
//!     up                                │
//!      │─────────── WELCOME ───────────▶│
//! ```
//!
//! When a dial has returned, both sides are up. A side that refuses says so in its WELCOME and closes with the same code.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use macula_proto::limits::REALMS_MAX;
use macula_proto::{
    Capabilities, Contact, Domain, Ed25519Verifier, Frame, FrameKind, NodeId, Realm, Version, VersionRange,
    decode, open, seal, wire,
};
use prost::Message as _;
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, WriteError};

use super::codes::refusal_of;
use super::stream::FrameReader;
use crate::{Identity, Refusal, StreamError};

/// What a hello is bound by (RFC 5705, RFC 9266's idea with a label of our own).
const EXPORTER_LABEL: &[u8] = b"EXPORTER-macula-hello";
const BINDING_BYTES: usize = 32;
/// Longest agent text that is kept.
const AGENT_BYTES_MAX: usize = 64;
/// How long a refusing side waits for its WELCOME to arrive before it closes.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// What this node says about itself.
#[derive(Clone, Debug)]
pub(crate) struct Introduction {
    pub(crate) contact: Contact,
    pub(crate) realms: Vec<Realm>,
    pub(crate) capabilities: Capabilities,
    pub(crate) versions: VersionRange,
    pub(crate) agent: String,
    pub(crate) instance: u64,
}

/// What a peer said about itself, checked.
#[derive(Clone, Debug)]
pub(crate) struct Acquaintance {
    pub(crate) contact: Contact,
    pub(crate) realms: Vec<Realm>,
    pub(crate) capabilities: Capabilities,
    pub(crate) version: Version,
    pub(crate) agent: String,
    pub(crate) instance: u64,
}

/// Why there was no acquaintance.
#[derive(Debug)]
pub(crate) enum HelloError {
    /// The peer said no.
    Refused(Refusal),
    /// This node said no.
    Refusing(Refusal),
    /// The peer sent something else than it should.
    Protocol(String),
    /// The connection broke.
    Connection(ConnectionError),
}

/// The dialler's part. `peer` is who the certificate names.
pub(crate) async fn introduce(
    connection: &Connection,
    me: &Introduction,
    identity: &Identity,
    peer: NodeId,
) -> Result<Acquaintance, HelloError> {
    let (mut tx, rx) = connection.open_bi().await.map_err(broken)?;
    let mut rx = FrameReader::new(rx);
    let binding = binding(connection)?;
    send(&mut tx, &hello(me, identity, &binding)?).await?;
    let answer = receive(&mut rx, FrameKind::HELLO).await?;
    let checked = check(&answer, me, peer, &binding, connection.remote_address());
    if let Err(refusal) = &checked {
        return Err(refuse(connection, &mut tx, refusal.clone()).await);
    }
    welcomed(&receive(&mut rx, FrameKind::WELCOME).await?)?;
    send(&mut tx, &welcome(None)?).await?;
    let _ = tx.finish();
    checked.map_err(HelloError::Refusing)
}

/// The listener's part. `admit` takes the peer in or refuses it; the peer is told that it is welcome only afterwards, so
/// that whoever dialled and was welcomed is known here.
pub(crate) async fn receive_introduction(
    connection: &Connection,
    me: &Introduction,
    identity: &Identity,
    peer: NodeId,
    admit: impl FnOnce(Acquaintance) -> Result<(), Refusal>,
) -> Result<(), HelloError> {
    let (mut tx, rx) = connection.accept_bi().await.map_err(broken)?;
    let mut rx = FrameReader::new(rx);
    let binding = binding(connection)?;
    let theirs = receive(&mut rx, FrameKind::HELLO).await?;
    let checked = check(&theirs, me, peer, &binding, connection.remote_address());
    send(&mut tx, &hello(me, identity, &binding)?).await?;
    if let Err(refusal) = checked.and_then(admit) {
        return Err(refuse(connection, &mut tx, refusal).await);
    }
    send(&mut tx, &welcome(None)?).await?;
    let _ = tx.finish();
    welcomed(&receive(&mut rx, FrameKind::WELCOME).await?)
}

/// 32 bytes that only the two ends of this TLS session can know.
fn binding(connection: &Connection) -> Result<[u8; BINDING_BYTES], HelloError> {
    let mut binding = [0; BINDING_BYTES];
    connection
        .export_keying_material(&mut binding, EXPORTER_LABEL, b"")
        .map_err(|_| HelloError::Protocol("the TLS session exports no keying material".into()))?;
    Ok(binding)
}

fn hello(me: &Introduction, identity: &Identity, binding: &[u8]) -> Result<Frame, HelloError> {
    let body = wire::HelloBody {
        major: me.versions.major,
        minor_min: me.versions.minor_min,
        minor_max: me.versions.minor_max,
        capabilities: me.capabilities.0,
        realms: me.realms.iter().map(Realm::to_wire).collect(),
        contact: Some(me.contact.to_wire()),
        agent: me.agent.clone(),
        binding: Bytes::copy_from_slice(binding),
        instance: me.instance,
    };
    let signed = seal(identity.secret(), Domain::HELLO, body.encode_to_vec().into());
    frame(FrameKind::HELLO, &wire::Hello { signed: Some(signed) })
}

fn welcome(refusal: Option<&Refusal>) -> Result<Frame, HelloError> {
    let (refusal, reason) = refusal.map(|refusal| (refusal.code(), refusal.words())).unwrap_or_default();
    frame(FrameKind::WELCOME, &wire::Welcome { refusal, reason })
}

fn frame(kind: FrameKind, header: &impl prost::Message) -> Result<Frame, HelloError> {
    Frame::new(kind, header, Bytes::new()).map_err(|cause| HelloError::Protocol(cause.to_string()))
}

/// Judges a peer's hello.
fn check(
    frame: &Frame,
    me: &Introduction,
    peer: NodeId,
    binding: &[u8],
    remote: SocketAddr,
) -> Result<Acquaintance, Refusal> {
    let tampered = Refusal::TamperedHello;
    let hello: wire::Hello = frame.header().map_err(|_| tampered.clone())?;
    let (signer, body) =
        open(&Ed25519Verifier, Domain::HELLO, hello.signed.as_ref()).map_err(|_| tampered.clone())?;
    let body = decode::<wire::HelloBody>(body).map_err(|_| tampered.clone())?;
    let contact = Contact::from_wire(body.contact.as_ref()).map_err(|_| tampered.clone())?;
    if signer != peer || contact.id != peer || body.binding != binding || body.realms.len() > REALMS_MAX {
        return Err(tampered);
    }
    let theirs = VersionRange { major: body.major, minor_min: body.minor_min, minor_max: body.minor_max };
    let version = me.versions.agree(theirs).ok_or(Refusal::Version)?;
    // A realm name that this version cannot read is one that this node is not in.
    let realms: BTreeSet<Realm> = body.realms.iter().filter_map(|name| Realm::from_wire(name).ok()).collect();
    if !me.realms.iter().any(|realm| realms.contains(realm)) {
        return Err(Refusal::Realm);
    }
    Ok(Acquaintance {
        contact: reachable(contact, remote),
        realms: realms.into_iter().collect(),
        capabilities: Capabilities(body.capabilities),
        version,
        agent: body.agent.chars().filter(|c| !c.is_control()).take(AGENT_BYTES_MAX).collect(),
        instance: body.instance,
    })
}

/// Addresses that mean nothing elsewhere are replaced by what this node sees. A peer dials from the port on which it
/// listens, so that where its packets come from is an address too.
fn reachable(mut contact: Contact, remote: SocketAddr) -> Contact {
    contact.addrs.retain(|addr| !addr.ip().is_unspecified() && !addr.ip().is_multicast() && addr.port() != 0);
    if contact.addrs.is_empty() {
        contact.addrs.push(super::endpoint::canonical(remote));
    }
    contact
}

async fn refuse(connection: &Connection, tx: &mut SendStream, refusal: Refusal) -> HelloError {
    if let Ok(last_words) = welcome(Some(&refusal))
        && send(tx, &last_words).await.is_ok()
        && tx.finish().is_ok()
    {
        let _ = tokio::time::timeout(LAST_WORDS, tx.stopped()).await;
    }
    connection.close(refusal.close_code(), refusal.words().as_bytes());
    HelloError::Refusing(refusal)
}

fn welcomed(frame: &Frame) -> Result<(), HelloError> {
    let welcome: wire::Welcome = frame.header().map_err(|cause| HelloError::Protocol(cause.to_string()))?;
    match welcome.refusal {
        0 => Ok(()),
        code => Err(HelloError::Refused(Refusal::from_code(code, &welcome.reason))),
    }
}

async fn send(tx: &mut SendStream, frame: &Frame) -> Result<(), HelloError> {
    tx.write_all(&frame.to_bytes()).await.map_err(|error| match error {
        WriteError::ConnectionLost(error) => broken(error),
        other => HelloError::Protocol(other.to_string()),
    })
}

async fn receive(rx: &mut FrameReader<RecvStream>, kind: FrameKind) -> Result<Frame, HelloError> {
    let frame = rx.next().await.map_err(|error| match error {
        super::stream::FrameReadError::Read(ReadError::ConnectionLost(error)) => broken(error),
        other => HelloError::Protocol(StreamError::from(other).to_string()),
    })?;
    match frame {
        Some(frame) if frame.kind() == kind => Ok(frame),
        Some(other) => Err(HelloError::Protocol(format!("{} where {kind} should be", other.kind()))),
        None => Err(HelloError::Protocol(format!("the end of the stream where {kind} should be"))),
    }
}

fn broken(error: ConnectionError) -> HelloError {
    refusal_of(&error).map_or(HelloError::Connection(error), HelloError::Refused)
}

#[cfg(test)]
#[path = "hello_test.rs"]
mod tests;
