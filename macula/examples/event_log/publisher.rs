//! A publisher: an event counts as published when a keeper has it on disk.

use std::error::Error;
use std::time::Duration;

use macula::{Node, Publish};

use crate::typed::typed_lines;
use crate::{ID_HEADER, READ};

/// How long an event may wait for its keeper before it is sent again.
const WRITING: Duration = Duration::from_secs(5);

/// Pause before an event is sent again that nobody kept.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

pub(crate) async fn publish(node: &Node, topic: &str) -> Result<(), Box<dyn Error>> {
    // Ids are drawn by the node's own id, which is a new one at each start of this program.
    let (me, mut number) = (node.node_id(), 0_u64);
    let mut lines = typed_lines();
    while let Some(line) = lines.recv().await {
        until_kept(node, topic, &format!("{me}/{number}"), &line).await?;
        println!("published {number}");
        number += 1;
    }
    Ok(())
}

/// Sends an event until somebody keeps it. The keeper knows it by its id, should it be sent twice.
async fn until_kept(node: &Node, topic: &str, id: &str, text: &str) -> Result<(), Box<dyn Error>> {
    let mut told = false;
    loop {
        let event = Publish::new(topic, text.to_owned())?.header(ID_HEADER, id.to_owned()).wait(WRITING);
        let kept = node.publish_acknowledged(event, WRITING).await?;
        // Others may subscribe as well: what counts is that it was taken by who keeps the log.
        let keepers = node.providers(READ).await?;
        if keepers.iter().any(|keeper| kept.taken.contains(&keeper.contact.id)) {
            return Ok(());
        }
        if !told {
            println!("waiting for a keeper");
            told = true;
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}
