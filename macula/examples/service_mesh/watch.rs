//! The health of every instance: found through the directory, each asked by itself.

use std::error::Error;
use std::time::Duration;

use macula::{Decode, Json, Node, ProviderInfo};
use tokio::task::JoinSet;

use crate::instance::{HEALTH, Health};
use crate::services::request;

/// How often.
const EVERY: Duration = Duration::from_secs(1);

/// How long an instance may take to say how it is.
const PATIENCE: Duration = Duration::from_millis(800);

pub(crate) async fn watch(node: &Node) -> Result<(), Box<dyn Error>> {
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        ticks.tick().await;
        let mut asked = JoinSet::new();
        for instance in node.providers(HEALTH).await? {
            let node = node.clone();
            asked.spawn(async move { line(&node, instance).await });
        }
        let mut lines = asked.join_all().await;
        lines.sort();
        println!("{} instances", lines.len());
        lines.iter().for_each(|line| println!("{line}"));
    }
}

async fn line(node: &Node, instance: ProviderInfo) -> String {
    let (service, id) = (instance.description, instance.contact.id);
    match health(node, id).await {
        Ok(health) => {
            let state = if health.draining { "draining" } else { "ready" };
            let Health { served, failed, running, .. } = health;
            format!("{service} {}: {state}, {served} served, {failed} failed, {running} running", id.short())
        }
        Err(error) => format!("{service} {}: unhealthy: {error}", id.short()),
    }
}

async fn health(node: &Node, id: macula::NodeId) -> Result<Health, macula::Error> {
    let request = request(node, HEALTH, "")?.to(id).timeout(PATIENCE);
    Ok(node.call_with(request).await?.decode::<Json<Health>>()?.0)
}
