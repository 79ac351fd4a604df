//! Bugs that tests plant, to see that they would notice.

/// A bug in coordination.
#[cfg_attr(not(feature = "testing"), allow(unreachable_pub))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plant {
    /// A lease is counted from the answer to a keep-alive, not from before it was sent.
    LeaseFromReply,
    /// A leader answers questions without making sure that it still leads.
    ReadWithoutRound,
    /// A leader answers keep-alives without making sure that it still leads.
    KeepWithoutRound,
}
