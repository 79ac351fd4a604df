//! Cost: what a look-up costs in meshes of growing size; it grows as the logarithm of the size does.

use super::{Setting, announce, find, gathered_soon, key, options, questions, trace};
use crate::scenario::mesh::draw;
use crate::scenario::outcome::row;
use crate::scenario::{Curve, Outcome, Row};

/// The sizes measured: those up to the number of nodes asked for.
const SIZES: [(u32, &str); 7] = [
    (100, "at 100: referrals, requests"),
    (300, "at 300: referrals, requests"),
    (1_000, "at 1,000: referrals, requests"),
    (3_000, "at 3,000: referrals, requests"),
    (10_000, "at 10,000: referrals, requests"),
    (30_000, "at 30,000: referrals, requests"),
    (100_000, "at 100,000: referrals, requests"),
];

/// Look-ups of the closest nodes at each size, at most.
const TRACES_MAX: usize = 300;

/// In a mesh ten times as large, a look-up takes at most so many more referrals; each halves the distance several times.
const REFERRALS_PER_TENFOLD: f64 = 1.0;

/// And so many more requests, at 20 to hear the closest out whatever the size.
const REQUESTS_PER_TENFOLD: f64 = 8.0;

struct Point {
    nodes: u32,
    label: &'static str,
    referrals: f64,
    requests: f64,
    to_find: f64,
    found: f64,
}

pub(in crate::scenario) fn run(setting: Setting) -> Outcome {
    let (points, mut simulation) = measure(setting);
    for pair in points.windows(2) {
        let tenfolds = (f64::from(pair[1].nodes) / f64::from(pair[0].nodes)).log10();
        let more = (pair[1].referrals - pair[0].referrals, pair[1].requests - pair[0].requests);
        if more.0 > REFERRALS_PER_TENFOLD * tenfolds || more.1 > REQUESTS_PER_TENFOLD * tenfolds {
            let sizes = (pair[0].nodes, pair[1].nodes);
            let what = format!(
                "from {} to {} nodes: {:.2} referrals more, {:.1} requests",
                sizes.0, sizes.1, more.0, more.1
            );
            simulation.violate("cost", what);
        }
    }
    Outcome::of("dht-cost", setting, simulation, points.iter().map(Point::row).collect())
}

/// The cost of a look-up against the size of the mesh, up to the size given.
pub(in crate::scenario) fn curve(setting: Setting) -> Curve {
    let (points, _) = measure(setting);
    let line = |of: fn(&Point) -> f64| points.iter().map(of).collect();
    Curve {
        name: "dht-cost",
        about: "What a look-up costs",
        across: "nodes",
        is_logarithmic: true,
        at: line(|point| f64::from(point.nodes)),
        lines: vec![
            ("referrals to the closest node, mean", line(|point| point.referrals)),
            ("requests to hear the closest out, mean", line(|point| point.requests)),
            ("requests to find a record, mean", line(|point| point.to_find)),
            ("records found, %", line(|point| 100.0 * point.found)),
        ],
    }
}

impl Point {
    fn row(&self) -> Row {
        let Self { label, referrals, requests, to_find, .. } = self;
        row(label, format!("{referrals:.2}, {requests:.1}; {to_find:.1} to find a record"))
    }
}

/// One mesh after the other; the last is given back.
fn measure(setting: Setting) -> (Vec<Point>, crate::Simulation) {
    let at_most = setting.nodes.max(SIZES[0].0);
    let mut points = Vec::new();
    let mut last = None;
    for (nodes, label) in SIZES.into_iter().filter(|(nodes, _)| *nodes <= at_most) {
        // Not two meshes in memory at a time.
        drop(last.take());
        let setting = Setting { nodes, ..setting };
        let mut simulation = gathered_soon(setting, options(setting));
        let (records, _) = announce(&mut simulation, |_| true);
        let questions = questions(&mut simulation, &records, |_| true);
        let finds = find(&mut simulation, questions, 1, |_| {});
        let count = TRACES_MAX.min(nodes as usize);
        let finders = draw(&mut simulation, count);
        let traces = trace(&mut simulation, &finders, (0..count).map(|number| key(1_000 + number)));
        points.push(Point {
            nodes,
            label,
            referrals: traces.referrals().0,
            requests: traces.requests_each(),
            to_find: finds.requests_each(),
            found: finds.share(),
        });
        last = Some(simulation);
    }
    (points, last.expect("the least size is always measured"))
}
