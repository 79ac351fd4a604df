//! How a node finds its first peers, and finds back after it lost all of them.
//!
//! ```text
//!  configuration, environment, add_seed ─▶ SeedList ─┐
//!                                                    ├─▶ BootstrapPlan ─▶ whom to dial now
//!  peers.json of the last run ─▶ PeersFile ──────────┤        ▲
//!  routing.table, the same ────▶ TableFile ──────────┘        │
//!                                                             └─ outcomes, size of the mesh
//! ```
//!
//! The plan is pure: it is told the time, what happened and how large the mesh is, and says whom to try. Whoever
//! drives it resolves names, dials, and reports back.

mod peers;
mod plan;
mod seeds;
mod table;

pub use peers::{KnownPeer, PEERS_MAX, PeersFile};
pub use plan::{BootstrapPlan, BootstrapTarget, Mood, PlanConfig};
pub use seeds::{SEEDS_MAX, Seed, SeedEntry, SeedError, SeedList, SeedOrigin};
pub use table::{SavedTable, TableFile};
