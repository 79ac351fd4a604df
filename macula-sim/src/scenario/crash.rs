//! Crash: one node in twenty dies at the same moment; every other node confirms every one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use macula_proto::Timestamp;

use super::mesh::{draw, gathered};
use super::outcome::{row, spread, traffic};
use super::{Outcome, Setting};
use crate::{BeliefKind, NodeIndex, Options, Simulation};

/// How long the living have to find out.
const SPAN: Duration = Duration::from_secs(90);

pub(super) fn run(setting: Setting) -> Outcome {
    let (mut simulation, _) = gathered(setting, Options::default());
    simulation.run_for(Duration::from_secs(10));
    simulation.record_beliefs();
    let dead: BTreeSet<_> = draw(&mut simulation, (setting.nodes as usize / 20).max(1)).into_iter().collect();
    let (start, before) = (simulation.now(), simulation.figures());
    dead.iter().for_each(|node| simulation.crash(*node));
    let span = setting.span.unwrap_or(SPAN);
    simulation.run_for(span);
    let mut rows = vec![row("killed", dead.len().to_string())];
    rows.extend(detection(&mut simulation, &dead, start));
    rows.extend(traffic(simulation.figures() - before, &simulation, span));
    Outcome::of("crash", setting, simulation, rows)
}

/// When the dead were found out: by the first, and by everybody.
fn detection(simulation: &mut Simulation, dead: &BTreeSet<NodeIndex>, start: Timestamp) -> Vec<super::Row> {
    let mut suspected: BTreeMap<NodeIndex, Duration> = BTreeMap::new();
    let mut confirmed: BTreeMap<(NodeIndex, NodeIndex), Duration> = BTreeMap::new();
    for belief in simulation.beliefs().iter().filter(|belief| dead.contains(&belief.subject)) {
        let after = belief.at - start;
        match belief.kind {
            BeliefKind::Suspected => drop(suspected.entry(belief.subject).or_insert(after)),
            BeliefKind::Confirmed => drop(confirmed.insert((belief.subject, belief.observer), after)),
            BeliefKind::Joined | BeliefKind::Refuted | BeliefKind::Left | BeliefKind::Updated => {}
        }
    }
    let (wanted, known) = (dead.len() * simulation.living().len(), confirmed.len());
    if known < wanted {
        simulation.violate("detection", format!("{known} of {wanted} deaths were confirmed"));
    }
    let mut first: BTreeMap<NodeIndex, Duration> = BTreeMap::new();
    for ((subject, _), after) in &confirmed {
        first.entry(*subject).and_modify(|least| *least = (*least).min(*after)).or_insert(*after);
    }
    vec![
        row("first suspicion of each", spread(suspected.into_values().collect())),
        row("first confirmation of each", spread(first.into_values().collect())),
        row("confirmation, by everybody", spread(confirmed.into_values().collect())),
    ]
}
