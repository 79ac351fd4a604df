//! Who uses how much.

use std::collections::BTreeMap;

use macula_proto::NodeId;

use super::answer::Refusal;
use super::limits::{Bounded, Limits};

/// What all nodes use, each counted by itself. Nodes that use nothing are not here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Usage {
    nodes: BTreeMap<NodeId, Used>,
    places: usize,
    value_bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Used {
    sessions: usize,
    places: usize,
    value_bytes: usize,
    logs: usize,
}

impl Usage {
    fn of(&self, node: NodeId) -> Used {
        self.nodes.get(&node).copied().unwrap_or_default()
    }

    fn change(&mut self, node: NodeId, change: impl FnOnce(&mut Used)) {
        let used = self.nodes.entry(node).or_default();
        change(used);
        if *used == Used::default() {
            self.nodes.remove(&node);
        }
    }

    pub(super) const fn places(&self) -> usize {
        self.places
    }

    pub(super) fn take_session(&mut self, node: NodeId, limits: &Limits) -> Result<(), Refusal> {
        within(Bounded::SessionsOfNode, self.of(node).sessions + 1, limits.sessions_of_node)?;
        self.change(node, |used| used.sessions += 1);
        Ok(())
    }

    pub(super) fn free_session(&mut self, node: NodeId) {
        self.change(node, |used| used.sessions -= 1);
    }

    /// A place in an election or at a lock, with a value of `value_bytes`.
    pub(super) fn take_place(
        &mut self,
        node: NodeId,
        value_bytes: usize,
        limits: &Limits,
    ) -> Result<(), Refusal> {
        let used = self.of(node);
        within(Bounded::Places, self.places + 1, limits.places)?;
        within(Bounded::PlacesOfNode, used.places + 1, limits.places_of_node)?;
        within_values(self.value_bytes + value_bytes, used.value_bytes + value_bytes, limits)?;
        self.places += 1;
        self.value_bytes += value_bytes;
        self.change(node, |used| {
            used.places += 1;
            used.value_bytes += value_bytes;
        });
        Ok(())
    }

    /// Another value in the same place.
    pub(super) fn change_value(
        &mut self,
        node: NodeId,
        (from, to): (usize, usize),
        limits: &Limits,
    ) -> Result<(), Refusal> {
        let value_bytes = self.of(node).value_bytes - from + to;
        let all = self.value_bytes - from + to;
        // Who shrinks is never refused.
        if to > from {
            within_values(all, value_bytes, limits)?;
        }
        self.value_bytes = all;
        self.change(node, |used| used.value_bytes = value_bytes);
        Ok(())
    }

    pub(super) fn free_place(&mut self, node: NodeId, value_bytes: usize) {
        self.places -= 1;
        self.value_bytes -= value_bytes;
        self.change(node, |used| {
            used.places -= 1;
            used.value_bytes -= value_bytes;
        });
    }

    pub(super) fn take_log(&mut self, node: NodeId, limits: &Limits) -> Result<(), Refusal> {
        within(Bounded::LogsOfNode, self.of(node).logs + 1, limits.logs_of_node)?;
        self.change(node, |used| used.logs += 1);
        Ok(())
    }

    pub(super) fn free_log(&mut self, node: NodeId) {
        self.change(node, |used| used.logs -= 1);
    }
}

fn within_values(all: usize, of_node: usize, limits: &Limits) -> Result<(), Refusal> {
    within(Bounded::ValueBytesOfAll, all, limits.value_bytes)?;
    within(Bounded::ValueBytesOfNode, of_node, limits.value_bytes_of_node)
}

/// Whether `wanted` of something are allowed.
pub(super) fn within(of: Bounded, wanted: usize, bound: usize) -> Result<(), Refusal> {
    if wanted <= bound { Ok(()) } else { Err(Refusal::Full { of, bound: bound as u64 }) }
}
