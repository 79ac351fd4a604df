//! What is counted in a run.

use std::ops::Sub;

/// Counts of a run, or of a part of one: subtract an earlier reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Datagrams sent.
    pub datagrams: u64,
    /// Their bytes, frames included.
    pub datagram_bytes: u64,
    /// Datagrams lost on the way, or sent over a link whose other end is gone.
    pub datagrams_lost: u64,
    /// Datagrams that arrived twice.
    pub datagrams_doubled: u64,
    /// Inputs dropped because a paused node's queue was full.
    pub inputs_dropped: u64,
    /// Connections dialled.
    pub dials: u64,
    /// Dials that failed.
    pub dials_failed: u64,
    /// Links closed because a node had too many.
    pub links_evicted: u64,
    /// Exchanges of member lists begun.
    pub exchanges: u64,
    /// Exchanges refused, broken or too slow.
    pub exchanges_failed: u64,
    /// Bytes of those exchanges.
    pub exchange_bytes: u64,
    /// Requests from directory to directory.
    pub requests: u64,
    /// Those of them that ask for records: maintenance does not.
    pub requests_for_records: u64,
    /// Bytes of requests and responses.
    pub request_bytes: u64,
    /// Untruths told by liars, to all that they told them.
    pub lies: u64,
    /// Suspicions that began, at all nodes together.
    pub suspected: u64,
    /// Suspicions refuted.
    pub refuted: u64,
    /// Suspicions confirmed.
    pub confirmed: u64,
}

impl Sub for Figures {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            datagrams: self.datagrams - earlier.datagrams,
            datagram_bytes: self.datagram_bytes - earlier.datagram_bytes,
            datagrams_lost: self.datagrams_lost - earlier.datagrams_lost,
            datagrams_doubled: self.datagrams_doubled - earlier.datagrams_doubled,
            inputs_dropped: self.inputs_dropped - earlier.inputs_dropped,
            dials: self.dials - earlier.dials,
            dials_failed: self.dials_failed - earlier.dials_failed,
            links_evicted: self.links_evicted - earlier.links_evicted,
            exchanges: self.exchanges - earlier.exchanges,
            exchanges_failed: self.exchanges_failed - earlier.exchanges_failed,
            exchange_bytes: self.exchange_bytes - earlier.exchange_bytes,
            requests: self.requests - earlier.requests,
            requests_for_records: self.requests_for_records - earlier.requests_for_records,
            request_bytes: self.request_bytes - earlier.request_bytes,
            lies: self.lies - earlier.lies,
            suspected: self.suspected - earlier.suspected,
            refuted: self.refuted - earlier.refuted,
            confirmed: self.confirmed - earlier.confirmed,
        }
    }
}
