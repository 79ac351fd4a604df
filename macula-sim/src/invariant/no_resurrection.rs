//! Whoever was dead or gone comes back only by a newer word of its own, for as long as that is remembered.

use macula_membership::Incarnation;
use macula_proto::Timestamp;

use super::{Invariant, Memory, World};
use crate::{Belief, BeliefKind};

#[derive(Debug, Default)]
pub(super) struct NoResurrection {
    /// As of which of its words, and when.
    buried: Memory<(Incarnation, Timestamp)>,
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
            (BeliefKind::Confirmed | BeliefKind::Left, _) => {
                *buried = Some((belief.incarnation, belief.at));
            }
            (BeliefKind::Joined, before) => {
                *buried = None;
                let is_old = |(before, at): &(Incarnation, Timestamp)| {
                    *before >= belief.incarnation && belief.at.since(*at) < world.forget_after
                };
                if let Some((before, _)) = before.filter(is_old) {
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
    use std::time::Duration;

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
    fn a_return_after_it_was_forgotten_is_none() {
        let later =
            |seconds| Belief { at: Timestamp::from_start(Duration::from_secs(seconds)), ..belief(Joined, 5) };
        let verdict =
            |seconds| verdicts(&mut NoResurrection::default(), &[belief(Confirmed, 5), later(seconds)])[1];
        assert_eq!([verdict(3_599), verdict(3_600)], [false, true]);
    }

    #[test]
    fn news_of_the_dead_is_found() {
        let beliefs = [belief(Confirmed, 5), belief(Suspected, 5)];
        assert_eq!(verdicts(&mut NoResurrection::default(), &beliefs), [true, false]);
    }
}
