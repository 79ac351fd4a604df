//! What tests between processes put in the place of the machine's own: lines, a clock, a disk; and bugs.

use std::sync::Arc;

pub use macula_platform::{Plant, RedbStore, StoreError, StoreMetrics, StoreOptions};
pub use macula_proto::{Clock, Timestamp, UnixMillis};
pub use macula_transport::LineFaults;

/// Opens what a node keeps of groups.
pub type OpenStore = Box<dyn FnOnce(StoreOptions, StoreMetrics) -> Result<RedbStore, StoreError> + Send>;

/// What a node is started with in the place of the machine's own; see
/// [`NodeBuilder::injected`](crate::NodeBuilder::injected). Nothing by default.
#[derive(Default)]
pub struct Injected {
    /// What goes wrong with packets on their way out.
    pub line_faults: Option<LineFaults>,
    /// The clock that leases are counted on.
    pub boot_clock: Option<Arc<dyn Clock>>,
    /// The disk.
    pub store: Option<OpenStore>,
    /// A bug.
    pub plant: Option<Plant>,
}

impl std::fmt::Debug for Injected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Injected").field("plant", &self.plant).finish_non_exhaustive()
    }
}
