//! What an [`Rpc`](crate::Rpc) can be told, and the defaults.

use std::time::Duration;

use tokio::runtime::Handle;

use crate::{Caching, Strategy};

/// Settings of one node's calls.
#[derive(Clone, Debug)]
pub struct RpcConfig {
    /// How long a call without a timeout of its own waits. Default 5 s.
    pub timeout: Duration,
    /// How long a handler runs at most, whatever its caller asks for. Default 1 h.
    pub timeout_max: Duration,
    /// How a call without a strategy of its own chooses. Default [`Strategy::LocalFirst`].
    pub strategy: Strategy,
    /// How many providers may turn one call away before it fails. At least 1. Default 3: enough to get around one that is
    /// shutting down, few enough not to spread one caller's trouble over the whole mesh. Those that cannot be reached do
    /// not count; of all together, 16 are tried.
    pub attempts_max: usize,
    /// How long connecting to one provider may take while there are others to try, or if it is known to be gone. Default
    /// 2 s; half of the time that is left, if that is less.
    pub connect_wait_max: Duration,
    /// Handlers of all procedures that run at once on this node. At least 1. Default 1,024; each holds at most its
    /// request, and four frames of progress and of request parts.
    pub handlers_max: u32,
    /// Procedures whose providers are watched. At least 1. Default 1,024; the least recently called goes first.
    pub cache_max: usize,
    /// After how long without a call the providers of a procedure are no longer watched. Default 5 min.
    pub cache_ttl: Duration,
    /// What calls that say nothing have to do with kept answers. Default [`Caching::On`].
    pub caching: Caching,
    /// Answers that are kept at most. Default 1,024; the least recently used goes first.
    pub answers_max: usize,
    /// Room for kept answers and the requests to them, in bytes. Default 8 MiB; an answer that takes more than an eighth of
    /// it is not kept.
    pub answers_bytes_max: usize,
    /// How long an answer is kept at most, whatever its provider says: one that lies is believed for no longer. Default
    /// 5 min.
    pub answers_age_max: Duration,
    /// For how long a provider that failed is chosen after the others. Default 1 s, doubled with each failure in a row.
    pub penalty: Duration,
    /// The longest such time. Default 30 s.
    pub penalty_max: Duration,
    /// Seed of the choices among equals. Give each node its own.
    pub seed: u64,
    /// The runtime that handlers run on; `None` for the one that a call arrives on. Default `None`.
    pub handlers_on: Option<Handle>,
}

impl Default for RpcConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            timeout_max: Duration::from_secs(3600),
            strategy: Strategy::LocalFirst,
            attempts_max: 3,
            connect_wait_max: Duration::from_secs(2),
            handlers_max: 1024,
            cache_max: 1024,
            cache_ttl: Duration::from_secs(300),
            caching: Caching::On,
            answers_max: 1024,
            answers_bytes_max: 8 * 1024 * 1024,
            answers_age_max: Duration::from_secs(300),
            penalty: Duration::from_secs(1),
            penalty_max: Duration::from_secs(30),
            seed: 0,
            handlers_on: None,
        }
    }
}
