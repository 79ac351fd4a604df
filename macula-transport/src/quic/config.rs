//! What can be set, and why binding may fail.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use macula_proto::limits::{CONTACT_ADDRS_MAX, REALMS_MAX};
use macula_proto::{ALPN, Capabilities, Clock, Realm, SystemClock, VersionRange};

use super::trust::{Trust, TrustError};
use crate::{Identity, TransportMetrics};

/// Application protocols offered at most.
const ALPN_MAX: usize = 8;

/// Settings of a [`QuicTransport`](super::QuicTransport). Begin with [`QuicConfig::new`] and change what must differ.
#[derive(Clone)]
#[non_exhaustive]
pub struct QuicConfig {
    /// Key and certificate.
    pub identity: Identity,
    /// Where to listen. `[::]` takes IPv4 as well; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Where others can reach this node, if that differs from `listen` (behind NAT, in a container). Empty: the
    /// listen address, or for an unspecified one the machine's outgoing addresses. At most 8.
    pub advertise: Vec<SocketAddr>,
    /// Whom to believe. Default: [`Trust::Open`].
    pub trust: Trust,
    /// The realms this node is in, at least one; a peer must share one. Default: the default realm.
    pub realms: Vec<Realm>,
    /// Optional features, told to peers. Default: none.
    pub capabilities: Capabilities,
    /// Protocol versions spoken.
    pub versions: VersionRange,
    /// Application protocols of the TLS handshake (RFC 7301), the preferred one first; a peer must share one. Other
    /// names than the usual one keep meshes apart that can reach each other. 1 to 8 of 1 to 255 bytes. Default:
    /// [`macula_proto::ALPN`].
    pub alpn: Vec<String>,
    /// Software name and version, for people; at most 64 bytes.
    pub agent: String,
    /// Told to peers so that they notice a restart. Default: drawn.
    pub instance: u64,

    /// Connections kept at most. Each costs a few hundred KiB under load. Default: 100.
    pub connections_max: usize,
    /// A connection without application frames for so long is closed; pings do not count. Default: 60 s.
    pub idle: Duration,
    /// Pings that keep NAT bindings and the peer's idea of us alive, while a connection is kept. Default: 30 s.
    pub keep_alive: Duration,
    /// A peer from which no packet comes for so long is gone ([`CloseReason::TimedOut`](crate::CloseReason)). It must
    /// outlast two lost pings, hence more than twice `keep_alive`; membership notices a death much earlier.
    /// Default: 75 s.
    pub dead_after: Duration,
    /// For the TLS handshake and the hello together, on either side. Default: 5 s.
    pub handshake_timeout: Duration,
    /// For the first frame of a stream that a peer opened. Default: 5 s.
    pub first_frame_timeout: Duration,
    /// For open streams and the peer's goodbye when a connection is closed in order. Default: 5 s.
    pub drain: Duration,

    /// Streams that one peer may have open at once. Default: 1,024.
    pub streams_max: u32,
    /// Bytes that one lane of one peer queues before it is full. Default: 1 MiB.
    pub lane_bytes: usize,
    /// Bytes of one stream in flight, and received but unread. Default: 2 MiB.
    pub stream_window_bytes: u32,
    /// The same for all streams of a connection together. Default: 8 MiB.
    pub connection_window_bytes: u32,
    /// Largest UDP payload that path MTU discovery tries, in bytes. The kernel's segmentation offload sends ten
    /// at once and stops at 64 KiB, so it must stay below 6,553. Default: 6,500.
    pub mtu_max: u16,
    /// UDP socket buffers; the kernel may clamp them, which is logged. Default: 4 MiB.
    pub socket_buffer_bytes: usize,

    /// Connections accepted from one IPv4 address or IPv6 /64 at once. Default: 32.
    pub per_source_max: usize,
    /// Whether loopback addresses, and those of this machine that nobody configured, are free of that limit. Default: yes.
    pub loopback_exempt: bool,
    /// Incoming handshakes under way at once; more attempts are ignored. So they are when twice as many, the failed
    /// ones of the last seconds included, are held in memory, at some 120 KiB each. Default: 256.
    pub half_open_max: usize,
    /// From so many of them on, a source must first prove its address (RFC 9000 §8.1.2). Default: 32.
    pub retry_above: usize,

    /// Pause after the first failed dial of a peer; doubles with each, and is drawn from half to all of it.
    /// Default: 500 ms.
    pub backoff_min: Duration,
    /// Longest such pause. Default: 60 s.
    pub backoff_max: Duration,
    /// A peer's further addresses are tried after so long without an answer (RFC 8305 §5). Default: 250 ms.
    pub dial_stagger: Duration,

    /// Where time comes from. Default: the system's.
    pub clock: Arc<dyn Clock>,
    /// Where it is counted. Default: a set of its own.
    pub metrics: TransportMetrics,
    /// Lines that are cut or slow, for tests. Default: none.
    #[cfg(feature = "testing")]
    pub line_faults: Option<super::LineFaults>,
}

/// Why a transport did not come up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Someone else listens there.
    #[error("cannot listen on {0}: the UDP port is taken by another process")]
    InUse(SocketAddr),
    /// The system refused the socket.
    #[error("cannot listen on {addr}: {cause}")]
    Socket {
        /// Where.
        addr: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
    /// A setting that makes no sense.
    #[error("transport setting `{setting}`: {rule}")]
    Config {
        /// Which one.
        setting: &'static str,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// The trust settings cannot be used.
    #[error("trust: {0}")]
    Trust(#[from] TrustError),
    /// The TLS library refused the settings.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Not called within a tokio runtime.
    #[error("a transport can only be bound within a tokio runtime")]
    NoRuntime,
}

impl QuicConfig {
    /// The defaults, for an identity and a listen address.
    pub fn new(identity: Identity, listen: SocketAddr) -> Self {
        Self {
            identity,
            listen,
            advertise: Vec::new(),
            trust: Trust::Open,
            realms: vec![Realm::default()],
            capabilities: Capabilities::default(),
            versions: VersionRange::CURRENT,
            alpn: vec![ALPN.into()],
            agent: concat!("macula/", env!("CARGO_PKG_VERSION")).into(),
            instance: rand::random(),
            connections_max: 100,
            idle: Duration::from_secs(60),
            keep_alive: Duration::from_secs(30),
            dead_after: Duration::from_secs(75),
            handshake_timeout: Duration::from_secs(5),
            first_frame_timeout: Duration::from_secs(5),
            drain: Duration::from_secs(5),
            streams_max: 1_024,
            lane_bytes: 1024 * 1024,
            stream_window_bytes: 2 * 1024 * 1024,
            connection_window_bytes: 8 * 1024 * 1024,
            mtu_max: 6_500,
            socket_buffer_bytes: 4 * 1024 * 1024,
            per_source_max: 32,
            loopback_exempt: true,
            half_open_max: 256,
            retry_above: 32,
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(60),
            dial_stagger: Duration::from_millis(250),
            clock: Arc::new(SystemClock::default()),
            metrics: TransportMetrics::default(),
            #[cfg(feature = "testing")]
            line_faults: None,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), BindError> {
        let rules = [
            (self.connections_max > 0, "connections_max", "must be at least 1"),
            (self.dead_after > self.keep_alive * 2, "dead_after", "must be more than twice `keep_alive`"),
            (!self.handshake_timeout.is_zero(), "handshake_timeout", "must not be zero"),
            (!self.idle.is_zero(), "idle", "must not be zero"),
            (self.half_open_max > 0, "half_open_max", "must be at least 1"),
            (self.per_source_max > 0, "per_source_max", "must be at least 1"),
            ((1_200..=65_527).contains(&self.mtu_max), "mtu_max", "must be from 1,200 to 65,527"),
            ((1..=REALMS_MAX).contains(&self.realms.len()), "realms", "must be 1 to 64"),
            (
                (1..=ALPN_MAX).contains(&self.alpn.len())
                    && self.alpn.iter().all(|name| (1..=255).contains(&name.len())),
                "alpn",
                "must be 1 to 8 names of 1 to 255 bytes",
            ),
            (self.agent.len() <= 64, "agent", "must have at most 64 bytes"),
            (self.advertise.len() <= CONTACT_ADDRS_MAX, "advertise", "must be at most 8 addresses"),
            (self.backoff_min <= self.backoff_max, "backoff_min", "must not exceed `backoff_max`"),
        ];
        match rules.into_iter().find(|(holds, ..)| !holds) {
            Some((_, setting, rule)) => Err(BindError::Config { setting, rule }),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for QuicConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicConfig")
            .field("identity", &self.identity.id())
            .field("listen", &self.listen)
            .field("trust", &self.trust)
            .finish_non_exhaustive()
    }
}
