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
//!
//! ```
//! use std::time::Duration;
//! use macula_platform::SessionId;
//! use macula_platform::lease::{Holder, HolderConfig, HolderEffect, Keeper, KeeperEffect, Ticket};
//! use macula_proto::Timestamp;
//!
//! let at = |millis| Timestamp::from_start(Duration::from_millis(millis));
//! let (session, ttl) = (SessionId::default(), Duration::from_secs(1));
//!
//! // At the leader, whose clock shows 500: its first command is committed, and there is one session.
//! let (mut keeper, mut wanted) = (Keeper::default(), Vec::new());
//! keeper.serve(at(500), [(session, ttl)]);
//!
//! // At the session's node, whose clock shows 7,000: a third of the time is over, and a keep-alive goes out.
//! let (mut holder, mut effects) = (Holder::new(HolderConfig::default(), session, ttl, at(6_666), at(6_700)), Vec::new());
//! holder.on_timeout(at(7_000), &mut effects);
//! let [HolderEffect::Send(keep_alive)] = effects[..] else { panic!("{effects:?}") };
//!
//! // It arrives; the leader asks a quorum whether it still leads, and then answers.
//! keeper.on_keep_alive(at(840), Ticket(1), keep_alive, &mut wanted);
//! let [KeeperEffect::Round(round)] = wanted[..] else { panic!("{wanted:?}") };
//! keeper.on_round(round, true, &mut wanted);
//! let Some(KeeperEffect::Answer { answer, .. }) = wanted.pop() else { panic!("{wanted:?}") };
//!
//! // Valid for a second since it was sent, less a tenth for drift and 10 ms. At the leader it lives until 1,840.
//! holder.on_answer(at(7_030), answer, &mut effects);
//! assert!(holder.valid(at(7_889)) && !holder.valid(at(7_890)));
//! ```

mod holder;
mod keeper;
mod message;

pub use holder::{Holder, HolderConfig, HolderEffect, Lease, Loss};
pub use keeper::{KEEP_ALIVES_MAX, Keeper, KeeperEffect, RoundId, STEP_MAX, Ticket};
pub use message::{KeepAlive, Kept, KeptAlive};
