//! What hostile, broken and absent peers get.

use std::time::Duration;

use bytes::Bytes;
use macula_proto::{FrameKind, wire};
use quinn::ConnectionError;
use tokio::net::UdpSocket;

use super::*;
use crate::Refusal;
use crate::quic::testing::*;

const SHORT: Duration = Duration::from_millis(300);

fn hasty() -> QuicConfig {
    let mut config = config();
    config.handshake_timeout = SHORT;
    config.first_frame_timeout = SHORT;
    config
}

impl Node {
    /// TLS with `to`, and nothing more.
    async fn mere_tls(&self, to: &Self) -> Connection {
        let inner = &self.transport.inner;
        let config = inner.client_config(None, Arc::default()).unwrap();
        inner.endpoint.connect_with(config, to.addr(), "macula").unwrap().await.unwrap()
    }

    fn link(&self, to: &Self) -> Arc<Link> {
        self.transport.inner.pool.lock().current(&to.id()).unwrap()
    }
}

fn frame(kind: FrameKind, header: &impl prost::Message) -> Bytes {
    Frame::new(kind, header, Bytes::new()).unwrap().to_bytes()
}

/// A socket that never answers.
async fn silent_socket() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    (socket, addr)
}

#[tokio::test]
async fn a_dialler_that_says_nothing_is_cut_off() {
    let (a, b) = (start(config()), start(hasty()));
    let connection = a.mere_tls(&b).await;
    connection.closed().await;
    assert!(b.transport.peers().is_empty());
}

#[tokio::test]
async fn a_hello_that_is_not_of_this_connection_is_refused_with_its_code() {
    let (a, b) = (start(config()), start(config()));
    let connection = a.mere_tls(&b).await;
    let (mut tx, _rx) = connection.open_bi().await.unwrap();
    let body = prost::Message::encode_to_vec(&wire::HelloBody {
        major: 1,
        realms: vec![String::new()],
        contact: Some(a.contact().to_wire()),
        binding: vec![0; 32].into(),
        ..Default::default()
    });
    let identity = a.transport.inner.credentials.identity();
    let signed = macula_proto::seal(identity.secret(), macula_proto::Domain::HELLO, body.into());
    tx.write_all(&frame(FrameKind::HELLO, &wire::Hello { signed: Some(signed) })).await.unwrap();
    let ConnectionError::ApplicationClosed(close) = connection.closed().await else {
        panic!("closed by code")
    };
    assert_eq!(close.error_code, Refusal::TamperedHello.close_code());
    assert_eq!(b.transport.metrics().refusals(&Refusal::TamperedHello), 1);
}

#[tokio::test]
async fn silent_handshakes_neither_pile_up_nor_disturb_a_peer() {
    let mut narrow = config();
    (narrow.half_open_max, narrow.retry_above) = (4, 2);
    let (a, b, c) = (start(config()), start(narrow), start(hasty()));
    a.transport.connect(Target::Addr(b.addr())).await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..4 {
        // From the third on, a retry token is asked for first.
        silent.push(c.mere_tls(&b).await);
    }
    let refused = c.transport.connect(Target::Addr(b.addr())).await.unwrap_err();
    assert!(matches!(refused, TransportError::Unreachable { .. }), "{refused}");
    assert!(b.transport.metrics().drops(Dropped::HalfOpen) > 0);
    let lane = a.transport.lane(b.id(), LaneId::DATA).await.unwrap();
    lane.send(numbered(1, 10)).await.unwrap();
    assert_eq!(b.until_lane_number().await, 1);
}

#[tokio::test]
async fn garbage_packets_do_not_disturb_a_peer() {
    let (a, b) = (start(config()), start(config()));
    let lane = a.knows(&b).transport.lane(b.id(), LaneId::DATA).await.unwrap();
    let (socket, _) = silent_socket().await;
    for n in 0..2_000_u32 {
        let mut garbage = vec![0; 1 + (n as usize * 7) % 1_300];
        rand::Rng::fill_bytes(&mut StdRng::seed_from_u64(u64::from(n)), &mut garbage);
        let _ = socket.send_to(&garbage, b.addr()).await;
        if n % 100 == 0 {
            lane.send(numbered(n / 100, 100)).await.unwrap();
        }
    }
    for n in 0..20 {
        assert_eq!(b.until_lane_number().await, n);
    }
    assert_eq!(b.transport.peers().len(), 1);
}

#[tokio::test]
async fn a_source_has_its_share_unless_it_is_exempt() {
    let mut strict = config();
    (strict.loopback_exempt, strict.per_source_max) = (false, 1);
    let (a, b, c) = (start(strict), start(config()), start(config()));
    b.transport.connect(Target::Addr(a.addr())).await.unwrap();
    let refused = c.transport.connect(Target::Addr(a.addr())).await.unwrap_err();
    assert!(matches!(refused, TransportError::Refused { refusal: Refusal::Full, .. }), "{refused}");
    b.stop().await;
    eventually("the share is free again", || a.transport.metrics().connections() == 0).await;
    c.transport.connect(Target::Addr(a.addr())).await.unwrap();
}

#[tokio::test]
async fn neighbours_on_the_same_machine_are_no_crowd() {
    let everywhere = |per_source_max| {
        let mut config = config();
        (config.listen, config.per_source_max) = ("0.0.0.0:0".parse().unwrap(), per_source_max);
        start(config)
    };
    let (a, b, c) = (everywhere(1), everywhere(1), everywhere(1));
    // The address that others elsewhere would use, if this machine has one.
    let reachable = Target::Addr(a.contact().addrs[0]);
    b.transport.connect(reachable.clone()).await.unwrap();
    c.transport.connect(reachable).await.unwrap();
}

#[tokio::test]
async fn a_lane_opened_twice_or_beyond_the_last_ends_the_connection() {
    for lanes in [[1, 1], [0, 8]] {
        let (a, b) = (start(config()), start(config()));
        a.transport.connect(Target::Addr(b.addr())).await.unwrap();
        let link = a.link(&b);
        for lane in lanes {
            let mut stream = link.connection.open_uni().await.unwrap();
            stream.write_all(&frame(FrameKind::LANE_OPEN, &wire::LaneOpen { lane })).await.unwrap();
        }
        assert_eq!(a.until_down(&b).await, CloseReason::Protocol);
        assert_eq!(b.until_down(&a).await, CloseReason::Protocol);
    }
}

#[tokio::test]
async fn bytes_that_are_no_frames_end_the_connection() {
    let (a, b) = (start(config()), start(config()));
    a.transport.connect(Target::Addr(b.addr())).await.unwrap();
    let mut stream = a.link(&b).connection.open_uni().await.unwrap();
    stream.write_all(&[0xff; 64]).await.unwrap();
    assert_eq!(b.until_down(&a).await, CloseReason::Protocol);
    assert_eq!(b.transport.metrics().drops(Dropped::BadFrame), 1);
}

#[tokio::test]
async fn a_datagram_that_is_no_frame_is_counted_and_dropped() {
    let (a, b) = (start(config()), start(config()));
    a.transport.connect(Target::Addr(b.addr())).await.unwrap();
    a.link(&b).connection.send_datagram(Bytes::from_static(&[0xff; 20])).unwrap();
    eventually("it is counted", || b.transport.metrics().drops(Dropped::BadFrame) == 1).await;
    assert_eq!(b.transport.peers().len(), 1);
}

#[tokio::test]
async fn a_stream_whose_first_frame_does_not_come_is_given_up_alone() {
    let (a, b) = (start(config()), start(hasty()));
    a.transport.connect(Target::Addr(b.addr())).await.unwrap();
    let (mut tx, _rx) = a.link(&b).connection.open_bi().await.unwrap();
    tx.write_all(&[40]).await.unwrap();
    assert!(tx.stopped().await.unwrap().is_some(), "the peer reads no more");
    assert_eq!(b.transport.metrics().drops(Dropped::SilentStream), 1);
    assert_eq!(b.transport.peers().len(), 1);
}

#[tokio::test]
async fn after_a_failed_dial_there_is_a_pause_which_an_address_dial_ignores_and_ends() {
    let (a, b) = (start(hasty()), start(config()));
    let (_socket, nowhere) = silent_socket().await;
    let absent = Target::Contact(Contact::new(b.id(), nowhere));
    let first = a.transport.connect(absent.clone()).await.unwrap_err();
    assert!(matches!(&first, TransportError::Unreachable { addrs, .. } if *addrs == [nowhere]), "{first}");
    let second = a.transport.connect(absent).await.unwrap_err();
    assert!(matches!(second, TransportError::BackingOff { .. }), "{second}");
    a.transport.connect(Target::Addr(b.addr())).await.unwrap();
    assert!(a.transport.inner.may_dial(&b.id()).is_ok(), "connected: no reason to wait any more");
}

#[tokio::test]
async fn an_address_that_does_not_answer_does_not_hold_up_the_next() {
    let (a, b) = (start(config()), start(config()));
    let (_socket, nowhere) = silent_socket().await;
    let contact = Contact { id: b.id(), addrs: vec![nowhere, b.addr()] };
    let info = a.transport.connect(Target::Contact(contact)).await.unwrap();
    assert_eq!(info.remote, b.addr());
    assert_eq!(a.book.addrs(&b.id())[0], b.addr(), "what worked comes first");
}

#[tokio::test]
async fn one_port_serves_ipv4_and_ipv6() {
    let mut both = config();
    both.listen = "[::]:0".parse().unwrap();
    let mut six = config();
    six.listen = "[::1]:0".parse().unwrap();
    let (both, four, six) = (start(both), start(config()), start(six));
    let port = both.addr().port();
    let info = four.transport.connect(Target::Addr(([127, 0, 0, 1], port).into())).await.unwrap();
    assert!(info.remote.is_ipv4());
    let info =
        six.transport.connect(Target::Addr(SocketAddr::new("::1".parse().unwrap(), port))).await.unwrap();
    assert!(info.remote.is_ipv6());
    both.until_up(&six).await;
    let remotes: Vec<SocketAddr> = both.transport.peers().iter().map(|info| info.remote).collect();
    assert!(remotes.contains(&four.addr()) && remotes.contains(&six.addr()), "{remotes:?}");
    assert!(both.contact().addrs.iter().all(|addr| !addr.ip().is_unspecified()));
    // And it dials either family itself.
    let again = start(config());
    both.transport.connect(Target::Addr(again.addr())).await.unwrap();
    let unreachable = again.transport.connect(Target::Contact(six.contact())).await.unwrap_err();
    assert!(matches!(unreachable, TransportError::NoAddress(_)), "a v4 socket: {unreachable}");
}

#[tokio::test]
async fn an_evicted_connection_delivers_what_its_lanes_had_accepted() {
    let mut narrow = config();
    narrow.connections_max = 1;
    let (a, b, c) = (start(narrow), start_slow(config(), Duration::from_millis(1)), start(config()));
    let lane = a.knows(&b).transport.lane(b.id(), LaneId::DATA).await.unwrap();
    for n in 0..100 {
        lane.send(numbered(n, 2_000)).await.unwrap();
    }
    // Until all is acknowledged the connection may not go.
    while let Err(error) = a.transport.connect(Target::Contact(c.contact())).await {
        assert!(matches!(error, TransportError::PoolFull(1)), "{error}");
        // tidy: allow(sleep): acknowledgements give no event
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for n in 0..100 {
        assert_eq!(b.until_lane_number().await, n);
    }
    assert_eq!(b.until_down(&a).await, CloseReason::Evicted);
    assert_eq!(a.transport.peers().len(), 1);
}

#[tokio::test]
async fn nonsense_settings_are_named() {
    let (mut hasty, mut nameless) = (config(), config());
    hasty.dead_after = hasty.keep_alive;
    nameless.alpn = vec![String::new()];
    for (name, config) in [("`dead_after`", hasty), ("`alpn`", nameless)] {
        let error = QuicTransport::bind(config, Arc::new(AddressBook::new(1))).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[tokio::test]
async fn a_peer_that_was_killed_and_restarted_is_noticed_with_the_next_packet() {
    let b = start(config());
    let mut doomed = config();
    let target = Target::Contact(b.contact());
    let (identity, addr) = tokio::task::spawn_blocking({
        let doomed = doomed.clone();
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let identity = doomed.identity.clone();
            let transport = runtime.block_on(async {
                let transport = QuicTransport::bind(doomed, Arc::new(AddressBook::new(1))).unwrap();
                let connected = transport.connect(target);
                connected.await.map(|_| transport)
            });
            // Nothing says goodbye: the tasks are gone before anything else is dropped.
            drop(runtime);
            (identity, transport.unwrap().local_addr())
        }
    })
    .await
    .unwrap();
    b.until(|seen| matches!(seen, Seen::Up(up) if up == identity.id()).then_some(())).await;
    doomed.listen = addr;
    let _restarted = start(doomed);
    b.transport.datagram(identity.id(), numbered(1, 200)).unwrap();
    let reason = b.until(|seen| match seen {
        Seen::Down(_, reason) => Some(reason),
        _ => None,
    });
    assert_eq!(reason.await, CloseReason::Lost);
}
