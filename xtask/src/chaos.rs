//! `cargo xtask chaos`: real nodes in real processes join, leave, are killed, paused and restarted, while an application
//! at each of them publishes and calls. After each burst of faults the survivors must agree, within a bound, on who is
//! alive, and a publication of any of them must reach all of them.
//!
//! ```text
//!   burst of 1–3 steps ──► agreement ──► a probe reaches all ──► calm ──┐
//!        ▲                 (≤ BOUND)        (≤ BOUND)                   │
//!        └──────────────────────────────────────────────────────────────┘
//!   at the end everybody comes back: agreement, probes, calls, memory, file descriptors
//! ```
//!
//! Time is compressed ten times: the nodes' periods are a tenth of their defaults (see [`COMPRESSED`]), so six minutes
//! are as many protocol periods as an hour. What cannot be configured is not compressed: the intervals of anti-entropy,
//! of contacting the dead again and of dialling again.

mod admin;
mod process;
mod random;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::command::{cargo, watch};
use process::{NodeProcess, Phase};
use random::Random;
use traffic::Traffic;

/// A tenth of the defaults.
const COMPRESSED: &[(&str, &str)] = &[
    ("MACULA_MEMBERSHIP_PROTOCOL_PERIOD", "100ms"),
    ("MACULA_MEMBERSHIP_SUSPECT_TIMEOUT", "400ms"),
    ("MACULA_QUIC_IDLE_TIMEOUT", "6s"),
    ("MACULA_QUIC_KEEP_ALIVE", "3s"),
    ("MACULA_ROUTING_REFRESH_INTERVAL", "90s"),
    ("MACULA_PUBSUB_ANNOUNCE_INTERVAL", "2m"),
    ("MACULA_PUBSUB_CACHE_TTL", "30s"),
    // Calls go to other nodes, too.
    ("MACULA_RPC_ROUTING_STRATEGY", "round-robin"),
];

/// Within this time of the last fault all must agree: 200 compressed periods.
const BOUND: Duration = Duration::from_secs(20);

/// Nothing happens for so long after each agreement but traffic: what changed is on disk afterwards.
const CALM: Duration = Duration::from_millis(1_500);

/// How long a pause lasts that is no fault: shorter than any suspicion.
const BLIP: Duration = Duration::from_millis(250);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// For how long, in minutes; six stand for an hour
    #[arg(long, default_value_t = 6.0)]
    minutes: f64,
    /// How many nodes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(3..=32))]
    nodes: u8,
    /// What the steps are drawn from; drawn itself if not given
    #[arg(long)]
    seed: Option<u64>,
    /// A `macula_ctl` that is built already; without it, a release build is made
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// Something that is done to one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// A node with a new identity joins through a seed.
    Join,
    /// A node comes back with its identity, through the peers that it remembers.
    Restart,
    /// SIGKILL.
    Kill,
    /// SIGTERM: it says goodbye.
    Stop,
    /// It says goodbye, and runs on alone.
    Leave,
    /// Back after `Leave`.
    Rejoin,
    /// SIGSTOP, until a `Resume`.
    Pause,
    /// SIGCONT.
    Resume,
    /// SIGSTOP and SIGCONT, so shortly after that nobody may be declared dead for good.
    Blip,
}

struct Chaos {
    random: Random,
    nodes: Vec<NodeProcess>,
    traffic: Traffic,
    steps: BTreeMap<Step, u32>,
    bursts: u32,
    probes: u64,
    /// Longest time to agreement, to a probe everywhere, and the steps before.
    slowest: [(Duration, String); 2],
}

/// Runs until the time is over, or the nodes disagree.
pub(crate) fn run(root: &Path, options: Options) -> Result<(), String> {
    let seed = options.seed.unwrap_or_else(draw);
    let binary = match options.binary {
        Some(binary) => binary,
        None => build(root)?,
    };
    let home = std::env::temp_dir().join(format!("macula-chaos-{}", std::process::id()));
    std::fs::create_dir_all(&home).map_err(|error| format!("{}: {error}", home.display()))?;
    let (minutes, count) = (options.minutes, options.nodes);
    println!("chaos: {count} nodes, {minutes} min, seed {seed}; logs in {}", home.display());
    let names = (0..count).map(|n| NodeProcess::new(&binary, &home, format!("n{n}")));
    let mut chaos = Chaos {
        random: Random::new(seed),
        nodes: names.collect::<Result<_, _>>()?,
        traffic: Traffic::start(),
        steps: BTreeMap::new(),
        bursts: 0,
        probes: 0,
        slowest: Default::default(),
    };
    let outcome = chaos.live(Duration::from_secs_f64(minutes * 60.0));
    chaos.traffic.hush();
    chaos.report();
    match outcome {
        Ok(()) => {
            drop(chaos);
            // The logs of a good run are of no use; if they stay, they do no harm.
            let _ = std::fs::remove_dir_all(&home);
            println!("chaos: all agreed every time; seed {seed}");
            Ok(())
        }
        Err(problem) => Err(format!(
            "{problem}\n  logs: {}\n  replay: cargo xtask chaos --minutes {minutes} --nodes {count} --seed {seed}",
            home.display()
        )),
    }
}

fn build(root: &Path) -> Result<PathBuf, String> {
    watch(cargo(root, &["build", "--release", "--locked", "--package", "macula-ctl"]), |_| ())?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join("release/macula_ctl"))
}

/// Any number will do.
fn draw() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |since| u64::from(since.subsec_nanos()) ^ since.as_secs())
}

impl Chaos {
    fn live(&mut self, time: Duration) -> Result<(), String> {
        for at in 0..self.nodes.len() {
            self.start(at, at > 0)?;
        }
        let begun = Instant::now();
        self.settle("the start")?;
        while begun.elapsed() < time {
            let burst: Vec<_> =
                (0..1 + self.random.below(3)).filter_map(|_| self.draw_step()).collect::<Result<_, _>>()?;
            self.bursts += 1;
            self.settle(&burst.join(", "))?;
        }
        self.bring_back()?;
        self.settle("everybody came back")?;
        self.everybody_works()
    }

    /// Draws a step that is possible now, and takes it. `None` if there is none.
    fn draw_step(&mut self) -> Option<Result<String, String>> {
        use Step::{Blip, Join, Kill, Leave, Pause, Rejoin, Restart, Resume, Stop};
        let kinds = [Join, Restart, Kill, Stop, Leave, Rejoin, Pause, Resume, Blip];
        let possible: Vec<_> = kinds.into_iter().filter(|step| !self.candidates(*step).is_empty()).collect();
        let step = *self.random.pick(&possible)?;
        let at = *self.random.pick(&self.candidates(step))?;
        let name = format!("{step:?} {}", self.nodes[at].name);
        Some(self.take(step, at).map(|()| name.clone()).map_err(|error| format!("{name}: {error}")))
    }

    /// The nodes to which it can be done. Two always stay.
    fn candidates(&self, step: Step) -> Vec<usize> {
        let in_phase = |phase| {
            let nodes = self.nodes.iter().enumerate().filter(move |(_, node)| node.phase == phase);
            nodes.map(|(at, _)| at).collect::<Vec<_>>()
        };
        let up = in_phase(Phase::Up);
        match step {
            Step::Join | Step::Restart => in_phase(Phase::Down),
            Step::Rejoin => in_phase(Phase::Left),
            Step::Resume => in_phase(Phase::Paused),
            Step::Blip => up,
            Step::Kill | Step::Stop | Step::Leave | Step::Pause if up.len() > 2 => up,
            Step::Kill | Step::Stop | Step::Leave | Step::Pause => vec![],
        }
    }

    fn take(&mut self, step: Step, at: usize) -> Result<(), String> {
        match step {
            Step::Join => {
                self.nodes[at].wipe();
                self.nodes[at].knew.clear();
                self.start(at, true)?;
            }
            // Who remembers nobody that is still there needs a seed.
            Step::Restart => {
                let up = self.up_ids();
                let remembers = self.nodes[at].knew.intersection(&up).next().is_some();
                self.start(at, !remembers)?;
            }
            Step::Kill => self.nodes[at].signal("KILL")?,
            Step::Stop => self.nodes[at].signal("TERM")?,
            Step::Leave => {
                self.nodes[at].admin().ask("POST", "/v1/leave", "null", process::ASK_PATIENCE)?;
                self.nodes[at].phase = Phase::Left;
            }
            Step::Rejoin => {
                let seed = self.seed(at).ok_or("nobody is up")?;
                let body = format!(r#"{{"addr":"{seed}"}}"#);
                self.nodes[at].admin().ask("POST", "/v1/join", &body, BOUND)?;
                self.nodes[at].phase = Phase::Up;
            }
            Step::Pause => {
                self.nodes[at].phase = Phase::Paused;
                self.introduce();
                self.nodes[at].signal("STOP")?;
            }
            Step::Resume => self.nodes[at].signal("CONT")?,
            Step::Blip => {
                self.nodes[at].signal("STOP")?;
                std::thread::sleep(BLIP);
                self.nodes[at].signal("CONT")?;
            }
        }
        *self.steps.entry(step).or_default() += 1;
        self.introduce();
        Ok(())
    }

    fn start(&mut self, at: usize, with_seed: bool) -> Result<(), String> {
        let seed = if with_seed { self.seed(at) } else { None };
        self.nodes[at].start(seed.as_deref())?;
        self.nodes[at].heard = self.traffic.attach(&self.nodes[at].admin())?;
        self.introduce();
        Ok(())
    }

    /// Somebody else who is a member.
    fn seed(&mut self, at: usize) -> Option<String> {
        let others = self.nodes.iter().enumerate().filter(|(n, node)| *n != at && node.phase == Phase::Up);
        let addrs: Vec<String> = others.map(|(_, node)| node.addr()).collect();
        self.random.pick(&addrs).cloned()
    }

    /// Tells the application who can be talked to.
    fn introduce(&self) {
        self.traffic.among(self.up().map(NodeProcess::admin).collect());
    }

    fn up(&self) -> impl Iterator<Item = &NodeProcess> {
        self.nodes.iter().filter(|node| node.phase == Phase::Up)
    }

    fn up_ids(&self) -> BTreeSet<String> {
        self.up().map(|node| node.id.clone()).collect()
    }

    /// Waits for agreement and for a probe to reach everybody, then for a calm.
    fn settle(&mut self, after: &str) -> Result<(), String> {
        let begun = Instant::now();
        let expected = self.up_ids();
        wait(begun, || self.disagreement(&expected)).map_err(|why| format!("after {after}: {why}"))?;
        self.note(0, begun, after);
        let begun = Instant::now();
        self.probes += 1;
        let publishers: Vec<usize> =
            (0..self.nodes.len()).filter(|n| self.nodes[*n].phase == Phase::Up).collect();
        let publisher = *self.random.pick(&publishers).ok_or("nobody is up")?;
        wait(begun, || self.unheard(publisher)).map_err(|why| format!("after {after}: {why}"))?;
        self.note(1, begun, after);
        for node in self.nodes.iter_mut().filter(|node| node.phase == Phase::Up) {
            node.knew.clone_from(&expected);
        }
        std::thread::sleep(CALM);
        Ok(())
    }

    /// Who sees something else than the members that there are.
    fn disagreement(&self, expected: &BTreeSet<String>) -> Option<String> {
        let name = |id: &String| {
            self.nodes.iter().find(|node| node.id == *id).map_or("?", |node| &node.name).to_owned()
        };
        let names = |ids: &BTreeSet<String>| ids.iter().map(name).collect::<BTreeSet<_>>();
        self.up().find_map(|node| match node.members() {
            Ok(seen) if seen == *expected => None,
            Ok(seen) => Some(format!("{} sees {:?}, not {:?}", node.name, names(&seen), names(expected))),
            Err(error) => Some(format!("{} does not say: {error}", node.name)),
        })
    }

    /// Publishes the current probe; who has not heard of it?
    fn unheard(&self, publisher: usize) -> Option<String> {
        let from = &self.nodes[publisher];
        if let Err(error) = traffic::probe(&from.admin(), self.probes) {
            return Some(format!("{} cannot publish: {error}", from.name));
        }
        let missing: Vec<_> =
            self.up().filter(|node| node.heard.load(Ordering::Relaxed) < self.probes).collect();
        let names: Vec<_> = missing.iter().map(|node| node.name.as_str()).collect();
        (!names.is_empty())
            .then(|| format!("what {} publishes does not reach {}", from.name, names.join(", ")))
    }

    fn note(&mut self, which: usize, begun: Instant, after: &str) {
        let took = begun.elapsed();
        if took > self.slowest[which].0 {
            self.slowest[which] = (took, after.to_owned());
        }
    }

    fn bring_back(&mut self) -> Result<(), String> {
        for at in 0..self.nodes.len() {
            match self.nodes[at].phase {
                Phase::Up => {}
                Phase::Down => self.start(at, true)?,
                Phase::Paused => self.take(Step::Resume, at)?,
                Phase::Left => self.take(Step::Rejoin, at)?,
            }
        }
        Ok(())
    }

    /// In the end each node publishes to all, and calls.
    fn everybody_works(&mut self) -> Result<(), String> {
        for at in 0..self.nodes.len() {
            self.probes += 1;
            let begun = Instant::now();
            wait(begun, || self.unheard(at)).map_err(|why| format!("at the end: {why}"))?;
            let admin = self.nodes[at].admin();
            wait(begun, || traffic::call(&admin).err().map(|error| format!("a call fails: {error}")))?;
        }
        Ok(())
    }

    fn report(&self) {
        let steps: Vec<_> = self.steps.iter().map(|(step, count)| format!("{step:?} {count}")).collect();
        let total: u32 = self.steps.values().sum();
        println!("steps that took effect: {total} in {} bursts ({})", self.bursts, steps.join(", "));
        let [(agreement, a), (probe, p)] = &self.slowest;
        println!("longest time to agreement: {:.2} s, after {a}", agreement.as_secs_f64());
        println!(
            "longest time until a publication reached everybody: {:.2} s, after {p}",
            probe.as_secs_f64()
        );
        let counts = &self.traffic.counts;
        let of = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        println!(
            "traffic: {} published, {} remote copies sent, {} delivered; {} called, {} answered",
            of(&counts.published),
            of(&counts.sent),
            of(&counts.delivered),
            of(&counts.called),
            of(&counts.answered),
        );
        let failures = counts.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (what, (count, last)) in failures.iter() {
            println!("  failed: {count} x {what}; the last one: {last}");
        }
        let [publish, call] = *counts.slowest.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        println!("  slowest that succeeded: publish {publish:.2?}, call {call:.2?}");
        for node in &self.nodes {
            if let Some((rss_kib, fds)) = node.footprint() {
                let (name, phase, mib) = (&node.name, node.phase, rss_kib as f64 / 1024.0);
                println!("{name}: {phase:?}, {mib:.1} MiB resident, {fds} open fds");
            }
        }
    }
}

/// Looks until nothing is wrong any more; an error with what is still wrong at the bound.
fn wait(begun: Instant, wrong: impl Fn() -> Option<String>) -> Result<(), String> {
    while let Some(what) = wrong() {
        if begun.elapsed() > BOUND {
            return Err(format!("{:.1} s later {what}", begun.elapsed().as_secs_f64()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
