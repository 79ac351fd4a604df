//! What a node did, line by line, so that a killed one leaves what it did until then.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::Arc;

use macula_platform::checker::model::{LogCall, LogReturn, Token};
use macula_platform::checker::{Event, Outcome};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::clock::now;
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
pub(crate) struct Record(Arc<Mutex<File>>);

impl Record {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(File::create(path)?))))
    }

    pub(crate) fn write(&self, line: &Line) {
        let Ok(mut text) = serde_json::to_vec(line) else { return };
        text.push(b'\n');
        // Without its record a node is of no use.
        if let Err(cause) = self.0.lock().write_all(&text) {
            eprintln!("the record cannot be written: {cause}");
            std::process::exit(3);
        }
    }

    pub(crate) fn log(&self, process: u64, key: &str, what: Outcome<LogCall, LogReturn>) {
        self.write(&Line::Log(Event { process, time: now(), key: key.into(), what }));
    }

    pub(crate) fn lock(&self, process: u64, key: &str, what: Outcome<LockCall, LockReturn>) {
        self.write(&Line::Lock(Event { process, time: now(), key: key.into(), what }));
    }

    pub(crate) fn reign(&self, process: u64, key: &str, what: Outcome<ReignCall, ReignReturn>) {
        self.write(&Line::Reign(Event { process, time: now(), key: key.into(), what }));
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
