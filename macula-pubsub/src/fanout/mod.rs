//! Fan-out by trees: where more nodes want one pattern than a publisher should send to itself.
//!
//! ```text
//!   publisher                                     nodes with the same pattern
//!     │  few: a copy to each ─────────────────────▶ ○ ○ ○
//!     │  many: ┌ to those not in the tree yet ────▶ ○          with an invitation
//!     │        └ to a few that are ───────────────▶ ○ ──▶ ○ ──▶ ○ …
//! ```
//!
//! Who takes part says so in its interest record; so a publisher knows whom the tree covers, and sends to all others itself.
//! Nobody is left out while a tree comes into being, grows, or is given up: a node says that it takes part once it is linked,
//! and takes it back before it leaves. All copies of a message, direct or by the tree, have one number in it, and pass one
//! [stage](crate::tree) at the receiver: whichever comes first counts, in the publisher's order.
//!
//! [`own`] is the publisher's side, [`member`] the subscriber's; [`carry`] does what the machines ask for.

mod carry;
mod member;
mod own;
mod spread;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use macula_proto::{Realm, Signer, Timestamp, Verifier};
use parking_lot::Mutex;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::Notify;

pub use member::TreeInfo;

use crate::Pattern;
use member::Member;
use own::Own;

/// The nodes of a realm that subscribe to this very pattern.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TreeKey {
    pub(crate) realm: Realm,
    pub(crate) pattern: Pattern,
}

/// All trees of one node.
pub(crate) struct Fanout {
    signer: Arc<dyn Signer>,
    verifier: Arc<dyn Verifier>,
    state: Mutex<State>,
    /// Something is due sooner than before.
    woken: Notify,
}

struct State {
    /// Those in which this node takes part as a subscriber.
    members: BTreeMap<TreeKey, Member>,
    /// Those to which it publishes.
    own: BTreeMap<TreeKey, Own>,
    /// Those that this node left because they were too small, and when. Neighbours that are still there do not bring it
    /// back; publishers may.
    left: BTreeMap<TreeKey, Timestamp>,
    rng: StdRng,
    /// When the next thing is due, as far as the task that sees to it knows.
    planned: Timestamp,
}

impl Fanout {
    pub(crate) fn new(signer: Arc<dyn Signer>, verifier: Arc<dyn Verifier>, seed: u64) -> Self {
        let state = State {
            members: BTreeMap::new(),
            own: BTreeMap::new(),
            left: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed),
            planned: Timestamp::ZERO,
        };
        Self { signer, verifier, state: Mutex::new(state), woken: Notify::new() }
    }
}
