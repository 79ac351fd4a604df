//! Sessions in time: who keeps them alive, who ends them, and for how long their nodes may rely on them.
//!
//! ```text
//!   Holder (the session's node)             Keeper (the group's leader)
//!      │ sent: counts from here                │
//!      ├── KeepAlive ────────────────────────▶ │ arrived: the full time to live begins again
//!      │                                       ├── a round with a quorum begins
//!      │                                       ◀── confirmed: still the leader
//!      │ ◀──────────────────────── KeptAlive ──┤
//!      │ valid until sent + TTL − margin       │ ends the session at arrived + TTL, or later
//! ```
//!
//! **A holder's lease is over before anybody else can be granted what its session holds.** The holder counts from a moment
//! before the leader does, for a shorter time; the margin makes up for clocks that run at different speeds. An answer
//! needs a round that began after the keep-alive arrived, so a leader that was deposed without knowing answers nothing,
//! and whoever is leader later gives every session its full time to live again at its first commit, which is later.
//!
//! Both are pure: time comes in as a parameter, from a clock that goes on while the machine sleeps (`CLOCK_BOOTTIME`). Each
//! reads its own clock only; they are never compared.

mod holder;
mod keeper;
mod message;

pub use holder::{Holder, HolderConfig, HolderEffect, Lease, Loss};
pub use keeper::{KEEP_ALIVES_MAX, Keeper, KeeperEffect, RoundId, Ticket};
pub use message::{KeepAlive, Kept, KeptAlive};
