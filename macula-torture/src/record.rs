//! What a node did, line by line, so that a killed one leaves what it did until then.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::Arc;

use macula_platform::checker::model::{LogCall, LogReturn, Token};
use macula_platform::checker::{Event, Outcome};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::model::{LockCall, LockReturn, ReignCall, ReignReturn};

/// One line. Times are nanoseconds of the machine's clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    Log(Event<String, LogCall, LogReturn>),
    Lock(Event<String, LockCall, LockReturn>),
    Reign(Event<String, ReignCall, ReignReturn>),
    Relied(Relied),
    /// A tail gave this entry.
    Tailed {
        key: String,
        offset: u64,
        value: u64,
    },
    /// Somebody leads the group, as a member sees it.
    Leads {
        term: u64,
        leader: String,
    },
}

/// A node saw that it may rely on something, at some instant between the two.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Relied {
    pub(crate) key: String,
    pub(crate) node: u64,
    pub(crate) token: Token,
    /// Together with others.
    pub(crate) shared: bool,
    pub(crate) after: u64,
    pub(crate) before: u64,
}

/// Clones write the same record.
#[derive(Clone)]
pub(crate) struct Record(Arc<Mutex<Sink>>);

enum Sink {
    File(File),
    /// For nodes of one process, under the runtime's time since the record was begun.
    Memory(Vec<Line>, Instant),
}

impl Record {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(Sink::File(File::create(path)?)))))
    }

    pub(crate) fn in_memory() -> Self {
        Self(Arc::new(Mutex::new(Sink::Memory(Vec::new(), Instant::now()))))
    }

    /// What was written in memory.
    pub(crate) fn take(&self) -> Vec<Line> {
        match &mut *self.0.lock() {
            Sink::File(_) => Vec::new(),
            Sink::Memory(lines, _) => std::mem::take(lines),
        }
    }

    /// The time that this record goes by.
    pub(crate) fn now(&self) -> u64 {
        match &*self.0.lock() {
            Sink::File(_) => crate::clock::now(),
            Sink::Memory(_, begun) => u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX),
        }
    }

    pub(crate) fn write(&self, line: Line) {
        match &mut *self.0.lock() {
            Sink::File(file) => {
                let Ok(mut text) = serde_json::to_vec(&line) else { return };
                text.push(b'\n');
                // Without its record a node is of no use.
                if let Err(cause) = file.write_all(&text) {
                    eprintln!("the record cannot be written: {cause}");
                    std::process::exit(3);
                }
            }
            Sink::Memory(lines, _) => lines.push(line),
        }
    }

    pub(crate) fn log(&self, process: u64, key: &str, what: Outcome<LogCall, LogReturn>) {
        self.write(Line::Log(Event { process, time: self.now(), key: key.into(), what }));
    }

    pub(crate) fn lock(&self, process: u64, key: &str, what: Outcome<LockCall, LockReturn>) {
        self.write(Line::Lock(Event { process, time: self.now(), key: key.into(), what }));
    }

    pub(crate) fn reign(&self, process: u64, key: &str, what: Outcome<ReignCall, ReignReturn>) {
        self.write(Line::Reign(Event { process, time: self.now(), key: key.into(), what }));
    }
}

/// Reads a record; a last line that was not written to its end is left out.
pub(crate) fn read(path: &Path) -> Result<Vec<Line>, String> {
    let failed = |cause: &dyn std::fmt::Display| format!("{}: {cause}", path.display());
    let mut file = BufReader::new(File::open(path).map_err(|cause| failed(&cause))?);
    let (mut lines, mut text) = (Vec::new(), String::new());
    while file.read_line(&mut text).map_err(|cause| failed(&cause))? > 0 {
        match serde_json::from_str(&text) {
            Ok(line) => lines.push(line),
            Err(_) if !text.ends_with('\n') => break,
            Err(cause) => return Err(failed(&cause)),
        }
        text.clear();
    }
    Ok(lines)
}
