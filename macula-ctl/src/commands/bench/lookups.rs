//! `bench lookup`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use macula::{Key, Node};
use serde::Serialize;
use tokio::task::JoinSet;

use super::latency::{Latencies, Latency};
use super::{Mesh, Progress, count};
use crate::cli::Format;
use crate::cli::bench::Lookup;
use crate::error::CliError;
use crate::output;

/// The outcome.
#[derive(Debug, Serialize)]
struct Report {
    in_flight: u32,
    /// Members of the mesh, the measuring node included.
    members: usize,
    /// Look-ups that ended well.
    done: u64,
    failed: u64,
    done_per_second: f64,
    /// Nodes asked for one key, on the average.
    questions_mean: f64,
    /// Nodes asked one after the other on the way to the closest, on the average.
    hops_mean: f64,
    /// In microseconds.
    latency_us: Option<Latency>,
}

/// What one line of look-ups saw.
struct Seen {
    latencies: Latencies,
    failed: u64,
    questions: u64,
    hops: u64,
}

pub(super) async fn measure(args: &Lookup, mesh: &mut Mesh, format: Format) -> Result<(), CliError> {
    let node = mesh.node().await?;
    if node.members().len() < 2 {
        // Alone, there is nobody to ask.
        mesh.node().await?;
    }
    let progress = Progress::new(args.lookups.get());
    let next = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut lines = JoinSet::new();
    for _ in 0..args.in_flight {
        lines.spawn(look_up(node.clone(), next.clone(), args.lookups.get(), progress.clone()));
    }
    let mut seen = Seen::none();
    let work = async {
        while let Some(line) = lines.join_next().await {
            seen.add(&line.map_err(|error| CliError::Broken(error.to_string()))?);
        }
        Ok::<_, CliError>(())
    };
    progress.during(work).await?;
    let report = Report::of(args, node.members().len(), &seen, began.elapsed());
    output::one(format, &report, || report.table())
}

/// Looks up one key after the other, each another one.
async fn look_up(node: Node, next: Arc<AtomicU64>, until: u64, progress: Progress) -> Seen {
    let mut seen = Seen::none();
    loop {
        let nth = next.fetch_add(1, Relaxed);
        if nth >= until {
            return seen;
        }
        let key = Key::derive("bench", &node.realm(), &format!("{}-{nth}", std::process::id()));
        let since = Instant::now();
        match node.lookup(key).await {
            Ok((trace, _found)) => {
                seen.latencies.record(since.elapsed());
                seen.questions += trace.steps.len() as u64;
                seen.hops += u64::from(trace.hops);
            }
            Err(_nobody) => seen.failed += 1,
        }
        progress.add(1);
    }
}

impl Seen {
    fn none() -> Self {
        Self { latencies: Latencies::new(), failed: 0, questions: 0, hops: 0 }
    }

    fn add(&mut self, other: &Self) {
        self.latencies.add(&other.latencies);
        self.failed += other.failed;
        self.questions += other.questions;
        self.hops += other.hops;
    }
}

impl Report {
    fn of(args: &Lookup, members: usize, seen: &Seen, took: Duration) -> Self {
        let done = seen.latencies.len();
        let mean = |sum: u64| if done == 0 { 0.0 } else { sum as f64 / done as f64 };
        Self {
            in_flight: args.in_flight,
            members,
            done,
            failed: seen.failed,
            done_per_second: done as f64 / took.as_secs_f64().max(1e-9),
            questions_mean: mean(seen.questions),
            hops_mean: mean(seen.hops),
            latency_us: seen.latencies.summary(),
        }
    }

    fn table(&self) -> String {
        let rate = count(self.done_per_second);
        let mut facts = vec![
            (
                "looked up",
                format!(
                    "{} keys among {} members, {} at a time, {rate}/s",
                    self.done, self.members, self.in_flight
                ),
            ),
            ("failed", self.failed.to_string()),
            (
                "asked",
                format!("{:.1} nodes a key, {:.1} one after the other", self.questions_mean, self.hops_mean),
            ),
        ];
        facts.extend(self.latency_us.as_ref().map(|latency| ("latency", latency.line())));
        output::facts(&facts)
    }
}
