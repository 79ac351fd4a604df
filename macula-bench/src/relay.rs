//! Lines that lose packets: UDP through a socket that forwards most of what comes.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::LocalSet;

/// A packet is no longer.
const PACKET_BYTES_MAX: usize = 65_536;

/// Packets that came to the relays.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) forwarded: AtomicU64,
    pub(crate) lost: AtomicU64,
}

/// One line.
struct Line {
    /// Where the peer sends to.
    front: UdpSocket,
    /// Connected with the node.
    back: UdpSocket,
    rng: StdRng,
}

/// Starts so many lines to `node`, each of which loses this share of packets both ways, on a thread of their own. Returns
/// where they listen. They go on until the process ends.
pub(crate) fn start(node: SocketAddr, lines: usize, loss: f64) -> io::Result<(Vec<SocketAddr>, Arc<Counts>)> {
    let line = |n: usize| {
        let bind = || {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.set_nonblocking(true)?;
            Ok::<_, io::Error>(socket)
        };
        let (front, back) = (bind()?, bind()?);
        back.connect(node)?;
        Ok(Line { front, back, rng: StdRng::seed_from_u64(n as u64) })
    };
    let lines = (0..lines).map(line).collect::<io::Result<Vec<_>>>()?;
    let addrs = lines.iter().map(|line| line.front.local_addr()).collect::<io::Result<Vec<_>>>()?;
    let counts = Arc::new(Counts::default());
    let counted = counts.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    thread::Builder::new().name("relays".into()).spawn(move || {
        let all = LocalSet::new();
        for line in lines {
            let counts = counted.clone();
            all.spawn_local(async move { line.forward(loss, &counts).await });
        }
        runtime.block_on(all);
    })?;
    Ok((addrs, counts))
}

impl Line {
    /// Forwards both ways, until a socket fails for good.
    async fn forward(mut self, loss: f64, counts: &Counts) -> io::Result<()> {
        let front = tokio::net::UdpSocket::from_std(self.front)?;
        let back = tokio::net::UdpSocket::from_std(self.back)?;
        let (mut there, mut here) = (vec![0; PACKET_BYTES_MAX], vec![0; PACKET_BYTES_MAX]);
        let mut peer = None;
        loop {
            let (to_node, packet) = tokio::select! {
                received = front.recv_from(&mut there) => {
                    let (bytes, from) = received?;
                    peer = Some(from);
                    (true, &there[..bytes])
                }
                // Refused while the node is not there yet, or not any more.
                Ok(bytes) = back.recv(&mut here) => (false, &here[..bytes]),
            };
            if self.rng.random_bool(loss) {
                counts.lost.fetch_add(1, Relaxed);
                continue;
            }
            counts.forwarded.fetch_add(1, Relaxed);
            // A packet that cannot be sent is lost as well: that is what lines do.
            let _ = match (to_node, peer) {
                (true, _) => back.send(packet).await,
                (false, Some(peer)) => front.send_to(packet, peer).await,
                (false, None) => Ok(0),
            };
        }
    }
}
