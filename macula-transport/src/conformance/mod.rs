//! What every [`Transport`] must do, as checks that run on any implementation.
//!
//! Write a [`Harness`] that makes nodes on a network of its own, then let the macro make one test of each check:
//!
//! ```no_run
//! use macula_proto::SecretKey;
//! use macula_transport::conformance::{Harness, NodeSpec};
//! use macula_transport::memory::{MemoryConfig, MemoryNetwork, MemoryTransport};
//!
//! struct InMemory(MemoryNetwork);
//!
//! impl Harness for InMemory {
//!     type Transport = MemoryTransport;
//!
//!     async fn node(&self, spec: NodeSpec) -> MemoryTransport {
//!         let config = MemoryConfig { realms: spec.realms, ..MemoryConfig::new(spec.key) };
//!         self.0.node(MemoryConfig { connections_max: spec.connections_max, idle_timeout: spec.idle_timeout, ..config })
//!     }
//! }
//!
//! // One test a check, each with a fresh harness. Real time or paused: the attribute decides.
//! macula_transport::transport_conformance! {
//!     #[tokio::test(start_paused = true)]
//!     InMemory(MemoryNetwork::new(1))
//! }
//! # fn main() {}
//! ```
//!
//! A transport over real sockets uses plain `#[tokio::test]`. The checks wait for events, each at most
//! [`PATIENCE`], and never sleep and hope; where one must see that something does *not* go on (back-pressure), it waits for
//! [`QUIET`] without progress.
//!
//! [`transport_conformance!`](crate::transport_conformance) is the core that every transport passes. A harness that can
//! disturb its network also implements [`Faulty`] and uses
//! [`transport_fault_conformance!`](crate::transport_fault_conformance).
//!
//! The nodes' addresses come from [`Transport::local`]: it must hold an address at which the others can dial.

mod closing;
mod connecting;
mod datagrams;
mod faults;
mod lanes;
mod node;
mod streams;

use std::future::Future;
use std::time::Duration;

use macula_proto::{NodeId, Realm, SecretKey};

use crate::{CloseReason, Transport};

pub use closing::*;
pub use connecting::*;
pub use datagrams::*;
pub use faults::*;
pub use lanes::*;
pub use streams::*;

/// How long a check waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long nothing must happen for a check to believe that it does not.
pub const QUIET: Duration = Duration::from_millis(300);

/// Makes the nodes of one check, on a network that no other check uses.
pub trait Harness: Sync {
    /// What is checked.
    type Transport: Transport;

    /// A node that can dial at once and is dialled once [`Transport::serve`] runs; the check calls that.
    fn node(&self, spec: NodeSpec) -> impl Future<Output = Self::Transport> + Send;

    /// Ends a node as a crash would, as well as the transport can. Its `serve` was dropped before, and `node` is the
    /// check's last handle.
    fn crash(&self, node: Self::Transport) -> impl Future<Output = ()> + Send {
        async { drop(node) }
    }
}

/// A harness that can disturb its network.
pub trait Faulty: Harness {
    /// Loses this share of the packets everywhere, 0 to 1.
    fn lose(&self, share: f64);

    /// Lets nothing pass between the two.
    fn partition(&self, a: NodeId, b: NodeId);

    /// Lets nothing pass from one to the other.
    fn partition_one_way(&self, from: NodeId, to: NodeId);

    /// Ends all partitions.
    fn heal(&self);

    /// Stops a node as SIGSTOP would.
    fn pause(&self, node: NodeId);

    /// Lets it go on.
    fn resume(&self, node: NodeId);

    /// How long a connection survives a partition.
    fn peer_timeout(&self) -> Duration;

    /// What a peer that became silent is reported as.
    fn silent_reason(&self) -> CloseReason {
        CloseReason::TimedOut
    }
}

/// What a check asks of a node.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Who it is.
    pub key: SecretKey,
    /// The realms it is in.
    pub realms: Vec<Realm>,
    /// Live connections at most.
    pub connections_max: usize,
    /// How long a connection lives without application frames.
    pub idle_timeout: Duration,
}

impl NodeSpec {
    /// Node number `n`, with a fixed key and ordinary settings.
    pub fn numbered(n: u8) -> Self {
        Self {
            key: SecretKey::from_seed([n; 32]),
            realms: vec![Realm::default()],
            connections_max: 100,
            idle_timeout: Duration::from_secs(60),
        }
    }
}

/// Makes a test of each core check: `#[attribute] harness-expression`. See [`conformance`](crate::conformance).
#[macro_export]
macro_rules! transport_conformance {
    (#[$($attr:tt)*] $harness:expr) => {
        $crate::transport_conformance! { @tests [$($attr)*] [$harness]
            connect_says_who_answered
            a_known_id_can_be_connected_to
            an_address_alone_is_enough
            a_wrong_id_is_an_error
            an_unknown_node_has_no_address
            nobody_connects_to_itself
            nodes_without_a_common_realm_refuse_each_other
            many_connects_make_one_connection
            simultaneous_connects_converge
            a_full_pool_evicts_the_least_recently_used
            a_full_pool_spares_what_is_in_use
            peers_tells_the_truth
            lane_frames_arrive_in_order
            lanes_work_from_the_accepting_side
            a_lane_past_the_last_is_an_error
            a_blocked_lane_fills_up_and_loses_nothing
            a_blocked_lane_blocks_no_other
            the_largest_frames_pass
            unknown_kinds_do_no_harm
            a_stream_carries_a_request_and_its_answer
            a_stream_carries_much_both_ways
            a_slow_reader_holds_the_sender_back
            a_reset_is_seen_with_its_code
            a_stop_is_seen_with_its_code
            dropping_a_half_cancels
            a_finished_stream_is_acknowledged
            many_streams_at_once
            datagrams_arrive
            a_datagram_needs_a_connection
            a_datagram_too_large_is_an_error
            a_graceful_stop_delivers_what_was_accepted
            a_graceful_stop_takes_what_was_under_way
            a_stopped_node_is_closed
            everything_ends_with_the_connection
            a_crash_is_noticed
            a_restarted_node_is_met_again
            an_idle_connection_closes
        }
    };
    (@tests [$($attr:tt)*] [$harness:expr] $check:ident $($rest:ident)*) => {
        #[$($attr)*]
        async fn $check() {
            $crate::conformance::$check(&$harness).await;
        }
        $crate::transport_conformance! { @tests [$($attr)*] [$harness] $($rest)* }
    };
    (@tests [$($attr:tt)*] [$harness:expr]) => {};
}

/// Makes a test of the checks of a transport that is [`HangUp`](crate::HangUp): `#[attribute] harness-expression`.
#[macro_export]
macro_rules! transport_hang_up_conformance {
    (#[$($attr:tt)*] $harness:expr) => {
        $crate::transport_conformance! { @tests [$($attr)*] [$harness]
            a_peer_that_was_given_up_is_down
        }
    };
}

/// Makes a test of each check that needs a [`Faulty`] harness: `#[attribute] harness-expression`.
#[macro_export]
macro_rules! transport_fault_conformance {
    (#[$($attr:tt)*] $harness:expr) => {
        $crate::transport_conformance! { @tests [$($attr)*] [$harness]
            loss_delays_lanes_and_loses_datagrams
            a_short_partition_loses_nothing_on_lanes
            a_long_partition_times_out_on_both_sides
            a_one_way_partition_times_out_as_well
            a_dial_into_a_partition_fails_in_time
            a_paused_node_catches_up
        }
    };
}
