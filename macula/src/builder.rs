//! Starting a node from a program.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use macula_proto::{AllowAll, Gate};

use crate::config::{Raw, RawConfig};
use crate::thread::{self, Extras};
use crate::{Node, StartError};

/// Starts a node: `Node::builder().name("kitchen").seed("10.0.0.1:4000").start()`.
///
/// Without further ado the node has an identity that lives as long as it does, and listens on a free port.
/// [`data_dir`](Self::data_dir) or [`kept`](Self::kept) make it keep its identity.
#[must_use = "nothing starts before `start`"]
pub struct NodeBuilder {
    raw: RawConfig,
    seeds: Vec<String>,
    realms: Vec<String>,
    advertise: Vec<String>,
    tags: Vec<String>,
    kept: bool,
    here: bool,
    gate: Arc<dyn Gate>,
    #[cfg(feature = "testing")]
    injected: crate::testing::Injected,
}

impl NodeBuilder {
    pub(crate) fn new() -> Self {
        Self {
            raw: RawConfig::new(),
            seeds: Vec::new(),
            realms: Vec::new(),
            advertise: Vec::new(),
            tags: Vec::new(),
            kept: false,
            here: false,
            gate: Arc::new(AllowAll),
            #[cfg(feature = "testing")]
            injected: Default::default(),
        }
    }

    /// Names the node; see `node.name`.
    pub fn name(self, name: &str) -> Self {
        self.set("node.name", name)
    }

    /// Listens there, `host:port`; port 0 takes a free one. See `node.address`.
    pub fn listen(self, addr: &str) -> Self {
        self.set("node.address", addr)
    }

    /// Tells others this address, in place of the one it listens on; may be called several times.
    pub fn advertise(mut self, addr: SocketAddr) -> Self {
        self.advertise.push(addr.to_string());
        self
    }

    /// Is in this realm; may be called several times. Without it, the node is in `default`.
    pub fn realm(mut self, realm: &str) -> Self {
        self.realms.push(realm.into());
        self
    }

    /// Says this about itself to every member; may be called several times. See `node.tags` for what is allowed.
    pub fn tag(mut self, name: &str, value: &str) -> Self {
        self.tags.push(format!("{name}={value}"));
        self
    }

    /// Several of them.
    pub fn tags<N: AsRef<str>, V: AsRef<str>>(self, tags: impl IntoIterator<Item = (N, V)>) -> Self {
        tags.into_iter().fold(self, |builder, (name, value)| builder.tag(name.as_ref(), value.as_ref()))
    }

    /// Joins through this node, `host:port`; may be called several times. [`start`](Self::start) does not wait for it:
    /// [`Node::joined`] does.
    pub fn seed(mut self, addr: &str) -> Self {
        self.seeds.push(addr.into());
        self
    }

    /// Keeps identity and peers in this directory.
    pub fn data_dir(self, path: impl AsRef<Path>) -> Self {
        self.set("node.data_dir", path.as_ref().display().to_string()).kept()
    }

    /// Keeps identity and peers in the default directory of the node's name.
    pub fn kept(mut self) -> Self {
        self.kept = true;
        self
    }

    /// Lives on the tokio runtime on which it is started, and not on a thread of its own. For programs that do little else on
    /// a current-thread runtime: nothing crosses threads then, a call takes half the time, and messages cost less. But
    /// whatever keeps that runtime busy holds up the node, which others then take for slow or dead.
    pub fn on_this_runtime(mut self) -> Self {
        self.here = true;
        self
    }

    /// Reads a configuration file (TOML).
    pub fn file(mut self, path: impl AsRef<Path>) -> Self {
        self.raw = self.raw.file(path);
        self
    }

    /// Reads the `MACULA_*` variables of the process's environment.
    pub fn environment(mut self) -> Self {
        self.raw = self.raw.env();
        self
    }

    /// Sets any key of the configuration: see [`config::KEYS`](crate::config::KEYS).
    pub fn set(mut self, key: &str, value: impl Into<Raw>) -> Self {
        self.raw = self.raw.set(key, value);
        self
    }

    /// Asks this gate about everything that peers, and this node, want to do. Without it everything is allowed.
    pub fn gate(mut self, gate: Arc<dyn Gate>) -> Self {
        self.gate = gate;
        self
    }

    /// Puts what a test brings in the place of the machine's own.
    #[cfg(feature = "testing")]
    pub fn injected(mut self, injected: crate::testing::Injected) -> Self {
        self.injected = injected;
        self
    }

    /// Starts the node. Its procedures' handlers run on the tokio runtime that this is awaited on.
    ///
    /// # Errors
    /// [`StartError`]: everything that is wrong with the configuration, or what the system refused.
    pub async fn start(mut self) -> Result<Node, StartError> {
        let lists = [
            ("bootstrap.seeds", self.seeds),
            ("node.realms", self.realms),
            ("node.advertise", self.advertise),
            ("node.tags", self.tags),
        ];
        for (key, list) in lists {
            if !list.is_empty() {
                self.raw = self.raw.set(key, list);
            }
        }
        let config = self.raw.build()?;
        let extras = Extras {
            kept: self.kept,
            gate: self.gate,
            here: self.here,
            #[cfg(feature = "testing")]
            injected: self.injected,
        };
        thread::start(config, extras).await
    }
}

impl std::fmt::Debug for NodeBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeBuilder")
            .field("seeds", &self.seeds)
            .field("kept", &self.kept)
            .finish_non_exhaustive()
    }
}
