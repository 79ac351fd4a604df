//! Fuzzing of every decoder of this crate, on the stable compiler.
//!
//! Inputs are valid messages and frames of all types, and the corpus in `tests/corpus`, mutated. The ordinary test run
//! replays the corpus and tries a fixed number of mutations from a fixed seed; `cargo xtask fuzz --seconds 600` goes on
//! for longer, from a new seed (`MACULA_FUZZ_SEED` repeats one). An input that breaks a rule is written to a file: put
//! it into `tests/corpus` under a name that says what it shows.

mod schema;

use std::hash::{BuildHasher, RandomState};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use allocation_counter::measure;
use bytes::Bytes;
use macula_proto::limits::{DECODED_BYTES_FREE, DECODED_BYTES_PER_BYTE};
use macula_proto::{
    Clock, Contact, Domain, Ed25519Verifier, Frame, FrameDecoder, Key, Name, NodeId, PublicKey, Realm,
    SecretKey, SystemClock, decode, open, wire,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use schema::{MESSAGES, Shape};

const ORDINARY_ROUNDS: u64 = 3_000;
const INPUT_BYTES_MAX: usize = 8 * 1024;

/// Feeds `input` to every decoder; panics if one breaks a rule.
fn check(input: &[u8]) {
    MESSAGES.iter().for_each(|shape| check_message(shape, input));
    check_stream(input);
    check_small_decoders(input);
}

/// A message is refused, or settles on one encoding; either way memory stays within the bound.
fn check_message(shape: &Shape, input: &[u8]) {
    let message = Bytes::copy_from_slice(input);
    let reencode = shape.reencode;
    let mut outcome = None;
    let info = measure(|| outcome = reencode(message).ok());
    let bound = DECODED_BYTES_PER_BYTE * input.len() + DECODED_BYTES_FREE;
    assert!(info.bytes_max as usize <= bound, "{}: {} of {bound} bytes", shape.name, info.bytes_max);
    if let Some(once) = outcome {
        assert_eq!((shape.reencode_unlimited)(&once), once, "{}", shape.name);
    }
}

/// A stream yields the same frames, or the same error, however it is cut; and each frame encodes to itself.
fn check_stream(input: &[u8]) {
    let whole = frames(input, input.len().max(1));
    assert_eq!(frames(input, 1), whole, "byte by byte");
    assert_eq!(frames(input, 7), whole, "in chunks of seven");
    for frame in &whole.0 {
        let again = frames(&frame.to_bytes(), usize::MAX);
        assert_eq!((again.0.as_slice(), again.1.is_ok()), (std::slice::from_ref(frame), true));
        let _ = (frame.kind().name(), frame.kind().service(), frame.header::<wire::Hello>());
        check_message(&MESSAGES[frame.kind().0 as usize % MESSAGES.len()], &frame.header_bytes());
    }
}

/// The frames in `input`, and how the stream ends: bytes that are left, or an error.
fn frames(input: &[u8], chunk_bytes: usize) -> (Vec<Frame>, Result<usize, String>) {
    let mut decoder = FrameDecoder::default();
    let mut frames = Vec::new();
    for chunk in input.chunks(chunk_bytes) {
        decoder.feed(Bytes::copy_from_slice(chunk));
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(cause) => return (frames, Err(cause.to_string())),
            }
        }
    }
    (frames, Ok(decoder.pending_bytes()))
}

fn check_small_decoders(input: &[u8]) {
    if let Ok(contact) = decode::<wire::Contact>(Bytes::copy_from_slice(input))
        && let Ok(contact) = Contact::from_wire(Some(&contact))
    {
        assert_eq!(Contact::from_wire(Some(&contact.to_wire())), Ok(contact));
    }
    if let Ok(signed) = decode::<wire::Signed>(Bytes::copy_from_slice(input)) {
        let _ = open(&Ed25519Verifier, Domain::HELLO, Some(&signed));
    }
    if let Ok(key) = PublicKey::from_spki(input) {
        assert_eq!(key.to_spki(), input);
    }
    let _ = (SecretKey::from_pkcs8(input), NodeId::try_from(input), Key::try_from(input));
    let text = String::from_utf8_lossy(input);
    if let Ok(name) = text.parse::<Name>() {
        assert_eq!(name.as_str(), text);
    }
    if let Ok(realm) = Realm::from_wire(&text) {
        assert_eq!(Realm::from_wire(&realm.to_wire()), Ok(realm));
    }
    let _ = text.parse::<NodeId>();
}

fn corpus() -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let files = fs::read_dir(folder).expect("the corpus is there");
    let mut paths: Vec<PathBuf> = files.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    let read = |path: PathBuf| fs::read(&path).map(|bytes| (path, bytes)).expect("readable");
    paths.into_iter().map(read).collect()
}

#[test]
fn the_corpus_breaks_no_decoder() {
    let corpus = corpus();
    assert!(corpus.len() >= 10, "only {} files in the corpus", corpus.len());
    for (path, input) in &corpus {
        println!("{}", path.display());
        check(input);
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
    let seeds: Vec<Vec<u8>> = corpus().into_iter().map(|(_, input)| input).collect();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut rounds = 0;
    while !done(rounds) {
        let input = random_input(&seeds, &mut rng);
        if catch_unwind(|| check(&input)).is_err() {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{seed}-{rounds}.bin"));
            fs::write(&path, &input).expect("the input can be written");
            panic!("round {rounds} of seed {seed}: the input is in {}", path.display());
        }
        rounds += 1;
    }
    println!("{rounds} inputs, none broke a rule");
}

fn random_input(corpus: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let mut input = match rng.random_range(0..4) {
        0 => corpus.choose(rng).expect("not empty").clone(),
        1 => random_frame(rng),
        _ => schema::random_message(MESSAGES.choose(rng).expect("not empty"), rng),
    };
    for _ in 0..rng.random_range(0..6) {
        mutate(&mut input, rng);
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn random_frame(rng: &mut StdRng) -> Vec<u8> {
    let header = schema::random_message(MESSAGES.choose(rng).expect("not empty"), rng);
    let payload = vec![rng.random(); rng.random_range(0..100)];
    let mut body = vec![rng.random_range(0..64)];
    put_length(&mut body, header.len());
    body.extend_from_slice(&header);
    body.extend_from_slice(&payload);
    let mut frame = Vec::new();
    put_length(&mut frame, body.len());
    frame.extend_from_slice(&body);
    frame
}

/// A frame's varint, always in its four-byte form.
fn put_length(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&(len as u32 | 0x8000_0000).to_be_bytes());
}

/// Bytes that mean something to the decoders: field keys, groups, the ends of varint ranges.
const TELLING_BYTES: [u8; 11] = [0, 1, 2, 0x0a, 0x0b, 0x0c, 0x7f, 0x80, 0xbf, 0xc0, 0xff];

fn mutate(input: &mut Vec<u8>, rng: &mut StdRng) {
    if input.is_empty() {
        input.push(rng.random());
        return;
    }
    let at = rng.random_range(0..input.len());
    let until = rng.random_range(at..=input.len().min(at + 64));
    match rng.random_range(0..8) {
        0 => input[at] ^= 1 << rng.random_range(0..8),
        1 => input[at] = *TELLING_BYTES.choose(rng).expect("not empty"),
        2 => input.truncate(at),
        3 => drop(input.drain(at..until)),
        4 => {
            let part = input[at..until].to_vec();
            input.splice(at..at, part);
        }
        5 => {
            let mut noise = vec![0; rng.random_range(1..16)];
            rng.fill_bytes(&mut noise);
            input.splice(at..at, noise);
        }
        6 => {
            let other = schema::random_message(MESSAGES.choose(rng).expect("not empty"), rng);
            input.splice(at..until, other);
        }
        _ => {
            let part = input[at..until].repeat(rng.random_range(1..50));
            input.splice(at..until, part);
        }
    }
}
