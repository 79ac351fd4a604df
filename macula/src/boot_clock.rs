//! A clock that goes on while the machine sleeps.

use macula_proto::{Clock, Timestamp, UnixMillis};
use macula_transport::TokioClock;

/// For leases. Linux stops `CLOCK_MONOTONIC`, and with it `Instant`, while the machine is suspended; a holder that slept for an
/// hour would take its lease for valid after that. `CLOCK_BOOTTIME` goes on. Elsewhere the ordinary clock has to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BootClock(pub(crate) TokioClock);

impl Clock for BootClock {
    #[cfg(target_os = "linux")]
    fn now(&self) -> Timestamp {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let (seconds, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
        // It counts from the start of the machine, upwards.
        Timestamp::from_start(std::time::Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0)))
    }

    #[cfg(not(target_os = "linux"))]
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn unix(&self) -> UnixMillis {
        self.0.unix()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_goes_back() {
        let clock = BootClock(TokioClock::default());
        let before = clock.now();
        assert!(clock.now() >= before && before > Timestamp::ZERO);
    }
}
