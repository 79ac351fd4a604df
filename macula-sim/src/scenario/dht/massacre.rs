//! Massacre: three in ten directories die at once; once every bucket was refreshed, records are found as before.

use super::{announce, contacts, find, gathered, options, questions};
use crate::scenario::mesh::draw;
use crate::scenario::outcome::row;
use crate::scenario::{Outcome, Setting};

/// Records found, at least.
const FOUND: f64 = 0.99;

pub(in crate::scenario) fn run(setting: Setting) -> Outcome {
    let mut simulation = gathered(setting, options(setting));
    let (records, _) = announce(&mut simulation, |_| true);
    let announcers: Vec<_> = records.iter().map(|record| record.by).collect();
    let mut victims = draw(&mut simulation, usize::MAX);
    // A record whose announcer is dead is not to be found for long.
    victims.retain(|node| !announcers.contains(node));
    victims.truncate(setting.nodes as usize * 3 / 10);
    for victim in &victims {
        simulation.crash(*victim);
    }
    let at_once = questions(&mut simulation, &records, |_| true);
    let at_once = find(&mut simulation, at_once, 1, |_| {});
    let pause = simulation.options().kademlia.refresh_interval;
    simulation.run_for(setting.span.unwrap_or(pause));
    let mut rows = vec![
        row("died", victims.len().to_string()),
        row("found at once", format!("{:.2} %", 100.0 * at_once.share())),
        row("requests for that", format!("{:.1}", at_once.requests_each())),
        contacts(&simulation),
    ];
    let later = questions(&mut simulation, &records, |_| true);
    let later = find(&mut simulation, later, 1, |_| {});
    later.demand(&mut simulation, FOUND);
    rows.extend(later.rows());
    Outcome::of("dht-massacre", setting, simulation, rows)
}
