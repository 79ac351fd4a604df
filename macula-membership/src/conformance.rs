//! What a [`Membership`] must do, and what it may be able to do besides.
//!
//! The core is for every implementation: [`membership_conformance!`](crate::membership_conformance). The rest are
//! capabilities that not every protocol has, each with a macro of its own:
//!
//! | macro | what it asks for |
//! |---|---|
//! | [`membership_tags_conformance!`](crate::membership_tags_conformance) | tags reach the others, newcomers too |
//! | [`membership_goodbye_conformance!`](crate::membership_goodbye_conformance) | leaving is told apart from dying |
//! | [`membership_suspicion_conformance!`](crate::membership_suspicion_conformance) | a suspicion is seen before a death |
//! | [`membership_healing_conformance!`](crate::membership_healing_conformance) | what was cut apart comes together by itself |
//! | [`membership_alone_conformance!`](crate::membership_alone_conformance) | so does a node that knows nobody alive |
//!
//! Each check is a function here that takes a [`Harness`]; the macros make a test of each. Run them with tokio's
//! time paused.

use std::future::Future;
use std::time::Duration;

use macula_proto::NodeId;
use macula_transport::Target;

use crate::{
    Event, EventError, EventReceiver, Member, MemberState, Membership, MembershipError, Tags, TagsError,
};

/// How long to wait for anything; in paused time that costs nothing.
const PATIENCE: Duration = Duration::from_secs(300);

/// Makes nodes of the implementation under test.
pub trait Harness {
    /// The implementation.
    type Membership: Membership;

    /// Starts node number `n`, alone. Starting a crashed number again is a restart with the same id.
    fn start(&self, n: u8) -> impl Future<Output = Self::Membership>;

    /// Stops node number `n` without a word.
    fn crash(&self, n: u8) -> impl Future<Output = ()>;

    /// A seed at which nobody answers.
    fn nobody(&self) -> Target;
}

/// A harness whose network can be cut.
pub trait Faulty: Harness {
    /// Nothing passes any more between one side and the other.
    fn partition(&self, one: &[NodeId], other: &[NodeId]);

    /// Everything passes again.
    fn heal(&self);
}

/// Makes a test of each core check: `#[attribute] harness-expression`. See [`conformance`](crate::conformance).
#[macro_export]
macro_rules! membership_conformance {
    (#[$($attr:tt)*] $harness:expr) => {
        $crate::membership_conformance! { @tests [$($attr)*] [$harness]
            a_lone_node_knows_itself
            joining_nobody_is_an_error
            joining_shows_on_both_sides
            joining_through_one_means_joining_all
            whoever_leaves_is_gone
            whoever_left_can_come_back
            a_crash_is_found
            a_restart_is_a_member_again
        }
    };
    (@tests [$($attr:tt)*] [$harness:expr] $check:ident $($rest:ident)*) => {
        #[$($attr)*]
        async fn $check() {
            $crate::conformance::$check(&$harness).await;
        }
        $crate::membership_conformance! { @tests [$($attr)*] [$harness] $($rest)* }
    };
    (@tests [$($attr:tt)*] [$harness:expr]) => {};
}

/// Makes a test of each check of tags: `#[attribute] harness-expression`.
#[macro_export]
macro_rules! membership_tags_conformance {
    (#[$($attr:tt)*] $harness:expr) => {
        $crate::membership_conformance! { @tests [$($attr)*] [$harness]
            tags_reach_the_others
            tags_past_the_limit_change_nothing
            a_newcomer_learns_the_tags
        }
    };
}

/// Makes a test of each check of goodbyes: `#[attribute] harness-expression`.
#[macro_export]
macro_rules! membership_goodbye_conformance {
    (#[$($attr:tt)*] $harness:expr) => {
        $crate::membership_conformance! { @tests [$($attr)*] [$harness]
            a_goodbye_is_no_death
        }
    };
}

/// Makes a test of each check of suspicions: `#[attribute] harness-expression`.
#[macro_export]
macro_rules! membership_suspicion_conformance {
    (#[$($attr:tt)*] $harness:expr) => {
        $crate::membership_conformance! { @tests [$($attr)*] [$harness]
            the_dead_are_suspected_first
        }
    };
}

/// Makes a test of each check of partitions; needs a [`Faulty`](crate::conformance::Faulty) harness: `#[attribute]
/// harness-expression`.
#[macro_export]
macro_rules! membership_healing_conformance {
    (#[$($attr:tt)*] $harness:expr) => {
        $crate::membership_conformance! { @tests [$($attr)*] [$harness]
            halves_find_each_other_again
            a_node_cut_off_from_all_comes_back
        }
    };
}

/// Makes a test of each check of nodes that know nobody alive; needs a [`Faulty`](crate::conformance::Faulty) harness:
/// `#[attribute] harness-expression`.
#[macro_export]
macro_rules! membership_alone_conformance {
    (#[$($attr:tt)*] $harness:expr) => {
        $crate::membership_conformance! { @tests [$($attr)*] [$harness]
            a_seed_that_comes_late_is_found
            two_that_are_cut_apart_find_each_other_again
        }
    };
}

/// Core: a node that has joined nobody is a mesh of one.
///
/// # Panics
/// If the implementation does not do as it must. So do all checks.
pub async fn a_lone_node_knows_itself(harness: &impl Harness) {
    let node = harness.start(1).await;
    let joined = node.join(Vec::new()).await.expect("no seeds is no error");
    assert_eq!((joined.seeds, joined.members), (0, 1));
    let members = node.members();
    assert_eq!(members.len(), 1);
    assert_eq!((members[0].id(), members[0].state), (node.local().id(), MemberState::Alive));
    let myself = node.join(vec![seed(&node)]).await.expect("being one's own seed is no error");
    assert_eq!(myself.seeds, 0);
}

/// Core: seeds that do not answer are reported, each with its cause.
pub async fn joining_nobody_is_an_error(harness: &impl Harness) {
    let node = harness.start(1).await;
    match node.join(vec![harness.nobody()]).await {
        Err(MembershipError::Unreachable(failures)) => assert_eq!(failures.len(), 1),
        other => panic!("joining nobody gave {other:?}"),
    }
}

/// Core: when `join` returns, the seed's list is merged; the seed learns of the newcomer, too.
pub async fn joining_shows_on_both_sides(harness: &impl Harness) {
    let (one, two) = (harness.start(1).await, harness.start(2).await);
    let mut events = one.subscribe();
    let joined = two.join(vec![seed(&one)]).await.expect("the seed is there");
    assert_eq!((joined.seeds, joined.members), (1, 2), "the seed's list is merged on return");
    assert!(find(&two, &one.local().id()).is_some());
    let id = two.local().id();
    expect(&mut events, "joined", |event| matches!(event, Event::Joined(m) if m.id() == id)).await;
    assert!(find(&one, &id).is_some(), "a snapshot shows what an event told");
}

/// Core: one seed is enough to know, and to be known by, everybody.
pub async fn joining_through_one_means_joining_all(harness: &impl Harness) {
    let [one, two, three] = three(harness).await;
    for node in [&one, &two, &three] {
        let ids: Vec<NodeId> = node.members().iter().map(Member::id).collect();
        assert!(ids.is_sorted(), "snapshots are in order of id");
    }
}

/// Core: who has left is in nobody's snapshot.
pub async fn whoever_leaves_is_gone(harness: &impl Harness) {
    let [one, two, three] = three(harness).await;
    three.leave(PATIENCE).await.expect("the neighbours are there");
    assert_eq!(three.local().state, MemberState::Left);
    for node in [&one, &two] {
        until(node, "two members", |members| members.len() == 2).await;
        assert!(find(node, &three.local().id()).is_none(), "whoever left is in no snapshot");
    }
}

/// Core: leaving can be undone by joining again.
pub async fn whoever_left_can_come_back(harness: &impl Harness) {
    let [one, two, three] = three(harness).await;
    let (id, before) = (three.local().id(), three.local().incarnation);
    three.leave(PATIENCE).await.expect("the neighbours are there");
    for node in [&one, &two] {
        until(node, "two members", |members| members.len() == 2).await;
    }
    let mut events = two.subscribe();
    three.join(vec![seed(&one)]).await.expect("the seed is there");
    expect(&mut events, "joined again", |event| matches!(event, Event::Joined(m) if m.id() == id)).await;
    assert_eq!(three.local().state, MemberState::Alive);
    assert!(three.local().incarnation > before, "what it says now is newer than its goodbye");
}

/// Core: a node that stops without a word is found dead by all.
pub async fn a_crash_is_found(harness: &impl Harness) {
    let [one, two, three] = three(harness).await;
    let id = three.local().id();
    let mut all = [one.subscribe(), two.subscribe()];
    harness.crash(3).await;
    for (node, events) in [&one, &two].into_iter().zip(&mut all) {
        let confirmed = |event: &Event| matches!(event, Event::Confirmed(m) if m.id() == id);
        expect(events, "confirmed", confirmed).await;
        assert!(find(node, &id).is_none(), "the dead are in no snapshot");
    }
}

/// Core: no death is for ever.
pub async fn a_restart_is_a_member_again(harness: &impl Harness) {
    let [one, two, three] = three(harness).await;
    let (id, before) = (three.local().id(), three.local().incarnation);
    harness.crash(3).await;
    for node in [&one, &two] {
        until(node, "two members", |members| members.len() == 2).await;
    }
    let mut events = two.subscribe();
    let three = harness.start(3).await;
    assert_eq!(three.local().id(), id);
    assert!(three.local().incarnation > before, "a new life has a higher incarnation");
    three.join(vec![seed(&one)]).await.expect("the seed is there");
    expect(&mut events, "joined again", |event| matches!(event, Event::Joined(m) if m.id() == id)).await;
    until(&one, "three members again", |members| members.len() == 3).await;
}

/// Tags: a change is an event with the new tags, under a higher incarnation.
pub async fn tags_reach_the_others(harness: &impl Harness) {
    let [one, _two, three] = three(harness).await;
    let (id, before) = (three.local().id(), three.local().incarnation);
    let mut events = one.subscribe();
    for value in ["v".repeat(508), "w".to_owned()] {
        let tags = Tags::from([("zone".into(), value)]);
        three.set_tags(tags.clone()).expect("512 bytes are allowed");
        assert_eq!(*three.local().tags, tags);
        let updated = |event: &Event| matches!(event, Event::Updated(m) if m.id() == id && *m.tags == tags);
        expect(&mut events, "updated", updated).await;
    }
    assert!(three.local().incarnation > before);
}

/// Tags: one byte too many is refused whole.
pub async fn tags_past_the_limit_change_nothing(harness: &impl Harness) {
    let node = harness.start(1).await;
    let tags = Tags::from([("zone".into(), "v".repeat(508))]);
    node.set_tags(tags.clone()).expect("512 bytes are allowed");
    match node.set_tags(Tags::from([("zone".into(), "v".repeat(509))])) {
        Err(MembershipError::Tags(TagsError::Bytes(513))) => {}
        other => panic!("513 bytes of tags gave {other:?}"),
    }
    assert_eq!(*node.local().tags, tags, "a refused change changes nothing");
}

/// Tags: who comes later learns them as well.
pub async fn a_newcomer_learns_the_tags(harness: &impl Harness) {
    let [_one, two, three] = three(harness).await;
    let id = three.local().id();
    let tags = Tags::from([("zone".into(), "north".into())]);
    three.set_tags(tags.clone()).expect("within the limit");
    let has = |members: &[Member]| members.iter().any(|member| member.id() == id && *member.tags == tags);
    until(&two, "the tags", has).await;
    let four = harness.start(4).await;
    four.join(vec![seed(&two)]).await.expect("the seed is there");
    until(&four, "the tags", has).await;
}

/// Goodbyes: the others are told `Left`, and never `Confirmed`.
pub async fn a_goodbye_is_no_death(harness: &impl Harness) {
    let [one, two, three] = three(harness).await;
    let id = three.local().id();
    let mut all = [one.subscribe(), two.subscribe()];
    three.leave(PATIENCE).await.expect("the neighbours are there");
    for events in &mut all {
        let told = |event: &Event| {
            assert!(!matches!(event, Event::Confirmed(m) if m.id() == id), "a goodbye is no death");
            matches!(event, Event::Left(m) if m.id() == id)
        };
        expect(events, "left", told).await;
    }
}

/// Suspicion: before a member counts as dead, it is said to be suspected.
pub async fn the_dead_are_suspected_first(harness: &impl Harness) {
    let [one, _two, three] = three(harness).await;
    let id = three.local().id();
    let mut events = one.subscribe();
    harness.crash(3).await;
    let suspected = |event: &Event| {
        assert!(!matches!(event, Event::Confirmed(m) if m.id() == id), "nobody dies unsuspected");
        matches!(event, Event::Suspected(m) if m.id() == id)
    };
    expect(&mut events, "suspected", suspected).await;
    let confirmed = |event: &Event| matches!(event, Event::Confirmed(m) if m.id() == id);
    expect(&mut events, "confirmed", confirmed).await;
}

/// Healing: two pairs that count each other as dead are one mesh again, without being told to join.
pub async fn halves_find_each_other_again(harness: &impl Faulty) {
    let [one, two, three] = three(harness).await;
    let four = harness.start(4).await;
    four.join(vec![seed(&one)]).await.expect("the seed is there");
    let nodes = [one, two, three, four];
    cut_and_heal(harness, &nodes, 2).await;
}

/// Healing: a node that counts everybody as dead, and that everybody counts as dead, comes back by itself.
pub async fn a_node_cut_off_from_all_comes_back(harness: &impl Faulty) {
    let nodes = three(harness).await;
    cut_and_heal(harness, &nodes, 1).await;
}

/// Alone: a node whose seeds were not there yet goes on trying.
pub async fn a_seed_that_comes_late_is_found(harness: &impl Harness) {
    let late = {
        let first = harness.start(1).await;
        harness.crash(1).await;
        seed(&first)
    };
    let two = harness.start(2).await;
    two.join(vec![late]).await.expect_err("nobody is there yet");
    let one = harness.start(1).await;
    for node in [&one, &two] {
        until(node, "two members", |members| members.len() == 2).await;
    }
}

/// Alone: two nodes that are all there is, each without the other.
pub async fn two_that_are_cut_apart_find_each_other_again(harness: &impl Faulty) {
    let (one, two) = (harness.start(1).await, harness.start(2).await);
    two.join(vec![seed(&one)]).await.expect("the seed is there");
    cut_and_heal(harness, &[one, two], 1).await;
}

/// Cuts the first `at` nodes off until each side is alone, heals, and waits until all see all.
async fn cut_and_heal<H: Faulty>(harness: &H, nodes: &[H::Membership], at: usize) {
    let ids: Vec<NodeId> = nodes.iter().map(|node| node.local().id()).collect();
    for node in nodes {
        until(node, "everybody", |members| members.len() == nodes.len()).await;
    }
    harness.partition(&ids[..at], &ids[at..]);
    let (left, right) = nodes.split_at(at);
    for side in [left, right] {
        for node in side {
            until(node, "its own side", |members| members.len() == side.len()).await;
        }
    }
    harness.heal();
    for node in nodes {
        until(node, "everybody again", |members| members.len() == nodes.len()).await;
    }
}

/// Three nodes, each joined through the one before; all see all.
async fn three<H: Harness>(harness: &H) -> [H::Membership; 3] {
    let (one, two, three) = (harness.start(1).await, harness.start(2).await, harness.start(3).await);
    let joined = two.join(vec![seed(&one)]).await.expect("the seed is there");
    assert_eq!(joined.members, 2);
    let joined = three.join(vec![seed(&two)]).await.expect("the seed is there");
    assert_eq!(joined.members, 3, "the seed's list is merged on return");
    for node in [&one, &two] {
        until(node, "three members", |members| members.len() == 3).await;
    }
    [one, two, three]
}

fn seed(node: &impl Membership) -> Target {
    Target::Contact((*node.local().contact).clone())
}

fn find(node: &impl Membership, id: &NodeId) -> Option<Member> {
    node.members().iter().find(|member| member.id() == *id).cloned()
}

/// Waits for an event that satisfies `wanted`.
async fn expect(events: &mut EventReceiver, what: &str, mut wanted: impl FnMut(&Event) -> bool) {
    let wait = async {
        loop {
            match events.recv().await {
                Ok(event) if wanted(&event) => return,
                Ok(_) | Err(EventError::Lagged(_)) => {}
                Err(EventError::Closed) => panic!("no more events while waiting for: {what}"),
            }
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "no event: {what}");
}

/// Waits until a snapshot satisfies `wanted`.
async fn until(node: &impl Membership, what: &str, wanted: impl Fn(&[Member]) -> bool) {
    let mut events = node.subscribe();
    let wait = async {
        while !wanted(&node.members()) {
            // Whatever it is, the snapshot is newer.
            let _ = events.recv().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "never seen: {what}");
}
