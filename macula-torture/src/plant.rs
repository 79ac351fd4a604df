//! Bugs that are planted, to see that they are found.

use clap::ValueEnum;

use crate::faults::Fault;

/// A bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Plant {
    /// What is written is said to be on the disk at once, and gets there within a second
    SkipFsync,
    /// The resource lets everybody in, whatever the token
    IgnoreFence,
    /// A lease is counted from the answer to a keep-alive, not from before it was sent
    LeaseFromReply,
    /// A leader answers questions without making sure that it still leads
    ReadWithoutRound,
    /// A leader answers keep-alives without making sure that it still leads
    KeepWithoutRound,
}

impl Plant {
    pub(crate) const ALL: [Self; 5] = [
        Self::SkipFsync,
        Self::IgnoreFence,
        Self::LeaseFromReply,
        Self::ReadWithoutRound,
        Self::KeepWithoutRound,
    ];

    /// As it is given on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::SkipFsync => "skip-fsync",
            Self::IgnoreFence => "ignore-fence",
            Self::LeaseFromReply => "lease-from-reply",
            Self::ReadWithoutRound => "read-without-round",
            Self::KeepWithoutRound => "keep-without-round",
        }
    }

    /// What it takes to see it.
    pub(crate) const fn seen_with(self) -> Fault {
        match self {
            Self::SkipFsync => Fault::Kill,
            Self::IgnoreFence => Fault::Stop,
            Self::LeaseFromReply => Fault::Late,
            Self::ReadWithoutRound | Self::KeepWithoutRound => Fault::Partition,
        }
    }

    /// The part of it that lies in the product.
    pub(crate) const fn in_product(self) -> Option<macula::testing::Plant> {
        match self {
            Self::SkipFsync | Self::IgnoreFence => None,
            Self::LeaseFromReply => Some(macula::testing::Plant::LeaseFromReply),
            Self::ReadWithoutRound => Some(macula::testing::Plant::ReadWithoutRound),
            Self::KeepWithoutRound => Some(macula::testing::Plant::KeepWithoutRound),
        }
    }
}
