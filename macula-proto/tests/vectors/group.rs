//! Questions about the group of a realm.

use super::*;

const fn place(epoch: u64, index: u64) -> Option<wire::LogPlace> {
    Some(wire::LogPlace { epoch, index })
}

fn voter(byte: u8) -> wire::RaftVoter {
    wire::RaftVoter { node: Bytes::from(vec![byte; 32]), storage: u64::from(byte) }
}

#[test]
fn questions_about_groups() {
    let ask = wire::GroupAsk {
        realm: String::new(),
        group_high: 0,
        group_low: 0,
        question: wire::GroupQuestion::Where.into(),
    };
    let told = wire::GroupTold {
        outcome: wire::GroupOutcome::NotLeader.into(),
        group_high: 1,
        group_low: 2,
        leader: Some(voter(1)),
        voters: vec![voter(1), voter(2), voter(3)],
        at: place(0, 17),
        ..Default::default()
    };
    let look = wire::GroupLook {
        objects: wire::GroupObjects::LogEntries.into(),
        name: "orders".into(),
        from: 7,
        list: false,
    };
    let entry = wire::SeenEntry { offset: 7, stamp_ms: 1_000, entry: Bytes::from_static(b"entry") };
    let seen = wire::GroupSeen { entries: vec![entry], ..Default::default() };
    let transfer = wire::group_manage::Change::Transfer(Bytes::new());
    let watch = wire::GroupWatch {
        realm: "factory".into(),
        group_high: 1,
        group_low: 2,
        session: place(0, 5),
        elections: vec!["matchmaking".into()],
        logs: vec!["orders".into()],
    };
    let leader = wire::SeenLeader {
        session: place(0, 5),
        owner: Bytes::from(vec![1; 32]),
        value: Bytes::from_static(b"value"),
        token: place(0, 9),
    };
    let election = wire::ChangedElection { election: "matchmaking".into(), leader: Some(leader) };
    let change = wire::GroupChange { index: 9, change: Some(wire::group_change::Change::Election(election)) };
    let vectors = [
        frame("ask", "Who is in the group of the default realm?", FrameKind::GROUP_ASK, ask, b""),
        frame("told", "Another voter leads.", FrameKind::GROUP_TOLD, told, b""),
        body("look-body", "Entries of a log from offset 7 on.", look),
        body("seen-body", "One entry.", seen),
        body("manage-body", "Any other voter shall lead.", wire::GroupManage { change: Some(transfer) }),
        frame("watch", "A session, an election and a log.", FrameKind::GROUP_WATCH, watch, b""),
        frame("change", "The election has a leader.", FrameKind::GROUP_CHANGE, change, b""),
    ];
    check_file("group.txt", &vectors);
}
