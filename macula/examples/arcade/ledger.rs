//! The ledger: a log of the group in which everything that is decided is written down, and what it means.
//!
//! ```text
//!   Enter anna   Lead 0.17   Enter bert   Match 0.17: anna, bert   Lead 0.42   Match 0.17: …
//!                   │                          counts                  │         void: 0.42 leads from here on
//!                   └── only what carries 0.17 counts ─────────────────┘
//! ```
//!
//! Everybody who reads it comes to the same result, so nobody has to be asked who is right.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::time::Duration;

use macula::{CoordinationError, FencingToken, LogOffset, LogTail, Node};
use serde::{Deserialize, Serialize};

/// The log's name.
pub(crate) const LEDGER: &str = "arcade.ledger";

/// Between two tries while the group does not answer.
const PAUSE: Duration = Duration::from_millis(200);

/// One entry of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Entry {
    /// A player wants a game. Whoever enters twice has entered once.
    Enter { player: String },
    /// From here on only matches with this token count, or with a larger one.
    Lead { token: String },
    /// These two play.
    Match { token: String, players: [String; 2] },
}

impl Entry {
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }
}

/// A match that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Game {
    /// Its number: where it stands in the ledger.
    pub(crate) number: u64,
    pub(crate) players: [String; 2],
}

/// What the ledger says, up to some entry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    /// The token that counts.
    pub(crate) token: FencingToken,
    /// Players without a game, in the order in which they came.
    pub(crate) waiting: Vec<String>,
    pub(crate) entered: BTreeSet<String>,
    /// Each player's games: one, if all is well.
    pub(crate) games: BTreeMap<String, Vec<u64>>,
    /// So many changed the coordinator.
    pub(crate) coordinators: u64,
    /// So many matches came from a coordinator that was none any more.
    pub(crate) void: u64,
    /// The offset behind the last entry.
    pub(crate) next: u64,
}

impl Ledger {
    /// Reads one more entry; returns the game that it is, if it is one that counts.
    pub(crate) fn read(&mut self, offset: LogOffset, entry: &[u8]) -> Result<Option<Game>, Box<dyn Error>> {
        self.next = offset.0 + 1;
        match serde_json::from_slice(entry)? {
            Entry::Enter { player } => {
                if self.entered.insert(player.clone()) {
                    self.waiting.push(player);
                }
            }
            Entry::Lead { token } => {
                let token = token.parse()?;
                if token > self.token {
                    self.token = token;
                    self.coordinators += 1;
                }
            }
            Entry::Match { token, players } => {
                // Whoever wrote it may have been paused, or cut off, and has not heard that another coordinates.
                if token.parse::<FencingToken>()? != self.token {
                    self.void += 1;
                    return Ok(None);
                }
                self.waiting.retain(|player| !players.contains(player));
                for player in &players {
                    self.games.entry(player.clone()).or_default().push(offset.0);
                }
                return Ok(Some(Game { number: offset.0, players }));
            }
        }
        Ok(None)
    }

    /// Those who have waited for longest, two by two.
    pub(crate) fn pairs(&self) -> Vec<[String; 2]> {
        self.waiting.chunks_exact(2).map(|pair| [pair[0].clone(), pair[1].clone()]).collect()
    }
}

/// Reads the ledger as it grows.
pub(crate) struct Reader {
    tail: LogTail,
    pub(crate) ledger: Ledger,
}

impl Reader {
    /// From the beginning.
    pub(crate) fn new(node: &Node) -> Result<Self, macula::Error> {
        Ok(Self { tail: node.log(LEDGER)?.tail(LogOffset(0)), ledger: Ledger::default() })
    }

    /// Waits for the next entry, while the group cannot be reached as well.
    pub(crate) async fn next(&mut self) -> Result<Option<Game>, Box<dyn Error>> {
        loop {
            match self.tail.next().await {
                Ok(entry) => return self.ledger.read(entry.offset, &entry.entry),
                Err(macula::Error::Coordination(
                    CoordinationError::Unavailable { .. } | CoordinationError::NoGroup { .. },
                )) => tokio::time::sleep(PAUSE).await,
                Err(other) => return Err(other.into()),
            }
        }
    }
}
