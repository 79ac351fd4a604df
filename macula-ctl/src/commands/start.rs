//! `start`: one node in the foreground.

use macula::config::{Origin, RawConfig};
use macula::data_dir::DataDirError;
use macula::{BindError, Config, ConfigError, ConfigErrors, Node, StartError};
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
    let config = resolve(&args).map_err(|errors| misconfigured(&errors))?;
    let log = logging::init(&config.log.level, config.log.format)?;
    let name = config.node.name.clone();
    let node = Node::start(config.clone()).await.map_err(|error| failed(&error, &config))?;
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
    if !args.tag.is_empty() {
        builder = builder.set_list("node.tags", &args.tag);
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

fn failed(error: &StartError, config: &Config) -> CliError {
    let hint = match error {
        StartError::Bind(BindError::InUse(_)) => Some(
            "another process has this UDP port: `--listen` takes another, and without it the first free one is taken"
                .into(),
        ),
        StartError::NoPort { .. } => Some("`--listen ADDR:0` takes any free port".into()),
        StartError::DataDir(DataDirError::InUse { .. }) if config.node.data_dir.is_some() => {
            Some("`macula_ctl nodes` lists what runs; `--data-dir` takes another directory".into())
        }
        StartError::DataDir(DataDirError::InUse { .. }) => Some(format!(
            "`macula_ctl --node {} status` shows the running one; `--name` starts another beside it",
            config.node.name
        )),
        StartError::DataDir(DataDirError::Io { cause, .. }) => {
            Some(format!("{}; `--data-dir` says where the node keeps its data", output::advice(cause)))
        }
        _ => None,
    };
    CliError::Start { message: format!("the node could not start: {error}"), hint, in_use: error.is_in_use() }
}

/// A wrong configuration. What the command line said is called by the name of its option.
pub(super) fn misconfigured(errors: &ConfigErrors) -> CliError {
    let lines: Vec<_> = errors
        .0
        .iter()
        .map(|error| match error {
            ConfigError::Invalid { key, value, rule, origin: Origin::Program } => {
                format!("{} {value}: {rule}", option_of(key))
            }
            other => other.to_string(),
        })
        .collect();
    CliError::Usage {
        message: lines.join("\n"),
        hint: "docs/CONFIGURATION.md lists every key with its range and default".into(),
    }
}

/// The option of `start` that sets a key.
fn option_of(key: &str) -> String {
    match key {
        "node.name" => "--name".into(),
        "node.address" => "--listen".into(),
        "node.data_dir" => "--data-dir".into(),
        "node.advertise" => "--advertise".into(),
        "node.realms" => "--realm".into(),
        "node.tags" => "--tag".into(),
        "bootstrap.seeds" => "--join".into(),
        "log.level" => "--log-level".into(),
        "log.format" => "--log-format".into(),
        other => format!("`{other}`"),
    }
}
