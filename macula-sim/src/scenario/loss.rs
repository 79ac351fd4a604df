//! Loss: one message in twenty is lost, some come twice or out of turn; nobody who lives is confirmed dead.

use std::time::Duration;

use super::mesh::gathered;
use super::outcome::traffic;
use super::{Outcome, Setting};
use crate::{Faults, Options};

const SPAN: Duration = Duration::from_secs(120);

pub(super) fn run(setting: Setting) -> Outcome {
    let faults = Faults { loss: 0.05, duplication: 0.01, reordering: 0.05, ..Faults::default() };
    let (mut simulation, _) = gathered(setting, Options { faults, ..Options::default() });
    let before = simulation.figures();
    let span = setting.span.unwrap_or(SPAN);
    simulation.run_for(span);
    let rows = traffic(simulation.figures() - before, &simulation, span);
    Outcome::of("loss", setting, simulation, rows)
}
