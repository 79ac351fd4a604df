//! Commands that change a running node.

use std::collections::BTreeMap;

use hyper::Method;
use macula_console::api::{Address, ChangeTags, ConfigEntry, Joined, SetValue};
use serde_json::{Value, json};

use super::messages::query;
use crate::cli::{ConfigCommand, ContextCommand, Format, SeedsCommand, TagsCommand};
use crate::client::Client;
use crate::context;
use crate::error::CliError;
use crate::output::{self, Row};

pub(crate) async fn join(client: &Client, format: Format, addr: &str) -> Result<(), CliError> {
    let progress = super::progress(&format!("joining through {addr}"));
    let joined: Joined = client.send(Method::POST, "/v1/join", &Address { addr: addr.into() }).await?;
    progress.finish_and_clear();
    output::one(format, &joined, || {
        let seed = super::inspect::short(&joined.seed);
        let members = output::count(joined.members, "member");
        format!("joined through {seed} in {} ms: {members}", joined.took_ms)
    })
}

pub(crate) async fn leave(client: &Client) -> Result<(), CliError> {
    let progress = super::progress("leaving the mesh");
    let _: Value = client.send(Method::POST, "/v1/leave", &Value::Null).await?;
    progress.finish_and_clear();
    output::say("left the mesh; the node goes on running alone");
    Ok(())
}

pub(crate) async fn stop(client: &Client) -> Result<(), CliError> {
    let progress = super::progress("stopping");
    let mut shutdown = client.lines(Method::POST, "/v1/stop").await?;
    // The node says `stopping` at once and ends the stream when it is done.
    while shutdown.next::<Value>().await.unwrap_or(None).is_some() {}
    progress.finish_and_clear();
    output::say("stopped");
    Ok(())
}

pub(crate) async fn config(client: &Client, format: Format, command: &ConfigCommand) -> Result<(), CliError> {
    match command {
        ConfigCommand::List => super::inspect::list::<ConfigEntry>(client, format, "/v1/config").await,
        ConfigCommand::Get { key } => {
            let entry: ConfigEntry = client.get(&format!("/v1/config/{}", query(key))).await?;
            output::one(format, &entry, || super::inspect::written(&entry.value))
        }
        ConfigCommand::Set { key, value } => {
            let body = SetValue { value: value.clone() };
            let entry: ConfigEntry =
                client.send(Method::PUT, &format!("/v1/config/{}", query(key)), &body).await?;
            output::say(&format!("{} = {}", entry.key, super::inspect::written(&entry.value)));
            Ok(())
        }
    }
}

/// A seed as a row.
#[derive(serde::Serialize, serde::Deserialize)]
struct Seed {
    addr: String,
    source: String,
}

impl Row for Seed {
    const COLUMNS: &'static [&'static str] = &["seed", "set by"];

    fn cells(&self) -> Vec<String> {
        vec![self.addr.clone(), self.source.clone()]
    }
}

pub(crate) async fn seeds(client: &Client, format: Format, command: &SeedsCommand) -> Result<(), CliError> {
    let (method, addr, done) = match command {
        SeedsCommand::List => return super::inspect::list::<Seed>(client, format, "/v1/seeds").await,
        SeedsCommand::Add { addr } => (Method::POST, addr, "is a seed now"),
        SeedsCommand::Remove { addr } => (Method::DELETE, addr, "is no seed any more"),
    };
    let _: Value = client.send(method, "/v1/seeds", &Address { addr: addr.clone() }).await?;
    output::say(&format!("{addr} {done}"));
    Ok(())
}

/// A tag as a row.
#[derive(serde::Serialize)]
struct Tag {
    name: String,
    value: String,
}

impl Row for Tag {
    const COLUMNS: &'static [&'static str] = &["tag", "value"];

    fn cells(&self) -> Vec<String> {
        vec![self.name.clone(), self.value.clone()]
    }
}

pub(crate) async fn tags(client: &Client, format: Format, command: TagsCommand) -> Result<(), CliError> {
    let change = match command {
        TagsCommand::List => None,
        TagsCommand::Set { tags } => {
            Some(ChangeTags { set: tags.into_iter().collect(), ..ChangeTags::default() })
        }
        TagsCommand::Remove { names } => Some(ChangeTags { remove: names, ..ChangeTags::default() }),
    };
    let tags: BTreeMap<String, String> = match change {
        None => client.get("/v1/tags").await?,
        Some(change) => client.send(Method::PATCH, "/v1/tags", &change).await?,
    };
    let rows: Vec<_> = tags.into_iter().map(|(name, value)| Tag { name, value }).collect();
    if rows.is_empty() && format == Format::Table {
        output::say("no tags");
        return Ok(());
    }
    output::rows(format, &rows)
}

pub(crate) async fn log(client: &Client, level: &str) -> Result<(), CliError> {
    let _: Value = client.send(Method::PUT, "/v1/log", &SetValue { value: level.into() }).await?;
    output::say(&format!("log level: {level}"));
    Ok(())
}

pub(crate) async fn context(format: Format, command: &ContextCommand) -> Result<(), CliError> {
    match command {
        ContextCommand::Show => {
            let saved = context::saved()?;
            if saved.is_none() && format == Format::Table {
                let name = context::DEFAULT_NAME;
                output::say(&format!("no node is saved; commands talk to `{name}`"));
                return Ok(());
            }
            let node = saved.as_deref().unwrap_or(context::DEFAULT_NAME);
            let shown = json!({ "node": node, "source": if saved.is_some() { "saved" } else { "default" } });
            output::one(format, &shown, || node.to_owned())
        }
        ContextCommand::Set { node } => {
            context::save(node)?;
            output::say(&format!("commands talk to `{node}` now"));
            match context::socket(Some(node)).await {
                Err(CliError::NoNode { message, .. }) => output::say(&format!("note: {message}")),
                other => drop(other?),
            }
            Ok(())
        }
        ContextCommand::Clear => {
            context::clear()?;
            output::say(&format!("commands talk to `{}` now", context::DEFAULT_NAME));
            Ok(())
        }
    }
}
