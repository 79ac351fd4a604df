//! Publish and subscribe.

use std::io::Read;
use std::time::Duration;

use hyper::Method;
use macula_console::api::{
    Acknowledged, Encoding, Message, Payload, Publish, PublishAcknowledged, Published, SubscribeEvent,
};

use crate::cli::{self, Format, Lag};
use crate::client::Client;
use crate::daemon;
use crate::error::CliError;
use crate::output::{self, count};

/// Largest message that is read from stdin; the mesh takes no larger one.
const INPUT_BYTES_MAX: u64 = macula::PAYLOAD_BYTES_MAX as u64;

pub(crate) async fn publish(client: &Client, format: Format, args: &cli::Publish) -> Result<(), CliError> {
    let body = Publish {
        topic: args.topic.clone(),
        realm: args.realm.clone(),
        payload: input(&args.message)?,
        headers: args.header.iter().cloned().collect(),
        wait_ms: args.wait.map(millis),
    };
    if args.retain {
        return super::retained::publish(client, format, &body).await;
    }
    if args.ack {
        return publish_acknowledged(client, format, body, args.timeout).await;
    }
    let published: Published = client.send(Method::POST, "/v1/publish", &body).await?;
    if format != Format::Table {
        return output::one(format, &published, String::new);
    }
    report(&published);
    Ok(())
}

/// Says whom a message reached.
pub(crate) fn report(published: &Published) {
    let Published { peers, local, dropped, failed, unnamed, by_trees, groups: _, unserved } = *published;
    let (peers, local) = (count(peers, "remote node"), count(local, "local subscription"));
    output::say(&format!("reached {peers} and {local}"));
    for (count, what) in [
        (by_trees, "remote nodes get it by a tree, from each other"),
        (dropped, "copies were dropped: the queues that they were for are full"),
        (failed, "remote nodes could not be connected to in time and did not get it"),
        (unserved, "queue groups did not get it: no member could be reached, or had room"),
        (unnamed, "remote nodes at most did not get it: the directory counts them and does not name them"),
    ] {
        if count > 0 {
            output::say(&format!("{count} {what}"));
        }
    }
}

async fn publish_acknowledged(
    client: &Client,
    format: Format,
    message: Publish,
    within: Duration,
) -> Result<(), CliError> {
    let body = PublishAcknowledged { message, within_ms: millis(within) };
    let acknowledged: Acknowledged = client.send(Method::POST, "/v1/publish-acknowledged", &body).await?;
    if format == Format::Table {
        let nodes = count(acknowledged.taken.len(), "node");
        let groups = count(acknowledged.groups.len(), "queue group");
        output::say(&format!("taken by {nodes} and {groups}"));
    } else {
        output::one(format, &acknowledged, String::new)?;
    }
    if acknowledged.complete { Ok(()) } else { Err(CliError::Missed(not_taken(&acknowledged))) }
}

/// Who did not take a message, in words.
fn not_taken(acknowledged: &Acknowledged) -> String {
    let missed = acknowledged.missed.iter().map(|missed| format!("{}: {}", missed.node, missed.reason));
    let unserved =
        acknowledged.unserved.iter().map(|group| format!("queue group {group}: no member took it"));
    let mut reasons: Vec<String> = missed.chain(unserved).collect();
    for (count, what) in [
        (acknowledged.unnamed, "nodes at most: the directory counts them and does not name them"),
        (acknowledged.unresolved, "look-ups of who subscribes did not succeed"),
    ] {
        if count > 0 {
            reasons.push(format!("{count} {what}"));
        }
    }
    format!("not everybody took it: {}", reasons.join("; "))
}

pub(crate) async fn subscribe(
    client: &Client,
    format: Format,
    args: &cli::Subscribe,
) -> Result<(), CliError> {
    let lag = match args.lag {
        Lag::DropOldest => "drop-oldest",
        Lag::Wait => "wait",
    };
    let mut path = format!("/v1/subscribe?pattern={}&lag={lag}&queue={}", query(&args.pattern), args.queue);
    for (name, value) in [("realm", &args.realm), ("filter", &args.filter), ("group", &args.group)] {
        if let Some(value) = value {
            path += &format!("&{name}={}", query(value));
        }
    }
    if args.retained {
        path += "&retained=true";
    }
    let mut events = client.lines(Method::GET, &path).await?;
    let mut left = args.count;
    let told_to_stop = daemon::told_to_stop();
    tokio::pin!(told_to_stop);
    while left != Some(0) {
        let event = tokio::select! {
            event = events.next::<SubscribeEvent>() => event?,
            outcome = &mut told_to_stop => return outcome,
        };
        match event {
            None => return Err(CliError::stopped()),
            Some(SubscribeEvent::Subscribed {
                pattern, retained, retained_lost, retained_failed, ..
            }) => {
                output::say(&format!("subscribed to {pattern}; Ctrl-C ends it"));
                if args.retained {
                    output::say(&count(retained, "retained value"));
                }
                for (count, what) in [
                    (retained_lost, "retained values found no room: see --queue"),
                    (retained_failed as u64, "look-ups failed or took too long: there may be more values"),
                ] {
                    if count > 0 {
                        output::say(&format!("{count} {what}"));
                    }
                }
            }
            Some(SubscribeEvent::Lagged { lost }) => {
                output::say(&format!("{} lost: too slow", count(lost, "message")));
            }
            Some(SubscribeEvent::Message(message)) => {
                match format {
                    Format::Table => {
                        output::print(&line(&message))?;
                    }
                    Format::Json | Format::Ndjson => output::line(&message)?,
                }
                left = left.map(|left| left - 1);
            }
        }
    }
    Ok(())
}

/// A message as people read it: topic, headers if there are any, content.
fn line(message: &Message) -> String {
    let text = output::one_line(&shown(&message.payload));
    let header = |(name, value): (&String, &String)| output::one_line(&format!("{name}={value}"));
    match message.headers.iter().map(header).collect::<Vec<_>>().join(" ") {
        headers if headers.is_empty() => format!("{}  {text}", message.topic),
        headers => format!("{}  [{headers}]  {text}", message.topic),
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What a user typed, or what stands on stdin.
pub(super) fn input(text: &str) -> Result<Payload, CliError> {
    if text != "-" {
        return Ok(Payload::from_input(text.as_bytes().to_vec()));
    }
    let mut bytes = Vec::new();
    let stdin = std::io::stdin().lock();
    stdin.take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(CliError::io("stdin"))?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        return Err(CliError::Usage {
            message: format!("stdin holds more than {INPUT_BYTES_MAX} bytes"),
            hint: "the largest message has 1 MiB; send larger data in parts".into(),
        });
    }
    Ok(Payload::from_input(bytes))
}

/// A payload as people read it.
pub(crate) fn shown(payload: &Payload) -> String {
    match (payload.encoding, payload.payload.as_str()) {
        (Encoding::Json, _) | (_, None) => payload.payload.to_string(),
        (Encoding::Text, Some(text)) => text.to_owned(),
        (Encoding::Base64, Some(text)) => format!("base64:{text}"),
    }
}

/// The part of a query that names a realm; empty for the node's first one.
pub(crate) fn in_realm(realm: Option<&str>) -> String {
    realm.map(|realm| format!("&realm={}", query(realm))).unwrap_or_default()
}

/// Percent-encodes what has a meaning of its own in a query (RFC 3986 §3.4).
pub(crate) fn query(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped() {
        assert_eq!(query("be.home.*"), "be.home.%2A");
        assert_eq!(query("a#&é"), "a%23%26%C3%A9");
    }

    #[test]
    fn input_is_json_where_it_can_be() {
        assert_eq!(shown(&input("{\"foo\":\"bar\"}").unwrap()), "{\"foo\":\"bar\"}");
        assert_eq!(shown(&input("hello").unwrap()), "hello");
        assert_eq!(input("hello").unwrap().encoding, Encoding::Text);
    }
}
