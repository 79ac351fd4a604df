//! Closing a connection in order: nothing that a lane accepted is lost, on either side.
//!
//! ```text
//!   this side                                     peer
//!   no new lanes or streams
//!   GO_AWAY on a stream of its own ─────────────▶ no new lanes or streams
//!   lanes flushed and acknowledged                GO_AWAY, lanes flushed and acknowledged
//!   streams over                                  streams over
//!   end of the GO_AWAY stream ──────────────────▶
//!                             ◀────────────────── end of its GO_AWAY stream
//!   CONNECTION_CLOSE, by whoever is done first
//! ```

use std::sync::Arc;

use bytes::Bytes;
use macula_proto::{Frame, FrameKind, wire};
use quinn::SendStream;
use tokio::time::timeout;

use super::link::Link;
use super::transport::Inner;
use crate::CloseReason;

impl Inner {
    /// Starts closing a link in order. Doing so twice does nothing.
    pub(crate) fn begin_drain(self: &Arc<Self>, link: &Arc<Link>, reason: CloseReason) {
        self.pool.lock().drain(&link.id, link);
        if !link.stop_lanes() {
            return;
        }
        self.tasks.spawn_on(drain(self.clone(), link.clone(), reason), &self.runtime);
    }
}

async fn drain(inner: Arc<Inner>, link: Arc<Link>, reason: CloseReason) {
    let deadline = inner.config.drain;
    let flushed = async {
        let goodbye = say_goodbye(&link, reason).await;
        link.writers.wait().await;
        link.retired_acknowledged().await;
        goodbye
    };
    // A node that shuts down waits no longer than it was told to. Otherwise nothing presses: a peer that never
    // acknowledges is found dead by QUIC itself.
    let flushed = match reason {
        CloseReason::Shutdown => timeout(deadline, flushed).await.ok().flatten(),
        _ => flushed.await,
    };
    let both_done = async {
        link.streams_ended().await;
        link.retired_acknowledged().await;
        if let Some(mut goodbye) = flushed {
            let _ = goodbye.finish();
            tokio::select! {
                () = link.peer_drained.cancelled() => {}
                _ = link.connection.closed() => {}
            }
            // The peer may still wait for the end of this side's stream.
            let _ = goodbye.stopped().await;
        }
    };
    let _ = timeout(deadline, both_done).await;
    link.close(reason);
}

async fn say_goodbye(link: &Link, reason: CloseReason) -> Option<SendStream> {
    let mut stream = link.connection.open_uni().await.ok()?;
    let frame = Frame::new(FrameKind::GO_AWAY, &wire::GoAway { code: reason.code() }, Bytes::new())
        .expect("a header of two bytes is within the limit");
    stream.write_all(&frame.to_bytes()).await.ok()?;
    Some(stream)
}
