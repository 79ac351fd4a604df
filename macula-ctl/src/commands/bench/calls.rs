//! `bench rpc`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use macula::{Call, Node, Reply};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::latency::{Latencies, Latency};
use super::{Mesh, PATIENCE, Progress, RETRY, count, failed, on_thread, shares};
use crate::cli::Format;
use crate::cli::bench::Rpc;
use crate::error::CliError;
use crate::output;

/// Most different texts of failures that are shown.
const FAILURES_MAX: usize = 8;

/// The outcome.
#[derive(Debug, Serialize)]
struct Report {
    callers: u32,
    in_flight: u32,
    request_bytes: u32,
    /// Calls with a reply.
    answered: u64,
    /// Calls without, by what went wrong.
    failed: BTreeMap<String, u64>,
    answered_per_second: f64,
    /// Of calls with a reply, in microseconds.
    latency_us: Option<Latency>,
}

/// What one caller saw.
struct Called {
    latencies: Latencies,
    failed: BTreeMap<String, u64>,
    took: Duration,
}

pub(super) async fn measure(args: &Rpc, mesh: &mut Mesh, format: Format) -> Result<(), CliError> {
    let procedure = args.procedure.clone().unwrap_or_else(|| format!("bench.echo-{}", std::process::id()));
    let mut offers = Vec::new();
    if args.procedure.is_none() {
        for _ in 0..args.providers {
            let echo = |call: Call| async move { Ok(Reply::new(call.payload)) };
            offers.push(mesh.node().await?.register(&procedure, echo).await.map_err(|error| failed(&error))?);
        }
    }
    let progress = Progress::new(args.calls.get());
    let request = Bytes::from(vec![0; args.size as usize]);
    let mut callers = Vec::new();
    for _ in 0..args.callers {
        let node = mesh.node().await?;
        first(&node, &procedure, &request).await?;
        callers.push(node);
    }
    let mut calling = JoinSet::new();
    for (node, calls) in callers.into_iter().zip(shares(args.calls.get(), args.callers)) {
        let (procedure, request, progress) = (procedure.clone(), request.clone(), progress.clone());
        let in_flight = args.in_flight;
        calling.spawn(on_thread(move || call_all(node, procedure, request, calls, in_flight, progress)));
    }
    let mut called = Vec::new();
    let work = async {
        while let Some(ended) = calling.join_next().await {
            called.push(ended.map_err(|error| CliError::Broken(error.to_string()))??);
        }
        Ok::<_, CliError>(())
    };
    progress.during(work).await?;
    let report = Report::of(args, &called);
    output::one(format, &report, || report.table())
}

/// The first call, which finds the provider and connects, is not measured.
async fn first(node: &Node, procedure: &str, request: &Bytes) -> Result<(), CliError> {
    let answered = async {
        loop {
            match node.call(procedure, request.clone()).await {
                Ok(_) => return,
                Err(_not_yet) => tokio::time::sleep(RETRY).await,
            }
        }
    };
    let nobody = |_| CliError::Broken(format!("nobody answers calls of `{procedure}`"));
    timeout(PATIENCE, answered).await.map_err(nobody)
}

async fn call_all(
    node: Node,
    procedure: String,
    request: Bytes,
    calls: u64,
    in_flight: u32,
    progress: Progress,
) -> Result<Called, CliError> {
    let began = Instant::now();
    let mut lines = JoinSet::new();
    for calls in shares(calls, in_flight) {
        lines.spawn(call_some(node.clone(), procedure.clone(), request.clone(), calls, progress.clone()));
    }
    let mut called = Called { latencies: Latencies::new(), failed: BTreeMap::new(), took: Duration::ZERO };
    while let Some(line) = lines.join_next().await {
        called.add(line.map_err(|error| CliError::Broken(error.to_string()))?);
    }
    called.took = began.elapsed();
    Ok(called)
}

/// Calls one after the other.
async fn call_some(node: Node, procedure: String, request: Bytes, calls: u64, progress: Progress) -> Called {
    let mut called = Called { latencies: Latencies::new(), failed: BTreeMap::new(), took: Duration::ZERO };
    for _ in 0..calls {
        let since = Instant::now();
        match node.call(&procedure, request.clone()).await {
            Ok(_) => called.latencies.record(since.elapsed()),
            Err(error) => called.fail(error.to_string(), 1),
        }
        progress.add(1);
    }
    called
}

impl Called {
    fn add(&mut self, other: Self) {
        self.latencies.add(&other.latencies);
        other.failed.into_iter().for_each(|(cause, calls)| self.fail(cause, calls));
    }

    fn fail(&mut self, cause: String, calls: u64) {
        let full = self.failed.len() >= FAILURES_MAX && !self.failed.contains_key(&cause);
        *self.failed.entry(if full { "something else".into() } else { cause }).or_insert(0) += calls;
    }
}

impl Report {
    fn of(args: &Rpc, called: &[Called]) -> Self {
        let rate = |one: &Called| one.latencies.len() as f64 / one.took.as_secs_f64().max(1e-9);
        let mut sum = Called { latencies: Latencies::new(), failed: BTreeMap::new(), took: Duration::ZERO };
        for one in called {
            sum.latencies.add(&one.latencies);
            one.failed.iter().for_each(|(cause, calls)| sum.fail(cause.clone(), *calls));
        }
        Self {
            callers: args.callers,
            in_flight: args.in_flight,
            request_bytes: args.size,
            answered: sum.latencies.len(),
            failed: sum.failed,
            answered_per_second: called.iter().map(rate).sum(),
            latency_us: sum.latencies.summary(),
        }
    }

    fn table(&self) -> String {
        let answered = format!(
            "{} calls of {} bytes by {} callers, {} at a time each, {}/s",
            self.answered,
            self.request_bytes,
            self.callers,
            self.in_flight,
            count(self.answered_per_second)
        );
        let mut facts = vec![("answered", answered)];
        facts.extend(self.failed.iter().map(|(cause, calls)| ("failed", format!("{calls} calls: {cause}"))));
        facts.extend(self.latency_us.as_ref().map(|latency| ("latency", latency.line())));
        output::facts(&facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_cause_and_their_number_is_bounded() {
        let mut called =
            Called { latencies: Latencies::new(), failed: BTreeMap::new(), took: Duration::ZERO };
        (0..20).for_each(|n| called.fail(format!("cause {n}"), 2));
        called.fail("cause 1".into(), 1);
        assert_eq!((called.failed.len(), called.failed["cause 1"]), (FAILURES_MAX + 1, 3));
        assert_eq!(called.failed.values().sum::<u64>(), 41);
    }
}
