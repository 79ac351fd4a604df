//! `dev`: a mesh in one process, to play with.

use macula::Node;
use macula::config::{LogFormat, RawConfig};

use crate::cli::{Dev, Format};
use crate::daemon;
use crate::error::CliError;
use crate::{logging, output};

pub(crate) async fn dev(args: Dev, format: Format) -> Result<(), CliError> {
    let wanted = RawConfig::new().set("log.level", &args.log_level).build();
    let wanted = wanted.map_err(|errors| super::start::misconfigured(&errors))?;
    let log = logging::init(&wanted.log.level, LogFormat::Text)?;
    let progress = super::progress(&format!("starting {} nodes", args.nodes));
    let mut nodes: Vec<Node> = Vec::new();
    for n in 1..=args.nodes {
        let mut builder = Node::builder().name(&format!("dev{n}")).listen("127.0.0.1:0");
        // Each knows its predecessor only: the mesh does the rest.
        if let Some(before) = nodes.last() {
            builder = builder.seed(&before.listen_addrs()[0].to_string());
        }
        let node = builder.start().await.map_err(|error| CliError::Start {
            message: format!("node {n} of {} could not start: {error}", args.nodes),
            hint: None,
            in_use: error.is_in_use(),
        })?;
        nodes.push(node);
    }
    progress.finish_and_clear();
    let rows: Vec<_> = nodes.iter().map(row).collect();
    daemon::run(nodes, log, || {
        output::rows(format, &rows)?;
        output::say("`macula_ctl --node dev1 members` shows the mesh; Ctrl-C ends it");
        Ok(())
    })
    .await
}

fn row(node: &Node) -> super::inspect::RunningNode {
    super::inspect::RunningNode {
        name: node.name(),
        state: "running",
        id: Some(node.node_id().to_string()),
        listen: node.listen_addrs().iter().map(ToString::to_string).collect(),
        pid: std::process::id(),
        socket: node.admin_socket().display().to_string(),
    }
}
