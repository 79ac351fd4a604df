use super::*;
use crate::GroupId;

const REPLACE_AFTER: Duration = Duration::from_secs(300);

fn voter(number: u8) -> VoterId {
    VoterId { node: node(number), storage: 1 }
}

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn set(numbers: &[u8]) -> BTreeSet<VoterId> {
    numbers.iter().map(|number| voter(*number)).collect()
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_start(Duration::from_secs(seconds))
}

/// A group with 100 entries, which all of its members have.
fn status(voters: &[u8], learners: &[u8]) -> GroupStatus {
    let (voters, learners) = (set(voters), set(learners));
    GroupStatus {
        group: GroupId(1),
        me: voter(1),
        leader: Some(voter(1)),
        term: 1,
        matched: voters.iter().chain(&learners).map(|member| (*member, Some(100))).collect(),
        next_voters: voters.clone(),
        voters,
        learners,
        is_changing: false,
        last: Some(100),
        applied: Some(100),
        image: None,
        stopped: None,
    }
}

fn steward(offers: &[u8]) -> Steward {
    let mut steward = Steward::new(3, REPLACE_AFTER);
    for number in offers {
        steward.on_offer(at(0), voter(*number), &status(&[1], &[]));
    }
    steward
}

fn nobody(_: &NodeId) -> bool {
    false
}

#[test]
fn one_voter_becomes_three_once_two_others_have_caught_up() {
    let mut steward = steward(&[2, 3, 4]);
    let (one, two) = (status(&[1], &[]), status(&[1], &[2]));
    assert_eq!(steward.plan(at(1), &one, nobody), Some(Step::AddLearner(voter(2))));
    assert_eq!(steward.plan(at(1), &two, nobody), Some(Step::AddLearner(voter(3))));
    let mut behind = status(&[1], &[2, 3]);
    behind.matched.insert(voter(3), Some(20));
    assert_eq!(steward.plan(at(1), &behind, nobody), None, "the third has not caught up");
    assert_eq!(steward.plan(at(1), &status(&[1], &[2, 3]), nobody), Some(Step::SetVoters(set(&[1, 2, 3]))));
    assert_eq!(steward.plan(at(1), &status(&[1, 2, 3], &[]), nobody), None, "three are enough");
    assert!(!steward.wants_more(&status(&[1, 2, 3], &[])));
}

#[test]
fn a_voter_that_is_gone_for_long_is_replaced_by_one_that_has_caught_up() {
    let mut steward = steward(&[]);
    let gone = |node: &NodeId| *node == self::node(3);
    let full = status(&[1, 2, 3], &[]);
    assert_eq!(steward.plan(at(0), &full, gone), None);
    assert!(steward.wants_more(&full), "a replacement may already learn");
    steward.on_offer(at(100), voter(4), &full);
    assert_eq!(steward.plan(at(100), &full, gone), Some(Step::AddLearner(voter(4))));
    let learning = status(&[1, 2, 3], &[4]);
    assert_eq!(steward.plan(at(200), &learning, gone), None, "it may come back");
    assert_eq!(steward.plan(at(300), &learning, gone), Some(Step::SetVoters(set(&[1, 2, 4]))));
}

#[test]
fn nobody_is_put_out_without_a_replacement() {
    let mut steward = steward(&[]);
    let gone = |node: &NodeId| *node == self::node(3);
    for seconds in [0, 300, 100_000] {
        assert_eq!(steward.plan(at(seconds), &status(&[1, 2, 3], &[]), gone), None);
    }
}

#[test]
fn a_voter_that_is_back_with_another_store_is_replaced_at_once_by_itself() {
    let mut steward = steward(&[4]);
    let again = VoterId { storage: 2, ..voter(3) };
    let full = status(&[1, 2, 3], &[]);
    assert!(steward.on_offer(at(1), again, &full));
    assert_eq!(steward.plan(at(1), &full, nobody), Some(Step::AddLearner(again)));
    let mut learning = full;
    learning.learners.insert(again);
    learning.matched.insert(again, Some(100));
    let expected = [voter(1), voter(2), again].into();
    assert_eq!(steward.plan(at(1), &learning, nobody), Some(Step::SetVoters(expected)));
}

#[test]
fn a_change_that_a_former_leader_left_half_done_is_completed_first() {
    let mut changing = status(&[1, 2, 3, 4], &[]);
    changing.is_changing = true;
    changing.next_voters = set(&[1, 2, 4]);
    assert_eq!(steward(&[5]).plan(at(1), &changing, nobody), Some(Step::SetVoters(set(&[1, 2, 4]))));
}

#[test]
fn an_operator_may_add_and_remove_but_not_below_a_living_majority() {
    let mut steward = steward(&[4]);
    let full = status(&[1, 2, 3], &[]);
    assert_eq!(steward.invite(node(9), &full), Err(Unwilling::NoOffer(node(9))));
    assert_eq!(steward.invite(node(2), &full), Ok(()));
    assert_eq!(steward.invite(node(4), &full), Ok(()));
    assert_eq!(steward.plan(at(1), &full, nobody), Some(Step::AddLearner(voter(4))));
    assert_eq!(
        steward.plan(at(1), &status(&[1, 2, 3], &[4]), nobody),
        Some(Step::SetVoters(set(&[1, 2, 3, 4])))
    );
    assert_eq!(
        steward.remove(node(4), &status(&[1, 2, 3, 4], &[]), nobody),
        Ok(Step::SetVoters(set(&[1, 2, 3])))
    );
    assert_eq!(steward.remove(node(8), &full, nobody), Err(Unwilling::NoMember(node(8))));
    let gone = |node: &NodeId| *node == self::node(2);
    let refused = Unwilling::NoMajority { node: node(3), living: 1, voters: 2 };
    assert_eq!(steward.remove(node(3), &full, gone), Err(refused));
    assert_eq!(
        steward.remove(node(4), &status(&[1, 2, 3], &[4]), nobody),
        Ok(Step::RemoveLearners(set(&[4])))
    );
}

#[test]
fn learners_that_are_gone_for_long_are_removed() {
    let mut steward = steward(&[]);
    let gone = |node: &NodeId| *node == self::node(4);
    let members = status(&[1, 2, 3], &[4]);
    assert_eq!(steward.plan(at(0), &members, gone), None);
    assert_eq!(steward.plan(at(300), &members, gone), Some(Step::RemoveLearners(set(&[4]))));
}
