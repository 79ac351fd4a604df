//! What every [`Membership`] must do. Give [`core()`] (and [`failures`], if the implementation can be crashed) a
//! [`Harness`] for yours, in a test with tokio's time paused.

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

/// Joining, snapshots, events, tags, leaving.
///
/// # Panics
/// If the implementation does not do as it must.
pub async fn core(harness: &impl Harness) {
    a_lone_node_knows_itself(&harness.start(1).await).await;
    nobody_to_join_is_an_error(harness).await;
    let (one, two, three) = (harness.start(2).await, harness.start(3).await, harness.start(4).await);
    joining_shows_on_both_sides(&one, &two).await;
    joining_through_one_means_joining_all(&one, &two, &three).await;
    tags_reach_the_others(&one, &three).await;
    leaving_is_told_and_can_be_undone(&one, &two, &three).await;
}

/// Crashes are found, and whoever restarts comes back.
///
/// # Panics
/// If the implementation does not do as it must.
pub async fn failures(harness: &impl Harness) {
    let (one, two, three) = (harness.start(11).await, harness.start(12).await, harness.start(13).await);
    two.join(vec![seed(&one)]).await.expect("the seed is there");
    three.join(vec![seed(&one)]).await.expect("the seed is there");
    until(&two, "three members", |members| members.len() == 3).await;
    let (mut events, id, before) = (one.subscribe(), three.local().contact.id, three.local().incarnation);

    harness.crash(13).await;
    expect(&mut events, "suspected", |event| matches!(event, Event::Suspected(m) if m.contact.id == id))
        .await;
    let confirmed = |event: &Event| matches!(event, Event::Confirmed(m) if m.contact.id == id);
    expect(&mut events, "confirmed", confirmed).await;
    assert!(find(&one, &id).is_none(), "the dead are in no snapshot");

    let three = harness.start(13).await;
    assert!(three.local().incarnation > before, "a new life has a higher incarnation");
    three.join(vec![seed(&one)]).await.expect("the seed is there");
    expect(&mut events, "joined again", |event| matches!(event, Event::Joined(m) if m.contact.id == id))
        .await;
    until(&two, "three members again", |members| members.len() == 3).await;
}

async fn a_lone_node_knows_itself(node: &impl Membership) {
    let joined = node.join(Vec::new()).await.expect("no seeds is no error");
    assert_eq!((joined.seeds, joined.members), (0, 1));
    let members = node.members();
    assert_eq!(members.len(), 1);
    assert_eq!((members[0].id(), members[0].state), (node.local().id(), MemberState::Alive));
    let myself = node.join(vec![seed(node)]).await.expect("being one's own seed is no error");
    assert_eq!(myself.seeds, 0);
}

async fn nobody_to_join_is_an_error(harness: &impl Harness) {
    let node = harness.start(5).await;
    match node.join(vec![harness.nobody()]).await {
        Err(MembershipError::Unreachable(failures)) => assert_eq!(failures.len(), 1),
        other => panic!("joining nobody gave {other:?}"),
    }
}

async fn joining_shows_on_both_sides(one: &impl Membership, two: &impl Membership) {
    let mut events = one.subscribe();
    let joined = two.join(vec![seed(one)]).await.expect("the seed is there");
    assert_eq!((joined.seeds, joined.members), (1, 2), "the seed's list is merged on return");
    assert!(find(two, &one.local().id()).is_some());
    let id = two.local().id();
    expect(&mut events, "joined", |event| matches!(event, Event::Joined(m) if m.id() == id)).await;
    assert!(find(one, &id).is_some(), "a snapshot shows what an event told");
}

async fn joining_through_one_means_joining_all(
    one: &impl Membership,
    two: &impl Membership,
    three: &impl Membership,
) {
    let joined = three.join(vec![seed(two)]).await.expect("the seed is there");
    assert_eq!(joined.members, 3);
    until(one, "three members", |members| members.len() == 3).await;
    let ids: Vec<NodeId> = one.members().iter().map(Member::id).collect();
    assert!(ids.is_sorted(), "snapshots are in order of id");
}

async fn tags_reach_the_others(one: &impl Membership, three: &impl Membership) {
    let (id, before) = (three.local().id(), three.local().incarnation);
    let tags = Tags::from([("zone".into(), "v".repeat(508))]);
    let mut events = one.subscribe();
    three.set_tags(tags.clone()).expect("512 bytes are allowed");
    assert_eq!(*three.local().tags, tags);
    assert!(three.local().incarnation > before);
    let updated = |event: &Event| matches!(event, Event::Updated(m) if m.id() == id && *m.tags == tags);
    expect(&mut events, "updated", updated).await;

    let too_much = Tags::from([("zone".into(), "v".repeat(509))]);
    match three.set_tags(too_much) {
        Err(MembershipError::Tags(TagsError::Bytes(513))) => {}
        other => panic!("513 bytes of tags gave {other:?}"),
    }
    assert_eq!(*three.local().tags, tags, "a refused change changes nothing");
}

async fn leaving_is_told_and_can_be_undone(
    one: &impl Membership,
    two: &impl Membership,
    three: &impl Membership,
) {
    let id = three.local().id();
    let (mut first, mut second) = (one.subscribe(), two.subscribe());
    three.leave(PATIENCE).await.expect("the neighbours are there");
    assert_eq!(three.local().state, MemberState::Left);
    for events in [&mut first, &mut second] {
        let told = |event: &Event| {
            assert!(!matches!(event, Event::Confirmed(m) if m.id() == id), "a goodbye is no death");
            matches!(event, Event::Left(m) if m.id() == id)
        };
        expect(events, "left", told).await;
    }
    assert!(find(one, &id).is_none(), "whoever left is in no snapshot");
    three.join(vec![seed(one)]).await.expect("the seed is there");
    expect(&mut second, "joined again", |event| matches!(event, Event::Joined(m) if m.id() == id)).await;
    assert_eq!(three.local().state, MemberState::Alive);
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
