//! A suspicion ends: it is refuted, or it runs out. And nobody goes on holding itself for anything but alive.

use macula_membership::{Machine, MemberState};
use macula_proto::Timestamp;

use super::{Invariant, Memory, World};
use crate::{Belief, BeliefKind, Life, NodeIndex};

/// A suspicion lasts no longer than so many times the time of grace, which is two of the shortest suspicions. The longest
/// one is six of those.
const GRACES: u32 = 4;

#[derive(Debug, Default)]
pub(super) struct NoLastingSuspicion {
    /// Since when each observer suspects each other node.
    since: Memory<Timestamp>,
}

impl Invariant for NoLastingSuspicion {
    fn name(&self) -> &'static str {
        "no_lasting_suspicion"
    }

    fn on_belief(&mut self, world: &World<'_>, belief: &Belief) -> Result<(), String> {
        if belief.observer == belief.subject && belief.kind == BeliefKind::Suspected {
            return Err(format!("{} suspects itself", belief.observer));
        }
        if !world.is_watched(belief.observer) {
            return Ok(());
        }
        let since = self.since.of(belief);
        let before = since.take();
        if belief.kind == BeliefKind::Suspected {
            *since = before.or(Some(belief.at));
        }
        let limit = world.grace * GRACES;
        // A node that stood still could not end anything.
        let stood_still =
            world.nodes[belief.observer.place()].disturbed.is_some_and(|at| belief.at.since(at) <= limit);
        match before {
            Some(before) if !stood_still && belief.at.since(before) > limit => Err(format!(
                "{} suspected {} for too long: since {before:?}",
                belief.observer, belief.subject
            )),
            _ => Ok(()),
        }
    }

    fn at_end(&mut self, world: &World<'_>) -> Result<(), String> {
        for (observer, node) in NodeIndex::each(0..world.nodes.len() as u32).zip(world.nodes) {
            let Some(machine) = node.membership().filter(|_| node.life() == Life::Running) else { continue };
            own_state(observer, machine)?;
            for (subject, since) in self.since.about(observer, node.lives) {
                if world.now.since(since) > world.grace * GRACES {
                    return Err(format!("{observer} still suspects {subject}, since {since:?}"));
                }
            }
        }
        Ok(())
    }
}

/// Who does not leave holds itself for alive.
fn own_state(observer: NodeIndex, machine: &Machine) -> Result<(), String> {
    match machine.local().state {
        MemberState::Alive | MemberState::Left => Ok(()),
        state => Err(format!("{observer} holds itself for {state}")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::planted::{belief, verdicts};
    use super::*;
    use crate::BeliefKind::{Confirmed, Refuted, Suspected};
    use crate::{Options, Simulation};

    fn at(seconds: u64, belief: Belief) -> Belief {
        Belief { at: Timestamp::from_start(Duration::from_secs(seconds)), ..belief }
    }

    #[test]
    fn a_suspicion_that_ends_too_late_is_found() {
        let beliefs = [
            at(1, belief(Suspected, 1)),
            at(20, belief(Refuted, 2)),
            at(40, belief(Suspected, 2)),
            at(90, belief(Confirmed, 2)),
        ];
        assert_eq!(verdicts(&mut NoLastingSuspicion::default(), &beliefs), [true, true, true, false]);
    }

    #[test]
    fn whoever_suspects_itself_is_found() {
        let own = Belief { subject: NodeIndex(0), ..belief(Suspected, 1) };
        assert_eq!(verdicts(&mut NoLastingSuspicion::default(), &[own]), [false]);
    }

    #[test]
    fn a_suspicion_that_never_ends_is_found() {
        let mut simulation = Simulation::new(Options::default(), 1);
        let nodes = [simulation.add(&[]), simulation.add(&[NodeIndex(0)])];
        for node in nodes {
            simulation.start(node);
        }
        let mut rule = NoLastingSuspicion::default();
        let mut verdict = |seconds| {
            let now = Timestamp::from_start(Duration::from_secs(seconds));
            let grace = Duration::from_secs(8);
            let forget_after = Duration::from_secs(3_600);
            let world = World { now, nodes: simulation.nodes(), partitions: &[], grace, forget_after };
            let planted = Belief { observer_lives: 1, ..at(1, belief(Suspected, 1)) };
            assert_eq!(rule.on_belief(&world, &planted), Ok(()));
            rule.at_end(&world).is_ok()
        };
        assert_eq!([verdict(30), verdict(40)], [true, false]);
    }
}
