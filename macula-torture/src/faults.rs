//! What goes wrong, decided by the seed.

use std::thread::sleep;
use std::time::Duration;

use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::disk::Condition;
use crate::node::orders::{Order, Report};
use crate::process::NodeProcess;

/// Something that goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub(crate) enum Fault {
    /// kill -9 of one node, or of all at once; what was not synced is lost
    Kill,
    /// SIGSTOP for longer than a lease
    Stop,
    /// A node is cut off
    Partition,
    /// A node hears and is not heard, or the other way round
    OneWay,
    /// What a node is sent comes late; then it is cut off
    Late,
    /// The clock of a node jumps, forwards or back
    Clock,
    /// A disk that is full, whose syncs fail, or are slow
    Disk,
}

impl Fault {
    pub(crate) const ALL: [Self; 7] =
        [Self::Kill, Self::Stop, Self::Partition, Self::OneWay, Self::Late, Self::Clock, Self::Disk];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Partition => "partition",
            Self::OneWay => "one-way",
            Self::Late => "late",
            Self::Clock => "clock",
            Self::Disk => "disk",
        }
    }
}

/// Does the mischief.
pub(crate) struct Mischief {
    rng: StdRng,
    faults: Vec<Fault>,
    /// Those of this round that have not been yet.
    left: Vec<Fault>,
    pub(crate) took_effect: Vec<Fault>,
    /// A line for each, as they are done.
    pub(crate) says: bool,
}

impl Mischief {
    pub(crate) fn new(seed: u64, faults: Vec<Fault>, says: bool) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self { rng, faults, left: Vec::new(), took_effect: Vec::new(), says }
    }

    /// Some fault has not taken effect yet.
    pub(crate) fn is_missing(&self) -> bool {
        self.faults.iter().any(|fault| !self.took_effect.contains(fault))
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(from..=to))
    }

    /// Waits a while, does something, and mends it.
    pub(crate) fn next(&mut self, nodes: &mut [NodeProcess]) -> Result<(), String> {
        let calm = self.millis(300, 1_500);
        sleep(calm);
        if self.left.is_empty() {
            self.left.clone_from(&self.faults);
            if self.is_missing() {
                self.left.retain(|fault| !self.took_effect.contains(fault));
            }
        }
        let at = self.rng.random_range(0..self.left.len());
        let fault = self.left.swap_remove(at);
        let victim = self.victim(nodes)?;
        if self.says {
            eprintln!("{} at node {}", fault.name(), nodes[victim].number);
        }
        let took_effect = match fault {
            Fault::Kill => self.kill(nodes, victim)?,
            Fault::Stop => self.stop(nodes, victim),
            Fault::Partition => self.cut(nodes, victim, true, true)?,
            Fault::OneWay => {
                let heard = self.rng.random_bool(0.5);
                self.cut(nodes, victim, heard, !heard)?
            }
            Fault::Late => self.late(nodes, victim)?,
            Fault::Clock => self.clock(nodes, victim)?,
            Fault::Disk => self.disk(nodes, victim)?,
        };
        if took_effect {
            self.took_effect.push(fault);
        }
        Ok(())
    }

    /// Any node, and every other time the one that leads the group.
    fn victim(&mut self, nodes: &mut [NodeProcess]) -> Result<usize, String> {
        let any = self.rng.random_range(0..nodes.len());
        if self.rng.random_bool(0.5) {
            return Ok(any);
        }
        for (at, node) in nodes.iter_mut().enumerate() {
            if node.order(&Order::Report)?.leads {
                return Ok(at);
            }
        }
        Ok(any)
    }

    fn kill(&mut self, nodes: &mut [NodeProcess], victim: usize) -> Result<bool, String> {
        let all = self.rng.random_bool(0.3);
        let victims: Vec<usize> = if all { (0..nodes.len()).collect() } else { vec![victim] };
        let killed = victims.iter().map(|at| nodes[*at].kill()).filter(|killed| *killed).count();
        let gone = self.millis(0, 1_500);
        sleep(gone);
        for at in &victims {
            nodes[*at].start()?;
        }
        Ok(killed == victims.len())
    }

    fn stop(&mut self, nodes: &mut [NodeProcess], victim: usize) -> bool {
        let paused = nodes[victim].pause();
        let lasts = self.millis(1_100, 3_000);
        sleep(lasts);
        let is_paused = nodes[victim].is_paused();
        nodes[victim].go_on();
        paused && is_paused
    }

    /// `deaf`: nobody is heard at the victim; `mute`: the victim is not heard.
    fn cut(
        &mut self,
        nodes: &mut [NodeProcess],
        victim: usize,
        deaf: bool,
        mute: bool,
    ) -> Result<bool, String> {
        let before = reports(nodes)?;
        self.begin_cut(nodes, victim, deaf, mute)?;
        let lasts = self.millis(500, 3_500);
        sleep(lasts);
        let after = heal(nodes)?;
        let lost = |reports: &[Report], of: bool| -> u64 {
            let counted = reports.iter().enumerate().filter(|(at, _)| (*at == victim) == of);
            counted.map(|(_, report)| report.lost).sum()
        };
        let was_lost = |of| lost(&after, of) > lost(&before, of);
        Ok((!mute || was_lost(true)) && (!deaf || was_lost(false)))
    }

    fn begin_cut(
        &self,
        nodes: &mut [NodeProcess],
        victim: usize,
        deaf: bool,
        mute: bool,
    ) -> Result<(), String> {
        let (its, others) = addrs(nodes, victim);
        for (at, node) in nodes.iter_mut().enumerate() {
            if at == victim && mute {
                node.order(&Order::Cut(others.clone()))?;
            }
            if at != victim && deaf {
                node.order(&Order::Cut(vec![its]))?;
            }
        }
        Ok(())
    }

    /// Answers to the victim are late for a while; then it is cut off while some are on their way.
    fn late(&mut self, nodes: &mut [NodeProcess], victim: usize) -> Result<bool, String> {
        let (its, others) = addrs(nodes, victim);
        let by = self.rng.random_range(250..500);
        let before: u64 = reports(nodes)?.iter().map(|report| report.late).sum();
        for node in nodes.iter_mut().filter(|node| node.addr != its) {
            node.order(&Order::Slow(vec![its], by))?;
        }
        let lasts = self.millis(800, 1_600);
        sleep(lasts);
        // What it sends is lost; what is on its way to it still comes.
        nodes[victim].order(&Order::Cut(others))?;
        let lasts = self.millis(1_000, 2_500);
        sleep(lasts);
        let after: u64 = heal(nodes)?.iter().map(|report| report.late).sum();
        Ok(after > before)
    }

    fn clock(&mut self, nodes: &mut [NodeProcess], victim: usize) -> Result<bool, String> {
        let millis = match self.rng.random_bool(0.5) {
            true => self.rng.random_range(300..5_000),
            false => -self.rng.random_range(300..3_000),
        };
        nodes[victim].order(&Order::Jump(millis)).map(|report| report.done)
    }

    fn disk(&mut self, nodes: &mut [NodeProcess], victim: usize) -> Result<bool, String> {
        let slow = Condition::Slow(self.rng.random_range(50..400));
        let condition = *[Condition::Full, Condition::Failing, slow].choose(&mut self.rng).unwrap_or(&slow);
        let before = nodes[victim].order(&Order::Disk(condition))?.disk;
        let lasts = self.millis(500, 2_500);
        sleep(lasts);
        let after = nodes[victim].order(&Order::Disk(Condition::Fine))?.disk;
        let took_effect =
            after.refused > before.refused || after.failed > before.failed || after.slow > before.slow;
        if !matches!(condition, Condition::Slow(_)) {
            // A store that failed takes nothing more: somebody makes room, and starts the node again.
            nodes[victim].kill();
            nodes[victim].start()?;
        }
        Ok(took_effect)
    }
}

/// The victim's address, and those of the others.
fn addrs(nodes: &[NodeProcess], victim: usize) -> (std::net::SocketAddr, Vec<std::net::SocketAddr>) {
    let its = nodes[victim].addr;
    (its, nodes.iter().map(|node| node.addr).filter(|addr| *addr != its).collect())
}

fn reports(nodes: &mut [NodeProcess]) -> Result<Vec<Report>, String> {
    nodes.iter_mut().map(|node| node.order(&Order::Report)).collect()
}

fn heal(nodes: &mut [NodeProcess]) -> Result<Vec<Report>, String> {
    nodes.iter_mut().map(|node| node.order(&Order::Heal)).collect()
}
