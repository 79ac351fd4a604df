//! Lookup: directories with empty tables join through one seed; some announce, others find.

use super::dht::{announce, contacts, find, gathered, key, options, questions, trace};
use super::mesh::draw;
use super::outcome::row;
use super::{Outcome, Setting};

/// Look-ups of the nodes closest to a place where nothing was announced, at most.
const TRACES_MAX: usize = 500;

/// Referrals to the closest node: fewer on average, and no more for 99 of 100.
const REFERRALS_MEAN: f64 = 2.0;
const REFERRALS_P99: u32 = 3;

/// Records found, at least.
const FOUND: f64 = 0.995;

pub(super) fn run(setting: Setting) -> Outcome {
    let mut simulation = gathered(setting, options(setting));
    simulation.run_for(setting.span.unwrap_or_default());
    let joining = simulation.figures();
    let mut rows = vec![
        row("to join: requests a node", format!("{:.1}", joining.requests as f64 / f64::from(setting.nodes))),
        contacts(&simulation),
    ];
    let (records, holders) = announce(&mut simulation, |_| true);
    rows.push(row("holders of a record, at least", holders.to_string()));
    let questions = questions(&mut simulation, &records, |_| true);
    let finds = find(&mut simulation, questions, 1, |_| {});
    finds.demand(&mut simulation, FOUND);
    rows.extend(finds.rows());
    let count = TRACES_MAX.min(setting.nodes as usize);
    let finders = draw(&mut simulation, count);
    let traces = trace(&mut simulation, &finders, (0..count).map(|number| key(1_000 + number)));
    let (mean, p99) = traces.referrals();
    if mean >= REFERRALS_MEAN || p99 > REFERRALS_P99 {
        simulation.violate("referrals", format!("mean {mean:.2}, p99 {p99}"));
    }
    if traces.recall() < 0.9 {
        let what = format!("lookups find {:.0} % of the closest nodes", 100.0 * traces.recall());
        simulation.violate("recall", what);
    }
    rows.extend(traces.rows());
    rows.push(row("most links of one node", simulation.links_max().to_string()));
    Outcome::of("lookup", setting, simulation, rows)
}
