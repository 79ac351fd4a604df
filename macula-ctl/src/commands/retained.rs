//! Retained values: publish, show, clear.

use hyper::Method;
use macula_console::api::{Publish, Retained, RetainedCleared, RetainedFound, RetainedValue};
use serde_json::Value;

use super::inspect::short;
use super::messages::{in_realm, query, shown};
use crate::cli::{self, Format};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{self, Row};

pub(crate) async fn publish(client: &Client, format: Format, message: &Publish) -> Result<(), CliError> {
    let retained: Retained = client.send(Method::POST, "/v1/publish-retained", message).await?;
    if format != Format::Table {
        return output::one(format, &retained, String::new);
    }
    super::messages::report(&retained.published);
    output::say(&format!("kept by {} for those who come later", output::count(retained.holders, "node")));
    Ok(())
}

pub(crate) async fn retained(client: &Client, format: Format, args: &cli::Retained) -> Result<(), CliError> {
    let realm = in_realm(args.realm.as_deref());
    if args.clear {
        return clear(client, format, &args.pattern, &realm).await;
    }
    let path = format!("/v1/retained?pattern={}{realm}", query(&args.pattern));
    let progress = super::progress("looking up retained values");
    let found: RetainedFound = client.get(&path).await?;
    progress.finish_and_clear();
    if format == Format::Json {
        output::one(format, &found, String::new)?;
    } else {
        output::rows(format, &found.values)?;
    }
    if found.failed > 0 {
        output::say(&format!("{} look-ups failed or took too long: there may be more values", found.failed));
    }
    Ok(())
}

async fn clear(client: &Client, format: Format, topic: &str, realm: &str) -> Result<(), CliError> {
    let path = format!("/v1/retained?topic={}{realm}", query(topic));
    let answer: RetainedCleared = client.send(Method::DELETE, &path, &Value::Null).await?;
    if format != Format::Table {
        return output::one(format, &answer, String::new);
    }
    output::say(if answer.cleared {
        "this node's value is cleared"
    } else {
        "this node has no retained value of that topic: whoever published it can clear it"
    });
    Ok(())
}

impl Row for RetainedValue {
    const COLUMNS: &'static [&'static str] = &["topic", "publisher", "value"];

    fn cells(&self) -> Vec<String> {
        vec![self.topic.clone(), short(&self.publisher), shown(&self.payload)]
    }
}
