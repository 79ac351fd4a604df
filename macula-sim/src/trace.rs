//! A running hash of everything that happened: equal hashes, equal runs.

use std::fmt;

use macula_dht::kademlia::{Refusal, Request, Response};
use macula_membership::{Packet, SyncMessage, Update};
use macula_proto::{Contact, NodeId, Timestamp, wire};
use sha2::{Digest as _, Sha256};

use crate::NodeIndex;

/// The hash of a run so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceHash([u8; 32]);

impl fmt::Display for TraceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..16].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Folds events into a hash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace {
    hash: Sha256,
    events: u64,
}

impl Trace {
    /// Something happened to a node: of which kind, and a digest of what.
    pub(crate) fn fold(&mut self, at: Timestamp, node: NodeIndex, kind: u8, what: u64) {
        let mut bytes = [0; 29];
        bytes[..16].copy_from_slice(&at.since_start().as_nanos().to_le_bytes());
        bytes[16..20].copy_from_slice(&node.0.to_le_bytes());
        bytes[20] = kind;
        bytes[21..].copy_from_slice(&what.to_le_bytes());
        self.hash.update(bytes);
        self.events += 1;
    }

    pub(crate) const fn events(&self) -> u64 {
        self.events
    }

    pub(crate) fn hash(&self) -> TraceHash {
        TraceHash(self.hash.clone().finalize().into())
    }
}

/// A short digest of a message: of who it is about and how new it is. A statement or a record is known by its signature.
pub(crate) trait Digested {
    /// The digest.
    fn digest(&self) -> u64;
}

impl Digested for Packet {
    fn digest(&self) -> u64 {
        let target = self.target.as_ref().map_or(0, word);
        of_updates(&self.updates, fold(fold(self.kind as u64, self.sequence), target))
    }
}

impl Digested for SyncMessage {
    fn digest(&self) -> u64 {
        match self {
            Self::Buckets(hashes) => hashes.iter().fold(1, |digest, hash| fold(digest, *hash)),
            Self::Digest { buckets, last } => {
                let entries = buckets.iter().flat_map(|bucket| &bucket.entries);
                entries.fold(fold(2, u64::from(*last)), |digest, entry| {
                    fold(fold(digest, word(&entry.id)), entry.incarnation.0 << 2 | entry.state as u64)
                })
            }
            Self::Exchange { updates, wants, last } => {
                let digest =
                    wants.iter().fold(fold(3, u64::from(*last)), |digest, id| fold(digest, word(id)));
                of_updates(updates, digest)
            }
            Self::Supply { updates, last } => of_updates(updates, fold(4, u64::from(*last))),
        }
    }
}

impl Digested for (Contact, Request) {
    fn digest(&self) -> u64 {
        let (sender, request) = self;
        match request {
            Request::Find(find) => {
                let wants = u64::from(find.records) | u64::from(find.watch.is_some()) << 1;
                let digest = fold(fold(5, word(&sender.id)), first_word(find.key.as_bytes()));
                fold(fold(digest, wants), find.after.as_ref().map_or(0, word))
            }
            Request::Store(records) => of_records(records, fold(6, word(&sender.id))),
            Request::Notify(records) => of_records(records, fold(7, word(&sender.id))),
        }
    }
}

impl Digested for Response {
    fn digest(&self) -> u64 {
        match self {
            Self::Found(found) => {
                let digest = fold(fold(8, found.estimate as u64), u64::from(found.more));
                let contacts = found.contacts.iter();
                let digest = contacts.fold(digest, |digest, contact| fold(digest, word(&contact.id)));
                of_records(&found.records, digest)
            }
            Self::Stored(stored) => {
                let outcomes = stored.outcomes.iter().map(|outcome| outcome.refusal.map_or(0, Refusal::code));
                let digest = outcomes.fold(9, |digest, code| fold(digest, code.into()));
                stored.told.iter().chain(&stored.lapsed).fold(digest, |digest, id| fold(digest, word(id)))
            }
            Self::Notified(keys) => {
                keys.iter().fold(10, |digest, key| fold(digest, first_word(key.as_bytes())))
            }
        }
    }
}

fn of_records(records: &[wire::Signed], seed: u64) -> u64 {
    records.iter().fold(seed, |digest, record| {
        let signature = record.signature.first_chunk().copied().unwrap_or_default();
        fold(digest, u64::from_le_bytes(signature))
    })
}

fn of_updates(updates: &[Update], seed: u64) -> u64 {
    updates.iter().fold(seed, |digest, update| match update {
        Update::Statement(statement) => {
            let signature = statement.signed().signature.first_chunk().copied().unwrap_or_default();
            fold(fold(digest, word(&statement.id())), u64::from_le_bytes(signature))
        }
        Update::Suspect(accusation) | Update::Dead(accusation) => {
            let is_dead = u64::from(matches!(update, Update::Dead(_)));
            let about =
                fold(fold(digest, word(&accusation.subject())), accusation.incarnation().0 << 1 | is_dead);
            fold(about, word(&accusation.accuser()))
        }
        Update::Doubt(doubt) => fold(fold(digest, word(&doubt.id)), doubt.incarnation.0),
    })
}

fn word(id: &NodeId) -> u64 {
    first_word(id.as_bytes())
}

fn first_word(bytes: &[u8; 32]) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[i]))
}

/// One word more. The odd factor keeps every bit of the digest so far, the rotation brings the high bits down.
const fn fold(digest: u64, word: u64) -> u64 {
    (digest.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_content_matter() {
        let run = |events: &[(u32, u64)]| {
            let mut trace = Trace::default();
            events.iter().for_each(|(node, what)| trace.fold(Timestamp::ZERO, NodeIndex(*node), 1, *what));
            trace.hash()
        };
        assert_eq!(run(&[(1, 1), (2, 2)]), run(&[(1, 1), (2, 2)]));
        assert_ne!(run(&[(1, 1), (2, 2)]), run(&[(2, 2), (1, 1)]));
        assert_ne!(run(&[(1, 1)]), run(&[(1, 2)]));
    }
}
