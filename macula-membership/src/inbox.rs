//! What waits for the driver: a bounded queue in front of the machine.

use std::collections::VecDeque;
use std::sync::Arc;

use macula_proto::{Contact, Frame, NodeId};
use parking_lot::Mutex;

/// Something that arrived.
#[derive(Debug)]
pub(crate) enum Input {
    Datagram(NodeId, Frame),
    LinkUp(NodeId),
    LinkDown(NodeId),
}

/// Something to be done that takes a while. Bounded by the machine's own limits.
#[derive(Debug)]
pub(crate) enum Errand {
    Dial(Arc<Contact>),
    Sync(Arc<Contact>),
    RetrySeeds,
}

/// Inputs and errands. Lives as long as the [`Swim`](crate::Swim), so that a driver that is started anew finds all.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    inputs_max: usize,
}

#[derive(Debug, Default)]
struct State {
    inputs: VecDeque<Input>,
    errands: VecDeque<Errand>,
    /// A connection's coming or going was not queued: ask the transport for the truth.
    links_unknown: bool,
}

impl Inbox {
    pub(crate) fn new(inputs_max: usize) -> Self {
        Self { state: Mutex::default(), inputs_max }
    }

    /// Queues a datagram. Returns whether there was room.
    #[must_use]
    pub(crate) fn push_datagram(&self, from: NodeId, frame: Frame) -> bool {
        let mut state = self.state.lock();
        let room = state.inputs.len() < self.inputs_max;
        if room {
            state.inputs.push_back(Input::Datagram(from, frame));
        }
        room
    }

    /// Queues a connection's coming or going. They have twice the room of datagrams; beyond, the links are read
    /// from the transport later.
    pub(crate) fn push_link(&self, input: Input) {
        let mut state = self.state.lock();
        if state.inputs.len() < 2 * self.inputs_max {
            state.inputs.push_back(input);
        } else {
            state.links_unknown = true;
        }
    }

    pub(crate) fn push_errand(&self, errand: Errand) {
        self.state.lock().errands.push_back(errand);
    }

    /// Takes up to `count` inputs, and all errands. Says whether the links must be read anew.
    pub(crate) fn take(&self, count: usize, inputs: &mut Vec<Input>, errands: &mut Vec<Errand>) -> bool {
        let mut state = self.state.lock();
        let count = count.min(state.inputs.len());
        inputs.extend(state.inputs.drain(..count));
        errands.extend(state.errands.drain(..));
        std::mem::take(&mut state.links_unknown)
    }

    pub(crate) fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.inputs.is_empty() && state.errands.is_empty()
    }
}
