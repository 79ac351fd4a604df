//! What the clients did, as events.

use macula_platform::checker::model::{LockCall, LockReturn, LogCall, LogReturn};
use macula_platform::checker::{Event, History, Outcome};

type LockEvent = Event<u8, LockCall, LockReturn>;
type LogEvent = Event<u8, LogCall, LogReturn>;

#[derive(Default)]
pub(crate) struct Records {
    locks: Vec<LockEvent>,
    logs: Vec<LogEvent>,
    processes: u64,
}

impl Records {
    /// A process that has done nothing yet.
    pub(crate) fn process(&mut self) -> u64 {
        self.processes += 1;
        self.processes
    }

    pub(crate) fn lock(&mut self, process: u64, time: u64, what: Outcome<LockCall, LockReturn>) {
        self.locks.push(Event { process, time, key: 0, what });
    }

    pub(crate) fn log(&mut self, process: u64, time: u64, what: Outcome<LogCall, LogReturn>) {
        self.logs.push(Event { process, time, key: 0, what });
    }

    pub(crate) fn locks(&self) -> History<u8, LockCall, LockReturn> {
        History::from_events(self.locks.clone()).expect("well-formed")
    }

    pub(crate) fn logs(&self) -> History<u8, LogCall, LogReturn> {
        History::from_events(self.logs.clone()).expect("well-formed")
    }
}
