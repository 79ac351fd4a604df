//! Which node a command talks to: `--node`, else the saved one, else `node`.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use macula::config::RawConfig;
use macula::data_dir::Places;
use macula::{ConfigError, ConfigErrors};
use macula_console::api::Status;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::error::CliError;

/// The name of a node that was started without `--name`.
pub(crate) const DEFAULT_NAME: &str = "node";

/// A node that takes longer to say how it is does not answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The admin socket of the node that is meant.
///
/// A choice with a slash is a socket's path; one with a colon is the address at which a node of this machine listens;
/// anything else is a name.
pub(crate) async fn socket(choice: Option<&str>) -> Result<PathBuf, CliError> {
    let saved = match choice {
        Some(_) => None,
        None => saved()?,
    };
    let found = find(choice.or(saved.as_deref()).unwrap_or(DEFAULT_NAME)).await;
    match (found, saved) {
        (Err(CliError::NoNode { message, hint }), Some(saved)) => Err(CliError::NoNode {
            message: format!("{message} (`{saved}` was saved with `macula_ctl context set`)"),
            hint: format!("{hint}; `macula_ctl context clear` forgets the saved one"),
        }),
        (found, _) => found,
    }
}

async fn find(choice: &str) -> Result<PathBuf, CliError> {
    match Choice::read(choice)? {
        Choice::Socket(path) => match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(CliError::NoNode {
                message: format!("no node is running behind {}", path.display()),
                hint: others().await,
            }),
            _ => Ok(path),
        },
        Choice::Address(address) => by_address(&address).await,
        Choice::Name(name) => {
            let socket = Places::from_environment().socket_dir().join(format!("{name}.sock"));
            if socket.exists() {
                return Ok(socket);
            }
            Err(CliError::NoNode { message: format!("no node `{name}` is running"), hint: others().await })
        }
    }
}

/// What `--node` and `context set` take.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    Socket(PathBuf),
    Address(String),
    Name(String),
}

impl Choice {
    /// Whatever has a slash is a path, whatever else has a colon is an address.
    fn read(text: &str) -> Result<Self, CliError> {
        let wrong = |what: String| CliError::Usage {
            message: format!("`{text}` picks no node: {what}"),
            hint: "a node is picked by its name (edge-7), its address (127.0.0.1:4000) or its socket's path"
                .into(),
        };
        if text.contains('/') {
            return Ok(Self::Socket(text.into()));
        }
        if text.contains(':') {
            let address: Result<SocketAddr, _> = text.parse();
            return address.map(|_| Self::Address(text.into())).map_err(|error| wrong(error.to_string()));
        }
        match RawConfig::new().set("node.name", text).build() {
            Ok(_) if !text.is_empty() => Ok(Self::Name(text.into())),
            Ok(_) => Err(wrong("it is empty".into())),
            Err(ConfigErrors(errors)) => Err(wrong(match errors.into_iter().next() {
                Some(ConfigError::Invalid { rule, .. }) => rule,
                other => other.map(|error| error.to_string()).unwrap_or_default(),
            })),
        }
    }
}

/// A node of this machine and user.
pub(crate) struct Running {
    pub(crate) client: Client,
    /// The process that listens at its socket.
    pub(crate) pid: u32,
    /// How it is; `None` if it does not answer.
    pub(crate) status: Option<Status>,
}

impl Running {
    /// The node's name: what it says, else what its socket is called.
    pub(crate) fn name(&self) -> String {
        let of_socket =
            || self.client.socket().file_stem().unwrap_or_default().to_string_lossy().into_owned();
        self.status.as_ref().map_or_else(of_socket, |status| status.name.clone())
    }
}

/// The nodes that run on this machine under this user, and how they are. All are asked at once.
pub(crate) async fn running() -> Result<Vec<Running>, CliError> {
    let mut asked = JoinSet::new();
    for socket in sockets()? {
        asked.spawn(async move {
            let client = Client::new(socket);
            // A socket at which nobody listens belonged to a process that died.
            let pid = client.listener().await?;
            let status = tokio::time::timeout(ANSWER_MAX, client.get::<Status>("/v1/status")).await;
            Some(Running { client, pid, status: status.ok().and_then(Result::ok) })
        });
    }
    let mut nodes: Vec<_> = asked.join_all().await.into_iter().flatten().collect();
    nodes.sort_by_key(Running::name);
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

/// Saves a choice that can be one. Whether the node runs now does not matter, except behind a path: nothing but a
/// running node makes it a socket.
pub(crate) fn save(node: &str) -> Result<(), CliError> {
    let saved = match Choice::read(node)? {
        Choice::Socket(path) => socket_path(&path)?,
        Choice::Address(address) => address,
        Choice::Name(name) => name,
    };
    let file = file()?;
    let failed = |error| CliError::io(file.display().to_string())(error);
    fs::create_dir_all(file.parent().unwrap_or(Path::new("."))).map_err(failed)?;
    fs::write(&file, format!("{saved}\n")).map_err(failed)
}

/// The path of a socket, as it is understood from any directory.
fn socket_path(path: &Path) -> Result<String, CliError> {
    let wrong = |what: String| CliError::Usage {
        message: format!("{}: {what}", path.display()),
        hint: "the path of a node's admin socket is wanted: `macula_ctl nodes` lists them".into(),
    };
    let whole = path.canonicalize().map_err(|error| wrong(error.to_string()))?;
    let is_socket = fs::metadata(&whole).is_ok_and(|meta| meta.file_type().is_socket());
    if !is_socket {
        return Err(wrong("not a socket".into()));
    }
    whole.into_os_string().into_string().map_err(|_| wrong("not UTF-8".into()))
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
    for Running { client, status, .. } in running().await? {
        let Some(status) = status else { continue };
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
    let names: Vec<_> = running().await.unwrap_or_default().iter().map(Running::name).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_addresses_and_paths_are_told_apart_and_checked() {
        assert_eq!(Choice::read("edge-7").unwrap(), Choice::Name("edge-7".into()));
        assert_eq!(Choice::read("127.0.0.1:4000").unwrap(), Choice::Address("127.0.0.1:4000".into()));
        assert_eq!(Choice::read("./n.sock").unwrap(), Choice::Socket("./n.sock".into()));
        for wrong in ["", "..", "two words", "host:port", "a\u{1b}b"] {
            assert!(matches!(Choice::read(wrong), Err(CliError::Usage { .. })), "{wrong:?}");
        }
    }

    #[test]
    fn only_a_socket_is_a_path_to_save() {
        assert!(matches!(socket_path(Path::new("../../etc")), Err(CliError::Usage { .. })));
        assert!(matches!(socket_path(Path::new("/")), Err(CliError::Usage { .. })));
    }
}
