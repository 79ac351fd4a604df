//! `start`: one node in the foreground.

use macula::config::RawConfig;
use macula::{Config, ConfigErrors, Node, StartError};
use serde::Serialize;

use crate::cli::{Format, Start};
use crate::daemon;
use crate::error::CliError;
use crate::{logging, output};

/// What `start` prints once the node is up.
#[derive(Debug, Serialize)]
struct Ready {
    event: &'static str,
    name: String,
    id: String,
    listen: Vec<String>,
    socket: String,
}

pub(crate) async fn start(args: Start, output: Format) -> Result<(), CliError> {
    let config = resolve(&args).map_err(|error| CliError::Start {
        message: error.to_string(),
        hint: Some("docs/CONFIGURATION.md lists every key with its range and default".into()),
        in_use: false,
    })?;
    let log = logging::init(&config.log.level, config.log.format)?;
    let name = config.node.name.clone();
    let node = Node::start(config).await.map_err(|error| failed(&error, &name))?;
    let ready = Ready {
        event: "ready",
        name,
        id: node.node_id().to_string(),
        listen: node.listen_addrs().iter().map(ToString::to_string).collect(),
        socket: node.admin_socket().display().to_string(),
    };
    daemon::run(vec![node], log, || announce(&ready, output)).await
}

fn announce(ready: &Ready, output: Format) -> Result<(), CliError> {
    if output != Format::Table {
        return output::line(ready);
    }
    output::say(&format!(
        "node `{}` ({}) listens on {}; Ctrl-C or `macula_ctl --node {} stop` ends it",
        ready.name,
        super::inspect::short(&ready.id),
        ready.listen.join(", "),
        ready.name,
    ));
    Ok(())
}

/// File, environment and command line, the later winning over the earlier.
fn resolve(args: &Start) -> Result<Config, ConfigErrors> {
    let mut builder = RawConfig::new().env();
    if let Some(file) = &args.config {
        builder = builder.file(file);
    }
    if let Some(name) = &args.name {
        builder = builder.set("node.name", name);
    }
    if let Some(listen) = args.listen {
        builder = builder.set("node.address", listen);
    }
    if let Some(dir) = &args.data_dir {
        builder = builder.set("node.data_dir", dir.display());
    }
    if !args.advertise.is_empty() {
        builder = builder.set_list("node.advertise", &args.advertise);
    }
    if !args.realm.is_empty() {
        builder = builder.set_list("node.realms", &args.realm);
    }
    if !args.join.is_empty() {
        builder = builder.set_list("bootstrap.seeds", &args.join);
    }
    if let Some(level) = &args.log_level {
        builder = builder.set("log.level", level);
    }
    if let Some(format) = &args.log_format {
        builder = builder.set("log.format", format);
    }
    builder.build()
}

fn failed(error: &StartError, name: &str) -> CliError {
    let in_use = error.is_in_use();
    let hint = in_use.then(|| {
        format!("`macula_ctl --node {name} status` shows the running one; `--name` starts another beside it")
    });
    CliError::Start { message: format!("the node could not start: {error}"), hint, in_use }
}
