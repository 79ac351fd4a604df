//! Cost: what membership costs a node in each protocol period when nobody comes or goes, in meshes of growing size, over a
//! healthy network and with loss. It stays the same, because lists are compared by digests.

use std::time::Duration;

use super::dht::Measure;
use super::mesh::gathered;
use super::outcome::row;
use super::{Curve, Outcome, Row, Setting};
use crate::{Faults, Options, Simulation};

/// The sizes measured: those up to the number of nodes asked for.
const SIZES: [(u32, &str); 5] = [
    (100, "at 100: bytes, datagrams"),
    (300, "at 300: bytes, datagrams"),
    (1_000, "at 1,000: bytes, datagrams"),
    (3_000, "at 3,000: bytes, datagrams"),
    (10_000, "at 10,000: bytes, datagrams"),
];

/// A quiet node's bytes are at most so many times those in the smallest mesh.
const GROWTH_MAX: f64 = 1.5;

/// What was news at the start has died out by then, and newcomers exchange lists as rarely as others.
const QUIET_AFTER: Duration = Duration::from_secs(120);

/// How long is measured: every node exchanges lists several times.
const SPAN: Duration = Duration::from_secs(300);

/// The curve by name.
pub(super) const CURVE: (&str, Measure) = ("swim-cost", curve);

/// What one mesh costs each node in a period.
struct Cost {
    bytes: f64,
    datagrams: f64,
    /// Of dials, in a thousand periods.
    dials: f64,
}

struct Point {
    nodes: u32,
    label: &'static str,
    quiet: Cost,
    lossy: Cost,
}

pub(super) fn run(setting: Setting) -> Outcome {
    let (points, mut simulation) = measure(setting);
    let least = points.first().map_or(f64::MAX, |point| point.quiet.bytes);
    for Point { nodes, quiet: Cost { bytes, .. }, .. } in &points {
        if *bytes > GROWTH_MAX * least {
            let what =
                format!("{bytes:.0} bytes a node and period at {nodes} nodes, {least:.0} in a small mesh");
            simulation.violate("cost", what);
        }
    }
    Outcome::of("swim-cost", setting, simulation, points.iter().map(Point::row).collect())
}

/// The cost of membership against the size of the mesh, up to the size given.
fn curve(setting: Setting) -> Curve {
    let (points, _) = measure(setting);
    let line = |of: fn(&Point) -> f64| points.iter().map(of).collect();
    Curve {
        name: CURVE.0,
        about: "What membership costs a node in a protocol period",
        across: "nodes",
        is_logarithmic: true,
        at: line(|point| f64::from(point.nodes)),
        lines: vec![
            ("bytes, quiet", line(|point| point.quiet.bytes)),
            ("bytes, 5 % loss", line(|point| point.lossy.bytes)),
            ("datagrams, quiet", line(|point| point.quiet.datagrams)),
            ("datagrams, 5 % loss", line(|point| point.lossy.datagrams)),
            ("dials in a thousand periods, quiet", line(|point| point.quiet.dials)),
        ],
    }
}

impl Point {
    fn row(&self) -> Row {
        let Self { label, quiet, lossy, .. } = self;
        let cost = |cost: &Cost| format!("{:.0}, {:.2}", cost.bytes, cost.datagrams);
        row(label, format!("{}; with 5 % loss {}", cost(quiet), cost(lossy)))
    }
}

/// One mesh after the other; the last is given back.
fn measure(setting: Setting) -> (Vec<Point>, Simulation) {
    let at_most = setting.nodes.max(SIZES[0].0);
    let mut points = Vec::new();
    let mut last = None;
    for (nodes, label) in SIZES.into_iter().filter(|(nodes, _)| *nodes <= at_most) {
        // Not two meshes in memory at a time.
        drop(last.take());
        let setting = Setting { nodes, ..setting };
        let (lossy, _) = cost(setting, Faults { loss: 0.05, ..Faults::default() });
        let (quiet, simulation) = cost(setting, Faults::default());
        points.push(Point { nodes, label, quiet, lossy });
        last = Some(simulation);
    }
    (points, last.expect("the least size is always measured"))
}

fn cost(setting: Setting, faults: Faults) -> (Cost, Simulation) {
    let (mut simulation, _) = gathered(setting, Options { faults, ..Options::default() });
    simulation.run_for(QUIET_AFTER);
    let before = simulation.figures();
    let span = setting.span.unwrap_or(SPAN);
    simulation.run_for(span);
    let part = simulation.figures() - before;
    let periods = span.as_secs_f64() / simulation.options().swim.protocol_period.as_secs_f64();
    let each = |count: u64| count as f64 / (f64::from(setting.nodes) * periods);
    let cost = Cost {
        bytes: each(part.datagram_bytes + part.exchange_bytes),
        datagrams: each(part.datagrams),
        dials: 1_000.0 * each(part.dials),
    };
    (cost, simulation)
}
