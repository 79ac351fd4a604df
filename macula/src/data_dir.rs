//! Where a node keeps what must outlive it, and where its operators reach it.
//!
//! ```text
//!  DATA_DIR/             created with mode 0700
//!  ├── lock              held while a node runs; holds its process id
//!  ├── node.key          the private key, hence the identity
//!  ├── peers.json        the peers of the last run
//!  ├── routing.table     its routing table
//!  └── groups.redb       what it keeps as a member of groups: elections, locks, logs
//!
//!  $XDG_RUNTIME_DIR/macula/NAME.sock     the operators' socket
//! ```

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::Config;

/// Longest path of a Unix socket, in bytes: `sun_path` has 108 with its final zero.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Most bytes of a lock file that are read: a process id is much shorter.
const LOCK_BYTES_MAX: u64 = 32;

/// The environment's word on where things belong (XDG Base Directory Specification).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// `$XDG_STATE_HOME`, if it is an absolute path.
    pub state_home: Option<PathBuf>,
    /// `$HOME`, if it is an absolute path.
    pub home: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`, if it is an absolute path.
    pub runtime_dir: Option<PathBuf>,
}

/// Why there is no usable data directory, or no place for the socket.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DataDirError {
    /// Nothing says where to keep data.
    #[error("no place for data: neither $XDG_STATE_HOME nor $HOME is an absolute path; set `node.data_dir`")]
    NoHome,
    /// Another node runs in the directory.
    #[error(
        "{} is in use by another node{}: stop it, or give this one another `node.name` or `node.data_dir`",
        path.display(),
        process(pid)
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that holds it, if it said so.
        pid: Option<u32>,
    },
    /// The system refused.
    #[error("{}: {cause}", path.display())]
    Io {
        /// What it is about.
        path: PathBuf,
        /// What the system said.
        cause: Arc<io::Error>,
    },
    /// The socket's path is longer than the system allows.
    #[error(
        "the socket path {} has {bytes} bytes: at most {SOCKET_PATH_BYTES_MAX} are allowed; set `admin.socket` to \
         a shorter one",
        path.display()
    )]
    SocketPath {
        /// The path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
}

fn process(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

impl Places {
    /// Reads the process's environment.
    pub fn from_environment() -> Self {
        Self::from_lookup(|name| std::env::var_os(name))
    }

    /// Reads an environment. Relative paths count as not set, as the specification has it.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Self {
        let absolute = |name| lookup(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            state_home: absolute("XDG_STATE_HOME"),
            home: absolute("HOME"),
            runtime_dir: absolute("XDG_RUNTIME_DIR"),
        }
    }

    /// The data directory of the configured node, which need not exist.
    ///
    /// # Errors
    /// [`DataDirError::NoHome`] if neither the configuration nor the environment says where.
    pub fn data_dir(&self, config: &Config) -> Result<PathBuf, DataDirError> {
        if let Some(path) = &config.node.data_dir {
            return Ok(path.clone());
        }
        let state = self.state_home().ok_or(DataDirError::NoHome)?;
        Ok(state.join("macula").join(&config.node.name))
    }

    /// Where operators' sockets are, by name, so that they are found without a configuration:
    /// `$XDG_RUNTIME_DIR/macula`, else `run` beside the data directories.
    pub fn socket_dir(&self) -> PathBuf {
        match (&self.runtime_dir, self.state_home()) {
            (Some(runtime), _) => runtime.join("macula"),
            (None, Some(state)) => state.join("macula/run"),
            (None, None) => std::env::temp_dir().join("macula/run"),
        }
    }

    /// The operators' socket of the configured node: the same answer for the node and for its clients.
    ///
    /// # Errors
    /// [`DataDirError::SocketPath`] if the path is too long.
    pub fn admin_socket(&self, config: &Config) -> Result<PathBuf, DataDirError> {
        let by_name = || self.socket_dir().join(format!("{}.sock", config.node.name));
        let path = config.admin.socket.clone().unwrap_or_else(by_name);
        let bytes = path.as_os_str().len();
        if bytes > SOCKET_PATH_BYTES_MAX { Err(DataDirError::SocketPath { path, bytes }) } else { Ok(path) }
    }

    fn state_home(&self) -> Option<PathBuf> {
        let from_home = || self.home.as_ref().map(|home| home.join(".local/state"));
        self.state_home.clone().or_else(from_home)
    }
}

/// A data directory that this process holds alone, until this is dropped.
///
/// ```
/// use macula::data_dir::{DataDir, DataDirError};
///
/// let place = tempfile::tempdir()?;
/// let dir = DataDir::open(place.path().join("node"))?;
/// assert!(matches!(DataDir::open(dir.path()), Err(DataDirError::InUse { .. })));
/// drop(dir);
/// DataDir::open(place.path().join("node"))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// The system releases the lock with the file, also when the process is killed.
    _lock: File,
}

impl DataDir {
    /// Creates the directory if need be, with access for its owner alone, and locks it.
    ///
    /// # Errors
    /// [`DataDirError::InUse`] if another node has it, [`DataDirError::Io`] if the system refuses.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, DataDirError> {
        let path = path.into();
        create_private(&path).map_err(|cause| failed(&path, cause))?;
        let lock = lock(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The node's private key.
    pub fn key_file(&self) -> PathBuf {
        self.path.join("node.key")
    }

    /// The peers of the last run.
    pub fn peers_file(&self) -> PathBuf {
        self.path.join("peers.json")
    }

    /// The routing table of the last run.
    pub fn table_file(&self) -> PathBuf {
        self.path.join("routing.table")
    }

    /// What it keeps as a member of groups.
    pub fn groups_file(&self) -> PathBuf {
        self.path.join("groups.redb")
    }
}

/// Creates a directory, parents included, that only its owner may enter. One that exists keeps its mode, but is
/// reported if others may enter: there may be a reason, such as a group of operators.
pub fn create_private(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
        builder.mode(0o700).create(path)?;
        let mode = fs::metadata(path)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            tracing::warn!(path = %path.display(), mode = format!("{mode:o}"), "others may enter this private directory");
        }
        Ok(())
    }
    #[cfg(not(unix))]
    builder.create(path)
}

fn lock(dir: &Path) -> Result<File, DataDirError> {
    let path = dir.join("lock");
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = open.map_err(|cause| failed(&path, cause))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(DataDirError::InUse { path: dir.into(), pid: read_pid(&mut file) });
        }
        Err(TryLockError::Error(cause)) => return Err(failed(&path, cause)),
    }
    write_pid(&mut file).map_err(|cause| failed(&path, cause))?;
    Ok(file)
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(LOCK_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn failed(path: &Path, cause: io::Error) -> DataDirError {
    DataDirError::Io { path: path.into(), cause: Arc::new(cause) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawConfig;

    fn places() -> Places {
        Places::from_lookup(|name| match name {
            "XDG_STATE_HOME" => Some("relative/is/ignored".into()),
            "HOME" => Some("/ada".into()),
            "XDG_RUNTIME_DIR" => Some("/run/user/7".into()),
            _ => None,
        })
    }

    fn config(values: &[(&str, &str)]) -> Config {
        values.iter().fold(RawConfig::new(), |raw, (key, value)| raw.set(key, *value)).build().unwrap()
    }

    #[test]
    fn the_data_directory_is_the_configured_one_or_follows_the_name() {
        let named = config(&[("node.name", "edge")]);
        assert_eq!(places().data_dir(&named).unwrap(), Path::new("/ada/.local/state/macula/edge"));
        let state = Places { state_home: Some("/var/state".into()), ..places() };
        assert_eq!(state.data_dir(&named).unwrap(), Path::new("/var/state/macula/edge"));
        let set = config(&[("node.data_dir", "/srv/m")]);
        assert_eq!(Places::default().data_dir(&set).unwrap(), Path::new("/srv/m"));
        assert!(matches!(Places::default().data_dir(&named), Err(DataDirError::NoHome)));
    }

    #[test]
    fn the_socket_is_where_node_and_clients_both_look() {
        let socket = |values: &[(&str, &str)], places: &Places| places.admin_socket(&config(values)).unwrap();
        assert_eq!(socket(&[], &places()), Path::new("/run/user/7/macula/node.sock"));
        assert_eq!(socket(&[("admin.socket", "/srv/a")], &places()), Path::new("/srv/a"));
        let no_runtime = Places { runtime_dir: None, ..places() };
        let edge = socket(&[("node.name", "edge")], &no_runtime);
        assert_eq!(edge, Path::new("/ada/.local/state/macula/run/edge.sock"));
        let nothing = socket(&[], &Places::default());
        assert_eq!(nothing, std::env::temp_dir().join("macula/run/node.sock"));
    }

    #[test]
    fn a_socket_path_has_at_most_107_bytes() {
        let of = |bytes: usize| config(&[("admin.socket", &format!("/{}", "s".repeat(bytes - 1)))]);
        assert!(places().admin_socket(&of(107)).is_ok());
        let refusal = places().admin_socket(&of(108)).unwrap_err().to_string();
        assert!(refusal.contains("108 bytes") && refusal.contains("admin.socket"), "{refusal}");
    }

    #[test]
    fn two_nodes_never_share_a_directory_and_the_error_names_the_holder() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a/b");
        let dir = DataDir::open(&path).unwrap();
        let refusal = DataDir::open(&path).unwrap_err();
        let myself = std::process::id();
        assert!(matches!(refusal, DataDirError::InUse { pid: Some(pid), .. } if pid == myself), "{refusal}");
        drop(dir);
        assert!(DataDir::open(&path).is_ok());
    }

    #[cfg(unix)]
    #[test]
    fn a_new_directory_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let place = tempfile::tempdir().unwrap();
        let dir = DataDir::open(place.path().join("a/b")).unwrap();
        assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_path_that_cannot_be_a_directory_is_an_error_that_names_it() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        fs::write(&file, "").unwrap();
        let refusal = DataDir::open(&file).unwrap_err().to_string();
        assert!(refusal.starts_with(&file.display().to_string()), "{refusal}");
    }
}
