//! Where the knowledge of who is gone hooks in: layers that send to others ask it, and do not keep lists of their own.

use crate::NodeId;

/// Knows who is gone, as far as anybody watches over the nodes. Called from tasks that send: it must not block for long.
pub trait Liveness: Send + Sync + 'static {
    /// Whether `id` is known to be dead or to have left. A node that nobody has heard of is not gone.
    fn is_gone(&self, id: &NodeId) -> bool;

    /// Whether `id` is gone because it said so: nothing is to be asked of it, even if it still answers.
    fn has_left(&self, id: &NodeId) -> bool {
        let _ = id;
        false
    }
}

/// Where nobody watches over the nodes: nobody is known to be gone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Liveness for Unwatched {
    fn is_gone(&self, _id: &NodeId) -> bool {
        false
    }
}
