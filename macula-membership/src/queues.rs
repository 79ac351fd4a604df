//! How full the machine's bounded collections are: for those who watch that the bounds hold.

use crate::judge::LOST_MAX;
use crate::machine::Machine;
use crate::probe::{CHECKS_MAX, PROBES_MAX, RELAYS_MAX};
use crate::suspicion::PROVEN_MAX;

/// One bounded collection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Queue {
    /// Of what.
    pub name: &'static str,
    /// How many there are.
    pub len: usize,
    /// How many there may be.
    pub max: usize,
}

impl Machine {
    /// Every collection that peers can make grow, with its limit.
    pub fn queues(&self) -> [Queue; 11] {
        let queue = |name, len, max| Queue { name, len, max };
        let config = &self.config;
        [
            queue("members", self.roster.len(), config.members_max),
            queue("suspicions", self.suspicions.len(), config.members_max),
            queue("proven", self.suspicions.proven_len(), PROVEN_MAX),
            queue("tombs", self.tombs.len(), 2 * config.members_max),
            queue("lost", self.lost.len(), LOST_MAX),
            queue("news", self.news.len(), config.news_max),
            queue("probes", self.probes.len(), PROBES_MAX),
            queue("relays", self.relays.len(), RELAYS_MAX),
            queue("checks", self.checks.len(), CHECKS_MAX),
            queue("dials", self.dials.len(), config.dials_max),
            queue("syncs", self.syncs.len(), config.syncs_max),
        ]
    }
}
