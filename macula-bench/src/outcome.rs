//! What the processes of one run say, and what follows from it.

use serde::{Deserialize, Serialize};

use crate::case::{Case, Load};

/// What a sink saw.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SinkSaw {
    /// Messages delivered, or calls served.
    pub(crate) received: u64,
    /// From the first to the last of them, in seconds.
    pub(crate) seconds: f64,
    /// User and system time of the process since the first one, in seconds.
    pub(crate) cpu_seconds: f64,
    /// Most memory that was resident, in bytes.
    pub(crate) memory_bytes: u64,
}

/// What the source did.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SourceDid {
    /// Messages published, or calls answered.
    pub(crate) sent: u64,
    /// For how long, in seconds.
    pub(crate) seconds: f64,
    /// See [`SinkSaw`].
    pub(crate) cpu_seconds: f64,
    /// See [`SinkSaw`].
    pub(crate) memory_bytes: u64,
    /// How long calls took.
    pub(crate) latency: Latency,
}

/// Quantiles, in nanoseconds; zero where nothing was timed.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
}

/// One run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    /// Deliveries at all sinks together, or calls answered, a second.
    pub(crate) rate: f64,
    /// What was sent and did not arrive.
    pub(crate) lost: u64,
    /// User and system time of all processes for one delivery or call, in nanoseconds. For an idle node: for one second.
    pub(crate) cpu_nanos: f64,
    pub(crate) latency: Latency,
    /// Most memory of the source.
    pub(crate) source_bytes: u64,
    /// Most memory of a sink.
    pub(crate) sink_bytes: u64,
}

impl Outcome {
    pub(crate) fn of(case: &Case, source: &SourceDid, sinks: &[SinkSaw]) -> Self {
        let received: u64 = sinks.iter().map(|sink| sink.received).sum();
        let cpu = source.cpu_seconds + sinks.iter().map(|sink| sink.cpu_seconds).sum::<f64>();
        let (rate, done) = match case.load {
            Load::Publish { .. } => {
                // Each sink's own time: the slowest does not hide behind the others.
                (sinks.iter().map(|sink| sink.received as f64 / sink.seconds.max(1e-9)).sum(), received)
            }
            Load::Call { .. } => (source.sent as f64 / source.seconds.max(1e-9), source.sent),
            Load::Idle => (0.0, source.seconds.round() as u64),
        };
        let expected = match case.load {
            Load::Publish { subscribers, .. } => source.sent * subscribers as u64,
            // A call that fails ends the run.
            Load::Call { .. } | Load::Idle => received,
        };
        Self {
            rate,
            lost: expected.saturating_sub(received),
            cpu_nanos: cpu * 1e9 / done.max(1) as f64,
            latency: source.latency,
            source_bytes: source.memory_bytes,
            sink_bytes: sinks.iter().map(|sink| sink.memory_bytes).max().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_count_what_arrived_and_the_rest_is_lost() {
        let load = Load::Publish { subscribers: 2, topics: 1, idle_subscriptions: 0 };
        let case = Case { load, payload: 16, curve: None, own_thread: false };
        let source = SourceDid { sent: 100, cpu_seconds: 0.5, ..SourceDid::default() };
        let sink =
            |received, seconds| SinkSaw { received, seconds, cpu_seconds: 0.25, memory_bytes: received };
        let outcome = Outcome::of(&case, &source, &[sink(100, 1.0), sink(60, 2.0)]);
        assert_eq!((outcome.rate, outcome.lost, outcome.sink_bytes), (130.0, 40, 100));
        assert!((outcome.cpu_nanos - 1e9 / 160.0).abs() < 1.0);
    }
}
