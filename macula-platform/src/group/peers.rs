//! What coordination wants to know of the mesh.

use macula_proto::{Liveness, NodeId, Realm};

/// The nodes around, as somebody who watches over them knows them. Called from tasks that drive groups: it must not block.
pub trait Peers: Liveness {
    /// Nodes of the realm that are believed to live, this one not counted; those that are connected first.
    fn others(&self, realm: &Realm) -> Vec<NodeId>;
}
