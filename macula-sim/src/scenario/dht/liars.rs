//! Liars: one directory in five lies together with its like from its start; honest nodes find over disjoint ways.

use macula_dht::KademliaConfig;

use super::{Finds, announce, find, gathered, options, questions};
use crate::scenario::outcome::row;
use crate::scenario::{Curve, Outcome, Row, Setting};
use crate::{DirectoryFaults, NodeIndex, Options, Simulation};

/// The liars' part of the mesh.
const SHARE: f64 = 0.2;

/// Ways of a look-up that have no node in common.
pub(super) const PATHS: usize = 4;

/// Records found, at least.
const FOUND: f64 = 0.99;

/// The liars that are measured.
const KINDS: [(Kind, &str); 4] = [
    (Kind { coming: Coming::Evenly, discreet: false }, "liars among the others"),
    (Kind { coming: Coming::Evenly, discreet: true }, "the same, naming liars only"),
    (Kind { coming: Coming::First, discreet: false }, "liars before all others"),
    (Kind { coming: Coming::First, discreet: true }, "the same, naming liars only"),
];

/// What the liars do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// When they join.
    pub(super) coming: Coming,
    /// See [`DirectoryFaults::discreet`].
    pub(super) discreet: bool,
}

/// When the liars join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coming {
    /// Among the others.
    Evenly,
    /// Before any honest node but the seed, whose table they fill.
    First,
}

/// What came of it.
pub(super) struct Measured {
    pub(super) simulation: Simulation,
    /// Over one path.
    pub(super) one: Finds,
    /// Over several.
    pub(super) disjoint: Finds,
    /// The fewest nodes that say that they hold a record.
    holders: usize,
}

pub(in crate::scenario) fn run(setting: Setting) -> Outcome {
    let mut rows = vec![row("liars", format!("{:.0} %", 100.0 * SHARE))];
    let mut last = None;
    let mut broken = Vec::new();
    for (kind, label) in KINDS {
        let measured = among_liars(setting, SHARE, kind);
        if measured.disjoint.share() < FOUND {
            broken.push(format!("{label}: {}", measured.disjoint.told()));
        }
        rows.push(measured.row(label));
        last = Some(measured.simulation);
    }
    let mut simulation = last.expect("there are several kinds of liars");
    broken.into_iter().for_each(|what| simulation.violate("finding", what));
    Outcome::of("dht-liars", setting, simulation, rows)
}

impl Measured {
    fn row(&self, label: &'static str) -> Row {
        let part =
            |finds: &Finds| format!("{:.2} % ({:.1} requests)", 100.0 * finds.share(), finds.requests_each());
        let (one, disjoint) = (part(&self.one), part(&self.disjoint));
        row(label, format!("{one}; over {PATHS} paths {disjoint}; holders at least {}", self.holders))
    }
}

/// What is found over one path and over several, where a part of the mesh lies.
pub(super) fn among_liars(setting: Setting, share: f64, kind: Kind) -> Measured {
    // Their ids are as random as anybody's. The first node is honest.
    let count = move |number: u32| (f64::from(number) * share) as u32;
    let is_liar = move |NodeIndex(number): NodeIndex| match kind.coming {
        Coming::Evenly => number > 0 && count(number) != count(number - 1),
        Coming::First => (1..=count(setting.nodes)).contains(&number),
    };
    let liars = NodeIndex::each(0..setting.nodes).filter(|node| is_liar(*node)).collect();
    let directory_faults = DirectoryFaults { liars, discreet: kind.discreet, ..DirectoryFaults::default() };
    let options = options(setting);
    let kademlia = KademliaConfig { paths: PATHS, ..options.kademlia.clone() };
    let mut simulation = gathered(setting, Options { directory_faults, kademlia, ..options });
    let honest = |node: NodeIndex| !is_liar(node);
    let (records, holders) = announce(&mut simulation, honest);
    let [one, disjoint] = [1, PATHS].map(|paths| {
        let questions = questions(&mut simulation, &records, honest);
        find(&mut simulation, questions, paths, |_| {})
    });
    Measured { simulation, one, disjoint, holders }
}

/// What is found against the liars' part of the mesh, from none to half.
pub(in crate::scenario) fn curve(setting: Setting) -> Curve {
    let parts = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5];
    let finds = parts.map(|part| {
        let [evenly, first] = [Coming::Evenly, Coming::First].map(|coming| {
            let Measured { one, disjoint, .. } = among_liars(setting, part, Kind { coming, discreet: false });
            [one, disjoint]
        });
        [evenly, first]
    });
    let line = |coming: usize, paths: usize, of: fn(&Finds) -> f64| {
        finds.iter().map(|both| of(&both[coming][paths])).collect()
    };
    let found = |finds: &Finds| 100.0 * finds.share();
    let p99 = |finds: &Finds| finds.p99().as_secs_f64();
    Curve {
        name: "dht-liars",
        about: "What is found among liars",
        across: "% that lie",
        is_logarithmic: false,
        at: parts.map(|part| 100.0 * part).to_vec(),
        lines: vec![
            ("found over one path, %", line(0, 0, found)),
            ("found over disjoint paths, %", line(0, 1, found)),
            ("found over one path, liars first, %", line(1, 0, found)),
            ("found over disjoint paths, liars first, %", line(1, 1, found)),
            ("requests over one path, mean", line(0, 0, Finds::requests_each)),
            ("requests over disjoint paths, mean", line(0, 1, Finds::requests_each)),
            ("time over one path, p99, s", line(0, 0, p99)),
            ("time over disjoint paths, p99, s", line(0, 1, p99)),
        ],
    }
}
