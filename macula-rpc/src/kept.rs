//! The [`Cache`] of one node, as its calls use it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use macula_proto::{Clock, Timestamp};
use parking_lot::Mutex;

use crate::cache::{Cache, Question, Room};
use crate::{Caching, CallRequest, Reply, RpcConfig, RpcMetrics};

/// The answers that a node keeps.
pub(crate) struct KeptAnswers {
    cache: Mutex<Cache>,
    /// How many there are, for calls that would look in vain.
    count: AtomicUsize,
    age_max: Duration,
    by_default: Caching,
    clock: Arc<dyn Clock>,
    metrics: Arc<RpcMetrics>,
}

/// A call whose answer may be kept.
pub(crate) struct Asked {
    at: Timestamp,
}

impl KeptAnswers {
    pub(crate) fn new(config: &RpcConfig, clock: Arc<dyn Clock>, metrics: Arc<RpcMetrics>) -> Self {
        let room = Room { entries: config.answers_max, bytes: config.answers_bytes_max };
        Self {
            cache: Mutex::new(Cache::new(room)),
            count: AtomicUsize::new(0),
            age_max: config.answers_age_max,
            by_default: config.caching,
            clock,
            metrics,
        }
    }

    /// An answer that is kept, or how to keep the one to come. `now` is when the call began.
    pub(crate) fn look_up(&self, request: &CallRequest, now: Timestamp) -> Result<Reply, Option<Asked>> {
        let caching = request.caching.unwrap_or(self.by_default);
        // Whoever names a node wants its answer, not that of whoever was asked last.
        if request.target.is_some() || caching == Caching::Off {
            return Err(None);
        }
        if caching == Caching::On && self.count.load(Ordering::Relaxed) > 0 {
            let mut cache = self.cache.lock();
            let kept = cache.get(&Question::of(request), now);
            self.show(&cache);
            if let Some(reply) = kept {
                self.metrics.cache_hits.inc();
                return Ok(reply);
            }
        }
        Err(Some(Asked { at: now }))
    }

    /// Keeps an answer for as long as its provider says, if it does, and at most as long as this node allows.
    pub(crate) fn keep(
        &self,
        request: &CallRequest,
        asked: Option<Asked>,
        reply: &Reply,
        good_for: Option<Duration>,
    ) {
        let (Some(asked), Some(good_for)) = (asked, good_for) else { return };
        let mut cache = self.cache.lock();
        let good_for = good_for.min(self.age_max);
        if let Some(evicted) = cache.put(Question::of(request), reply, asked.at, good_for, self.clock.now()) {
            self.metrics.cache_stored.inc();
            self.metrics.cache_evicted.inc_by(evicted);
        }
        self.show(&cache);
    }

    /// Forgets what is no longer good.
    pub(crate) fn expire(&self) {
        let mut cache = self.cache.lock();
        cache.expire(self.clock.now());
        self.show(&cache);
    }

    fn show(&self, cache: &Cache) {
        self.count.store(cache.len(), Ordering::Relaxed);
        self.metrics.cache_entries.set(cache.len() as i64);
        self.metrics.cache_bytes.set(cache.bytes() as i64);
    }
}
