//! A running hash of everything that happened: equal hashes, equal runs.

use std::fmt;
use std::hash::{DefaultHasher, Hasher as _};

use macula_proto::{Frame, Timestamp};
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

/// A short digest of a frame, with fixed keys.
pub(crate) fn digest(frame: &Frame) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&frame.to_bytes());
    hasher.finish()
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
