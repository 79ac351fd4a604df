//! What the driver tells a node.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Faulty, Work, logs, votes};
use crate::disk::{Condition, DiskCounts};

/// What the driver tells a node. Each is answered with a [`Report`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Sends nothing more to these nodes.
    Cut(Vec<SocketAddr>),
    /// What it sends to these nodes comes so many milliseconds later.
    Slow(Vec<SocketAddr>, u64),
    /// Its lines are as they should be.
    Heal,
    /// Its clock jumps by so many milliseconds.
    Jump(i64),
    /// Its disk is like this now.
    Disk(Condition),
    /// Says how it is.
    Report,
    /// Reads its logs to their ends.
    ReadAll,
    /// Stops in order.
    Stop,
}

/// How a node is.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Packets that its lines lost.
    pub(crate) lost: u64,
    /// Packets that its lines delayed.
    pub(crate) late: u64,
    pub(crate) disk: DiskCounts,
    /// It votes in the group.
    pub(crate) votes: bool,
    /// It leads the group.
    pub(crate) leads: bool,
    /// It knows the group.
    pub(crate) knows: bool,
    /// What was asked for was done.
    pub(crate) done: bool,
}

impl Order {
    /// Does it, and says how the node is.
    pub(super) async fn carry_out(self, work: &Work, faulty: &Faulty) -> String {
        let mut done = true;
        match self {
            Self::Cut(to) => to.into_iter().for_each(|to| faulty.lines.cut(to)),
            Self::Slow(to, millis) => {
                to.into_iter().for_each(|to| faulty.lines.slow(to, Duration::from_millis(millis)));
            }
            Self::Heal => faulty.lines.heal(),
            Self::Jump(millis) => faulty.clock.jump(millis),
            Self::Disk(condition) => faulty.disk.set(condition),
            Self::ReadAll => done = logs::read_all(work).await,
            Self::Report | Self::Stop => {}
        }
        let groups = work.node.groups();
        let report = Report {
            lost: faulty.lines.lost(),
            late: faulty.lines.late(),
            disk: faulty.disk.counts(),
            votes: votes(&work.node),
            leads: groups
                .iter()
                .any(|group| group.member.as_ref().is_some_and(macula::GroupStatus::is_leader)),
            knows: groups.iter().any(|group| group.leader.is_some()),
            done,
        };
        serde_json::to_string(&report).unwrap_or_default()
    }
}
