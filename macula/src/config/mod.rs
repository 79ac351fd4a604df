//! Configuration: one schema for files, the environment, builders and run-time changes.
//!
//! ```text
//!  macula.toml ─┐
//!  MACULA_* ────┼─▶ RawConfig ──build()────▶ Config ──▶ config.quic.idle_timeout
//!  builder ─────┘   (as written,             (checked   config.get(key), set(key, value), entries()
//!                    with its source)         once)
//! ```
//!
//! The table in `schema.rs` declares each key once; everything else follows from it, also the reference page
//! `docs/CONFIGURATION.md`.

mod error;
mod field;
mod hint;
mod key;
mod raw;
mod reference;
mod resolved;
mod rule;
mod schema;
mod tag;
mod value;

pub use error::{ConfigError, ConfigErrors, Origin};
pub use field::{GroupTiming, LogFormat, NodeIdSetting, RoutingStrategy};
pub use key::{Change, Key};
pub use raw::RawConfig;
pub use reference::reference_page;
pub use resolved::{Config, Entry};
pub use schema::{
    AdminSection, BootstrapSection, KEYS, LogSection, MembershipSection, NodeSection, PubsubSection,
    QuicSection, RoutingSection, RpcSection, Sections, SupervisionSection,
};
pub use tag::{Tag, TagError};
pub use value::{Kind, Raw, Rule, Value};

/// The place of a key in [`KEYS`].
fn key_index(name: &str) -> Option<usize> {
    KEYS.iter().position(|key| key.name == name)
}

#[cfg(test)]
#[path = "config_test.rs"]
mod tests;
