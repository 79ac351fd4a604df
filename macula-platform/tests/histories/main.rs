//! What clients of the objects see over a network that loses, doubles and delays, with sessions that end at any time: it is
//! linearizable, and requests that are made several times count once. Where they do not, the checker says so.

mod clients;
mod record;

use clients::{Plant, World};
use macula_platform::checker::model::{Lock, Log};
use macula_platform::checker::{Checked, check};

const SEEDS: u64 = 60;

/// Checks what happened with each seed, and gives the sums; `Err` for the first history that is not linearizable.
fn run(plant: Plant) -> Result<(Checked, Checked, clients::Counts), String> {
    let (mut locks, mut logs, mut counts) =
        (Checked::default(), Checked::default(), clients::Counts::default());
    for seed in 0..SEEDS {
        let (records, counted) = World::new(plant, seed).run();
        let lock = check(&records.locks(), |_| Lock).map_err(|failure| format!("seed {seed}: {failure}"))?;
        let log = check(&records.logs(), |_| Log::default())
            .map_err(|failure| format!("seed {seed}: {failure}"))?;
        (locks, logs) = (add(locks, lock), add(logs, log));
        counts = counts.add(counted);
    }
    Ok((locks, logs, counts))
}

fn add(a: Checked, b: Checked) -> Checked {
    Checked {
        keys: a.keys + b.keys,
        operations: a.operations + b.operations,
        unknown: a.unknown + b.unknown,
        steps: a.steps + b.steps,
    }
}

#[test]
fn what_clients_see_is_linearizable() {
    let (locks, logs, counts) = run(Plant::Nothing).unwrap_or_else(|failure| panic!("{failure}"));
    println!("locks: {locks:?}\nlogs: {logs:?}\n{counts:?}");
    assert!(locks.operations > 5_000 && logs.operations > 5_000, "{locks:?}, {logs:?}");
    assert!(locks.unknown > 1_000 && logs.unknown > 50, "{locks:?}, {logs:?}");
    for (what, count) in [
        ("requests made again", counts.again),
        ("requests that arrived twice", counts.doubled),
        ("late requests that were refused", counts.refused_late),
        ("appends that had been made", counts.repeated),
        ("sessions ended", counts.expired),
    ] {
        assert!(count > 50, "{what}: only {count} times");
    }
}

#[test]
fn an_append_that_is_made_again_as_another_is_found() {
    let failure = run(Plant::FreshAppends).expect_err("entries are there twice");
    assert!(failure.contains("Append"), "{failure}");
}

#[test]
fn an_acquisition_that_comes_back_from_the_dead_is_found() {
    let failure = run(Plant::FreshAcquisitions).expect_err("a lock is held that nobody holds");
    assert!(failure.contains("Acquire"), "{failure}");
}
