//! Which run of each node's process is over: what it announced then counts for nothing, unless it was to last.
//!
//! A node that is killed cannot take back what it announced, and a restarted one does not know of it. Membership tells
//! runs apart by a number that is drawn anew at each start.

use std::collections::BTreeMap;

use macula_proto::NodeId;

use super::record::RecordBody;

/// Nodes of which the runs are remembered.
const NODES_MAX: usize = 65_536;

/// Runs of one node that are remembered to be over.
const PAST_MAX: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Lives {
    nodes: BTreeMap<NodeId, Life>,
}

#[derive(Debug)]
struct Life {
    current: u64,
    /// The last ones, the oldest first.
    past: Vec<u64>,
}

impl Lives {
    /// A node is in this run now. Returns whether that ended another one.
    pub(super) fn set(&mut self, id: NodeId, life: u64) -> bool {
        let known = self.nodes.len();
        match self.nodes.get_mut(&id) {
            Some(node) if node.current == life => false,
            Some(node) => {
                if node.past.len() >= PAST_MAX {
                    node.past.remove(0);
                }
                node.past.push(std::mem::replace(&mut node.current, life));
                node.past.retain(|past| *past != life);
                true
            }
            None => {
                if known < NODES_MAX {
                    self.nodes.insert(id, Life { current: life, past: Vec::new() });
                }
                false
            }
        }
    }

    /// Whether a record is from a run that is over.
    pub(super) fn is_past(&self, body: &RecordBody) -> bool {
        !body.lasting && self.nodes.get(&body.announcer.id).is_some_and(|node| node.past.contains(&body.life))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use macula_proto::{Contact, Key, UnixMillis};

    use super::*;

    fn record(life: u64) -> RecordBody {
        RecordBody {
            key: Key::from_bytes([9; 32]),
            announcer: Contact::new(NodeId::from_bytes([1; 32]), "127.0.0.1:4000".parse().unwrap()),
            value: Bytes::new(),
            sequence: 1,
            issued: UnixMillis(0),
            ttl: Duration::from_mins(1),
            withdrawn: false,
            lasting: false,
            life,
        }
    }

    #[test]
    fn what_was_said_in_a_run_that_is_over_does_not_count_unless_it_lasts() {
        let (mut lives, id) = (Lives::default(), NodeId::from_bytes([1; 32]));
        assert!(!lives.is_past(&record(7)));
        assert!(!lives.set(id, 7) && !lives.set(id, 7));
        assert!(!lives.is_past(&record(7)) && !lives.is_past(&record(8)), "8 may be a run not heard of yet");
        assert!(lives.set(id, 8));
        assert!(lives.is_past(&record(7)) && !lives.is_past(&record(8)));
        assert!(!lives.is_past(&RecordBody { lasting: true, ..record(7) }));
    }

    #[test]
    fn only_the_last_runs_are_remembered() {
        let (mut lives, id) = (Lives::default(), NodeId::from_bytes([1; 32]));
        for life in 1..=PAST_MAX as u64 + 2 {
            lives.set(id, life);
        }
        assert_eq!((1..=2).map(|life| lives.is_past(&record(life))).collect::<Vec<_>>(), [false, true]);
    }
}
