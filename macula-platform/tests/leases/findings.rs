//! What goes wrong in a run, on purpose or by chance, and what was seen.

/// What goes wrong. Times in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) lost_permille: u32,
    pub(crate) doubled_permille: u32,
    pub(crate) delay_max: u64,
    /// About how often another leader is elected.
    pub(crate) leader_every: u64,
    /// A deposed leader does not know for at most so long.
    pub(crate) deposed_for: u64,
    /// Nodes pause for at most so long.
    pub(crate) pause_max: u64,
    pub(crate) drift_ppm: u32,
    pub(crate) clock_jumps: bool,
}

/// A bug that is planted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plant {
    Nothing,
    /// The holder counts from the answer, not from before it sent.
    CountedFromReply,
    /// The leader answers without asking a quorum.
    NoRound,
    /// A new leader counts on from when sessions may have been heard last.
    NoFreshStart,
    /// The holder takes nothing off for drift.
    NoMargin,
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Findings {
    /// Instants at which two nodes relied on the same election.
    pub(crate) two_leaders: u64,
    /// The same, as told by the intervals in which each node relied on it.
    pub(crate) overlaps: u64,
    /// Sessions that ended while their node relied on them.
    pub(crate) ended_while_valid: u64,
    /// Ends that were proposed although the session was not silent for its time.
    pub(crate) ended_too_soon: u64,
    pub(crate) leader_changes: u64,
    pub(crate) answers_of_deposed: u64,
    pub(crate) rounds_failed: u64,
    pub(crate) expired: u64,
    pub(crate) granted: u64,
    pub(crate) pauses: u64,
    pub(crate) clock_jumps: u64,
    pub(crate) voter_clock_jumps: u64,
    /// Time with a leader that may rely on it, and all time.
    pub(crate) led: u64,
    pub(crate) time: u64,
}

impl Findings {
    pub(crate) fn add(self, other: Self) -> Self {
        Self {
            two_leaders: self.two_leaders + other.two_leaders,
            overlaps: self.overlaps + other.overlaps,
            ended_while_valid: self.ended_while_valid + other.ended_while_valid,
            ended_too_soon: self.ended_too_soon + other.ended_too_soon,
            leader_changes: self.leader_changes + other.leader_changes,
            answers_of_deposed: self.answers_of_deposed + other.answers_of_deposed,
            rounds_failed: self.rounds_failed + other.rounds_failed,
            expired: self.expired + other.expired,
            granted: self.granted + other.granted,
            pauses: self.pauses + other.pauses,
            clock_jumps: self.clock_jumps + other.clock_jumps,
            voter_clock_jumps: self.voter_clock_jumps + other.voter_clock_jumps,
            led: self.led + other.led,
            time: self.time + other.time,
        }
    }

    pub(crate) fn valid_permille(&self) -> u64 {
        self.led * 1_000 / self.time.max(1)
    }
}
