//! A call that arrives on a stream.

use std::time::Duration;

use bytes::Bytes;
use macula_proto::{Frame, FrameKind, NodeId, ProtoError};
use macula_transport::{ResetCode, StreamRx, StreamTx};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::RpcMetrics;
use crate::message::{self, Failure};
use crate::running::{Failed, Host, Running, Step};

/// How long to try to tell a caller that has reset its half why its call ended.
const PARTING_WORD_WAIT: Duration = Duration::from_secs(1);

/// Serves one stream from its first frame to its end.
pub(crate) async fn serve<Tx: StreamTx, Rx: StreamRx>(
    host: &Host,
    from: NodeId,
    first: Frame,
    mut tx: Tx,
    mut rx: Rx,
) {
    let incoming = match message::read_call(from, first) {
        Ok(incoming) => incoming,
        Err(cause) => {
            host.metrics.frames_dropped.inc();
            tracing::debug!(peer = %from.short(), %cause, "not a call");
            return turn_away(&mut tx, Failure::BadRequest(cause), 0).await;
        }
    };
    let streamed = incoming.shape.streamed;
    match host.start(incoming) {
        Ok(mut running) => {
            let parts = running.take_parts();
            let reset = tokio::select! {
                biased;
                () = answer(&mut tx, &mut running, streamed) => false,
                () = reset_by_caller(&mut rx, parts, &host.metrics) => true,
            };
            drop(running);
            if reset {
                let word = turn_away(&mut tx, Failure::Failed(Failed::Cancelled), 0);
                let _ = timeout(PARTING_WORD_WAIT, word).await;
            }
        }
        Err(refused) => {
            let load = match refused {
                crate::running::Refused::Overloaded { load } => load,
                _ => 0,
            };
            turn_away(&mut tx, Failure::Refused(refused), load).await;
        }
    }
}

/// Says why there is no result. A caller that is gone does not hear it, and need not.
async fn turn_away<Tx: StreamTx>(tx: &mut Tx, failure: Failure, load: u32) {
    send_last(tx, message::failure_frame(failure, load)).await;
}

/// Sends what the handler says until it is done or the caller reads no more.
async fn answer<Tx: StreamTx>(tx: &mut Tx, running: &mut Running, streamed: bool) {
    if streamed && !send(tx, message::accepted_frame()).await {
        return;
    }
    loop {
        let step = tokio::select! {
            biased;
            step = running.next() => step,
            _ = tx.closed() => return,
        };
        match step {
            Step::Progress(part) => {
                if !send(tx, message::progress_frame(part)).await {
                    return;
                }
            }
            Step::Done(Ok(reply)) => {
                let last = message::last_frame(reply, running.load(), running.cache_for());
                return send_last(tx, last).await;
            }
            Step::Done(Err(failed)) => return turn_away(tx, Failure::Failed(failed), running.load()).await,
        }
    }
}

async fn send_last<Tx: StreamTx>(tx: &mut Tx, frame: Result<Frame, ProtoError>) {
    if send(tx, frame).await {
        // It fails if the caller is gone, and then nobody needs it.
        let _ = tx.finish();
    }
}

/// Whether the stream still takes frames.
async fn send<Tx: StreamTx>(tx: &mut Tx, frame: Result<Frame, ProtoError>) -> bool {
    match frame {
        Ok(frame) => tx.send(frame).await.is_ok(),
        Err(error) => {
            // Replies were checked against these very limits before.
            tracing::error!(%error, "an answer does not encode");
            tx.reset(ResetCode::PROTOCOL);
            false
        }
    }
}

/// Takes request parts; ends when the caller resets its half of the stream, or its connection is lost.
async fn reset_by_caller<Rx: StreamRx>(
    rx: &mut Rx,
    mut parts: Option<mpsc::Sender<Bytes>>,
    metrics: &RpcMetrics,
) {
    loop {
        match rx.recv().await {
            Ok(Some(frame)) => match &parts {
                Some(to_handler) if frame.kind() == FrameKind::CALL_PART => {
                    if to_handler.send(frame.into_payload()).await.is_err() {
                        // The handler takes no more; whether it goes on is its own business.
                        parts = None;
                    }
                }
                _ => {
                    metrics.frames_dropped.inc();
                }
            },
            Ok(None) => {
                drop(parts);
                return std::future::pending().await;
            }
            Err(_) => return,
        }
    }
}
