//! Drift: every node's clock is up to a twentieth too fast or too slow, which is far more than real ones are, and messages
//! get lost; nobody who lives is held for dead, and the dead are found.

use std::time::Duration;

use super::mesh::{draw, gathered, settle};
use super::outcome::{row, seconds, traffic};
use super::{Outcome, Setting};
use crate::{Faults, Options};

/// One part in twenty.
const DRIFT_PPM: u32 = 50_000;

const SPAN: Duration = Duration::from_secs(120);

/// How long the dead may take to be known to everybody.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn run(setting: Setting) -> Outcome {
    let faults = Faults { loss: 0.05, ..Faults::default() };
    let options = Options { faults, drift_ppm: DRIFT_PPM, ..Options::default() };
    let (mut simulation, _) = gathered(setting, options);
    let before = simulation.figures();
    let span = setting.span.unwrap_or(SPAN);
    simulation.run_for(span);
    let alive = simulation.figures() - before;
    let dead = draw(&mut simulation, (setting.nodes as usize / 20).max(1));
    dead.iter().for_each(|node| simulation.crash(*node));
    let known = settle(&mut simulation, PATIENCE);
    let mut rows = vec![
        row("confirmed before anybody died", alive.confirmed.to_string()),
        row("killed, known to all after", format!("{}, {}", dead.len(), seconds(known))),
    ];
    rows.extend(traffic(simulation.figures() - before, &simulation, span + known));
    Outcome::of("drift", setting, simulation, rows)
}
