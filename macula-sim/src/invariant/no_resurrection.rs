//! Whoever was dead or gone comes back only by a newer word of its own.

use macula_membership::Incarnation;

use super::{Invariant, Memory, World};
use crate::{Belief, BeliefKind};

#[derive(Debug, Default)]
pub(super) struct NoResurrection {
    buried: Memory<Incarnation>,
}

impl Invariant for NoResurrection {
    fn name(&self) -> &'static str {
        "no_resurrection"
    }

    fn on_belief(&mut self, world: &World<'_>, belief: &Belief) -> Result<(), String> {
        if !world.is_watched(belief.observer) {
            return Ok(());
        }
        let buried = self.buried.of(belief);
        match (belief.kind, *buried) {
            (BeliefKind::Confirmed | BeliefKind::Left, _) => *buried = Some(belief.incarnation),
            (BeliefKind::Joined, before) => {
                *buried = None;
                if let Some(before) = before.filter(|before| *before >= belief.incarnation) {
                    return Err(format!(
                        "{} brings {} back at {}, which was gone as of {before}",
                        belief.observer, belief.subject, belief.incarnation
                    ));
                }
            }
            (_, Some(_)) => {
                return Err(format!("{} goes on about {}, which is gone", belief.observer, belief.subject));
            }
            (_, None) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::{belief, verdicts};
    use super::*;
    use crate::BeliefKind::{Confirmed, Joined, Left, Suspected};

    #[test]
    fn a_return_at_the_old_incarnation_is_found() {
        let beliefs =
            [belief(Joined, 5), belief(Confirmed, 5), belief(Joined, 6), belief(Left, 6), belief(Joined, 6)];
        assert_eq!(verdicts(&mut NoResurrection::default(), &beliefs), [true, true, true, true, false]);
    }

    #[test]
    fn news_of_the_dead_is_found() {
        let beliefs = [belief(Confirmed, 5), belief(Suspected, 5)];
        assert_eq!(verdicts(&mut NoResurrection::default(), &beliefs), [true, false]);
    }
}
