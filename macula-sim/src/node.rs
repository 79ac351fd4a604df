//! One simulated node: the machines of its layers, and how it is doing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use macula_dht::kademlia::{Node as Directory, ReplyTo, RequestId};
use macula_membership::{Incarnation, Machine, Update};
use macula_proto::{Contact, NodeId, Signer as _, Timestamp};

use crate::signing::CheapSigner;
use crate::simulation::{Event, Lies};

/// A node's number: they are counted from 0 in the order in which they were added.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeIndex(pub u32);

impl NodeIndex {
    /// As a place in a vector.
    pub const fn place(self) -> usize {
        self.0 as usize
    }

    /// All numbers in a range.
    pub fn each(range: Range<u32>) -> impl Iterator<Item = Self> {
        range.map(Self)
    }
}

impl fmt::Display for NodeIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// How a node is doing.
///
/// ```text
///                 pause               leave
///   ┌── Paused ◀───────── Running ──────────▶ Departed
///   │            resume    ▲   │
///   │ crash ───────────────┼─┐ │ crash
///   └─────────────▶ Down ◀─┼─┴─┘
///                     └────┘ restart: the same id, the next life
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    /// It works.
    Running,
    /// Its process stands still; what arrives waits.
    Paused,
    /// Its process died without a word.
    Down,
    /// It said goodbye and ended.
    Departed,
}

/// The layers of a node that have machines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Layer {
    Membership = 0,
    Directory = 1,
}

/// What a liar remembers.
#[derive(Debug, Default)]
pub(crate) struct Liar {
    pub(crate) lies: Lies,
    /// How often it lied.
    pub(crate) told: u32,
    /// What it has ready to say of each victim, and of which incarnation.
    pub(crate) slanders: BTreeMap<NodeIndex, (Incarnation, Vec<Update>)>,
    /// Words of other members, to be said again. Bounded.
    pub(crate) heard: Vec<Update>,
    /// It lies no more.
    pub(crate) reformed: bool,
}

/// A simulated node.
pub struct SimNode {
    pub(crate) signer: CheapSigner,
    pub(crate) contact: Contact,
    pub(crate) life: Life,
    /// How often it was started; what belongs to an earlier life is void.
    pub(crate) lives: u32,
    /// The incarnation with which the present life began.
    pub(crate) born: Incarnation,
    /// The last moment at which something outside kept it from answering.
    pub(crate) disturbed: Option<Timestamp>,
    pub(crate) swim: Option<Machine>,
    pub(crate) directory: Option<Directory>,
    pub(crate) seeds: Vec<NodeIndex>,
    /// By how much its wall clock is slow.
    pub(crate) clock_back_ms: u64,
    /// By how many millionths its own clock is fast; negative: slow.
    pub(crate) drift_ppm: i32,
    /// The smallest incarnation to begin a life with.
    pub(crate) incarnation_min: Incarnation,
    /// What it does beside running its machine, if it lies.
    pub(crate) liar: Option<Liar>,
    /// Its timers run, but what arrives waits, as if it had no time to read.
    pub(crate) starved: bool,
    /// What arrived while it was paused or starved. Bounded.
    pub(crate) inbox: VecDeque<Event>,
    /// When the next timer event of each layer is due, if one is on the agenda.
    pub(crate) timers: [Option<Timestamp>; 2],
    /// Since when it exchanges lists with a seed.
    pub(crate) joining: Option<Timestamp>,
    /// Exchanges of member lists that it answers.
    pub(crate) answering: usize,
    /// Its requests to other directories that are under way.
    pub(crate) asking: BTreeSet<RequestId>,
    /// Requests that it has not answered yet: who asked, in which life, under which number.
    pub(crate) owed: BTreeMap<ReplyTo, (NodeIndex, u32, RequestId)>,
}

impl SimNode {
    pub(crate) fn new(seed: u64, index: NodeIndex) -> Self {
        let signer = CheapSigner::new(seed, index.0);
        let [_, a, b, c] = index.0.to_be_bytes();
        let contact = Contact::new(signer.public_key().node_id(), SocketAddr::from(([10, a, b, c], 4_000)));
        Self {
            signer,
            contact,
            life: Life::Down,
            lives: 0,
            born: Incarnation::default(),
            disturbed: None,
            swim: None,
            directory: None,
            seeds: Vec::new(),
            clock_back_ms: 0,
            drift_ppm: 0,
            incarnation_min: Incarnation::default(),
            liar: None,
            starved: false,
            inbox: VecDeque::new(),
            timers: [None; 2],
            joining: None,
            answering: 0,
            asking: BTreeSet::new(),
            owed: BTreeMap::new(),
        }
    }

    /// Its id.
    pub const fn id(&self) -> NodeId {
        self.contact.id
    }

    /// How it is doing.
    pub const fn life(&self) -> Life {
        self.life
    }

    /// Whether others should count it as there.
    pub const fn is_there(&self) -> bool {
        matches!(self.life, Life::Running | Life::Paused)
    }

    /// Its membership, if it runs one and lives.
    pub const fn membership(&self) -> Option<&Machine> {
        self.swim.as_ref()
    }

    /// Its directory, if it runs one and lives.
    pub const fn directory(&self) -> Option<&Directory> {
        self.directory.as_ref()
    }

    /// What its own clock shows at a moment.
    pub(crate) fn clock(&self, at: Timestamp) -> Timestamp {
        self.scaled(at, 1_000_000 + i128::from(self.drift_ppm), 1_000_000)
    }

    /// The moment at which its own clock shows `shown`.
    pub(crate) fn moment(&self, shown: Timestamp) -> Timestamp {
        self.scaled(shown, 1_000_000, 1_000_000 + i128::from(self.drift_ppm))
    }

    fn scaled(&self, at: Timestamp, factor: i128, divisor: i128) -> Timestamp {
        // What never comes stays where it is.
        let nanos = at.since_start().as_nanos();
        match u64::try_from(nanos) {
            Ok(nanos) if self.drift_ppm != 0 => {
                let scaled = i128::from(nanos) * factor / divisor.max(1);
                Timestamp::from_start(Duration::from_nanos(scaled as u64))
            }
            _ => at,
        }
    }

    /// Forgets all that a process has in memory.
    pub(crate) fn wipe(&mut self) {
        self.swim = None;
        self.directory = None;
        self.starved = false;
        self.inbox.clear();
        self.timers = [None; 2];
        self.answering = 0;
        self.joining = None;
        self.asking.clear();
        self.owed.clear();
    }
}

impl fmt::Debug for SimNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimNode").field("id", &self.id()).field("life", &self.life).finish_non_exhaustive()
    }
}
