//! Players: they enter, and read in the ledger whom they play against.

use std::collections::BTreeSet;
use std::error::Error;
use std::time::Duration;

use macula::{CallRequest, Election, Node};

use crate::host::{ELECTION, ENTER};
use crate::ledger::{Game, Reader};

/// How long a player waits until the coordinator has it in the ledger, before it asks again.
const ENTERS_WITHIN: Duration = Duration::from_secs(5);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// So many players of one name come one after the other, and leave when all have a game.
pub(crate) async fn play(
    node: &Node,
    name: &str,
    players: u32,
    every: Duration,
) -> Result<(), Box<dyn Error>> {
    let names: Vec<String> = (0..players).map(|number| format!("{name}-{number}")).collect();
    let mut left: BTreeSet<String> = names.iter().cloned().collect();
    let election = node.election(ELECTION)?;
    let entering = async {
        for player in &names {
            enter(&election, player).await;
            println!("{player} entered");
            tokio::time::sleep(every).await;
        }
        std::future::pending::<()>().await;
    };
    let mut reader = Reader::new(node)?;
    let reading = async {
        while !left.is_empty() {
            let Some(Game { number, players: [one, other] }) = reader.next().await? else { continue };
            for (player, against) in [(&one, &other), (&other, &one)] {
                if left.remove(player) {
                    println!("{player} plays game {number} against {against}");
                }
            }
        }
        Ok(())
    };
    tokio::select! {
        done = reading => done,
        () = entering => Ok(()),
    }
}

/// Asks until it is in the ledger. To ask twice does no harm, so the call may also go to the next coordinator.
async fn enter(election: &Election, player: &str) {
    loop {
        let request = CallRequest::new(ENTER.parse().expect("a name"))
            .payload(player.to_owned())
            .timeout(ENTERS_WITHIN)
            .idempotent(true);
        match election.call_with(request).await {
            Ok(_) => return,
            Err(error) => println!("{player} asks again: {error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
