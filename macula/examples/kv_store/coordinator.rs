//! Reads and writes: a majority of a key's owners has to answer.

use std::sync::Arc;

use macula::{Error, Node, NodeId};
use tokio::task::JoinSet;

use crate::owners::{holders, owners};
use crate::replica::{Request, ask};
use crate::store::{Entry, Store};

/// Longest key and value, in bytes: a digest of some thousand keys has to fit one message.
const KEY_BYTES_MAX: usize = 128;
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// Why the store could not do something. A write may have reached some of its owners then.
#[derive(Debug)]
pub(crate) enum Unavailable {
    Mesh(Error),
    /// Fewer answered than are needed, and what the others said.
    NoQuorum {
        answered: usize,
        needed: usize,
        failures: Vec<String>,
    },
    TooLong {
        what: &'static str,
        bytes: usize,
        bytes_max: usize,
    },
}

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mesh(error) => write!(f, "{error}"),
            Self::NoQuorum { answered, needed, failures } => {
                write!(f, "{answered} owners answered, {needed} are needed: {}", failures.join("; "))
            }
            Self::TooLong { what, bytes, bytes_max } => {
                write!(f, "a {what} of {bytes} bytes: at most {bytes_max} are allowed")
            }
        }
    }
}

impl std::error::Error for Unavailable {}

impl From<Error> for Unavailable {
    fn from(error: Error) -> Self {
        Self::Mesh(error)
    }
}

pub(crate) struct Coordinator {
    node: Node,
    store: Arc<Store>,
}

impl Coordinator {
    pub(crate) const fn new(node: Node, store: Arc<Store>) -> Self {
        Self { node, store }
    }

    /// The newest value that a majority of the key's owners know of. Owners that have an older one are given it.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<String>, Unavailable> {
        let owners = self.owners(key).await?;
        let found = self.read(key, &owners).await?;
        let newest = found.iter().filter_map(|(_, entry)| entry.as_ref()).max_by_key(|entry| &entry.version);
        let Some(newest) = newest.cloned() else { return Ok(None) };
        for (owner, held) in found {
            if held.is_none_or(|held| held.version < newest.version) {
                self.repair(owner, key, newest.clone());
            }
        }
        Ok(newest.value)
    }

    /// Writes to all owners; returns how many took it before a majority had, which is enough. `None` deletes.
    pub(crate) async fn put(&self, key: &str, value: Option<String>) -> Result<usize, Unavailable> {
        check("key", key, KEY_BYTES_MAX)?;
        value.iter().try_for_each(|value| check("value", value, VALUE_BYTES_MAX))?;
        let owners = self.owners(key).await?;
        // The new version has to be newer than any that a reader may have seen.
        let seen = self.read(key, &owners).await?;
        let seen = seen.iter().filter_map(|(_, entry)| entry.as_ref()).map(|entry| &entry.version).max();
        let entry = Entry { version: self.store.next_version(seen), value };
        let mut writes = JoinSet::new();
        for owner in &owners {
            let (node, owner) = (self.node.clone(), *owner);
            let request = Request::Put(key.to_owned(), entry.clone());
            writes.spawn(async move { (owner, ask::<()>(&node, owner, &request).await) });
        }
        Ok(quorum(writes, owners.len()).await?.len())
    }

    /// Which nodes hold the newest version of a key.
    pub(crate) async fn copies(&self, key: &str) -> Result<Vec<String>, Unavailable> {
        let mut reads = self.reads(key, &holders(&self.node).await?);
        let mut found = Vec::new();
        while let Some(Ok((owner, read))) = reads.join_next().await {
            found.extend(read.ok().flatten().map(|entry| (owner, entry)));
        }
        let newest = found.iter().map(|(_, entry)| entry.version.clone()).max();
        found.retain(|(_, entry)| Some(&entry.version) == newest.as_ref());
        let mut holders: Vec<_> = found.iter().map(|(holder, _)| holder.short().to_string()).collect();
        holders.sort();
        Ok(holders)
    }

    pub(crate) async fn status(&self) -> Result<String, Unavailable> {
        let (holders, held) = (holders(&self.node).await?.len(), self.store.digest().len());
        Ok(format!("status: {holders} nodes hold the store, this one has {held} keys"))
    }

    async fn owners(&self, key: &str) -> Result<Vec<NodeId>, Unavailable> {
        Ok(owners(key, &holders(&self.node).await?))
    }

    /// What a majority of the owners hold.
    async fn read(&self, key: &str, owners: &[NodeId]) -> Result<Vec<(NodeId, Option<Entry>)>, Unavailable> {
        quorum(self.reads(key, owners), owners.len()).await
    }

    fn reads(&self, key: &str, owners: &[NodeId]) -> JoinSet<(NodeId, Result<Option<Entry>, Error>)> {
        let mut reads = JoinSet::new();
        for owner in owners {
            let (node, owner, request) = (self.node.clone(), *owner, Request::Get(key.to_owned()));
            reads.spawn(async move { (owner, ask(&node, owner, &request).await) });
        }
        reads
    }

    fn repair(&self, owner: NodeId, key: &str, entry: Entry) {
        let (node, request) = (self.node.clone(), Request::Put(key.to_owned(), entry));
        // If it fails, the next reader or the repair of its holders does it.
        tokio::spawn(async move { ask::<()>(&node, owner, &request).await });
    }
}

fn check(what: &'static str, text: &str, bytes_max: usize) -> Result<(), Unavailable> {
    let bytes = text.len();
    if bytes > bytes_max { Err(Unavailable::TooLong { what, bytes, bytes_max }) } else { Ok(()) }
}

/// Waits until a majority has answered; the others go on in the background.
async fn quorum<A: Send + 'static>(
    mut asked: JoinSet<(NodeId, Result<A, Error>)>,
    owners: usize,
) -> Result<Vec<(NodeId, A)>, Unavailable> {
    let needed = owners / 2 + 1;
    let (mut answers, mut failures) = (Vec::new(), Vec::new());
    while answers.len() < needed {
        match asked.join_next().await {
            Some(Ok((owner, Ok(answer)))) => answers.push((owner, answer)),
            Some(Ok((owner, Err(error)))) => failures.push(format!("{}: {error}", owner.short())),
            Some(Err(error)) => failures.push(error.to_string()),
            None => return Err(Unavailable::NoQuorum { answered: answers.len(), needed, failures }),
        }
    }
    // Those that are late are not cancelled: they are copies, too.
    asked.detach_all();
    Ok(answers)
}
