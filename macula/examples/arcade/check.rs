//! Reads the whole ledger and says whether every player has exactly one game.

use std::error::Error;

use macula::{LogOffset, Node};

use crate::ledger::{LEDGER, Ledger};

/// Fails if somebody has more than one game, or has none although nobody is left to wait for.
pub(crate) async fn check(node: &Node) -> Result<(), Box<dyn Error>> {
    let log = node.log(LEDGER)?;
    let mut ledger = Ledger::default();
    loop {
        let page = log.read(LogOffset(ledger.next)).await?;
        if page.entries.is_empty() {
            break;
        }
        for entry in page.entries {
            ledger.read(entry.offset, &entry.entry)?;
        }
    }
    let twice: Vec<_> = ledger.games.iter().filter(|(_, games)| games.len() > 1).collect();
    for (player, games) in &twice {
        println!("{player} is in {} games: {games:?}", games.len());
    }
    println!(
        "{} players, {} with a game, {} waiting, {} twice, {} coordinators, {} void matches",
        ledger.entered.len(),
        ledger.games.len(),
        ledger.waiting.len(),
        twice.len(),
        ledger.coordinators,
        ledger.void
    );
    if twice.is_empty() && ledger.waiting.len() < 2 {
        Ok(())
    } else {
        Err("the ledger does not add up".into())
    }
}
