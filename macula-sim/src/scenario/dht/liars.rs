//! Liars: one directory in five lies together with its like from its start; honest nodes find over disjoint ways.

use super::{Finds, announce, find, gathered, options, questions};
use crate::scenario::outcome::row;
use crate::scenario::{Curve, Outcome, Setting};
use crate::{DirectoryFaults, NodeIndex, Options, Simulation};

/// The liars' part of the mesh.
const SHARE: f64 = 0.2;

/// Ways of a look-up that have no node in common.
pub(super) const PATHS: usize = 4;

/// Records found, at least.
const FOUND: f64 = 0.99;

pub(in crate::scenario) fn run(setting: Setting) -> Outcome {
    let (mut simulation, [one, disjoint], holders) = among_liars(setting, SHARE, Coming::Evenly);
    let (_, [_, captured], _) = among_liars(setting, SHARE, Coming::First);
    disjoint.demand(&mut simulation, FOUND);
    let mut rows = vec![
        row("liars", format!("{:.0} %", 100.0 * SHARE)),
        row("holders of a record, at least", holders.to_string()),
        row("found over one path", format!("{:.2} %", 100.0 * one.share())),
        row("requests for that", format!("{:.1}", one.requests_each())),
    ];
    rows.extend(disjoint.rows());
    // Not demanded: newcomers whose only seed knows few but liars are in the liars' hands.
    rows.push(row("found if the liars came first", format!("{:.2} %", 100.0 * captured.share())));
    Outcome::of("dht-liars", setting, simulation, rows)
}

/// When the liars join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coming {
    /// Among the others.
    Evenly,
    /// Before any honest node but the seed, whose table they fill.
    First,
}

/// What is found over one path and over several, where a part of the mesh lies; and the fewest nodes that say that they
/// hold a record.
pub(super) fn among_liars(setting: Setting, share: f64, coming: Coming) -> (Simulation, [Finds; 2], usize) {
    // Their ids are as random as anybody's. The first node is honest.
    let count = move |number: u32| (f64::from(number) * share) as u32;
    let is_liar = move |NodeIndex(number): NodeIndex| match coming {
        Coming::Evenly => number > 0 && count(number) != count(number - 1),
        Coming::First => (1..=count(setting.nodes)).contains(&number),
    };
    let liars = NodeIndex::each(0..setting.nodes).filter(|node| is_liar(*node)).collect();
    let directory_faults = DirectoryFaults { liars, ..DirectoryFaults::default() };
    let mut simulation = gathered(setting, Options { directory_faults, ..options(setting) });
    let honest = |node: NodeIndex| !is_liar(node);
    let (records, holders) = announce(&mut simulation, honest);
    let finds = [1, PATHS].map(|paths| {
        let questions = questions(&mut simulation, &records, honest);
        find(&mut simulation, questions, paths, |_| {})
    });
    (simulation, finds, holders)
}

/// What is found against the liars' part of the mesh, from none to half.
pub(in crate::scenario) fn curve(setting: Setting) -> Curve {
    let parts = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5];
    let finds = parts.map(|part| among_liars(setting, part, Coming::Evenly).1);
    let line = |paths: usize, of: fn(&Finds) -> f64| finds.iter().map(|both| of(&both[paths])).collect();
    let found = |finds: &Finds| 100.0 * finds.share();
    let p99 = |finds: &Finds| finds.p99().as_secs_f64();
    Curve {
        name: "dht-liars",
        about: "What is found among liars",
        across: "% that lie",
        is_logarithmic: false,
        at: parts.map(|part| 100.0 * part).to_vec(),
        lines: vec![
            ("found over one path, %", line(0, found)),
            ("found over disjoint paths, %", line(1, found)),
            ("requests over one path, mean", line(0, Finds::requests_each)),
            ("requests over disjoint paths, mean", line(1, Finds::requests_each)),
            ("time over one path, p99, s", line(0, p99)),
            ("time over disjoint paths, p99, s", line(1, p99)),
        ],
    }
}
