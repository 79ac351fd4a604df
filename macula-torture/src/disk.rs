//! A disk that loses what was not synced when its process is killed, and that can be full, slow or broken.
//!
//! A killed process leaves what it wrote in the system's cache, as if the power never went. So what was written waits in the
//! process's own memory here, and gets into the file when it is synced: a kill loses it, and one in the middle of a sync tears it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redb::StorageBackend;
use serde::{Deserialize, Serialize};

/// Pages of the file that are kept apart.
const PAGE_BYTES: u64 = 4_096;

/// With a planted bug, what was said to be on the disk gets there after this time.
const LIE: Duration = Duration::from_secs(1);

/// What is wrong with the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Condition {
    /// Nothing.
    #[default]
    Fine,
    /// Writes fail for want of room.
    Full,
    /// Syncs fail.
    Failing,
    /// A sync takes so many milliseconds longer.
    Slow(u64),
}

/// What went wrong so far.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct DiskCounts {
    pub(crate) refused: u64,
    pub(crate) failed: u64,
    pub(crate) slow: u64,
}

/// Clones are the same disk.
#[derive(Clone, Debug)]
pub(crate) struct Disk(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    file: File,
    /// Syncs lie.
    lies: bool,
    state: Mutex<State>,
    refused: AtomicU64,
    failed: AtomicU64,
    slow: AtomicU64,
}

#[derive(Debug)]
struct State {
    condition: Condition,
    length: u64,
    /// Pages that are not in the file yet.
    unsynced: BTreeMap<u64, Vec<u8>>,
    synced: Instant,
}

impl Disk {
    /// Opens the file, or makes it. `lies`: syncs do nothing, and once a second what was written gets there.
    pub(crate) fn open(path: &Path, lies: bool) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let length = file.metadata()?.len();
        let (condition, unsynced, synced) = (Condition::Fine, BTreeMap::new(), Instant::now());
        let state = Mutex::new(State { condition, length, unsynced, synced });
        let (refused, failed, slow) = Default::default();
        Ok(Self(Arc::new(Shared { file, lies, state, refused, failed, slow })))
    }

    pub(crate) fn set(&self, condition: Condition) {
        self.0.state.lock().condition = condition;
    }

    pub(crate) fn counts(&self) -> DiskCounts {
        let Shared { refused, failed, slow, .. } = &*self.0;
        let [refused, failed, slow] = [refused, failed, slow].map(|count| count.load(Relaxed));
        DiskCounts { refused, failed, slow }
    }

    fn refuse(&self, condition: Condition) -> io::Result<()> {
        if condition == Condition::Full {
            self.0.refused.fetch_add(1, Relaxed);
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl Shared {
    /// A page as it is now.
    fn page(&self, state: &State, at: u64) -> io::Result<Vec<u8>> {
        if let Some(page) = state.unsynced.get(&at) {
            return Ok(page.clone());
        }
        let (mut page, mut read) = (vec![0; PAGE_BYTES as usize], 0);
        while read < page.len() {
            match self.file.read_at(&mut page[read..], at * PAGE_BYTES + read as u64)? {
                0 => break,
                more => read += more,
            }
        }
        Ok(page)
    }

    /// Does something with the part of each page that lies within the range.
    fn each(
        &self,
        offset: u64,
        length: usize,
        mut with: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let (mut done, page_bytes) = (0, PAGE_BYTES as usize);
        while done < length {
            let at = offset + done as u64;
            let from = (at % PAGE_BYTES) as usize;
            let count = (page_bytes - from).min(length - done);
            with(at / PAGE_BYTES, from..from + count, done..done + count)?;
            done += count;
        }
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.state.lock().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.state.lock();
        if offset + out.len() as u64 > state.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.each(offset, out.len(), |page, within, of_out| {
            out[of_out].copy_from_slice(&self.0.page(&state, page)?[within]);
            Ok(())
        })
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.0.state.lock();
        if length > state.length {
            self.refuse(state.condition)?;
        }
        // What is cut off reads as zero if the file grows again: pages beyond the end are whole ones of zeros.
        let end = length.div_ceil(PAGE_BYTES);
        for page in end..state.length.div_ceil(PAGE_BYTES) {
            state.unsynced.insert(page, vec![0; PAGE_BYTES as usize]);
        }
        state.length = length;
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.0.state.lock();
        self.refuse(state.condition)?;
        state.length = state.length.max(offset + data.len() as u64);
        self.0.each(offset, data.len(), |at, within, of_data| {
            let mut page = self.0.page(&state, at)?;
            page[within].copy_from_slice(&data[of_data]);
            state.unsynced.insert(at, page);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let condition = self.0.state.lock().condition;
        match condition {
            Condition::Slow(millis) => {
                self.0.slow.fetch_add(1, Relaxed);
                // tidy: allow(sleep): the fault that is injected
                std::thread::sleep(Duration::from_millis(millis));
            }
            Condition::Failing => {
                self.0.failed.fetch_add(1, Relaxed);
                return Err(io::Error::other("the disk does not answer"));
            }
            Condition::Fine | Condition::Full => {}
        }
        let mut state = self.0.state.lock();
        if self.0.lies && state.synced.elapsed() < LIE {
            return Ok(());
        }
        state.synced = Instant::now();
        for (at, page) in std::mem::take(&mut state.unsynced) {
            self.0.file.write_all_at(&page, at * PAGE_BYTES)?;
        }
        self.0.file.set_len(state.length)?;
        self.0.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_synced_is_gone_with_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let disk = Disk::open(&path, false).unwrap();
        disk.set_len(10_000).unwrap();
        disk.write(4_090, b"across pages").unwrap();
        disk.sync_data().unwrap();
        disk.write(4_090, b"lost").unwrap();
        let read = |disk: &Disk| {
            let mut out = [0; 12];
            disk.read(4_090, &mut out).unwrap();
            out
        };
        assert_eq!(&read(&disk), b"lostss pages");
        let again = Disk::open(&path, false).unwrap();
        assert_eq!((again.len().unwrap(), &read(&again)), (10_000, b"across pages"));
        again.set(Condition::Full);
        assert!(again.write(0, b"x").is_err());
        again.set(Condition::Failing);
        assert!(again.sync_data().is_err());
        assert_eq!((again.counts().refused, again.counts().failed), (1, 1));
        let liar = Disk::open(&path, true).unwrap();
        liar.write(4_090, b"lost").unwrap();
        liar.sync_data().unwrap();
        assert_eq!(&read(&Disk::open(&path, false).unwrap()), b"across pages");
    }
}
