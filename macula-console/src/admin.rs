//! The admin socket: bound for its user alone, served until the node is closed.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use macula::Node;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::routes;

/// How long clients may take to read their last answer once the node is closed.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// Another process answers there.
    #[error("{}: another node answers there", .0.display())]
    InUse(PathBuf),
    /// The system said no.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

type SetLog = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// What the API may do to the process around the node.
#[derive(Clone)]
pub struct Control {
    pub(crate) stop: CancellationToken,
    pub(crate) set_log: Arc<SetLog>,
}

impl Control {
    /// `stop` is cancelled when a client asks for it: the process then shuts the node down. `set_log` changes the
    /// log level, or says why it cannot.
    pub fn new(
        stop: CancellationToken,
        set_log: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self { stop, set_log: Arc::new(set_log) }
    }
}

/// The admin API of one node, on its socket. The socket's file goes when this is dropped.
pub struct Admin {
    listener: UnixListener,
    path: SocketFile,
    node: Node,
    control: Control,
}

impl Admin {
    /// Opens the socket. Only its user may connect: it has mode 0600, and its directory, if this makes it, 0700.
    ///
    /// # Errors
    /// [`AdminError::InUse`] if a process answers there already; a file that a dead process left is replaced.
    pub fn bind(path: &Path, node: Node, control: Control) -> Result<Self, AdminError> {
        let failed = |cause| AdminError::Io { path: path.to_owned(), cause };
        if StdUnixStream::connect(path).is_ok() {
            return Err(AdminError::InUse(path.to_owned()));
        }
        if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
            fs::create_dir_all(directory).map_err(failed)?;
            fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        }
        match fs::remove_file(path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(failed(cause)),
            _ => {}
        }
        // Bound under another name and moved into place once it is closed to others: at no time can anyone else
        // connect to the real name.
        let private = path.with_extension(format!("{}.tmp", std::process::id()));
        let listener = UnixListener::bind(&private).map_err(failed)?;
        fs::set_permissions(&private, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        fs::rename(&private, path).map_err(failed)?;
        Ok(Self { listener, path: SocketFile(path.to_owned()), node, control })
    }

    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.path.0
    }

    /// Serves until the node is closed; clients then have a second to take what is on its way to them.
    pub async fn serve(self) {
        let Self { listener, path, node, control } = self;
        let closed = node.closed();
        let router = routes::router(node, control);
        let late = {
            let closed = closed.clone();
            async move {
                closed.cancelled().await;
                tokio::time::sleep(LAST_WORDS).await;
            }
        };
        let served =
            axum::serve(listener, router).with_graceful_shutdown(async move { closed.cancelled().await });
        let served = tokio::select! {
            served = served.into_future() => served,
            // A client that does not read must not keep the process.
            () = late => Ok(()),
        };
        if let Err(error) = served {
            tracing::error!(socket = %path.0.display(), %error, "the admin socket failed");
        }
    }
}

struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // If it is gone already, that is what was wanted.
        let _ = fs::remove_file(&self.0);
    }
}
