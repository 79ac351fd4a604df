//! Pause: some nodes have no time to read, again and again, while their timers run; they take no healthy one down. Beside it
//! the same without Lifeguard, which does: a starved node is alone with its suspicions, hears no refutation, and buries whom
//! it suspects as soon as the shortest suspicion is over.

use std::time::Duration;

use super::mesh::{draw, gathered, settle};
use super::outcome::{row, traffic};
use super::{Outcome, Setting};
use crate::{BeliefKind, Figures, NodeIndex, Options, Simulation};

/// How long a node is starved: longer than it takes to suspect somebody and the shortest suspicion in a mesh of ten
/// thousand, shorter than a suspicion in one of ten that nobody confirms.
const STARVED: Duration = Duration::from_secs(20);

/// Between two spells.
const REST: Duration = Duration::from_secs(20);

/// How often it happens.
const SPELLS: u32 = 5;

/// One in so many.
const ONE_IN: usize = 20;

/// How long the lists may take to be right again.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn run(setting: Setting) -> Outcome {
    let options = Options::default();
    let mut bare = options.clone();
    // Local health and dynamic suspicion off: SWIM as it was, with the same shortest suspicion.
    (bare.swim.health_max, bare.swim.suspect_timeout_max_factor) = (0, 1);
    let (_, without) = spells(setting, bare);
    let (mut simulation, with) = spells(setting, options);
    if with.confirmed > 0 {
        simulation.violate("healthy", format!("{} times a healthy node was held for dead", with.confirmed));
    }
    if without.confirmed == 0 {
        simulation
            .violate("contrast", "without Lifeguard no healthy node was held for dead either".to_owned());
    }
    settle(&mut simulation, PATIENCE);
    let mut rows = vec![
        row("starved, 20 s each", with.starved.to_string()),
        row("healthy suspected, confirmed", format!("{}, {}", with.suspected, with.confirmed)),
        row("the same without Lifeguard", format!("{}, {}", without.suspected, without.confirmed)),
    ];
    let part = simulation.figures() - with.before;
    rows.extend(traffic(part, &simulation, (STARVED + REST) * SPELLS));
    Outcome::of("pause", setting, simulation, rows)
}

/// What was believed of nodes that were never starved.
struct Toll {
    starved: usize,
    suspected: usize,
    confirmed: usize,
    before: Figures,
}

fn spells(setting: Setting, options: Options) -> (Simulation, Toll) {
    let (mut simulation, _) = gathered(setting, options);
    simulation.run_for(setting.span.unwrap_or(STARVED));
    simulation.record_beliefs();
    let before = simulation.figures();
    let mut starved: Vec<NodeIndex> = Vec::new();
    for _ in 0..SPELLS {
        let nodes = draw(&mut simulation, (setting.nodes as usize / ONE_IN).max(1));
        nodes.iter().for_each(|node| simulation.starve(*node));
        simulation.run_for(STARVED);
        nodes.iter().for_each(|node| simulation.resume(*node));
        simulation.run_for(REST);
        starved.extend(nodes);
    }
    let count = |kind| {
        let beliefs = simulation.beliefs().iter();
        beliefs.filter(|belief| belief.kind == kind && !starved.contains(&belief.subject)).count()
    };
    let (suspected, confirmed) = (count(BeliefKind::Suspected), count(BeliefKind::Confirmed));
    (simulation, Toll { starved: starved.len(), suspected, confirmed, before })
}
