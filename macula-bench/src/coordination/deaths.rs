//! How long deaths and orderly ends are felt.

use std::fmt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::group::{Group, Process, free_addrs};
use super::member::{Gap, Order, now};

/// Between two deaths, so that everything is as it was.
const CALM: Duration = Duration::from_millis(700);

/// Times in order, shortest first.
struct Times(Vec<Duration>);

impl Times {
    fn at(&self, quantile: f64) -> Duration {
        let last = self.0.len().saturating_sub(1);
        self.0.get((last as f64 * quantile).ceil() as usize).copied().unwrap_or_default()
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |quantile| self.at(quantile).as_secs_f64() * 1_000.0;
        let [p50, p90, p99, longest] = [0.5, 0.9, 0.99, 1.0].map(millis);
        write!(f, "p50 {p50:.0} ms, p90 {p90:.0}, p99 {p99:.0}, max {longest:.0} (of {})", self.0.len())
    }
}

fn times(count: usize, mut one: impl FnMut() -> Result<u64, String>) -> Result<Times, String> {
    let mut times = Vec::new();
    for _ in 0..count {
        times.push(Duration::from_nanos(one()?));
    }
    times.sort();
    Ok(Times(times))
}

/// Measures all of it on one group, and prints it.
pub(crate) fn measure(group: &mut Group, kills: usize, ends: usize) -> Result<(), String> {
    let _: u64 = group.client.ask(&Order::Begin)?;
    let killed = times(kills, || {
        let leader = group.settle()?;
        sleep(CALM);
        let died = now();
        group.voters[leader].kill();
        let gap: Gap = group.client.ask(&Order::Gap(died))?;
        group.voters[leader].start()?;
        Ok(gap.until.saturating_sub(died))
    })?;
    println!("leader killed with -9 to the next committed write: {killed}");
    let stopped = times(ends, || {
        let leader = group.settle()?;
        sleep(CALM);
        let told = now();
        let _: u64 = group.voters[leader].ask(&Order::Stop)?;
        let gap: Gap = group.client.ask(&Order::Gap(told))?;
        group.voters[leader].kill();
        group.voters[leader].start()?;
        Ok(gap.until - gap.from)
    })?;
    println!("leader stopped in order, longest time between two writes: {stopped}");
    holders(group, ends)
}

/// An election between two processes that do not vote.
fn holders(group: &mut Group, ends: usize) -> Result<(), String> {
    group.settle()?;
    let addrs = free_addrs(2)?;
    let mut candidates: Vec<Process> = (4..)
        .zip(addrs)
        .map(|(at, addr)| Process::new(&group.dir.join(format!("{at}")), addr, Some(group.founder), false))
        .collect();
    for candidate in &mut candidates {
        candidate.start()?;
        let _: u64 = candidate.ask(&Order::Campaign)?;
    }
    let mut holder = 0;
    let died = times(ends, || {
        let other = 1 - holder;
        let _: u64 = candidates[holder].ask(&Order::Elected)?;
        sleep(CALM);
        let died = now();
        candidates[holder].kill();
        let told: u64 = candidates[other].ask(&Order::Elected)?;
        candidates[holder].start()?;
        let _: u64 = candidates[holder].ask(&Order::Campaign)?;
        holder = other;
        Ok(told.saturating_sub(died))
    })?;
    println!("holder of an election killed to the next one's callback (lease 1 s): {died}");
    let resigned = times(ends, || {
        let other = 1 - holder;
        let _: u64 = candidates[holder].ask(&Order::Elected)?;
        sleep(CALM);
        let resigned: u64 = candidates[holder].ask(&Order::Resign)?;
        let told: u64 = candidates[other].ask(&Order::Elected)?;
        let _: u64 = candidates[holder].ask(&Order::Campaign)?;
        holder = other;
        Ok(told.saturating_sub(resigned))
    })?;
    println!("holder resigns to the next one's callback: {resigned}");
    Ok(())
}

/// From the start of the first of three processes to a write through each of them.
pub(crate) fn fresh(dir: &Path) -> Result<String, String> {
    let addrs = free_addrs(3)?;
    let begun = Instant::now();
    let mut nodes: Vec<Process> = (0..3)
        .map(|at: usize| Process::new(&dir.join(at.to_string()), addrs[at], (at > 0).then(|| addrs[0]), true))
        .collect();
    nodes.iter_mut().try_for_each(Process::start)?;
    let up = begun.elapsed();
    for node in &mut nodes {
        node.tell(&Order::Write(1, 0.0001))?;
    }
    for node in &mut nodes {
        let _: super::Wrote = node.answer()?;
    }
    let millis = |time: Duration| time.as_secs_f64() * 1_000.0;
    let written = begun.elapsed();
    Ok(format!("{:.0} ms, of which the processes took {:.0} ms to start", millis(written), millis(up)))
}
