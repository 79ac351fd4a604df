//! The end of a node, in order.

use std::time::Duration;

use crate::node::Inner;
use crate::supervisor::Shutdown;

/// Handlers and deliveries that are under way may take so long to finish.
const DRAIN: Duration = Duration::from_secs(5);

/// Telling neighbours and directory may take so long.
const GOODBYE: Duration = Duration::from_secs(3);

/// Connections may take so long to deliver what they accepted, and to close.
const CLOSE: Duration = Duration::from_secs(7);

/// Stop intake → hand over → leave → drain → close → join, each with a deadline. The second caller waits for the first.
pub(crate) async fn shutdown(inner: &Inner) {
    let _first = inner.shutdown.lock().await;
    if inner.closed.is_cancelled() {
        return;
    }
    tracing::info!("shutting down");
    let core = &inner.core;
    let tasks = &inner.supervisor;
    use crate::core::task::{BOOTSTRAP, BRIDGE, COORDINATION, DIRECTORY, MEMBERSHIP, PUBSUB, RPC, TRANSPORT};
    let reports = Shutdown::new()
        // No new joins.
        .stage("stop intake", GOODBYE, async {
            tasks.stop_task(BOOTSTRAP, GOODBYE).await;
        })
        // Others lead what this node led before anybody takes it for gone.
        .stage("hand over", GOODBYE, async {
            tasks.stop_task(COORDINATION, GOODBYE).await;
        })
        .stage("leave", GOODBYE, async { inner.presence.say_goodbye().await })
        // What was announced is withdrawn, by a directory that still knows whom to tell.
        .stage("drain", DRAIN, async {
            core.rpc.drain().await;
            tasks.stop_task(RPC, DRAIN).await;
            tasks.stop_task(PUBSUB, DRAIN).await;
        })
        .stage("close", CLOSE, async {
            tasks.stop_task(TRANSPORT, CLOSE).await;
        })
        .stage("join", GOODBYE, async {
            for task in [BRIDGE, MEMBERSHIP, DIRECTORY] {
                tasks.stop_task(task, GOODBYE).await;
            }
            tasks.stop(GOODBYE).await;
        })
        .run()
        .await;
    for stage in reports.iter().filter(|stage| !stage.finished) {
        tracing::warn!(stage = stage.name, took = ?stage.took, "a stage of the shutdown did not end in time");
    }
    tracing::info!("shut down");
    inner.closed.cancel();
}
