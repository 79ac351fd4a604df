//! QUIC without the rest: what benchmarks compare with.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use quinn::{Connection, Endpoint};

use super::config::{BindError, QuicConfig};
use super::endpoint;
use super::tls::{Credentials, SERVER_NAME};

/// A quinn endpoint with the socket, TLS and connection settings of [`QuicTransport`](crate::QuicTransport), but without
/// hello, pool, lanes and frames.
#[derive(Debug)]
pub struct BareQuic {
    /// Accepts whoever proves a key.
    pub endpoint: Endpoint,
    credentials: Arc<Credentials>,
    transport: Arc<quinn::TransportConfig>,
}

impl BareQuic {
    /// Opens the endpoint on the current tokio runtime.
    ///
    /// # Errors
    /// As [`QuicTransport::bind`](crate::QuicTransport::bind).
    pub fn bind(config: &QuicConfig) -> Result<Self, BindError> {
        config.validate()?;
        let credentials = Credentials::new(config)?;
        let endpoint = endpoint::open(config, &credentials)?;
        Ok(Self { endpoint, credentials, transport: Arc::new(endpoint::transport(config)?) })
    }

    /// Connects to whoever listens there.
    ///
    /// # Errors
    /// Why there is no connection, in words.
    pub async fn connect(&self, addr: SocketAddr) -> Result<Connection, String> {
        let mut client =
            self.credentials.client(None, Arc::new(Mutex::new(None))).map_err(|e| e.to_string())?;
        client.transport_config(self.transport.clone());
        let connecting = self.endpoint.connect_with(client, addr, SERVER_NAME).map_err(|e| e.to_string())?;
        connecting.await.map_err(|e| e.to_string())
    }
}
