//! What a run says at its end.

use std::fmt;

use crate::check::Checked;
use crate::faults::Fault;

/// What a run did and found.
pub(crate) struct Report {
    seed: u64,
    wanted: Vec<Fault>,
    took_effect: Vec<Fault>,
    checked: Checked,
    /// What is wrong with what the nodes did.
    pub(crate) problems: Vec<String>,
}

impl Report {
    pub(crate) fn new(seed: u64, wanted: Vec<Fault>, took_effect: Vec<Fault>, mut checked: Checked) -> Self {
        let problems = std::mem::take(&mut checked.problems);
        Self { seed, wanted, took_effect, checked, problems }
    }

    /// An error if something is wrong, or too little happened for that to mean anything.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        if let Some(first) = self.problems.first() {
            return Err(format!("seed {}: {} problems; the first: {first}", self.seed, self.problems.len()));
        }
        let counted = [
            ("operations on logs", self.checked.log.operations),
            ("operations on locks", self.checked.lock.operations),
            ("observations of elections", self.checked.reign.operations),
            ("leases", self.checked.leases),
            ("changes of the group's leader", self.checked.leader_changes),
            ("visits of the resource", self.checked.visits),
        ];
        let mut missing: Vec<&str> =
            counted.iter().filter(|(_, count)| *count == 0).map(|(what, _)| *what).collect();
        let absent = self.wanted.iter().filter(|fault| !self.took_effect.contains(fault));
        missing.extend(absent.map(|fault| fault.name()));
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!("seed {}: this run proves nothing, for it had no {}", self.seed, missing.join(", no ")))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Checked { log, lock, reign, leases, leader_changes, visits, refused, tailed, .. } = &self.checked;
        writeln!(f, "seed {}", self.seed)?;
        for (what, checked) in [("logs", log), ("locks", lock), ("elections", reign)] {
            let (operations, unknown) = (checked.operations, checked.unknown);
            writeln!(f, "  {what}: {operations} operations, of {unknown} the outcome is not known")?;
        }
        writeln!(f, "  entries from tails: {tailed}; leases: {leases}")?;
        writeln!(f, "  visits of the resource: {visits}, refused for an old token: {refused}")?;
        writeln!(f, "  changes of the group's leader: {leader_changes}")?;
        let counts = self.wanted.iter().map(|fault| {
            let count = self.took_effect.iter().filter(|other| *other == fault).count();
            format!("{} {count}", fault.name())
        });
        writeln!(f, "  faults that took effect: {}", counts.collect::<Vec<_>>().join(", "))?;
        for problem in self.problems.iter().take(10) {
            writeln!(f, "  WRONG: {problem}")?;
        }
        write!(f, "  problems: {}", self.problems.len())
    }
}
