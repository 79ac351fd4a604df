//! The log on disk: one JSON document a line, each on disk before it counts.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::Event;

/// An append-only file of events.
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    /// Where the next event goes.
    end_bytes: u64,
    /// How many events there are: the offset of the next one.
    next: u64,
    ids: BTreeSet<String>,
}

impl LogFile {
    /// Opens the log and reads what is there. A last line without its end was being written when its keeper died: nobody was
    /// told that it is kept, and it goes.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut log = Self { path: path.to_owned(), file, end_bytes: 0, next: 0, ids: BTreeSet::new() };
        let mut lines = BufReader::new(File::open(path)?);
        let mut line = String::new();
        while lines.read_line(&mut line)? > 0 && line.ends_with('\n') {
            let event: Event = serde_json::from_str(&line)?;
            if event.offset != log.next {
                let what = format!("event {} stands where {} belongs", event.offset, log.next);
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            log.ids.insert(event.id);
            log.next += 1;
            log.end_bytes += line.len() as u64;
            line.clear();
        }
        log.file.set_len(log.end_bytes)?;
        log.file.seek(SeekFrom::Start(log.end_bytes))?;
        Ok(log)
    }

    /// Adds an event and returns once it is on disk; `None` if it is there already. If this fails, nothing was added.
    pub(crate) fn append(&mut self, topic: &str, id: &str, text: String) -> io::Result<Option<Event>> {
        if self.ids.contains(id) {
            return Ok(None);
        }
        let event = Event { offset: self.next, topic: topic.to_owned(), id: id.to_owned(), text };
        let mut line = serde_json::to_vec(&event)?;
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line).and_then(|()| self.file.sync_data()) {
            // Half a line may be there. What a failed sync left cannot be known, so the process has to end if this fails, too.
            self.file.set_len(self.end_bytes)?;
            self.file.seek(SeekFrom::Start(self.end_bytes))?;
            return Err(error);
        }
        self.end_bytes += line.len() as u64;
        self.next += 1;
        self.ids.insert(event.id.clone());
        Ok(Some(event))
    }

    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    /// Where the part of the file ends that counts now.
    pub(crate) fn end(&self) -> (PathBuf, u64) {
        (self.path.clone(), self.end_bytes)
    }
}

/// A reader of the same file, at its own pace.
pub(crate) struct Cursor {
    at_bytes: u64,
    /// The first event that is wanted.
    from: u64,
}

impl Cursor {
    pub(crate) const fn new(from: u64) -> Self {
        Self { at_bytes: 0, from }
    }

    /// The next events up to `end`, at most so many; none if there are no more.
    pub(crate) fn read(&mut self, (path, end): (PathBuf, u64), events_max: usize) -> io::Result<Vec<Event>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(self.at_bytes))?;
        let mut lines = BufReader::new(file.take(end - self.at_bytes));
        let (mut events, mut line) = (Vec::new(), String::new());
        while events.len() < events_max && lines.read_line(&mut line)? > 0 {
            self.at_bytes += line.len() as u64;
            let event: Event = serde_json::from_str(&line)?;
            if event.offset >= self.from {
                events.push(event);
            }
            line.clear();
        }
        Ok(events)
    }
}
