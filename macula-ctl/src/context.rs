//! Which node a command talks to: `--node`, else the saved one, else `node`.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use macula::data_dir::Places;
use macula_console::api::Status;

use crate::client::Client;
use crate::error::CliError;

/// The name of a node that was started without `--name`.
const DEFAULT_NAME: &str = "node";

/// The admin socket of the node that is meant.
///
/// A choice with a slash is a socket's path; one with a colon is the address at which a node of this machine listens;
/// anything else is a name.
pub(crate) async fn socket(choice: Option<&str>) -> Result<PathBuf, CliError> {
    let saved = match choice {
        Some(_) => None,
        None => saved()?,
    };
    let choice = choice.or(saved.as_deref()).unwrap_or(DEFAULT_NAME);
    if choice.contains('/') {
        return Ok(choice.into());
    }
    if choice.contains(':') {
        return by_address(choice).await;
    }
    let socket = Places::from_environment().socket_dir().join(format!("{choice}.sock"));
    if socket.exists() {
        return Ok(socket);
    }
    Err(CliError::NoNode { message: format!("no node `{choice}` is running"), hint: others().await })
}

/// The nodes that run on this machine under this user, and how they are.
pub(crate) async fn running() -> Result<Vec<(Client, Status)>, CliError> {
    let mut nodes = Vec::new();
    for socket in sockets()? {
        let client = Client::new(socket);
        // A socket that nobody answers belonged to a process that died.
        if let Ok(status) = client.get::<Status>("/v1/status").await {
            nodes.push((client, status));
        }
    }
    nodes.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
    Ok(nodes)
}

/// The node that was saved with `context set`.
pub(crate) fn saved() -> Result<Option<String>, CliError> {
    let file = file()?;
    match fs::read_to_string(&file) {
        Ok(node) => Ok(Some(node.trim().to_owned()).filter(|node| !node.is_empty())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CliError::io(file.display().to_string())(error)),
    }
}

pub(crate) fn save(node: &str) -> Result<(), CliError> {
    let file = file()?;
    let failed = |error| CliError::io(file.display().to_string())(error);
    fs::create_dir_all(file.parent().unwrap_or(Path::new("."))).map_err(failed)?;
    fs::write(&file, format!("{node}\n")).map_err(failed)
}

pub(crate) fn clear() -> Result<(), CliError> {
    let file = file()?;
    match fs::remove_file(&file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(CliError::io(file.display().to_string())(error))
        }
        _ => Ok(()),
    }
}

async fn by_address(address: &str) -> Result<PathBuf, CliError> {
    let port = address.rsplit(':').next().unwrap_or_default();
    for (client, status) in running().await? {
        // `[::]:4000` listens on every address: there the port decides.
        let listens = status.listen.iter().chain(&status.advertise).any(|at| {
            at == address
                || (at.starts_with("[::]:") || at.starts_with("0.0.0.0:"))
                    && at.ends_with(&format!(":{port}"))
        });
        if listens {
            return Ok(client.socket().to_owned());
        }
    }
    let message = format!("no node of this machine and user listens on {address}");
    Err(CliError::NoNode { message, hint: others().await })
}

async fn others() -> String {
    let names: Vec<_> =
        running().await.unwrap_or_default().into_iter().map(|(_, status)| status.name).collect();
    if names.is_empty() {
        "`macula_ctl start` starts a node".into()
    } else {
        format!("--node picks one of: {}; `macula_ctl context set NAME` saves the choice", names.join(", "))
    }
}

fn sockets() -> Result<Vec<PathBuf>, CliError> {
    let directory = Places::from_environment().socket_dir();
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(CliError::io(directory.display().to_string()))?,
    };
    let sockets = entries.filter_map(Result::ok).map(|entry| entry.path());
    Ok(sockets.filter(|path| path.extension().is_some_and(|extension| extension == "sock")).collect())
}

fn file() -> Result<PathBuf, CliError> {
    let home =
        |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    home("XDG_CONFIG_HOME")
        .or_else(|| home("HOME").map(|home| home.join(".config")))
        .map(|config| config.join("macula/context"))
        .ok_or_else(|| CliError::Usage {
            message: "neither XDG_CONFIG_HOME nor HOME is set".into(),
            hint: "set one of them, or pick the node with --node".into(),
        })
}
