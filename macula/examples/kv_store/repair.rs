//! Keeps each value on its owners, whoever comes and goes: holders compare what they have and hand on what is missing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use macula::{Error, Node, NodeId};

use crate::owners::{holders, owners};
use crate::replica::{Request, ask};
use crate::store::{Digest, Store};

/// How often. The list of holders is watched by the node, so looking at it costs nothing.
const EVERY: Duration = Duration::from_secs(1);

/// Rounds after which everything is compared although nobody came or went: a put may have failed at an owner.
const ROUNDS_MAX: u32 = 15;

/// Keys in one comparison, so that it fits a message.
const KEYS_MAX: usize = 2_000;

pub(crate) async fn keep(node: Node, store: Arc<Store>) {
    let (mut known, mut rounds) = (Vec::new(), 0);
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        rounds += 1;
        let Ok(now) = holders(&node).await else { continue };
        if now == known && rounds < ROUNDS_MAX {
            continue;
        }
        // Where a holder does not answer, all is compared again in the next round.
        if hand_on(&node, &store, &now).await.is_ok() {
            (known, rounds) = (now, 0);
        }
    }
}

/// Gives every owner what it lacks of what is here; then gives up what others own.
async fn hand_on(node: &Node, store: &Store, holders: &[NodeId]) -> Result<(), Error> {
    let me = node.node_id();
    let mut shares: BTreeMap<NodeId, Digest> = BTreeMap::new();
    let mut strangers = Digest::new();
    for (key, version) in store.digest() {
        let owners = owners(&key, holders);
        for owner in owners.iter().filter(|owner| **owner != me) {
            shares.entry(*owner).or_default().insert(key.clone(), version.clone());
        }
        if !owners.is_empty() && !owners.contains(&me) {
            strangers.insert(key, version);
        }
    }
    let mut failed = None;
    for (owner, share) in shares {
        if let Err(error) = hand_to(node, store, owner, share).await {
            failed = Some(error);
        }
    }
    match failed {
        Some(error) => Err(error),
        None => {
            strangers.iter().for_each(|(key, version)| store.remove(key, version));
            Ok(())
        }
    }
}

async fn hand_to(node: &Node, store: &Store, owner: NodeId, share: Digest) -> Result<(), Error> {
    let share: Vec<_> = share.into_iter().collect();
    for some in share.chunks(KEYS_MAX) {
        let request = Request::Compare(some.iter().cloned().collect());
        for key in ask::<Vec<String>>(node, owner, &request).await? {
            if let Some(entry) = store.get(&key) {
                ask::<()>(node, owner, &Request::Put(key, entry)).await?;
            }
        }
    }
    Ok(())
}
