//! What a node knows of another's incarnation never falls.
//!
//! The dead are remembered for an hour; no scenario starts somebody anew, with an earlier clock, that long after its death.

use macula_membership::Incarnation;

use super::{Invariant, Memory, World};
use crate::Belief;

#[derive(Debug, Default)]
pub(super) struct IncarnationMonotonic {
    highest: Memory<Incarnation>,
}

impl Invariant for IncarnationMonotonic {
    fn name(&self) -> &'static str {
        "incarnation_monotonic"
    }

    fn on_belief(&mut self, world: &World<'_>, belief: &Belief) -> Result<(), String> {
        if !world.is_watched(belief.observer) {
            return Ok(());
        }
        let highest = self.highest.of(belief);
        let before = highest.replace(belief.incarnation);
        match before {
            Some(before) if before > belief.incarnation => Err(format!(
                "{} knew {} as of {before}, now as of {}",
                belief.observer, belief.subject, belief.incarnation
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::{belief, verdicts};
    use super::*;
    use crate::BeliefKind::{Joined, Updated};

    #[test]
    fn a_step_back_is_found_unless_the_observer_began_a_new_life() {
        let mut rule = IncarnationMonotonic::default();
        let new_life = Belief { observer_lives: 2, ..belief(Joined, 1) };
        let beliefs =
            [belief(Joined, 5), belief(Updated, 5), belief(Updated, 6), belief(Updated, 4), new_life];
        assert_eq!(verdicts(&mut rule, &beliefs), [true, true, true, false, true]);
    }
}
