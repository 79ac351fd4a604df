//! The frames of trees.

use bytes::Bytes;
use macula_proto::{Contact, Domain, FrameKind, SecretKey, seal, wire};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::{body, check_file, frame};

#[test]
fn frames_of_trees() {
    let key = SecretKey::from_seed([1; 32]);
    let origin = Bytes::copy_from_slice(key.node_id().as_bytes());
    let publish = wire::Publish {
        topic: "home.kitchen".into(),
        publisher: origin.clone(),
        epoch: 9,
        sequence: 1,
        grouped: true,
        ..Default::default()
    };
    let place = wire::TreePlace { pattern: "home.#".into(), run: 11, number: 3, since: 1, continued: true };
    let placed = wire::Publish { places: vec![place], headers: vec![], ..publish.clone() };
    let in_tree = wire::Interest {
        patterns: vec!["home.#".into(), "home.*".into()],
        trees: Bytes::from_static(&[1]),
        ..Default::default()
    };
    let tree_body = wire::TreeBody {
        place: Some(wire::TreePlace {
            pattern: "home.#".into(),
            run: 11,
            number: 3,
            since: 1,
            continued: false,
        }),
        publish: publish.encode_to_vec().into(),
        payload_sha256: Bytes::copy_from_slice(&Sha256::digest(b"21.5")),
    };
    let signed = seal(&key, Domain::TREE, tree_body.encode_to_vec().into());
    let message = wire::TreeMessage { signed: Some(signed), hops: 2, answer: false };
    let spans = vec![wire::TreeSpan { origin, run: 11, first: 3, last: 5, late: true, hops: 4 }];
    let pattern = || "home.#".to_owned();
    let have = wire::TreeHave { pattern: pattern(), spans: spans.clone(), ..Default::default() };
    let want = wire::TreeWant { realm: "acme".into(), pattern: pattern(), spans, graft: true };
    let contact = Contact { id: key.node_id(), addrs: vec!["192.0.2.1:4000".parse().unwrap()] };
    let ask =
        wire::TreeLink { pattern: pattern(), step: 2, sender: Some(contact.to_wire()), ..Default::default() };
    let refuse =
        wire::TreeLink { pattern: pattern(), step: 4, others: vec![contact.to_wire()], ..Default::default() };
    check_file(
        "tree.txt",
        &[
            frame(
                "publish-placed",
                "It is number 3 of its publisher in the tree of home.#.",
                FrameKind::PUBLISH,
                placed,
                b"21.5",
            ),
            body("tree-interest", "In the tree of the second pattern.", in_tree),
            body("tree-body", "Number 3 of seed 01 in the tree of home.#; the payload is 21.5.", tree_body),
            frame(
                "tree-message",
                "The same, signed, sent twice so far.",
                FrameKind::TREE_MESSAGE,
                message,
                b"21.5",
            ),
            frame("tree-have", "The numbers 3 to 5, which came late.", FrameKind::TREE_HAVE, have, b""),
            frame("tree-want", "The same, and all others from now on.", FrameKind::TREE_WANT, want, b""),
            frame("tree-ask", "From a node without a link.", FrameKind::TREE_LINK, ask, b""),
            frame("tree-refuse", "Ask somebody else.", FrameKind::TREE_LINK, refuse, b""),
        ],
    );
}
