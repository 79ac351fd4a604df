//! A second implementer of the trait, by other people's protocol code: the crate `foca` passes the core of the
//! conformance suite, and both are compared on the same network.

mod adapter;
#[path = "../cell/mod.rs"]
mod cell;
mod compared;
mod peer;
mod pond;

use pond::Pond;

mod conforms {
    use super::*;
    use macula_membership::{
        membership_conformance, membership_healing_conformance, membership_suspicion_conformance,
    };

    membership_conformance! { #[tokio::test(start_paused = true)] Pond::new(1) }
    membership_suspicion_conformance! { #[tokio::test(start_paused = true)] Pond::new(2) }
    membership_healing_conformance! { #[tokio::test(start_paused = true)] Pond::new(3) }
}
