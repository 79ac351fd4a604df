//! The peers of the last run, kept in a file: a restarted node finds back without its seeds.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use macula_proto::limits::CONTACT_ADDRS_MAX;
use macula_proto::{Contact, UnixMillis};
use serde::{Deserialize, Serialize};

/// Most peers that are kept.
pub const PEERS_MAX: usize = 64;

/// Larger files are not ours, in bytes: 64 peers with 8 addresses each stay far below.
const FILE_BYTES_MAX: u64 = 128 * 1024;

/// The format's version.
const VERSION: u32 = 1;

/// A peer as it was last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPeer {
    /// Who, and where.
    pub contact: Contact,
    /// When it was last known to be alive.
    pub last_seen: UnixMillis,
}

/// A small JSON file with known peers.
///
/// Its content is a hint and no more: a peer found by it proves its identity like any other. Both methods block
/// for as long as the disk takes; an async caller uses `spawn_blocking`.
///
/// ```
/// use macula::bootstrap::{KnownPeer, PeersFile};
/// use macula_proto::{Contact, NodeId, UnixMillis};
///
/// let place = tempfile::tempdir()?;
/// let file = PeersFile::new(place.path().join("peers.json"));
/// assert!(file.load().is_empty());
/// let contact = Contact::new(NodeId::from_bytes([1; 32]), "192.0.2.1:4000".parse()?);
/// let peer = KnownPeer { contact, last_seen: UnixMillis(1_700_000_000_000) };
/// file.save(vec![peer.clone()])?;
/// assert_eq!(file.load(), [peer]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct PeersFile {
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    peers: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    id: String,
    addrs: Vec<SocketAddr>,
    last_seen_unix_ms: u64,
}

impl PeersFile {
    /// The file at a path; it need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The peers in the file, the most recently seen first. No file means no peers; a damaged one is moved aside
    /// with a warning, and also means no peers: a node must start without them as well.
    pub fn load(&self) -> Vec<KnownPeer> {
        match self.read() {
            Ok(peers) => peers,
            Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.move_aside(&error);
                vec![]
            }
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "known peers cannot be read");
                vec![]
            }
        }
    }

    /// Replaces the file in one step: after a crash it holds the old peers or the new ones, nothing between. Of
    /// more than [`PEERS_MAX`] peers the most recently seen are kept.
    ///
    /// # Errors
    /// What the system says; then the old file is still there.
    pub fn save(&self, peers: Vec<KnownPeer>) -> io::Result<()> {
        let peers = newest(peers).into_iter().map(|peer| Entry {
            id: peer.contact.id.to_string(),
            addrs: peer.contact.addrs,
            last_seen_unix_ms: peer.last_seen.0,
        });
        let content = Content { version: VERSION, peers: peers.collect() };
        let mut json = serde_json::to_vec_pretty(&content)?;
        json.push(b'\n');
        replace(&self.path, &json)
    }

    fn read(&self) -> io::Result<Vec<KnownPeer>> {
        let mut json = String::new();
        File::open(&self.path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut json)?;
        let invalid = |cause: String| io::Error::new(io::ErrorKind::InvalidData, cause);
        if json.len() as u64 > FILE_BYTES_MAX {
            return Err(invalid(format!("it has more than {FILE_BYTES_MAX} bytes")));
        }
        let content: Content = serde_json::from_str(&json).map_err(|error| invalid(error.to_string()))?;
        if content.version != VERSION {
            return Err(invalid(format!("it has version {}, not {VERSION}", content.version)));
        }
        let peers = content.peers.into_iter().map(|entry| {
            let id = entry.id.parse().map_err(|error: macula_proto::IdError| invalid(error.to_string()))?;
            let mut addrs = entry.addrs;
            addrs.truncate(CONTACT_ADDRS_MAX);
            let last_seen = UnixMillis(entry.last_seen_unix_ms);
            Ok(KnownPeer { contact: Contact { id, addrs }, last_seen })
        });
        peers.collect::<io::Result<_>>().map(newest)
    }

    fn move_aside(&self, error: &io::Error) {
        let aside = self.path.with_extension("json.broken");
        let moved = fs::rename(&self.path, &aside);
        tracing::warn!(
            path = %self.path.display(), %error, aside = %aside.display(), moved = moved.is_ok(),
            "the file of known peers is damaged; starting without it"
        );
    }
}

/// The most recently seen, each node once, those without an address left out.
fn newest(mut peers: Vec<KnownPeer>) -> Vec<KnownPeer> {
    peers.retain(|peer| !peer.contact.addrs.is_empty());
    peers.sort_by_key(|peer| (peer.contact.id, std::cmp::Reverse(peer.last_seen)));
    peers.dedup_by_key(|peer| peer.contact.id);
    peers.sort_by_key(|peer| (std::cmp::Reverse(peer.last_seen), peer.contact.id));
    peers.truncate(PEERS_MAX);
    peers
}

/// Written beside, synced, renamed over, and the directory synced, so that the rename itself is durable.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(directory) if cfg!(unix) && !directory.as_os_str().is_empty() => {
            File::open(directory)?.sync_all()
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use macula_proto::NodeId;

    use super::*;

    fn peer(n: u8, last_seen: u64) -> KnownPeer {
        let contact = Contact::new(NodeId::from_bytes([n; 32]), SocketAddr::from(([192, 0, 2, n], 4000)));
        KnownPeer { contact, last_seen: UnixMillis(last_seen) }
    }

    fn file() -> (tempfile::TempDir, PeersFile) {
        let place = tempfile::tempdir().unwrap();
        let file = PeersFile::new(place.path().join("peers.json"));
        (place, file)
    }

    #[test]
    fn the_newest_come_back_first_each_once_and_no_more_than_the_limit() {
        let (_place, file) = file();
        let mut peers: Vec<_> = (0..100).map(|n| peer(n, u64::from(n))).collect();
        peers.push(peer(99, 5));
        peers.push(KnownPeer {
            contact: Contact { id: NodeId::from_bytes([200; 32]), addrs: vec![] },
            ..peer(0, 999)
        });
        file.save(peers).unwrap();
        let expected: Vec<_> = (36..100).rev().map(|n| peer(n, u64::from(n))).collect();
        assert_eq!(file.load(), expected);
    }

    #[test]
    fn damage_of_any_kind_is_moved_aside_and_a_fresh_file_takes_its_place() {
        let (place, file) = file();
        file.save(vec![peer(1, 1)]).unwrap();
        let good = fs::read_to_string(place.path().join("peers.json")).unwrap();
        let torn = &good.as_bytes()[..good.len() / 2];
        let other_version = good.replace("\"version\": 1", "\"version\": 2");
        let bad_id = good.replace(&NodeId::from_bytes([1; 32]).to_string(), "nobody");
        let huge = vec![b' '; 200_000];
        for damage in [torn, b"", b"\xff\xfe", b"[]", other_version.as_bytes(), bad_id.as_bytes(), &huge] {
            fs::write(place.path().join("peers.json"), damage).unwrap();
            assert!(file.load().is_empty());
            assert_eq!(fs::read(place.path().join("peers.json.broken")).unwrap(), damage);
            assert!(file.load().is_empty(), "moved aside: now there is no file");
            file.save(vec![peer(2, 2)]).unwrap();
            assert_eq!(file.load(), [peer(2, 2)]);
        }
    }

    #[test]
    fn a_save_that_fails_leaves_the_old_file() {
        let (place, file) = file();
        file.save(vec![peer(1, 1)]).unwrap();
        fs::create_dir(place.path().join("peers.json.new")).unwrap();
        assert!(file.save(vec![peer(2, 2)]).is_err());
        assert_eq!(file.load(), [peer(1, 1)]);
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let (place, file) = file();
        file.save(vec![]).unwrap();
        let mode = fs::metadata(place.path().join("peers.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
