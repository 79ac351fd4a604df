//! The machine's clock, which records go by, and one that jumps, which leases go by.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use macula::testing::{Clock, Timestamp, UnixMillis};
use rustix::time::{ClockId, clock_gettime};

/// Jumps back must not lead below the clock's start.
const START: Duration = Duration::from_secs(1_000_000);

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Nanoseconds of the clock that all processes of this machine share.
pub(crate) fn now() -> u64 {
    u64::try_from(read(ClockId::Monotonic).as_nanos()).unwrap_or(u64::MAX)
}

/// The clock that nodes have, and jumps. Clones are the same clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct JumpingClock(Arc<AtomicI64>);

impl JumpingClock {
    /// Jumps by so many milliseconds, forwards or back.
    pub(crate) fn jump(&self, millis: i64) {
        self.0.fetch_add(millis, Relaxed);
    }
}

impl Clock for JumpingClock {
    fn now(&self) -> Timestamp {
        let offset = self.0.load(Relaxed);
        let (now, by) = (read(ClockId::Boottime) + START, Duration::from_millis(offset.unsigned_abs()));
        Timestamp::from_start(if offset < 0 { now.saturating_sub(by) } else { now + by })
    }

    fn unix(&self) -> UnixMillis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_jumps_both_ways() {
        let clock = JumpingClock::default();
        let before = clock.now();
        clock.jump(5_000);
        let after = clock.now();
        assert!(after.since(before) >= Duration::from_secs(5));
        clock.jump(-7_000);
        assert!(clock.now() < before);
    }
}
