//! The conformance suite over real QUIC on loopback.

use std::sync::Arc;

use macula_transport::conformance::{Harness, NodeSpec};
use macula_transport::{AddressBook, Identity, QuicConfig, QuicTransport};

struct OverQuic;

impl Harness for OverQuic {
    type Transport = QuicTransport;

    async fn node(&self, spec: NodeSpec) -> QuicTransport {
        let listen = "127.0.0.1:0".parse().expect("an address");
        let mut config = QuicConfig::new(Identity::from_secret(spec.key), listen);
        config.realms = spec.realms;
        config.connections_max = spec.connections_max;
        config.idle = spec.idle_timeout;
        QuicTransport::bind(config, Arc::new(AddressBook::new(1_000))).expect("loopback has free ports")
    }
}

macula_transport::transport_conformance! {
    #[tokio::test]
    OverQuic
}

macula_transport::transport_hang_up_conformance! {
    #[tokio::test]
    OverQuic
}
