//! What every [`Directory`] must do, as checks that run on any implementation.
//!
//! Write a [`Harness`] that makes nodes which know each other, then let the macro make one test of each check:
//!
//! ```no_run
//! use macula_dht::conformance::{Harness, Member};
//! use macula_dht::{MemoryDirectory, MemoryDirectoryNetwork};
//! use macula_proto::NodeId;
//!
//! struct InMemory;
//!
//! impl Harness for InMemory {
//!     type Directory = MemoryDirectory;
//!
//!     async fn mesh(&self, count: u8) -> Vec<Member<MemoryDirectory>> {
//!         let network = MemoryDirectoryNetwork::default();
//!         let ids = (1..=count).map(|n| NodeId::from_bytes([n; 32]));
//!         ids.map(|id| Member { id, directory: network.directory(id) }).collect()
//!     }
//! }
//!
//! macula_dht::directory_conformance! { #[tokio::test] InMemory }
//! # fn main() {}
//! ```
//!
//! The checks never sleep: what must hold when a method has returned is looked at right then.

use std::future::Future;

use bytes::Bytes;
use macula_proto::{Key, NodeId, Realm};

use crate::{Directory, DirectoryError, Found, VALUE_BYTES_MAX, Watch};

/// How many nodes a check uses, unless it is about one.
const NODES: u8 = 6;

/// Makes the nodes of one check.
pub trait Harness: Sync {
    /// What is checked.
    type Directory: Directory;

    /// `count` nodes that have joined one mesh, which no other check uses.
    fn mesh(&self, count: u8) -> impl Future<Output = Vec<Member<Self::Directory>>> + Send;
}

/// A harness whose nodes can die.
pub trait Mortal: Harness {
    /// Ends a node without a farewell, and lets as much time pass as the others need to notice and to bring in order what
    /// it held.
    fn kill(&self, member: Member<Self::Directory>) -> impl Future<Output = ()> + Send;
}

/// One node.
#[derive(Clone, Debug)]
pub struct Member<D> {
    /// The announcer of what it announces.
    pub id: NodeId,
    /// Its view.
    pub directory: D,
}

/// Makes a test of each check: `#[attribute] harness-expression`. See [`conformance`](crate::conformance).
#[macro_export]
macro_rules! directory_conformance {
    (#[$($attr:tt)*] $harness:expr) => {
        $crate::directory_conformance! { @tests [$($attr)*] [$harness]
            what_is_announced_is_found_everywhere
            nothing_found_is_no_error
            announcing_again_replaces
            all_announcers_are_found_in_order
            keys_are_apart
            what_is_withdrawn_is_gone
            withdrawing_nothing_does_nothing
            what_is_withdrawn_can_be_announced_again
            a_value_of_the_largest_size_passes_and_a_larger_one_does_not
            a_watch_is_ready_with_what_was_there
            every_watch_shows_the_record_once_announce_has_returned
            every_watch_shows_the_withdrawal_once_withdraw_has_returned
            watches_of_one_node_at_one_key_all_show_changes
            a_nodes_own_records_are_in_its_own_answers
            a_lone_node_is_no_error
            the_last_of_many_announcements_stays
        }
    };
    (@tests [$($attr:tt)*] [$harness:expr] $check:ident $($rest:ident)*) => {
        #[$($attr)*]
        async fn $check() {
            $crate::conformance::$check(&$harness).await;
        }
        $crate::directory_conformance! { @tests [$($attr)*] [$harness] $($rest)* }
    };
    (@tests [$($attr:tt)*] [$harness:expr]) => {};
}

/// Makes a test of each check that needs a [`Mortal`] harness: `#[attribute] harness-expression`.
#[macro_export]
macro_rules! directory_death_conformance {
    (#[$($attr:tt)*] $harness:expr) => {
        $crate::directory_conformance! { @tests [$($attr)*] [$harness]
            records_outlive_other_nodes
            watches_outlive_other_nodes
        }
    };
}

/// A record is found from every node, with its announcer and its value.
pub async fn what_is_announced_is_found_everywhere(harness: &impl Harness) {
    let mesh = harness.mesh(NODES).await;
    let announced = announce(&mesh[0], key(1), "here").await;
    assert!(announced.holders >= 1);
    for member in &mesh {
        let found = find(member, key(1)).await;
        assert!(found.is_complete());
        let record = found.by(&mesh[0].id).expect("the record is found");
        assert_eq!((record.key, record.value.as_ref()), (key(1), b"here".as_slice()));
    }
}

/// A key where nothing is has an empty, complete answer.
pub async fn nothing_found_is_no_error(harness: &impl Harness) {
    let mesh = harness.mesh(NODES).await;
    assert_eq!(find(&mesh[1], key(1)).await, Found::default());
    assert_eq!(*ready(&mesh[1].directory.watch(key(1))).await, Found::default());
}

/// One record for each announcer: the newer one, with the higher sequence.
pub async fn announcing_again_replaces(harness: &impl Harness) {
    let mesh = harness.mesh(NODES).await;
    announce(&mesh[0], key(1), "old").await;
    let old = find(&mesh[1], key(1)).await.records[0].sequence;
    announce(&mesh[0], key(1), "new").await;
    for member in &mesh {
        let found = find(member, key(1)).await;
        assert_eq!(values(&found), ["new"]);
        assert!(found.records[0].sequence > old);
    }
}

/// Records of many announcers at one key come in order of announcer.
pub async fn all_announcers_are_found_in_order(harness: &impl Harness) {
    let mesh = harness.mesh(NODES).await;
    for member in &mesh {
        announce(member, key(1), "all").await;
    }
    let mut ids: Vec<NodeId> = mesh.iter().map(|member| member.id).collect();
    ids.sort();
    for member in &mesh {
        let found = find(member, key(1)).await;
        let announcers: Vec<NodeId> = found.records.iter().map(|record| record.announcer.id).collect();
        assert_eq!(announcers, ids);
        assert!(found.is_complete());
    }
}

/// What is at one key is not at another.
pub async fn keys_are_apart(harness: &impl Harness) {
    let mesh = harness.mesh(NODES).await;
    announce(&mesh[0], key(1), "one").await;
    announce(&mesh[0], key(2), "two").await;
    assert_eq!(values(&find(&mesh[3], key(1)).await), ["one"]);
    assert_eq!(values(&find(&mesh[3], key(2)).await), ["two"]);
    withdraw(&mesh[0], key(1)).await;
    assert_eq!(values(&find(&mesh[3], key(2)).await), ["two"]);
}

/// After a withdrawal, nobody finds the record; others' records stay.
pub async fn what_is_withdrawn_is_gone(harness: &impl Harness) {
    let mesh = harness.mesh(NODES).await;
    announce(&mesh[0], key(1), "going").await;
    announce(&mesh[1], key(1), "staying").await;
    withdraw(&mesh[0], key(1)).await;
    for member in &mesh {
        let found = find(member, key(1)).await;
        assert_eq!(values(&found), ["staying"]);
        assert!(found.is_complete());
    }
}

/// Withdrawing what is not announced, or another's record, changes nothing.
pub async fn withdrawing_nothing_does_nothing(harness: &impl Harness) {
    let mesh = harness.mesh(NODES).await;
    withdraw(&mesh[1], key(1)).await;
    announce(&mesh[0], key(1), "mine").await;
    withdraw(&mesh[1], key(1)).await;
    assert_eq!(values(&find(&mesh[2], key(1)).await), ["mine"]);
}

/// A withdrawal does not stand in the way of a later announcement.
pub async fn what_is_withdrawn_can_be_announced_again(harness: &impl Harness) {
    let mesh = harness.mesh(NODES).await;
    let watch = mesh[2].directory.watch(key(1));
    ready(&watch).await;
    announce(&mesh[0], key(1), "first").await;
    withdraw(&mesh[0], key(1)).await;
    announce(&mesh[0], key(1), "second").await;
    assert_eq!(values(&watch.current()), ["second"]);
    assert_eq!(values(&find(&mesh[1], key(1)).await), ["second"]);
}

/// The limit is in the contract.
pub async fn a_value_of_the_largest_size_passes_and_a_larger_one_does_not(harness: &impl Harness) {
    let mesh = harness.mesh(NODES).await;
    let largest = Bytes::from(vec![b'x'; VALUE_BYTES_MAX]);
    mesh[0].directory.announce(key(1), largest.clone()).await.expect("the largest value is allowed");
    assert_eq!(find(&mesh[1], key(1)).await.records[0].value, largest);
    let larger = Bytes::from(vec![b'x'; VALUE_BYTES_MAX + 1]);
    let refused = mesh[0].directory.announce(key(1), larger).await;
    let bytes = VALUE_BYTES_MAX + 1;
    assert_eq!(refused, Err(DirectoryError::ValueTooLarge { bytes, bytes_max: VALUE_BYTES_MAX }));
    assert_eq!(find(&mesh[1], key(1)).await.records[0].value, largest, "the refused one changed nothing");
}

/// A watch's first answer is what a lookup gives.
pub async fn a_watch_is_ready_with_what_was_there(harness: &impl Harness) {
    let mesh = harness.mesh(NODES).await;
    announce(&mesh[0], key(1), "early").await;
    for member in &mesh {
        assert_eq!(values(&*ready(&member.directory.watch(key(1))).await), ["early"]);
    }
}

/// The promise on which others build: nothing is awaited between the announcement and the look at the watches.
pub async fn every_watch_shows_the_record_once_announce_has_returned(harness: &impl Harness) {
    let mesh = harness.mesh(NODES).await;
    let watches = watch_all(&mesh, key(1)).await;
    for (n, member) in mesh.iter().enumerate() {
        let announced = announce(member, key(1), "now").await;
        assert_eq!(announced.watchers_lapsed, 0);
        for watch in &watches {
            assert!(watch.current().by(&member.id).is_some(), "announcement {n}");
        }
    }
    let before: Vec<u64> = watches.iter().map(Watch::generation).collect();
    announce(&mesh[0], key(1), "changed").await;
    for (watch, before) in watches.iter().zip(before) {
        assert_eq!(watch.current().by(&mesh[0].id).expect("still there").value, "changed");
        assert!(watch.generation() > before);
    }
}

/// The same for withdrawals.
pub async fn every_watch_shows_the_withdrawal_once_withdraw_has_returned(harness: &impl Harness) {
    let mesh = harness.mesh(NODES).await;
    announce(&mesh[0], key(1), "going").await;
    let watches = watch_all(&mesh, key(1)).await;
    withdraw(&mesh[0], key(1)).await;
    for watch in &watches {
        assert_eq!(*watch.current(), Found::default());
    }
}

/// Many watches share one lookup, but each shows everything, also when others are dropped.
pub async fn watches_of_one_node_at_one_key_all_show_changes(harness: &impl Harness) {
    let mesh = harness.mesh(NODES).await;
    let first = mesh[1].directory.watch(key(1));
    let second = mesh[1].directory.watch(key(1));
    ready(&first).await;
    ready(&second).await;
    announce(&mesh[0], key(1), "one").await;
    assert_eq!(
        (values(&first.current()), values(&second.current())),
        (vec!["one".into()], vec!["one".into()])
    );
    drop(first);
    let third = mesh[1].directory.watch(key(1));
    assert_eq!(values(&*ready(&third).await), ["one"]);
    announce(&mesh[0], key(1), "two").await;
    assert_eq!(
        (values(&second.current()), values(&third.current())),
        (vec!["two".into()], vec!["two".into()])
    );
}

/// A node sees what it announces.
pub async fn a_nodes_own_records_are_in_its_own_answers(harness: &impl Harness) {
    let mesh = harness.mesh(NODES).await;
    for (n, member) in mesh.iter().enumerate() {
        let key = key(n as u8);
        let watch = member.directory.watch(key);
        ready(&watch).await;
        announce(member, key, "own").await;
        assert_eq!(values(&watch.current()), ["own"]);
        assert_eq!(values(&find(member, key).await), ["own"]);
    }
}

/// Alone, a node has its own records.
pub async fn a_lone_node_is_no_error(harness: &impl Harness) {
    let mesh = harness.mesh(1).await;
    let watch = mesh[0].directory.watch(key(1));
    assert_eq!(*ready(&watch).await, Found::default());
    assert_eq!(announce(&mesh[0], key(1), "alone").await.holders, 1);
    assert_eq!(values(&watch.current()), ["alone"]);
    assert_eq!(values(&find(&mesh[0], key(1)).await), ["alone"]);
    withdraw(&mesh[0], key(1)).await;
    assert_eq!(*watch.current(), Found::default());
}

/// However fast announcements and withdrawals follow each other, the last one is what stays.
pub async fn the_last_of_many_announcements_stays(harness: &impl Harness) {
    let mesh = harness.mesh(NODES).await;
    let watch = mesh[3].directory.watch(key(1));
    ready(&watch).await;
    for n in 0..20 {
        announce(&mesh[0], key(1), &format!("value {n}")).await;
        if n % 3 == 0 {
            withdraw(&mesh[0], key(1)).await;
        }
    }
    assert_eq!(values(&watch.current()), ["value 19"]);
    for member in &mesh {
        assert_eq!(values(&find(member, key(1)).await), ["value 19"]);
    }
}

/// A third of the nodes die: what the others announced is still found.
pub async fn records_outlive_other_nodes(harness: &impl Mortal) {
    let mut mesh = harness.mesh(9).await;
    for (n, member) in mesh.iter().enumerate().take(6) {
        announce(member, key(n as u8), "still here").await;
    }
    for dying in mesh.split_off(6) {
        harness.kill(dying).await;
    }
    for member in &mesh {
        for (n, announcer) in mesh.iter().enumerate() {
            let found = find(member, key(n as u8)).await;
            assert!(found.by(&announcer.id).is_some(), "record {n}");
        }
    }
}

/// A third of the nodes die: watches still show what is announced after that.
pub async fn watches_outlive_other_nodes(harness: &impl Mortal) {
    let mut mesh = harness.mesh(9).await;
    let watch = mesh[0].directory.watch(key(1));
    ready(&watch).await;
    for dying in mesh.split_off(6) {
        harness.kill(dying).await;
    }
    announce(&mesh[5], key(1), "late").await;
    assert_eq!(values(&watch.current()), ["late"]);
}

async fn announce<D: Directory>(member: &Member<D>, key: Key, value: &str) -> crate::Announced {
    let value = Bytes::copy_from_slice(value.as_bytes());
    member.directory.announce(key, value).await.expect("the announcement is taken")
}

async fn withdraw<D: Directory>(member: &Member<D>, key: Key) {
    member.directory.withdraw(key).await.expect("the withdrawal is taken");
}

async fn find<D: Directory>(member: &Member<D>, key: Key) -> Found {
    member.directory.find(key).await.expect("the lookup succeeds")
}

async fn ready(watch: &Watch) -> std::sync::Arc<Found> {
    watch.ready().await.expect("the watch's first lookup succeeds")
}

async fn watch_all<D: Directory>(mesh: &[Member<D>], key: Key) -> Vec<Watch> {
    let watches: Vec<Watch> = mesh.iter().map(|member| member.directory.watch(key)).collect();
    for watch in &watches {
        ready(watch).await;
    }
    watches
}

fn values(found: &Found) -> Vec<String> {
    found.records.iter().map(|record| String::from_utf8_lossy(&record.value).into_owned()).collect()
}

fn key(n: u8) -> Key {
    Key::derive("conformance", &Realm::default(), &n.to_string())
}
