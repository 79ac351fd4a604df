//! Nobody who lives, and can be reached by the observer, is confirmed dead.
//!
//! A cut excuses a confirmation only if the suspicion began while it separated the two, or so soon after that a probe sent
//! during the cut may be the reason: whoever suspects while cut off can hear no refutation, and after the cut heals the
//! suspicion may run out before one comes. What is suspected later is suspected over a whole network.

use macula_proto::Timestamp;

use super::{Invariant, Memory, World};
use crate::{Belief, BeliefKind};

#[derive(Debug, Default)]
pub(super) struct NoFalseConfirm {
    /// Since when each observer suspects each other node.
    since: Memory<Timestamp>,
}

impl Invariant for NoFalseConfirm {
    fn name(&self) -> &'static str {
        "no_false_confirm"
    }

    fn on_belief(&mut self, world: &World<'_>, belief: &Belief) -> Result<(), String> {
        let Belief { observer, subject, incarnation, kind, .. } = *belief;
        let since = if world.is_watched(observer) { self.remember(belief) } else { None };
        if kind != BeliefKind::Confirmed || world.excuses(observer, subject, incarnation, since) {
            return Ok(());
        }
        Err(format!("{observer} holds {subject} for dead, which lives"))
    }
}

impl NoFalseConfirm {
    /// Since when the belief's observer suspected its subject, up to this belief.
    fn remember(&mut self, belief: &Belief) -> Option<Timestamp> {
        let since = self.since.of(belief);
        let before = since.take();
        if belief.kind == BeliefKind::Suspected {
            *since = Some(belief.at);
        } else if belief.kind == BeliefKind::Updated {
            // It may be another word at the same incarnation, which refutes nothing.
            *since = before;
        }
        before
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::planted::{belief, verdicts};
    use super::*;
    use crate::{Faults, Options, Simulation, Stops};

    #[test]
    fn a_confirmed_node_that_lives_is_found() {
        let beliefs =
            [BeliefKind::Suspected, BeliefKind::Refuted, BeliefKind::Confirmed].map(|kind| belief(kind, 1));
        assert_eq!(verdicts(&mut NoFalseConfirm::default(), &beliefs), [true, true, false]);
    }

    /// A network that loses nearly everything, and does not say so, against one that is cut as announced.
    #[test]
    fn loss_is_no_excuse_but_a_partition_is() {
        let run = |loss, cut: bool| {
            let faults = Faults { loss, ..Faults::default() };
            let mut simulation = Simulation::new(Options { faults, ..Options::default() }, 3);
            let nodes: Vec<_> = (0..5).map(|_| simulation.add(&[crate::NodeIndex(0)])).collect();
            for node in &nodes {
                simulation.start(*node);
            }
            if cut {
                simulation.run_for(Duration::from_secs(5));
                simulation.cut(nodes[0]..nodes[1], Stops::Both, Duration::from_secs(300));
            }
            simulation.run_for(Duration::from_secs(120));
            assert!(simulation.figures().confirmed > 0);
            simulation.violations().iter().any(|violation| violation.rule == "no_false_confirm")
        };
        assert!(run(0.9, false));
        assert!(!run(0.0, true));
    }
}
