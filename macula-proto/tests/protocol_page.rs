//! docs/PROTOCOL.md says what the code does: kinds, messages, limits, tags; and each kind has a test vector.

mod schema;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use macula_proto::limits::{
    CONTACT_ADDRS_MAX, DECODED_BYTES_FREE, DECODED_BYTES_PER_BYTE, FRAME_BYTES_MAX, HEADER_BYTES_MAX,
    MESSAGE_BYTES_PER_ELEMENT, MESSAGE_ELEMENTS_FREE, PAYLOAD_BYTES_MAX,
};
use macula_proto::{ALPN, FrameDecoder, FrameKind, Version};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn page() -> String {
    fs::read_to_string(docs().join("PROTOCOL.md")).expect("the page is there")
}

fn kinds() -> Vec<FrameKind> {
    (0..1000).map(FrameKind).filter(|kind| kind.name().is_some()).collect()
}

/// The rows of the table of kinds: number, name, message.
fn rows(page: &str) -> Vec<(u32, String, String)> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, number, name, message, _, _] = cells[..] else { return None };
        let message = message.split('`').nth(1)?;
        Some((number.parse().ok()?, name.to_owned(), message.to_owned()))
    };
    page.lines().filter_map(row).collect()
}

#[test]
fn the_table_lists_all_kinds_and_no_others() {
    let written: Vec<(u32, String)> =
        rows(&page()).into_iter().map(|(number, name, _)| (number, name)).collect();
    let known: Vec<(u32, String)> = kinds().iter().map(|kind| (kind.0, kind.to_string())).collect();
    assert_eq!(written, known, "the table in section 4 of docs/PROTOCOL.md, and the kinds in frame.rs");
}

#[test]
fn the_messages_in_the_table_exist() {
    for (_, name, message) in rows(&page()) {
        assert!(
            schema::MESSAGES.iter().any(|shape| shape.name == message),
            "{name}: there is no `{message}`"
        );
    }
}

#[test]
fn each_kind_has_a_test_vector() {
    let mut seen = BTreeSet::new();
    for file in fs::read_dir(docs().join("vectors")).expect("the vectors are there") {
        let text = fs::read_to_string(file.expect("readable").path()).expect("text");
        let lines =
            text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = "));
        seen.extend(lines.filter_map(|(_, hex)| kind_of(HEXLOWER.decode(hex.as_bytes()).expect("hex"))));
    }
    let without: Vec<FrameKind> = kinds().into_iter().filter(|kind| !seen.contains(kind)).collect();
    assert_eq!(without, [], "add them in tests/vectors.rs");
}

/// The kind of the frame, where the bytes are exactly one.
fn kind_of(bytes: Vec<u8>) -> Option<FrameKind> {
    let mut decoder = FrameDecoder::default();
    decoder.feed(Bytes::from(bytes));
    let frame = decoder.next_frame().ok()??;
    (decoder.pending_bytes() == 0).then(|| frame.kind())
}

#[test]
fn numbers_and_tags_are_those_of_the_code() {
    let thousands = |number: usize| {
        let digits = number.to_string();
        let groups =
            digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group).into_owned());
        groups.collect::<Vec<_>>().join(",")
    };
    let page = page();
    for text in [
        format!("version {}", Version::CURRENT),
        format!("`{ALPN}`"),
        format!("A header has at most {} bytes", thousands(HEADER_BYTES_MAX)),
        format!("a payload at most {}", thousands(PAYLOAD_BYTES_MAX)),
        format!("at most {}.", thousands(FRAME_BYTES_MAX)),
        format!(
            "at most {MESSAGE_ELEMENTS_FREE}, and one more for each full {MESSAGE_BYTES_PER_ELEMENT} bytes"
        ),
        format!("{DECODED_BYTES_PER_BYTE} · n + {} KiB", DECODED_BYTES_FREE / 1024),
        format!("at most {CONTACT_ADDRS_MAX}."),
        "`macula/1 hello`".into(),
        "`macula/1 alive`".into(),
        "`macula/1 leave`".into(),
        "`macula/1 record`".into(),
    ] {
        assert!(page.contains(&text), "docs/PROTOCOL.md does not say: {text}");
    }
}
