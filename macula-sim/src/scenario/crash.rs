//! Crash: some die at the same moment; every other node confirms every one of them. One node in twenty over a healthy
//! network, the same with loss, and one in a hundred.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use macula_proto::Timestamp;

use super::mesh::{draw, gathered};
use super::outcome::{percentiles, row, traffic};
use super::{Outcome, Setting};
use crate::{BeliefKind, Faults, NodeIndex, Options, Simulation};

/// How long the living have to find out.
const SPAN: Duration = Duration::from_secs(90);

/// Protocol periods until half of the dead are suspected by somebody, at most.
const DETECTION_PERIODS: u32 = 2;

/// With fewer deaths than this, the median is chance; they break the rule if chance alone would make so many of them late
/// less often than [once in a thousand runs](CHANCE).
const DEATHS_MIN: usize = 30;

const CHANCE: f64 = 0.001;

pub(super) fn run(setting: Setting) -> Outcome {
    deaths("crash", setting, Faults::default(), 20)
}

pub(super) fn with_loss(setting: Setting) -> Outcome {
    deaths("crash-loss", setting, Faults { loss: 0.05, ..Faults::default() }, 20)
}

/// A hundred of ten thousand.
pub(super) fn hundredth(setting: Setting) -> Outcome {
    deaths("kill-100", setting, Faults { loss: 0.05, ..Faults::default() }, 100)
}

/// One in so many dies.
fn deaths(name: &'static str, setting: Setting, faults: Faults, one_in: usize) -> Outcome {
    let (mut simulation, _) = gathered(setting, Options { faults, ..Options::default() });
    simulation.run_for(Duration::from_secs(10));
    simulation.record_beliefs();
    let count = (setting.nodes as usize / one_in).max(1);
    let dead: BTreeSet<_> = draw(&mut simulation, count).into_iter().collect();
    let (start, before) = (simulation.now(), simulation.figures());
    dead.iter().for_each(|node| simulation.crash(*node));
    let span = setting.span.unwrap_or(SPAN);
    simulation.run_for(span);
    let mut rows = vec![row("killed", dead.len().to_string())];
    rows.extend(detection(&mut simulation, &dead, start));
    rows.extend(traffic(simulation.figures() - before, &simulation, span));
    Outcome::of(name, setting, simulation, rows)
}

/// How many of so many deaths may be found late, if every second one may be.
fn late_max(deaths: usize) -> usize {
    if deaths >= DEATHS_MIN {
        return deaths.div_ceil(2) - 1;
    }
    // From the rear: how likely it is that so many or more of them are late.
    let (mut likely, mut ways) = (0.0, 1.0);
    for late in (1..=deaths).rev() {
        likely += ways / 2f64.powi(deaths as i32);
        if likely >= CHANCE {
            return late;
        }
        ways *= late as f64 / (deaths - late + 1) as f64;
    }
    deaths
}

/// When the dead were found out: by the first, and by everybody.
fn detection(simulation: &mut Simulation, dead: &BTreeSet<NodeIndex>, start: Timestamp) -> Vec<super::Row> {
    let mut suspected: BTreeMap<NodeIndex, Duration> = BTreeMap::new();
    let mut confirmed: BTreeMap<(NodeIndex, NodeIndex), Duration> = BTreeMap::new();
    let mut suspicions_of_living = 0usize;
    for belief in simulation.beliefs() {
        let after = belief.at - start;
        match belief.kind {
            BeliefKind::Suspected if !dead.contains(&belief.subject) => suspicions_of_living += 1,
            BeliefKind::Suspected => drop(suspected.entry(belief.subject).or_insert(after)),
            BeliefKind::Confirmed if dead.contains(&belief.subject) => {
                confirmed.insert((belief.subject, belief.observer), after);
            }
            BeliefKind::Confirmed
            | BeliefKind::Joined
            | BeliefKind::Refuted
            | BeliefKind::Left
            | BeliefKind::Updated => {}
        }
    }
    let (wanted, known) = (dead.len() * simulation.living().len(), confirmed.len());
    if known < wanted {
        simulation.violate("detection", format!("{known} of {wanted} deaths were confirmed"));
    }
    let mut spread: BTreeMap<NodeIndex, (Duration, Duration)> = BTreeMap::new();
    for ((subject, _), after) in &confirmed {
        let (first, last) = spread.entry(*subject).or_insert((*after, *after));
        (*first, *last) = ((*first).min(*after), (*last).max(*after));
    }
    let first = spread.values().map(|(first, _)| *first).collect();
    let dissemination = spread.values().map(|(first, last)| *last - *first).collect();
    let mut suspected: Vec<_> = suspected.into_values().collect();
    suspected.sort_unstable();
    let limit = simulation.options().swim.protocol_period * DETECTION_PERIODS;
    let late = suspected.iter().filter(|after| **after > limit).count();
    if late > late_max(suspected.len()) {
        let what = format!("{late} of {} dead are suspected after more than {limit:?}", suspected.len());
        simulation.violate("detection", what);
    }
    vec![
        row("first suspicion of each death", percentiles(suspected)),
        row("first confirmation of each", percentiles(first)),
        row("from first to last confirmation", percentiles(dissemination)),
        row("confirmation, by everybody", percentiles(confirmed.into_values().collect())),
        row("suspicions of the living", suspicions_of_living.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rear of the binomial distribution: 1/1024 for ten late of ten, 11/1024 for nine.
    #[test]
    fn few_deaths_may_be_late_by_chance_and_many_may_not() {
        assert_eq!([1, 5, 9].map(late_max), [1, 5, 9], "even all of them are late once in 512 runs");
        assert_eq!([10, 20].map(late_max), [9, 17]);
        assert_eq!([30, 50, 100].map(late_max), [14, 24, 49]);
    }
}
