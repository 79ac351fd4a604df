//! Lanes over QUIC: a unidirectional stream each, written in batches.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use macula_proto::{Frame, FrameKind, wire};
use quinn::WriteError;

use super::link::Link;
use crate::FrameBatch;
use crate::LaneId;
use crate::lane::BatchQueue;

/// Writes one lane until its connection ends or drains. Once it is drained, everything was acknowledged.
pub(crate) async fn write(link: Arc<Link>, lane: LaneId, mut queue: BatchQueue) {
    if let Err(error) = write_all(&link, lane, &mut queue).await {
        tracing::debug!(peer = %link.id.short(), lane = lane.0, %error, "a lane ended early");
    }
}

async fn write_all(link: &Link, lane: LaneId, queue: &mut BatchQueue) -> Result<(), WriteError> {
    let mut stream = link.connection.open_uni().await?;
    // Control goes first; the others share what is left evenly.
    let _ = stream.set_priority(i32::from(lane == LaneId::CONTROL));
    let open = Frame::new(FrameKind::LANE_OPEN, &wire::LaneOpen { lane: u32::from(lane.0) }, Bytes::new())
        .expect("a header of two bytes is within the limit");
    stream.write_all(&open.to_bytes()).await?;
    let mut closed = pin!(link.connection.closed());
    loop {
        let batch: FrameBatch = tokio::select! {
            biased;
            batch = queue.next(), if !link.draining.is_cancelled() => batch,
            error = &mut closed => return Err(error.into()),
            () = link.draining.cancelled() => {
                queue.close();
                queue.take()
            }
        };
        if batch.is_empty() {
            break;
        }
        link.lane_written();
        batch.counts().iter().for_each(|count| link.count_sent_many(*count));
        stream.write_all_chunks(&mut batch.into_chunks()).await?;
    }
    // Drained: the last frames are written; now they must arrive.
    let _ = stream.finish();
    let _ = stream.stopped().await;
    Ok(())
}
