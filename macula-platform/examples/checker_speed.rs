//! How fast the linearizability checker is: eight registers, 20,000 operations each by eight processes at once, a few of
//! which never hear what came of theirs.
//!
//! ```sh
//! cargo run --release -p macula-platform --features testing --example checker_speed
//! ```

use std::error::Error;

use macula_platform::checker::model::{Register, RegisterCall, RegisterReturn};
use macula_platform::checker::{Event, History, Outcome, check};
use macula_proto::{Clock, SystemClock};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const KEYS: u64 = 8;
const OPERATIONS: u64 = 20_000;
const PROCESSES: u64 = 8;

type Line = Event<u64, RegisterCall, RegisterReturn>;

/// A real register, used by processes whose operations overlap.
fn record(key: u64, unknown_permille: u64, rng: &mut StdRng) -> Vec<Line> {
    let mut state = None;
    let mut events = Vec::new();
    let mut free_at = [0; PROCESSES as usize];
    for number in 0..OPERATIONS {
        // It takes effect here, and lasts for as long as some seven others.
        let at = (number + 1) * 100;
        let process = number % PROCESSES;
        let begin = free_at[process as usize].max(at.saturating_sub(rng.random_range(0..350)));
        let end = at + rng.random_range(0..350);
        free_at[process as usize] = end + 1;
        let value = rng.random_range(0..5);
        let (call, result) = match rng.random_range(0..3) {
            0 => (RegisterCall::Read, RegisterReturn::Value(state)),
            1 => (RegisterCall::Write(value), RegisterReturn::Done),
            _ => (
                RegisterCall::CompareAndSet(Some(value), value + 1),
                RegisterReturn::Set(state == Some(value)),
            ),
        };
        match call {
            RegisterCall::Write(value) => state = Some(value),
            RegisterCall::CompareAndSet(from, to) if from == state => state = Some(to),
            RegisterCall::Read | RegisterCall::CompareAndSet(..) => {}
        }
        let is_unknown = rng.random_range(0..1000) < unknown_permille;
        let outcome = if is_unknown { Outcome::Unknown } else { Outcome::Ok(result) };
        let process = key * PROCESSES + process;
        events.push(Event { process, time: begin, key, what: Outcome::Invoke(call) });
        events.push(Event { process, time: end, key, what: outcome });
    }
    events
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut rng = StdRng::seed_from_u64(1);
    for unknown_permille in [0, 1, 5] {
        let events: Vec<Line> = (0..KEYS).flat_map(|key| record(key, unknown_permille, &mut rng)).collect();
        let clock = SystemClock::default();
        let history = History::from_events(events)?;
        let paired = clock.now().since_start();
        let checked = check(&history, |_| Register)?;
        println!("{checked:?}: paired in {paired:?}, checked in {:?}", clock.now().since_start() - paired);
    }
    Ok(())
}
