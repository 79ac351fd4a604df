//! How a node coordinates.

use std::collections::BTreeSet;
use std::time::Duration;

use macula_proto::NodeId;

use super::plant::Plant;
use crate::lease::HolderConfig;
use crate::raft::Timing;

/// Who founds the group of a realm that has none yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Founding {
    /// This node, alone; others join. Only for a node that joins no others.
    Alone,
    /// These nodes, together: each is given the same list, and this node is on it.
    With(BTreeSet<NodeId>),
    /// Somebody else.
    #[default]
    Others,
}

/// How a node coordinates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoordinationConfig {
    /// Who founds the group of a realm that has none. Default: somebody else.
    pub founding: Founding,
    /// How fast the group notices that its leader is gone. Must be the same at all members.
    pub timing: Timing,
    /// Voters that a group wants: 1, 3, 5 or 7. Default 3: one may be lost.
    pub voters: usize,
    /// Whether this node offers itself as a voter. Default: yes.
    pub eligible: bool,
    /// A voter that is gone for so long is replaced, if there is somebody to replace it. Default: 5 minutes.
    pub replace_after: Duration,
    /// How long this node's session lives without a keep-alive: who holds an election or a lock and dies is followed by
    /// the next after about this time. Default: 1 s.
    pub session_ttl: Duration,
    /// Which part of that a holder relies on.
    pub lease: HolderConfig,
    /// A bug that a test plants. Default: none.
    #[cfg(feature = "testing")]
    pub plant: Option<Plant>,
}

impl CoordinationConfig {
    /// Whether a test planted this bug.
    #[cfg(feature = "testing")]
    pub(crate) fn has(&self, plant: Plant) -> bool {
        self.plant == Some(plant)
    }

    #[cfg(not(feature = "testing"))]
    pub(crate) const fn has(&self, _plant: Plant) -> bool {
        false
    }
}

impl Default for CoordinationConfig {
    fn default() -> Self {
        Self {
            founding: Founding::Others,
            timing: Timing::LAN,
            voters: 3,
            eligible: true,
            replace_after: Duration::from_secs(300),
            session_ttl: Duration::from_secs(1),
            lease: HolderConfig::default(),
            #[cfg(feature = "testing")]
            plant: None,
        }
    }
}
