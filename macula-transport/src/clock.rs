//! The clock of drivers: tokio's, so that paused time in tests pauses everything.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use macula_proto::{Clock, Timestamp, UnixMillis};
use tokio::time::Instant;

/// A [`Clock`] over [`tokio::time::Instant`]: it stands still, and jumps, with tokio's time.
///
/// The wall clock is read once, at the start, and goes on from there with tokio's time; a later change of the
/// machine's wall clock is not seen.
///
/// ```
/// use std::time::Duration;
/// use macula_proto::Clock;
/// use macula_transport::TokioClock;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?.block_on(async {
/// let clock = TokioClock::default();
/// let (now, unix) = (clock.now(), clock.unix());
/// tokio::time::sleep(Duration::from_secs(60)).await; // paused: takes no real time
/// assert_eq!(clock.now() - now, Duration::from_secs(60));
/// assert_eq!(clock.unix().0 - unix.0, 60_000);
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct TokioClock {
    start: Instant,
    start_unix: UnixMillis,
}

impl TokioClock {
    /// A clock that starts now, with the wall clock at `unix`: for tests that must not depend on the date.
    pub fn starting_at(unix: UnixMillis) -> Self {
        Self { start: Instant::now(), start_unix: unix }
    }

    /// The tokio time of a timestamp of this clock, for `tokio::time::sleep_until`.
    pub fn instant(&self, at: Timestamp) -> Instant {
        self.start.checked_add(at.since_start()).unwrap_or_else(|| {
            // Past what the platform can represent: as good as never.
            self.start + Duration::from_secs(u64::from(u32::MAX))
        })
    }
}

impl Default for TokioClock {
    fn default() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::starting_at(UnixMillis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_start(self.start.elapsed())
    }

    fn unix(&self) -> UnixMillis {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        UnixMillis(self.start_unix.0.saturating_add(elapsed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_stands_still_and_jumps_with_tokios_time() {
        let clock = TokioClock::starting_at(UnixMillis(1_000));
        assert_eq!((clock.now(), clock.unix()), (Timestamp::ZERO, UnixMillis(1_000)));
        tokio::time::advance(Duration::from_millis(2_500)).await;
        let now = Timestamp::from_start(Duration::from_millis(2_500));
        assert_eq!((clock.now(), clock.unix()), (now, UnixMillis(3_500)));
        assert_eq!(clock.instant(now), Instant::now());
    }

    #[tokio::test]
    async fn an_instant_past_the_end_of_time_is_far_away_and_no_panic() {
        let clock = TokioClock::default();
        assert!(clock.instant(Timestamp::from_start(Duration::MAX)) > Instant::now());
    }
}
