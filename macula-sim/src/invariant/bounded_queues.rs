//! No collection that peers can fill grows beyond its limit.

use macula_membership::Queue;

use super::Invariant;
use crate::NodeIndex;

#[derive(Debug)]
pub(super) struct BoundedQueues;

impl Invariant for BoundedQueues {
    fn name(&self) -> &'static str {
        "bounded_queues"
    }

    fn on_queues(&mut self, node: NodeIndex, queues: &[Queue]) -> Result<(), String> {
        match queues.iter().find(|queue| queue.len > queue.max) {
            Some(Queue { name, len, max }) => {
                Err(format!("{node} holds {len} {name}, at most {max} are allowed"))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_too_many_is_found() {
        let verdict = |len| {
            let queues = [Queue { name: "probes", len: 0, max: 16 }, Queue { name: "news", len, max: 64 }];
            BoundedQueues.on_queues(NodeIndex(3), &queues)
        };
        assert_eq!(verdict(64), Ok(()));
        assert_eq!(verdict(65), Err("#3 holds 65 news, at most 64 are allowed".into()));
    }
}
