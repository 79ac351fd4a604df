//! Which nodes hold a key: the three that score highest for it (rendezvous hashing), so that a node that comes or goes
//! moves only the keys that it holds.

use macula::{Error, Key, Node, NodeId, Realm};

/// Copies of each value.
pub(crate) const COPIES: usize = 3;

/// The procedure that every holder offers.
pub(crate) const REPLICA: &str = "kv.replica";

/// Everybody who holds a share of the store, as far as this node knows.
pub(crate) async fn holders(node: &Node) -> Result<Vec<NodeId>, Error> {
    Ok(node.providers(REPLICA).await?.iter().map(|provider| provider.contact.id).collect())
}

/// Who of `holders` owns `key`, the first owner first.
pub(crate) fn owners(key: &str, holders: &[NodeId]) -> Vec<NodeId> {
    let score = |holder: &NodeId| Key::derive("kv-owner", &Realm::default(), &format!("{holder}/{key}"));
    let mut scored: Vec<_> = holders.iter().map(|holder| (score(holder), *holder)).collect();
    scored.sort_unstable();
    scored.into_iter().take(COPIES).map(|(_, holder)| holder).collect()
}
