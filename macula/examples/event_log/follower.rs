//! A follower: reads from an offset on, and goes on where it was when its keeper is gone and back.

use std::error::Error;
use std::time::Duration;

use macula::{CallRequest, Decode, IntoPayload, Json, Node};

use crate::{Event, READ};

/// How long one call goes on; then the next begins where it ended. Within the hour that a node gives a handler.
const CALL: Duration = Duration::from_secs(30 * 60);

/// Pause before a keeper that cannot be reached is called again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

pub(crate) async fn follow(node: &Node, from: u64) -> Result<(), Box<dyn Error>> {
    let mut next = from;
    loop {
        if let Err(error) = read(node, &mut next).await {
            println!("(at {next}: {error})");
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// Prints events until the call ends; `next` is the one to go on with.
async fn read(node: &Node, next: &mut u64) -> Result<(), Box<dyn Error>> {
    let (payload, content_type) = Json(*next).into_payload()?;
    let request = CallRequest::new(READ.parse()?)
        .realm(node.realm())
        .payload(payload)
        .content_type(content_type)
        .timeout(CALL);
    let mut events = node.call_stream(request).await?;
    while let Some(part) = events.next().await? {
        let Json(event) = part.decode::<Json<Event>>()?;
        if event.offset != *next {
            return Err(format!("event {} came where {next} belongs", event.offset).into());
        }
        *next += 1;
        println!("{} {} {}", event.offset, event.topic, harmless(&event.text));
    }
    Ok(())
}

/// What others wrote must not steer this terminal.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
