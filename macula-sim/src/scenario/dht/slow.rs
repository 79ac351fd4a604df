//! Slow: one directory in ten takes two seconds to answer and one in ten is dead and nobody knows it; compared with plain
//! Kademlia, which hears all the closest out, three at a time, and waits for each.

use std::time::Duration;

use macula_dht::KademliaConfig;

use super::{Finds, announce, find, gathered, options, questions};
use crate::scenario::mesh::draw;
use crate::scenario::outcome::{row, seconds, spread};
use crate::scenario::{Outcome, Setting};
use crate::{DirectoryFaults, Options, Simulation};

/// How slow the slow ones are.
const SLOWNESS: Duration = Duration::from_secs(2);

/// Records found, at least.
const FOUND: f64 = 0.995;

pub(in crate::scenario) fn run(setting: Setting) -> Outcome {
    let (mut simulation, finds) = in_a_slow_mesh(setting, KademliaConfig::default());
    let (_, plain) = in_a_slow_mesh(setting, plain());
    finds.demand(&mut simulation, FOUND);
    if finds.p99() * 2 > plain.p99() {
        let what = format!("p99 {}, plain Kademlia {}", seconds(finds.p99()), seconds(plain.p99()));
        simulation.violate("tail", what);
    }
    let mut rows = finds.rows();
    rows.push(row("plain: requests to find a record", format!("{:.1}", plain.requests_each())));
    rows.push(row("plain: time to find a record", spread(plain.took.clone())));
    Outcome::of("dht-slow", setting, simulation, rows)
}

/// No early exit, a fixed number under way, and no other peer in place of a slow one.
fn plain() -> KademliaConfig {
    let config = KademliaConfig::default();
    KademliaConfig { agree: usize::MAX, alpha_max: config.alpha, hedge_max: config.request_timeout, ..config }
}

fn in_a_slow_mesh(setting: Setting, kademlia: KademliaConfig) -> (Simulation, Finds) {
    let mut simulation = gathered(setting, Options { kademlia, ..options(setting) });
    let (records, _) = announce(&mut simulation, |_| true);
    let announcers: Vec<_> = records.iter().map(|record| record.by).collect();
    let mut hit = draw(&mut simulation, usize::MAX);
    hit.retain(|node| !announcers.contains(node));
    let tenth = setting.nodes as usize / 10;
    hit.iter().take(tenth).for_each(|node| simulation.crash(*node));
    let slow = hit.into_iter().skip(tenth).take(tenth).collect();
    simulation.set_directory_faults(DirectoryFaults {
        slow,
        slowness: SLOWNESS,
        ..DirectoryFaults::default()
    });
    let questions = questions(&mut simulation, &records, |_| true);
    let finds = find(&mut simulation, questions, 1, |_| {});
    (simulation, finds)
}
