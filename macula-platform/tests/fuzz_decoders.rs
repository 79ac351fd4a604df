//! Fuzzing of every decoder of this crate, on the stable compiler.
//!
//! Inputs are valid messages, mutated, and what was mutated before. The ordinary test run tries a fixed number of mutations from a
//! fixed seed; `cargo xtask fuzz --seconds 600` goes on for longer, from a new seed (`MACULA_FUZZ_SEED` repeats one). An
//! input that breaks a rule is written to a file.

use std::hash::{BuildHasher, RandomState};
use std::panic::catch_unwind;
use std::path::Path;
use std::time::Duration;
use std::{env, fs};

use allocation_counter::measure;
use bytes::Bytes;
use macula_platform::decoders::{decode_all, samples};
use macula_proto::{Clock, SystemClock};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};

const ORDINARY_ROUNDS: u64 = 20_000;
const INPUT_BYTES_MAX: usize = 8 * 1024;

/// All decoders together hold at most so much more than their input.
const HELD_BYTES_PER_BYTE: usize = 64;
const HELD_BYTES_FREE: usize = 64 * 1024;

fn check(input: &[u8]) -> usize {
    let mut taken = 0;
    let info = measure(|| taken = decode_all(input));
    let bound = HELD_BYTES_PER_BYTE * input.len() + HELD_BYTES_FREE;
    assert!(info.bytes_max as usize <= bound, "{} of {bound} bytes", info.bytes_max);
    taken
}

#[test]
fn each_sample_is_taken_by_some_decoder() {
    let samples = samples();
    assert!(samples.len() >= 20, "only {} samples", samples.len());
    for sample in samples {
        assert!(check(&sample) > 0, "{sample:?}");
    }
}

#[test]
fn mutated_input_never_breaks_a_decoder() {
    let seconds: Option<u64> =
        env::var("MACULA_FUZZ_SECONDS").ok().map(|text| text.parse().expect("seconds"));
    let drawn = || if seconds.is_some() { RandomState::new().hash_one(0) } else { 1 };
    let seed = env::var("MACULA_FUZZ_SEED").map_or_else(|_| drawn(), |text| text.parse().expect("a seed"));
    println!("MACULA_FUZZ_SEED={seed}");
    let clock = SystemClock::default();
    let done = |rounds| match seconds {
        Some(seconds) => clock.now().since_start() >= Duration::from_secs(seconds),
        None => rounds == ORDINARY_ROUNDS,
    };
    let samples = samples();
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut rounds, mut taken) = (0, 0);
    while !done(rounds) {
        let input = random_input(&samples, &mut rng);
        match catch_unwind(|| check(&input)) {
            Ok(by) => taken += u64::from(by > 0),
            Err(_) => {
                let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{seed}-{rounds}.bin"));
                fs::write(&path, &input).expect("the input can be written");
                panic!("round {rounds} of seed {seed}: the input is in {}", path.display());
            }
        }
        rounds += 1;
    }
    println!("{rounds} inputs, of which {taken} were taken by some decoder; none broke a rule");
    assert!(taken > rounds / 20, "mutated too much to mean anything: {taken} of {rounds} were taken");
}

fn random_input(samples: &[Bytes], rng: &mut StdRng) -> Vec<u8> {
    let mut input = samples.choose(rng).expect("not empty").to_vec();
    for _ in 0..rng.random_range(0..5) {
        mutate(&mut input, samples, rng);
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

/// Bytes that mean something to the decoders: field keys, groups, the ends of varint ranges.
const TELLING_BYTES: [u8; 11] = [0, 1, 2, 0x0a, 0x0b, 0x0c, 0x7f, 0x80, 0xbf, 0xc0, 0xff];

fn mutate(input: &mut Vec<u8>, samples: &[Bytes], rng: &mut StdRng) {
    if input.is_empty() {
        input.push(rng.random());
        return;
    }
    let at = rng.random_range(0..input.len());
    let until = rng.random_range(at..=input.len().min(at + 64));
    match rng.random_range(0..7) {
        0 => input[at] ^= 1 << rng.random_range(0..8),
        1 => input[at] = *TELLING_BYTES.choose(rng).expect("not empty"),
        2 => input.truncate(at),
        3 => drop(input.drain(at..until)),
        4 => {
            let mut noise = vec![0; rng.random_range(1..16)];
            rng.fill_bytes(&mut noise);
            input.splice(at..at, noise);
        }
        5 => {
            let other = samples.choose(rng).expect("not empty").to_vec();
            input.splice(at..until, other);
        }
        _ => {
            let part = input[at..until].repeat(rng.random_range(1..50));
            input.splice(at..until, part);
        }
    }
}
