//! Anti-entropy over a stream: both sides of the conversation that the machine's sync messages make up.
//!
//! The two take turns: a side sends its next step only after the other's step is complete, so that two full windows can
//! never wait for each other.

use macula_proto::{Frame, NodeId};
use macula_transport::{StreamRx, StreamTx, Transport};

use crate::metrics::Refused;
use crate::swim::Shared;
use crate::{CodecError, SyncError, SyncMessage};

/// Frames of one step that are read at most: 1,000 members each.
const PAGES_MAX: usize = 1_100;

/// Asks `peer` for an exchange and merges what it knows.
pub(crate) async fn ask<T: Transport>(shared: &Shared<T>, peer: NodeId) -> Result<(), SyncError> {
    let patience = shared.config.stream_timeout;
    let talk = async {
        let first = shared.begin_sync().to_frame()?;
        let (mut tx, mut rx) = shared.transport.stream(peer, first).await?;
        let step = |message: &SyncMessage| matches!(message, SyncMessage::Digest { .. });
        let exchange = read_step(shared, peer, &mut rx, None, step).await?;
        send_all(&mut tx, &exchange).await?;
        tx.finish()?;
        let step = |message: &SyncMessage| matches!(message, SyncMessage::Supply { .. });
        read_step(shared, peer, &mut rx, None, step).await?;
        Ok(())
    };
    tokio::time::timeout(patience, talk).await.map_err(|_| SyncError::TimedOut(patience))?
}

/// Answers an exchange that `peer` began with `first`.
pub(crate) async fn answer<T: Transport>(
    shared: &Shared<T>,
    peer: NodeId,
    first: &Frame,
    tx: &mut T::Tx,
    rx: &mut T::Rx,
) -> Result<(), SyncError> {
    let step = |message: &SyncMessage| matches!(message, SyncMessage::Buckets(_));
    let digest = read_step(shared, peer, rx, Some(first), step).await?;
    send_all(tx, &digest).await?;
    let step = |message: &SyncMessage| matches!(message, SyncMessage::Exchange { .. });
    let supply = read_step(shared, peer, rx, None, step).await?;
    send_all(tx, &supply).await?;
    tx.finish()?;
    Ok(())
}

/// Feeds the machine all frames of one step; returns its answers.
async fn read_step<T: Transport>(
    shared: &Shared<T>,
    peer: NodeId,
    rx: &mut impl StreamRx,
    mut first: Option<&Frame>,
    belongs: impl Fn(&SyncMessage) -> bool,
) -> Result<Vec<SyncMessage>, SyncError> {
    let mut replies = Vec::new();
    for _ in 0..PAGES_MAX {
        let decoded = match first.take() {
            Some(frame) => SyncMessage::from_frame(frame)?,
            None => SyncMessage::from_frame(&rx.recv().await?.ok_or(SyncError::Incomplete)?)?,
        };
        for _ in 0..decoded.refused {
            shared.metrics.refuse(Refused::Garbage);
        }
        if !belongs(&decoded.message) {
            return Err(CodecError::Sync.into());
        }
        let message = &decoded.message;
        shared.turn(|machine, now, out| machine.on_sync(now, peer, message, &mut replies, out));
        if message.is_last() {
            return Ok(replies);
        }
    }
    Err(CodecError::Sync.into())
}

async fn send_all(tx: &mut impl StreamTx, messages: &[SyncMessage]) -> Result<(), SyncError> {
    for message in messages {
        tx.send(message.to_frame()?).await?;
    }
    Ok(())
}
