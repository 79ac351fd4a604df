//! Churn: each minute one in twenty directories dies and as many new ones join, while others find.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt as _;

use super::{announce, contacts, find, gathered, newcomer, options, questions};
use crate::scenario::outcome::row;
use crate::scenario::{Outcome, Setting};
use crate::{NodeIndex, Simulation};

/// Records found, at least.
const FOUND: f64 = 0.98;

/// How long it goes on.
const SPAN: Duration = Duration::from_mins(10);

/// Between one round of look-ups and the next.
const ROUND: Duration = Duration::from_mins(1);

/// How exactly deaths happen when they should.
const STEP: Duration = Duration::from_millis(100);

/// Deaths a minute, in parts of the mesh.
const DEATHS_A_MINUTE: f64 = 0.05;

pub(in crate::scenario) fn run(setting: Setting) -> Outcome {
    let mut simulation = gathered(setting, options(setting));
    let (records, _) = announce(&mut simulation, |_| true);
    let spared = records.iter().map(|record| record.by).chain([NodeIndex(0)]).collect();
    let between = Duration::from_mins(1).div_f64(DEATHS_A_MINUTE * f64::from(setting.nodes));
    let mut churn = Churn { spared, between, next: simulation.now().since_start(), deaths: 0 };
    let (mut asked, mut found) = (0, 0);
    let (before, start) = (simulation.figures(), simulation.now());
    let end = start + setting.span.unwrap_or(SPAN);
    let mut rows = Vec::new();
    while simulation.now() < end {
        // Askers that are gone by the time are passed over; newcomers ask in the next round.
        let questions = questions(&mut simulation, &records, |_| true);
        let begun = simulation.now();
        let finds = find(&mut simulation, questions, 1, |simulation| churn.go_on(simulation));
        finds.demand(&mut simulation, FOUND);
        asked += finds.asked;
        found += finds.found;
        rows = finds.rows();
        // Not looked up all the time: what keeps the records there must not be the look-ups.
        let next = begun + ROUND;
        while simulation.now() < next {
            simulation.run_for(STEP);
            churn.go_on(&mut simulation);
        }
    }
    let all = asked.max(1) as f64;
    let minutes = (simulation.now() - start).as_secs_f64() / 60.0;
    let spent = simulation.figures() - before;
    let per_minute = spent.requests as f64 / minutes / f64::from(setting.nodes);
    rows.insert(0, row("found in all", format!("{:.2} % of {asked}", 100.0 * found as f64 / all)));
    rows.insert(0, row("died, and as many joined", churn.deaths.to_string()));
    rows.push(row("requests a node and minute, all in", format!("{:.1}", per_minute)));
    rows.push(contacts(&simulation));
    Outcome::of("dht-churn", setting, simulation, rows)
}

struct Churn {
    /// The seed, and those that announce.
    spared: BTreeSet<NodeIndex>,
    between: Duration,
    next: Duration,
    deaths: usize,
}

impl Churn {
    fn go_on(&mut self, simulation: &mut Simulation) {
        while simulation.now().since_start() >= self.next {
            self.next += self.between;
            let mut living = simulation.living();
            living.retain(|node| !self.spared.contains(node));
            if living.is_empty() {
                return;
            }
            let victim = living[simulation.rng().random_range(0..living.len())];
            simulation.crash(victim);
            newcomer(simulation);
            self.deaths += 1;
        }
    }
}
