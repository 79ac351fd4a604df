//! A key-value store on every node that runs this: values are copied to the three nodes nearest to their key, survive the
//! loss of nodes, and are copied again when one dies.
//!
//! ```text
//!   kv.get, kv.put ──► coordinator (any node) ──► kv.replica at the owners of the key: rendezvous hashing over
//!                                                 whoever the directory shows as offering `kv.replica`
//! ```
//!
//! See this folder's README for how to run it, and for what it promises.

mod coordinator;
mod owners;
mod repair;
mod replica;
mod store;
#[path = "../shared/typed.rs"]
mod typed;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use macula::{Call, Decode, HandlerError, Json, Node, Reply};
use serde::{Deserialize, Serialize};

use crate::coordinator::Coordinator;
use crate::store::Store;
use crate::typed::typed_lines;

/// How long to look for the mesh before beginning alone.
const JOINING: Duration = Duration::from_secs(10);

const HELP: &str = "put KEY VALUE · get KEY · delete KEY · where KEY · status · quit";

/// Holds a share of the store, and gives access to all of it.
#[derive(Parser)]
struct Args {
    /// UDP address to listen on
    #[arg(long, default_value = "[::]:0")]
    listen: String,
    /// Somebody who runs the store already, as host:port; may be given several times
    #[arg(long)]
    join: Vec<String>,
}

/// Arguments of `kv.put`; without a value the key is deleted.
#[derive(Serialize, Deserialize)]
struct Put {
    key: String,
    value: Option<String>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let builder = Node::builder().name("kv-store").listen(&args.listen);
    let node = args.join.iter().fold(builder, |builder, seed| builder.seed(seed)).start().await?;
    println!("listening on port {}", node.listen_addrs()[0].port());
    println!("this is node {}", node.node_id().short());
    if !args.join.is_empty() && tokio::time::timeout(JOINING, node.joined()).await.is_err() {
        println!("nobody answers yet; they are tried until somebody does");
    }
    let store = Arc::new(Store::new(node.node_id()));
    let _replica = replica::offer(&node, &store).await?;
    let coordinator = Arc::new(Coordinator::new(node.clone(), store.clone()));
    let _access = offer(&node, &coordinator).await?;
    let repair = tokio::spawn(repair::keep(node.clone(), store));
    println!("ready: {HELP}");

    let mut typed = typed_lines();
    loop {
        let line = tokio::select! {
            line = typed.recv() => line,
            _ = tokio::signal::ctrl_c() => None,
        };
        let Some(line) = line.filter(|line| line != "quit") else { break };
        match answer(&coordinator, &line).await {
            Ok(answer) => println!("{answer}"),
            Err(error) => println!("error: {error}"),
        }
    }
    repair.abort();
    node.shutdown().await;
    Ok(())
}

async fn answer(coordinator: &Coordinator, line: &str) -> Result<String, Box<dyn Error>> {
    let words: Vec<&str> = line.trim().splitn(3, ' ').collect();
    Ok(match words[..] {
        ["put", key, value] => {
            format!("stored on {} nodes", coordinator.put(key, Some(value.to_owned())).await?)
        }
        ["delete", key] => format!("deleted on {} nodes", coordinator.put(key, None).await?),
        ["get", key] => match coordinator.get(key).await? {
            Some(value) => format!("{key} = {value}"),
            None => format!("{key} is not there"),
        },
        ["where", key] => {
            let copies = coordinator.copies(key).await?;
            format!("{key} has {} copies: {}", copies.len(), copies.join(", "))
        }
        ["status"] => coordinator.status().await?,
        _ => HELP.into(),
    })
}

/// The store as procedures, for other programs: they reach it through whichever node is nearest.
async fn offer(
    node: &Node,
    coordinator: &Arc<Coordinator>,
) -> Result<[macula::Registration; 2], macula::Error> {
    let (reads, writes) = (coordinator.clone(), coordinator.clone());
    let get = move |call: Call| {
        let reads = reads.clone();
        async move { served(reads.get(&call.text()?).await) }
    };
    let put = move |call: Call| {
        let writes = writes.clone();
        async move {
            let Json(Put { key, value }) = call.decode::<Json<Put>>()?;
            served(writes.put(&key, value).await)
        }
    };
    Ok([node.register("kv.get", get).await?, node.register("kv.put", put).await?])
}

fn served(outcome: Result<impl Serialize, coordinator::Unavailable>) -> Result<Reply, HandlerError> {
    macula::reply(Json(outcome?))
}
