//! The processes of a measurement: sources and sinks.

mod mesh;
mod raw;
mod raw_calls;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines, Stdin, stdin};

use crate::case::{Case, Load};
use crate::outcome::{Latency, SinkSaw, SourceDid};
use crate::usage;

/// After the last delivery, a sink waits so long for one more before it says what it saw.
const QUIET: Duration = Duration::from_millis(300);

/// Longest latency that the histogram holds.
const LATENCY_MAX: Duration = Duration::from_secs(60);

/// What carries the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stack {
    Macula,
    Raw,
}

impl Stack {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Macula => "macula",
            Self::Raw => "raw",
        }
    }
}

#[derive(Args)]
pub(crate) struct Sink {
    #[arg(long, value_parser = case)]
    case: Case,
    #[arg(long, value_enum)]
    stack: Stack,
}

#[derive(Args)]
pub(crate) struct Source {
    #[arg(long, value_parser = case)]
    case: Case,
    #[arg(long, value_enum)]
    stack: Stack,
    #[arg(long)]
    seconds: f64,
    #[arg(long)]
    to: Vec<SocketAddr>,
}

fn case(text: &str) -> Result<Case, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// Runs one sink.
pub(crate) fn sink(sink: &Sink) -> Result<(), String> {
    run(async {
        match (sink.stack, sink.case.load) {
            (Stack::Macula, _) => mesh::sink(&sink.case).await,
            (Stack::Raw, Load::Call { .. }) => raw_calls::sink().await,
            (Stack::Raw, _) => raw::sink().await,
        }
    })
}

/// Runs one source.
pub(crate) fn source(source: &Source) -> Result<(), String> {
    run(async {
        let span = Duration::from_secs_f64(source.seconds);
        match (source.stack, source.case.load) {
            (Stack::Macula, _) => mesh::source(&source.case, &source.to, span).await,
            (Stack::Raw, Load::Call { in_flight }) => {
                raw_calls::source(in_flight, source.case.payload, &source.to, span).await
            }
            (Stack::Raw, _) => raw::source(source.case.payload, &source.to, span).await,
        }
    })
}

pub(crate) fn run(role: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| format!("no event loop: {cause}"))?;
    let outcome = runtime.block_on(role);
    // Standard input is read by a thread that would be waited for.
    runtime.shutdown_background();
    outcome
}

/// The way to the process that started this one.
pub(crate) struct Parent(Lines<BufReader<Stdin>>);

impl Parent {
    pub(crate) fn new() -> Self {
        Self(BufReader::new(stdin()).lines())
    }

    /// Waits to be told to go on.
    pub(crate) async fn go(&mut self) -> Result<(), String> {
        match self.0.next_line().await {
            Ok(Some(_)) => Ok(()),
            Ok(None) | Err(_) => Err("nobody listens any more".into()),
        }
    }
}

pub(crate) fn say(line: &str) {
    println!("{line}");
}

pub(crate) fn report(figures: &impl Serialize) -> Result<(), String> {
    say(&serde_json::to_string(figures).map_err(|error| error.to_string())?);
    Ok(())
}

/// Counts what arrives at a sink.
#[derive(Default)]
pub(crate) struct Tally {
    received: u64,
    /// Of the first arrival: when, and what the process had used by then.
    first: Option<(Instant, Duration)>,
    last: Option<Instant>,
}

impl Tally {
    /// So many more, just now.
    pub(crate) fn add(&mut self, count: u64) {
        if count == 0 {
            return;
        }
        let now = Instant::now();
        self.first.get_or_insert_with(|| (now, usage::cpu()));
        self.last = Some(now);
        self.received += count;
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.last.is_none_or(|last| last.elapsed() >= QUIET)
    }

    pub(crate) fn saw(&self) -> SinkSaw {
        let (Some((first, cpu)), Some(last)) = (self.first, self.last) else {
            return SinkSaw { memory_bytes: usage::memory_bytes(), ..SinkSaw::default() };
        };
        SinkSaw {
            received: self.received,
            seconds: last.duration_since(first).as_secs_f64(),
            cpu_seconds: usage::cpu().saturating_sub(cpu).as_secs_f64(),
            memory_bytes: usage::memory_bytes(),
        }
    }
}

/// Times what a source does.
pub(crate) struct Stopwatch {
    pub(crate) began: Instant,
    cpu: Duration,
    pub(crate) latency: Histogram<u64>,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX.as_nanos() as u64, 3);
        Self { began: Instant::now(), cpu: usage::cpu(), latency: latency.expect("the bounds are constant") }
    }

    pub(crate) fn took(&mut self, since: Instant) {
        self.latency.saturating_record(since.elapsed().as_nanos() as u64);
    }

    pub(crate) fn did(&self, sent: u64) -> SourceDid {
        let at = |quantile| self.latency.value_at_quantile(quantile);
        SourceDid {
            sent,
            seconds: self.began.elapsed().as_secs_f64(),
            cpu_seconds: usage::cpu().saturating_sub(self.cpu).as_secs_f64(),
            memory_bytes: usage::memory_bytes(),
            latency: Latency { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999) },
        }
    }
}

pub(crate) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
