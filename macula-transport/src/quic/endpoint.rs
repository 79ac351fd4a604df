//! The UDP socket and quinn's settings.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::{CryptoError, HmacKey};
use quinn::{
    AsyncUdpSocket, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, Runtime as _, TokioRuntime,
    TransportConfig, VarInt,
};
use quinn_proto::HashedConnectionIdGenerator;
use sha2::{Digest as _, Sha256};
use socket2::{Domain, Protocol, Socket, Type};

use super::config::{BindError, QuicConfig};
use super::tls::Credentials;
use crate::{Identity, LaneId};

/// Lanes, a goodbye, and some for what later versions may open.
const UNI_STREAMS_MAX: usize = LaneId::COUNT + 8;
/// Datagrams waiting to be sent or read, in bytes.
const DATAGRAM_BUFFER_BYTES: usize = 256 * 1024;
/// Attempts that wait for the accept loop, and what they may buffer.
const INCOMING_MAX: usize = 1_024;
const INCOMING_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Opens the endpoint. Its driver runs on the current tokio runtime.
pub(crate) fn open(config: &QuicConfig, credentials: &Arc<Credentials>) -> Result<Endpoint, BindError> {
    let transport = Arc::new(transport(config)?);
    let mut server = credentials.server()?;
    server
        .transport_config(transport)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size_total(INCOMING_BYTES_MAX)
        .retry_token_lifetime(Duration::from_secs(15));
    let socket = socket(config)?;
    let key = ResetKey::of(&config.identity);
    let connection_ids = key.connection_id_key();
    let mut endpoint = EndpointConfig::new(Arc::new(key));
    endpoint.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(connection_ids)));
    endpoint
        .max_udp_payload_size(config.mtu_max.max(1_472))
        .map_err(|_| BindError::Config { setting: "mtu_max", rule: "must be from 1,200 to 65,527" })?;
    let failed = |cause| BindError::Socket { addr: config.listen, cause };
    let socket = with_faults(config, TokioRuntime.wrap_udp_socket(socket).map_err(failed)?);
    Endpoint::new_with_abstract_socket(endpoint, Some(server), socket, Arc::new(TokioRuntime)).map_err(failed)
}

#[cfg(feature = "testing")]
fn with_faults(config: &QuicConfig, socket: Arc<dyn AsyncUdpSocket>) -> Arc<dyn AsyncUdpSocket> {
    match &config.line_faults {
        Some(faults) => faults.on(socket),
        None => socket,
    }
}

#[cfg(not(feature = "testing"))]
fn with_faults(_config: &QuicConfig, socket: Arc<dyn AsyncUdpSocket>) -> Arc<dyn AsyncUdpSocket> {
    socket
}

/// HMAC-SHA-256 (RFC 2104) under a key derived from the node's own. A restarted node thus makes the same stateless
/// reset tokens (RFC 9000 §10.3.2), so that its peers notice the restart with their next packet instead of waiting for
/// a time-out.
struct ResetKey([u8; BLOCK_BYTES]);

/// SHA-256's block.
const BLOCK_BYTES: usize = 64;

impl ResetKey {
    fn of(identity: &Identity) -> Self {
        let key = Sha256::new()
            .chain_update(b"macula/1 reset\0")
            .chain_update(identity.secret().to_pkcs8())
            .finalize();
        let mut block = [0; BLOCK_BYTES];
        block[..key.len()].copy_from_slice(&key);
        Self(block)
    }

    /// Connection ids carry a hash, so that packets with made-up ones are dropped unanswered. Those of the former process
    /// must still be known as real, or they would never be answered with a reset.
    fn connection_id_key(&self) -> u64 {
        let mac = self.mac(b"macula/1 connection ids");
        mac.iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte))
    }

    fn mac(&self, data: &[u8]) -> [u8; 32] {
        let pad = |with: u8| self.0.map(|byte| byte ^ with);
        let inner = Sha256::new().chain_update(pad(0x36)).chain_update(data).finalize();
        Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature: &mut [u8]) {
        signature.copy_from_slice(&self.mac(data));
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // Never called for reset tokens, which only ever go out; a plain comparison would leak through timing.
        let differs = self.mac(data).iter().zip(signature).fold(0, |differs, (a, b)| differs | (a ^ b));
        if differs == 0 && signature.len() == self.signature_len() { Ok(()) } else { Err(CryptoError) }
    }
}

/// Connection settings, the same for both directions.
pub(crate) fn transport(config: &QuicConfig) -> Result<TransportConfig, BindError> {
    let idle = IdleTimeout::try_from(config.dead_after)
        .map_err(|_| BindError::Config { setting: "dead_after", rule: "is too long" })?;
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(config.mtu_max);
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(config.keep_alive))
        .max_concurrent_uni_streams(VarInt::from_u32(UNI_STREAMS_MAX as u32))
        // One more for the hello.
        .max_concurrent_bidi_streams(VarInt::from_u32(config.streams_max.saturating_add(1)))
        .stream_receive_window(VarInt::from_u32(config.stream_window_bytes))
        .receive_window(VarInt::from_u32(config.connection_window_bytes))
        .send_window(u64::from(config.connection_window_bytes))
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_BYTES))
        .datagram_send_buffer_size(DATAGRAM_BUFFER_BYTES)
        .mtu_discovery_config(Some(discovery));
    Ok(transport)
}

fn socket(config: &QuicConfig) -> Result<UdpSocket, BindError> {
    let addr = config.listen;
    let failed = |cause: io::Error| match cause.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse(addr),
        _ => BindError::Socket { addr, cause },
    };
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP)).map_err(failed)?;
    if addr.is_ipv6() {
        socket.set_only_v6(!addr.ip().is_unspecified()).map_err(failed)?;
    }
    enlarge_buffers(&socket, config.socket_buffer_bytes);
    socket.set_nonblocking(true).map_err(failed)?;
    socket.bind(&addr.into()).map_err(failed)?;
    Ok(socket.into())
}

/// Small kernel buffers lose packets in bursts, so larger ones are asked for; without them it still works.
fn enlarge_buffers(socket: &Socket, bytes: usize) {
    let receive = socket.set_recv_buffer_size(bytes).and_then(|()| socket.recv_buffer_size()).unwrap_or(0);
    let send = socket.set_send_buffer_size(bytes).and_then(|()| socket.send_buffer_size()).unwrap_or(0);
    if receive.min(send) < bytes {
        tracing::warn!(
            wanted = bytes,
            receive,
            send,
            "the kernel clamps the UDP buffers (net.core.rmem_max, net.core.wmem_max): expect losses in bursts"
        );
    }
}

/// Where a socket that is bound to `bound` can be reached from elsewhere.
pub(crate) fn reachable(bound: SocketAddr) -> Vec<SocketAddr> {
    if !bound.ip().is_unspecified() {
        return vec![bound];
    }
    let v4 = outgoing(IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    let v6 = || {
        let documentation = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
        outgoing(IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V6(documentation))
    };
    let v6 = if bound.is_ipv6() { v6() } else { None };
    let mut found: Vec<SocketAddr> =
        [v4, v6].into_iter().flatten().map(|ip| (ip, bound.port()).into()).collect();
    if found.is_empty() {
        found.push((Ipv4Addr::LOCALHOST, bound.port()).into());
    }
    found
}

/// The address that the system would send from towards `to`. Connecting a UDP socket sends nothing.
fn outgoing(from: IpAddr, to: IpAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind((from, 0)).ok()?;
    socket.connect((to, 9)).ok()?;
    socket.local_addr().ok().map(|addr| addr.ip()).filter(|ip| !ip.is_unspecified())
}

/// An IPv4 address that arrived on an IPv6 socket, as IPv4.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_4231_test_case_2() {
        let mut block = [0; BLOCK_BYTES];
        block[..4].copy_from_slice(b"Jefe");
        let mac = ResetKey(block).mac(b"what do ya want for nothing?");
        let hex = data_encoding::HEXLOWER.encode(&mac);
        assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
