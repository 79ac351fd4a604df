//! Fan-out: one topic with many subscribers, each of them a node of one tree; packets get lost.

use std::time::Duration;

use macula_pubsub::tree::TreeConfig;
use rand::seq::IndexedRandom as _;

use super::outcome::{row, spread};
use super::{Outcome, Row, Setting};
use crate::NodeIndex;
use crate::forest::{Forest, ForestOptions, Measured};

/// The share of words and copies that are lost.
const LOSS: f64 = 0.05;

/// The subscribers find each other before the first message.
const GATHERING: Duration = Duration::from_secs(30);

/// Between one message and the next.
const PACE: Duration = Duration::from_millis(200);

/// After the last message: what is missing is asked for.
const ENDING: Duration = Duration::from_secs(10);

/// The first messages shape the tree. Their ways are not counted, everything else is.
const SHAPING: Duration = Duration::from_secs(20);

/// How long is published then, unless the setting says otherwise.
const SPAN: Duration = Duration::from_secs(60);

/// How often a copy is sent at most on its way from one steady publisher to 1,000 subscribers, but for one copy in a thousand:
/// what is asked for goes from one to the next.
const HOPS_MAX: u32 = 12;

/// Copies that had come before, for each one that is delivered, with one steady publisher.
const REDUNDANT_MAX: f64 = 0.2;

/// What a node is asked for comes on top of what it pushes to its links: a quarter of that at most.
const ASKED_FOR: f64 = 1.25;

/// Between one death and the next.
const DEATHS_EVERY: Duration = Duration::from_secs(2);

/// One publisher, whose messages shape the tree.
pub(super) fn steady(setting: Setting) -> Outcome {
    let mut forest = gathered(setting, true);
    during(&mut forest, setting, |forest| forest.publish(NodeIndex(0)));
    outcome("fanout", setting, forest, Some(HOPS_MAX))
}

/// The same, but nothing that is lost is sent again: all repair is the tree's.
pub(super) fn bare(setting: Setting) -> Outcome {
    let mut forest = gathered(setting, false);
    during(&mut forest, setting, |forest| forest.publish(NodeIndex(0)));
    outcome("fanout-bare", setting, forest, None)
}

/// Each message from another publisher.
pub(super) fn random(setting: Setting) -> Outcome {
    let mut forest = gathered(setting, true);
    during(&mut forest, setting, |forest| {
        let publisher = one_of(forest);
        forest.publish(publisher);
    });
    outcome("fanout-random", setting, forest, None)
}

/// One publisher; meanwhile one subscriber in ten dies, one after the other.
pub(super) fn dying(setting: Setting) -> Outcome {
    let mut forest = gathered(setting, true);
    let deaths = setting.nodes.div_ceil(10);
    let steps = setting.span.unwrap_or(SPAN).as_millis() / DEATHS_EVERY.as_millis();
    let at_once = deaths.div_ceil((steps as u32).max(1));
    let (mut left, mut next) = (deaths, forest.now());
    during(&mut forest, setting, |forest| {
        if left > 0 && forest.now() >= next {
            next = forest.now() + DEATHS_EVERY;
            for _ in 0..at_once.min(left) {
                let victim = one_of(forest);
                if victim != NodeIndex(0) {
                    forest.kill(victim);
                    left -= 1;
                }
            }
        }
        forest.publish(NodeIndex(0));
    });
    outcome("fanout-dying", setting, forest, None)
}

fn gathered(setting: Setting, repeats: bool) -> Forest {
    let options = ForestOptions {
        nodes: setting.nodes,
        seed: setting.seed,
        loss: LOSS,
        repeats,
        tree: TreeConfig::default(),
    };
    let mut forest = Forest::new(options);
    forest.run_for(GATHERING);
    forest
}

fn during(forest: &mut Forest, setting: Setting, mut publish: impl FnMut(&mut Forest)) {
    let shaped = forest.now() + SHAPING;
    while forest.now() < shaped {
        publish(forest);
        forest.run_for(PACE);
    }
    forest.forget_ways();
    let end = forest.now() + setting.span.unwrap_or(SPAN);
    while forest.now() < end {
        publish(forest);
        forest.run_for(PACE);
    }
    forest.run_for(ENDING);
}

fn one_of(forest: &mut Forest) -> NodeIndex {
    let living = forest.living();
    living.choose(forest.rng()).copied().unwrap_or(NodeIndex(0))
}

fn outcome(name: &'static str, setting: Setting, mut forest: Forest, hops_max: Option<u32>) -> Outcome {
    let living = forest.living();
    let lacking: Vec<(NodeIndex, u64)> =
        living.iter().map(|node| (*node, forest.lacks(*node))).filter(|(_, lacks)| *lacks > 0).collect();
    if let Some((node, lacks)) = lacking.first() {
        let what = format!("{} nodes lack messages; {node} lacks {lacks}", lacking.len());
        forest.violate("delivery", what);
    }
    let (now, events, trace) = (forest.now(), forest.events(), forest.trace_hash());
    let (measured, mut violations) = forest.finish();
    let mut broken = |rule, what| violations.push(crate::Violation { at: now, rule, what });
    let redundant = measured.redundant as f64 / measured.delivered.max(1) as f64;
    let hops = but_one_in_a_thousand(&measured.hops);
    if let Some(hops_max) = hops_max {
        if hops > hops_max {
            broken("hops", format!("one copy in a thousand was sent {hops} times or more"));
        }
        if redundant >= REDUNDANT_MAX {
            broken("redundant", format!("{redundant:.3} redundant copies for each delivered one"));
        }
    }
    let share = share(&measured);
    let allowed = TreeConfig::default().links_max as f64 * ASKED_FOR;
    if share > allowed {
        broken("uplink", format!("a node sent {share:.2} copies of each message"));
    }
    let rows = rows(measured, living.len(), now.since_start() - GATHERING);
    Outcome { scenario: name, setting, simulated: now.since_start(), events, rows, trace, violations }
}

fn but_one_in_a_thousand(hops: &[u32]) -> u32 {
    let mut hops = hops.to_vec();
    hops.sort_unstable();
    hops.get(hops.len().saturating_sub(1) * 999 / 1_000).copied().unwrap_or(0)
}

/// Copies of each message that the busiest node sent.
fn share(measured: &Measured) -> f64 {
    let most = measured.uplinks.iter().copied().max().unwrap_or(0);
    most as f64 / measured.published.max(1) as f64
}

fn rows(measured: Measured, living: usize, span: Duration) -> Vec<Row> {
    let published = measured.published.max(1) as f64;
    let each = |count: u64| count as f64 / measured.delivered.max(1) as f64;
    let share = share(&measured);
    let per_second = measured.words as f64 / living.max(1) as f64 / span.as_secs_f64().max(1.0);
    vec![
        row("messages published", measured.published.to_string()),
        row("delivered of those due", format!("{} of {}", measured.delivered, measured.expected)),
        row("hops", hops(&measured.hops)),
        row("latency", spread(measured.latencies)),
        row("redundant copies, each delivery", format!("{:.3}", each(measured.redundant))),
        row("asked for, each delivery", format!("{:.3}", each(measured.wanted))),
        row("grafts", format!("{:.2} a message", measured.grafts as f64 / published)),
        row("copies sent, busiest node", format!("{share:.2} of each message")),
        row("words said, a node and second", format!("{per_second:.1}")),
        row("most links of one node", measured.links_most.to_string()),
    ]
}

fn hops(hops: &[u32]) -> String {
    let mut hops = hops.to_vec();
    hops.sort_unstable();
    let Some(max) = hops.last() else { return "none".into() };
    let mean = hops.iter().map(|hops| f64::from(*hops)).sum::<f64>() / hops.len() as f64;
    let p99 = hops[(hops.len() * 99).div_ceil(100) - 1];
    format!("mean {mean:.2}, p99 {p99}, max {max}")
}
