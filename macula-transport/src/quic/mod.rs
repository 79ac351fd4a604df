//! The transport over QUIC: one UDP port, mutual TLS 1.3, one connection a peer.
//!
//! ```text
//!            QuicTransport ── pool (who is linked, who must go) ── backoff (whom not to dial yet)
//!     accept ─┐    │   ┌─ dial                    maintenance: idle, eviction
//!             ▼    ▼   ▼
//!             hello: certificate ↔ contact, realms, version, bound to the TLS session
//!                  │
//!                link ── lane writers (queue → stream)      drain: flush, go away, close
//!                  └──── receive (streams, lanes, datagrams → Inbound)
//! ```

mod accept;
mod backoff;
#[cfg(feature = "testing")]
mod bare;
pub(crate) mod certificate;
mod codes;
mod config;
mod crossing;
mod dial;
mod drain;
mod endpoint;
mod hello;
mod lane;
#[cfg(feature = "testing")]
mod line_faults;
mod link;
mod pool;
mod receive;
mod stream;
mod tls;
mod transport;
mod trust;

#[cfg(feature = "testing")]
pub use bare::BareQuic;
pub use config::{BindError, QuicConfig};
#[cfg(feature = "testing")]
pub use line_faults::LineFaults;
pub use stream::{QuicRx, QuicTx};
pub use transport::QuicTransport;
pub use trust::{Trust, TrustError};

#[cfg(test)]
mod testing;
