//! The same in one process: whole coordination services on a simulated network, under paused time.
//!
//! ```text
//!   seed ──► mesh ── kill, pause, cut, rough lines, jumps, broken disks ──► services ◀── work
//!              └───────────────────────────── record ──► check
//! ```
//!
//! Minutes pass in less than a second each, so that thousands of seeds can be tried. Faults may come two at a time, and strike at
//! any moment between two messages; what a real process adds – its scheduler, its sockets, its disk – is for the other runs.

mod mesh;
mod work;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use macula_platform::Plant;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::{Instant, sleep};

use crate::check::{self, Checked};
use mesh::{Mesh, Mishap};

/// How long things go wrong, in the services' own time.
const TROUBLE: Duration = Duration::from_secs(20);

/// Without faults, before and after.
const CALM: Duration = Duration::from_secs(3);

/// How long until all nodes can read everything after all is mended.
const PATIENCE: Duration = Duration::from_secs(60);

/// What many seeds did together.
#[derive(Default)]
struct Total {
    seeds: u64,
    failed: Vec<u64>,
    operations: usize,
    unknown: usize,
    leases: usize,
    leader_changes: usize,
    visits: usize,
    refused: usize,
    mishaps: [u64; Mishap::ALL.len()],
}

/// Parses `A..B`.
pub(crate) fn seeds(text: &str) -> Result<Range<u64>, String> {
    let range = text.split_once("..").and_then(|(from, end)| Some(from.parse().ok()?..end.parse().ok()?));
    range.filter(|range: &Range<u64>| !range.is_empty()).ok_or_else(|| "two numbers, such as 1..2001".into())
}

/// Runs all seeds; an error if anything was wrong, or too little happened.
pub(crate) fn run(seeds: Range<u64>, jobs: usize, plant: Option<Plant>) -> Result<(), String> {
    let (next, total) = (AtomicU64::new(seeds.start), Mutex::new(Total::default()));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let done = run_seed(seed, plant);
                    total.lock().add(seed, done);
                }
            });
        }
    });
    let total = total.into_inner();
    println!("{total}");
    total.verdict()
}

fn run_seed(seed: u64, plant: Option<Plant>) -> (Checked, [u64; Mishap::ALL.len()]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    match runtime {
        Ok(runtime) => runtime.block_on(live(seed, plant)),
        Err(cause) => {
            let problems = vec![format!("no event loop: {cause}")];
            (Checked { problems, ..Checked::default() }, Default::default())
        }
    }
}

async fn live(seed: u64, plant: Option<Plant>) -> (Checked, [u64; Mishap::ALL.len()]) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut mishaps = [0; Mishap::ALL.len()];
    let mut problems = Vec::new();
    let mut mesh = Mesh::new(seed, rng.random_range(3..=5), plant);
    if !mesh.until(PATIENCE, Mesh::has_three_voters).await {
        problems.push("no three voters".to_owned());
    }
    sleep(CALM).await;
    let until = Instant::now() + TROUBLE;
    while Instant::now() < until {
        let mut begun = Vec::new();
        for _ in 0..if rng.random_bool(0.3) { 2 } else { 1 } {
            let mishap = Mishap::draw(&mut rng);
            let victim = rng.random_range(0..mesh.len());
            mesh.begin(mishap, victim, &mut rng).await;
            mishaps[mishap as usize] += 1;
            begun.push((mishap, victim));
            sleep(Duration::from_millis(rng.random_range(50..2_500))).await;
        }
        for (mishap, victim) in begun {
            mesh.end(mishap, victim).await;
        }
        sleep(Duration::from_millis(rng.random_range(0..1_500))).await;
    }
    mesh.mend();
    sleep(CALM).await;
    if !mesh.read_all(PATIENCE).await {
        problems.push("not all nodes could read the log after everything was mended".to_owned());
    }
    let (lines, visits) = mesh.stop().await;
    let mut checked = check::all(lines, &visits);
    checked.problems.extend(problems);
    (checked, mishaps)
}

impl Total {
    fn add(&mut self, seed: u64, (checked, mishaps): (Checked, [u64; Mishap::ALL.len()])) {
        self.seeds += 1;
        let kinds = [checked.log, checked.lock, checked.reign];
        self.operations += kinds.iter().map(|kind| kind.operations).sum::<usize>();
        self.unknown += kinds.iter().map(|kind| kind.unknown).sum::<usize>();
        self.leases += checked.leases;
        self.leader_changes += checked.leader_changes;
        self.visits += checked.visits;
        self.refused += checked.refused;
        self.mishaps.iter_mut().zip(mishaps).for_each(|(total, count)| *total += count);
        if let Some(first) = checked.problems.first() {
            println!("seed {seed}: {} problems; the first: {first}", checked.problems.len());
            self.failed.push(seed);
        }
    }

    fn verdict(&self) -> Result<(), String> {
        if !self.failed.is_empty() {
            return Err(format!("{} of {} seeds failed: {:?}", self.failed.len(), self.seeds, self.failed));
        }
        let nothing = [self.operations, self.leases, self.leader_changes, self.visits].contains(&0)
            || self.mishaps.contains(&0);
        if nothing {
            Err("these seeds prove nothing: something that should happen did not".into())
        } else {
            Ok(())
        }
    }
}

impl std::fmt::Display for Total {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seeds, failed, operations, unknown, leases, leader_changes, visits, refused, mishaps } =
            self;
        writeln!(f, "{seeds} seeds, {} failed", failed.len())?;
        writeln!(f, "  operations: {operations}, of {unknown} the outcome is not known; leases: {leases}")?;
        writeln!(f, "  visits of the resource: {visits}, refused for an old token: {refused}")?;
        writeln!(f, "  changes of the group's leader: {leader_changes}")?;
        let counts =
            Mishap::ALL.iter().zip(mishaps).map(|(mishap, count)| format!("{} {count}", mishap.name()));
        write!(f, "  faults: {}", counts.collect::<Vec<_>>().join(", "))
    }
}
