//! A host: keeps the ledger together with the others, and matches players while it coordinates.

use std::error::Error;
use std::time::Duration;

use macula::{Call, Election, FencingToken, HandlerError, Log, Node, Registration, Reply};

use crate::ledger::{Entry, LEDGER, Reader};

/// The election of the coordinator.
pub(crate) const ELECTION: &str = "arcade.coordinator";

/// The procedure by which players enter.
pub(crate) const ENTER: &str = "arcade.enter";

/// Between two tries to stand for election, while the group does not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// Takes part until the process ends.
pub(crate) async fn host(node: &Node) -> Result<(), Box<dyn Error>> {
    let election = node.election(ELECTION)?;
    let _enter = offer_enter(node).await?;
    println!("open");
    loop {
        if let Err(error) = election.campaign("").await {
            println!("cannot stand for election yet: {error}");
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let token = until_leading(&election).await;
        println!("coordinates with token {token}");
        let why = match coordinate(node, token).await {
            Ok(()) => "another does".into(),
            Err(error) => error.to_string(),
        };
        // Also if its own lease is still good: it does not know what it wrote last, and another token makes that void.
        println!("coordinates no more: {why}");
        if let Err(error) = election.resign().await {
            println!("could not resign: {error}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn until_leading(election: &Election) -> FencingToken {
    let mut changes = election.changes();
    loop {
        changes.next().await;
        if let Some(token) = election.token() {
            return token;
        }
    }
}

/// Matches players as they come. Returns when another coordinates.
///
/// It never asks whether it still leads: between the question and the write it could be paused. It writes, and what it wrote
/// counts if no other `Lead` came before it. Three things make that enough:
///
/// 1. It matches nobody before it has read its own `Lead`, and so every match that counts before.
/// 2. It matches nobody while it has not read what it wrote last.
/// 3. If it does not know whether something was written, it stops and needs a new token: what it left behind could come late,
///    and counts no more.
async fn coordinate(node: &Node, token: FencingToken) -> Result<(), Box<dyn Error>> {
    let ours = node.log(LEDGER)?;
    let mut reader = Reader::new(node)?;
    let mut read_through = write(&ours, &[Entry::Lead { token: token.to_string() }]).await?;
    loop {
        reader.next().await?;
        let ledger = &reader.ledger;
        if ledger.token > token {
            return Ok(());
        }
        if ledger.next < read_through {
            continue;
        }
        let game = |players| Entry::Match { token: token.to_string(), players };
        let games: Vec<_> = ledger.pairs().into_iter().take(GAMES_MAX).map(game).collect();
        if !games.is_empty() {
            read_through = write(&ours, &games).await?;
        }
    }
}

/// Games that are written at once, at most.
const GAMES_MAX: usize = 512;

/// Writes entries, all or none, and returns the offset behind them.
async fn write(ours: &Log, entries: &[Entry]) -> Result<u64, Box<dyn Error>> {
    let bytes = entries.iter().map(|entry| Ok(entry.to_bytes()?.into())).collect::<Result<Vec<_>, _>>();
    let bytes = bytes.map_err(|error: serde_json::Error| error)?;
    Ok(ours.append_all(bytes).await?.0 + entries.len() as u64)
}

/// Players enter with whoever coordinates, though any host could write it down: that is one question less, for it has
/// heard of everything there is.
async fn offer_enter(node: &Node) -> Result<Registration, Box<dyn Error>> {
    let log = node.log(LEDGER)?;
    let enter = move |call: Call| {
        let log = log.clone();
        async move {
            let player = String::from_utf8(call.payload.to_vec())?;
            let entry = Entry::Enter { player }.to_bytes()?;
            log.append(entry).await?;
            Ok::<_, HandlerError>(Reply::new("entered"))
        }
    };
    Ok(node.register(ENTER, enter).await?)
}
