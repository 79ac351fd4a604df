//! Nodes with their admin sockets, until told to stop.

use std::future::Future;

use macula::Node;
use macula_console::{Admin, AdminError, Control};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::CliError;
use crate::logging::LogHandle;
use crate::output;

/// Runs until Ctrl-C, SIGTERM or `stop`, then shuts every node down in order. A second signal ends the
/// process at once.
pub(crate) async fn run(
    nodes: Vec<Node>,
    log: LogHandle,
    ready: impl FnOnce() -> Result<(), CliError>,
) -> Result<(), CliError> {
    let stop = CancellationToken::new();
    let mut admins = Vec::new();
    for node in &nodes {
        let log = log.clone();
        let control = Control::new(stop.clone(), move |level| log.set(level));
        let socket = node.admin_socket().to_owned();
        admins.push(Admin::bind(&socket, node.clone(), control).map_err(|error| failed(&error))?);
    }
    let sockets: Vec<_> = admins.into_iter().map(|admin| tokio::spawn(admin.serve())).collect();
    ready()?;
    tokio::select! {
        outcome = told_to_stop() => outcome?,
        () = stop.cancelled() => {}
    }
    if let several @ 2.. = nodes.len() {
        output::say(&format!("stopping {several} nodes"));
    }
    let shutdown = async {
        let mut ends: JoinSet<()> = JoinSet::new();
        for node in nodes {
            ends.spawn(async move { node.shutdown().await });
        }
        ends.join_all().await;
    };
    tokio::select! {
        () = shutdown => {}
        outcome = told_to_stop() => {
            outcome?;
            output::say("stopped at once, without leaving in order");
        }
    }
    for socket in sockets {
        // A socket task that panicked has nothing left to close.
        let _ = socket.await;
    }
    Ok(())
}

/// Waits for Ctrl-C or SIGTERM.
pub(crate) fn told_to_stop() -> impl Future<Output = Result<(), CliError>> {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
            return Err(CliError::Broken("signals cannot be handled on this system".into()));
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    }
}

fn failed(error: &AdminError) -> CliError {
    CliError::Start {
        message: format!("the admin socket could not be opened: {error}"),
        hint: Some(match error {
            AdminError::InUse(_) => {
                "another node runs under this name: `macula_ctl nodes` lists them, --name takes another"
                    .into()
            }
            AdminError::Io { cause, .. } => format!(
                "{}; the socket is in $XDG_RUNTIME_DIR/macula, or where `admin.socket` says",
                output::advice(cause)
            ),
            _ => "the configuration key `admin.socket` moves it".into(),
        }),
        in_use: matches!(error, AdminError::InUse(_)),
    }
}
