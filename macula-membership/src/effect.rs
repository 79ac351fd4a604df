//! What the machine wants done.

use std::sync::Arc;

use macula_proto::{Contact, NodeId};

use crate::{Event, Packet};

/// One thing for the driver (or the simulator) to do, in the order given.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Effect {
    /// Send a datagram over the live connection to `to`. It may get lost.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        packet: Packet,
    },
    /// Dial, then report [`Machine::on_link_up`](crate::Machine::on_link_up) or
    /// [`Machine::on_dial_failed`](crate::Machine::on_dial_failed).
    Connect(Arc<Contact>),
    /// Open a stream (dialling if need be), begin with [`Machine::begin_sync`](crate::Machine::begin_sync), feed the
    /// answers to [`Machine::on_sync`](crate::Machine::on_sync), and report
    /// [`Machine::on_sync_end`](crate::Machine::on_sync_end).
    Sync(Arc<Contact>),
    /// This node is alone: try the seeds again.
    RetrySeeds,
    /// Tell the subscribers.
    Event(Event),
    /// Every neighbour has acknowledged this node's goodbye.
    Departed,
}

/// Where effects go.
pub type Effects = Vec<Effect>;
