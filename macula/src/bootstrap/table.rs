//! The routing table of the last run, kept in a file: a restarted node finds records at once, and needs no seeds.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use macula_dht::kademlia::Table;
use macula_proto::Contact;

use super::peers::replace;

/// Larger files are not ours, in bytes: ten thousand contacts with 8 addresses each stay below.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What a file begins with: a name and the format's version.
const HEADING: &[u8] = b"macula routing table 1\n";

/// A small binary file with the routing table's contacts.
///
/// Its content is a hint and no more: a contact gets into the table once it answers. Both methods block for as long
/// as the disk takes; an async caller uses `spawn_blocking`.
///
/// ```
/// use macula::bootstrap::TableFile;
///
/// let place = tempfile::tempdir()?;
/// let file = TableFile::new(place.path().join("routing.table"));
/// assert!(file.load().is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct TableFile {
    path: PathBuf,
}

/// What was in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedTable {
    /// For [`Kademlia::import_table`](macula_dht::Kademlia::import_table).
    pub bytes: Bytes,
    /// The contacts in it, the most recently heard from first.
    pub contacts: Vec<Contact>,
}

impl TableFile {
    /// The file at a path; it need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The table in the file. No file means no table; a damaged one is moved aside with a warning, and also means none: a
    /// node must start without it as well.
    pub fn load(&self) -> Option<SavedTable> {
        match self.read() {
            Ok(table) => Some(table),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let aside = self.path.with_extension("table.broken");
                let moved = fs::rename(&self.path, &aside);
                tracing::warn!(
                    path = %self.path.display(), %error, aside = %aside.display(), moved = moved.is_ok(),
                    "the file of the routing table is damaged; starting without it"
                );
                None
            }
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the saved routing table cannot be read");
                None
            }
        }
    }

    /// Replaces the file in one step with what [`Kademlia::export_table`](macula_dht::Kademlia::export_table) gave: after
    /// a crash it holds the old table or the new one, nothing between.
    ///
    /// # Errors
    /// What the system says; then the old file is still there.
    pub fn save(&self, table: &[u8]) -> io::Result<()> {
        replace(&self.path, &[HEADING, table].concat())
    }

    fn read(&self) -> io::Result<SavedTable> {
        let invalid = |cause: String| io::Error::new(io::ErrorKind::InvalidData, cause);
        let mut content = Vec::new();
        File::open(&self.path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
        if content.len() as u64 > FILE_BYTES_MAX {
            return Err(invalid(format!("it has more than {FILE_BYTES_MAX} bytes")));
        }
        let table = content.strip_prefix(HEADING).ok_or_else(|| invalid("its heading is wrong".into()))?;
        let bytes = Bytes::copy_from_slice(table);
        let contacts = Table::saved(bytes.clone()).map_err(|error| invalid(error.to_string()))?;
        Ok(SavedTable { bytes, contacts })
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use macula_dht::KademliaConfig;
    use macula_proto::{NodeId, Timestamp};

    use super::*;

    fn contact(n: u8) -> Contact {
        Contact::new(NodeId::from_bytes([n; 32]), SocketAddr::from(([192, 0, 2, n], 4000)))
    }

    fn table(contacts: &[Contact]) -> Bytes {
        let mut table = Table::new(NodeId::from_bytes([0xff; 32]), &KademliaConfig::default(), 7);
        for (at, contact) in contacts.iter().enumerate() {
            let now = Timestamp::from_start(std::time::Duration::from_secs(at as u64));
            table.heard(now, contact.clone(), None);
        }
        table.save()
    }

    fn file() -> (tempfile::TempDir, TableFile) {
        let place = tempfile::tempdir().unwrap();
        let file = TableFile::new(place.path().join("routing.table"));
        (place, file)
    }

    #[test]
    fn the_contacts_come_back_the_latest_first() {
        let (_place, file) = file();
        let bytes = table(&[contact(1), contact(2)]);
        file.save(&bytes).unwrap();
        assert_eq!(file.load(), Some(SavedTable { bytes, contacts: vec![contact(2), contact(1)] }));
        file.save(&table(&[contact(3)])).unwrap();
        assert_eq!(file.load().unwrap().contacts, [contact(3)], "replaced");
    }

    #[test]
    fn damage_of_any_kind_is_moved_aside() {
        let (place, file) = file();
        file.save(&table(&[contact(1)])).unwrap();
        let good = fs::read(place.path().join("routing.table")).unwrap();
        let torn = &good[..good.len() - 3];
        let garbage = [HEADING, b"\xff\xff"].concat();
        for damage in [torn, b"", b"another file", &garbage, &vec![b' '; 5 << 20]] {
            fs::write(place.path().join("routing.table"), damage).unwrap();
            assert_eq!(file.load(), None);
            assert_eq!(fs::read(place.path().join("routing.table.broken")).unwrap(), damage);
            assert!(!place.path().join("routing.table").exists());
        }
    }

    #[test]
    fn a_save_that_fails_leaves_the_old_file() {
        let (place, file) = file();
        file.save(&table(&[contact(1)])).unwrap();
        fs::create_dir(place.path().join("routing.table.new")).unwrap();
        assert!(file.save(&table(&[contact(2)])).is_err());
        assert_eq!(file.load().unwrap().contacts, [contact(1)]);
    }
}
