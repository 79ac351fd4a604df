//! A socket whose lines to chosen addresses are cut, or slow: for tests between processes.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Packets that are late, at most; what comes beyond is lost, as in a router.
const LATE_MAX: usize = 4_096;

/// What happens to packets on their way out. Clones are the same lines; nothing is wrong with them at first.
///
/// A line is cut at the side that sends: cut at one side, it is cut one way.
#[derive(Clone, Debug, Default)]
pub struct LineFaults(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    lines: Mutex<BTreeMap<SocketAddr, Fault>>,
    lost: AtomicU64,
    late: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Cut,
    Slow(Duration),
}

impl LineFaults {
    /// Nothing that is sent to this address arrives.
    pub fn cut(&self, to: SocketAddr) {
        self.0.lines.lock().insert(to, Fault::Cut);
    }

    /// What is sent to this address arrives so much later.
    pub fn slow(&self, to: SocketAddr, by: Duration) {
        self.0.lines.lock().insert(to, Fault::Slow(by));
    }

    /// Nothing is wrong any more. What is late comes late.
    pub fn heal(&self) {
        self.0.lines.lock().clear();
    }

    /// Packets that were lost so far: sends, which may hold several packets each.
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Relaxed)
    }

    /// The same of packets that were late.
    pub fn late(&self) -> u64 {
        self.0.late.load(Relaxed)
    }

    fn of(&self, to: SocketAddr) -> Option<Fault> {
        self.0.lines.lock().get(&super::endpoint::canonical(to)).copied()
    }

    /// Puts the faults on a socket. Late packets are sent by a task of the current runtime, for as long as the socket is open.
    pub(crate) fn on(&self, socket: Arc<dyn AsyncUdpSocket>) -> Arc<dyn AsyncUdpSocket> {
        let (late, waiting) = mpsc::channel(LATE_MAX);
        tokio::spawn(send_late(socket.clone(), waiting));
        Arc::new(FaultySocket { inner: socket, faults: self.clone(), late })
    }
}

struct Late {
    due: Instant,
    to: SocketAddr,
    contents: Vec<u8>,
    segment_size: Option<usize>,
}

async fn send_late(socket: Arc<dyn AsyncUdpSocket>, mut waiting: mpsc::Receiver<Late>) {
    let (mut late, mut sequence) = (BTreeMap::new(), 0u64);
    loop {
        let due = late.first_key_value().map(|((due, _), _)| *due);
        tokio::select! {
            next = waiting.recv() => match next {
                Some(packet) => {
                    sequence += 1;
                    late.insert((packet.due, sequence), packet);
                }
                None => return,
            },
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let Some((_, Late { to, contents, segment_size, .. })) = late.pop_first() else { continue };
                // A full socket loses it.
                let _ = socket.try_send(&Transmit {
                    destination: to,
                    ecn: None,
                    contents: &contents,
                    segment_size,
                    src_ip: None,
                });
            }
        }
    }
}

struct FaultySocket {
    inner: Arc<dyn AsyncUdpSocket>,
    faults: LineFaults,
    late: mpsc::Sender<Late>,
}

impl Debug for FaultySocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultySocket").field("faults", &self.faults).finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for FaultySocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.faults.of(transmit.destination) {
            None => return self.inner.try_send(transmit),
            Some(Fault::Cut) => {
                self.faults.0.lost.fetch_add(1, Relaxed);
            }
            Some(Fault::Slow(by)) => {
                let Transmit { destination: to, segment_size, .. } = *transmit;
                let (due, contents) = (Instant::now() + by, transmit.contents.to_vec());
                let queued = self.late.try_send(Late { due, to, contents, segment_size });
                let counted = if queued.is_ok() { &self.faults.0.late } else { &self.faults.0.lost };
                counted.fetch_add(1, Relaxed);
            }
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{config, start};
    use super::*;
    use crate::{Target, Transport as _};

    #[tokio::test]
    async fn a_cut_line_loses_and_a_slow_one_delays() {
        let (faults, patience) = (LineFaults::default(), Duration::from_millis(300));
        let mut lossy = config();
        lossy.line_faults = Some(faults.clone());
        let (a, b) = (start(lossy), start(config()));
        faults.cut(b.addr());
        let dialled = tokio::time::timeout(patience, a.transport.connect(Target::Addr(b.addr()))).await;
        assert!(dialled.is_err() && faults.lost() > 0, "{dialled:?}");
        faults.heal();
        faults.slow(b.addr(), patience);
        let begun = Instant::now();
        a.transport.connect(Target::Contact(b.contact())).await.unwrap();
        assert!(begun.elapsed() >= patience && faults.late() > 0, "{:?}", begun.elapsed());
    }
}
