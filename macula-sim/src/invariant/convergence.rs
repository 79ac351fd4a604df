//! At the end of a run all living nodes agree on who lives, and are right.

use macula_membership::MemberState;

use super::{Invariant, World};
use crate::node::SimNode;
use crate::{Life, NodeIndex};

#[derive(Debug)]
pub(super) struct Convergence;

impl Invariant for Convergence {
    fn name(&self) -> &'static str {
        "convergence"
    }

    fn at_end(&mut self, world: &World<'_>) -> Result<(), String> {
        let (mut wrong, mut first) = (0usize, None);
        for observer in NodeIndex::each(0..world.nodes.len() as u32) {
            let node = &world.nodes[observer.place()];
            if node.life() != Life::Running || !world.is_watched(observer) {
                continue;
            }
            let Some(machine) = node.membership() else { continue };
            let is_wrong = |subject: &&SimNode| {
                let believed = machine.state_of(&subject.id()).is_some_and(MemberState::is_present);
                believed != subject.is_there()
            };
            for subject in world.nodes.iter().filter(is_wrong) {
                wrong += 1;
                let state =
                    machine.state_of(&subject.id()).map_or("unknown".into(), |state| state.to_string());
                first.get_or_insert_with(|| {
                    format!(
                        "{observer} holds {} for {state}, which is {:?}",
                        subject.id().short(),
                        subject.life()
                    )
                });
            }
        }
        first.map_or(Ok(()), |first| Err(format!("{wrong} wrong entries in the lists; {first}")))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{Options, Simulation};

    #[test]
    fn a_death_that_nobody_had_time_to_notice_is_found() {
        let mut simulation = Simulation::new(Options::default(), 1);
        let seed = simulation.add(&[]);
        let other = simulation.add(&[seed]);
        simulation.start(seed);
        simulation.start(other);
        simulation.run_for(Duration::from_secs(5));
        assert_eq!(simulation.finish(), []);
        simulation.crash(other);
        let broken = simulation.finish();
        assert!(matches!(&broken[..], [violation] if violation.rule == "convergence"), "{broken:?}");
    }
}
