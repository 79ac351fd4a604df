//! Raft between the members of a group.

use super::*;

fn voter(byte: u8) -> wire::RaftVoter {
    wire::RaftVoter { node: Bytes::from(vec![byte; 32]), storage: u64::from(byte) }
}

fn ballot(term: u64, byte: u8) -> Option<wire::RaftBallot> {
    Some(wire::RaftBallot { term, voter: Some(voter(byte)), elected: true })
}

const fn position(term: u64, index: u64) -> Option<wire::RaftPosition> {
    Some(wire::RaftPosition { term, index })
}

const GROUP: (u64, u64) = (1, 2);

fn log() -> Vec<Vector> {
    let (group_high, group_low) = GROUP;
    let append = wire::RaftAppend {
        group_high,
        group_low,
        ballot: ballot(3, 1),
        before: position(2, 16),
        committed: position(2, 15),
        storage: 2,
    };
    let entry =
        wire::RaftEntry { term: 3, index: 17, command: Some(Bytes::from_static(b"command")), members: None };
    let member = |byte, sets| wire::RaftMember { voter: Some(voter(byte)), sets };
    let members = wire::RaftMembership { members: vec![member(1, 3), member(2, 1), member(3, 0)] };
    let matched = wire::RaftAppended {
        outcome: wire::RaftOutcome::Matched.into(),
        last: position(3, 17),
        ballot: None,
    };
    vec![
        frame("append", "A heartbeat: no entries.", FrameKind::RAFT_APPEND, append.clone(), b""),
        frame(
            "append-entries",
            "The payload is one empty entry of term 3 at index 17.",
            FrameKind::RAFT_APPEND,
            append,
            &[4, 8, 3, 16, 17],
        ),
        frame("appended", "The logs are the same up to index 17.", FrameKind::RAFT_APPENDED, matched, b""),
        body("entry-body", "An entry with a command.", entry),
        body("members-body", "A voter that stays, one that goes, and a learner.", members),
    ]
}

fn elections() -> Vec<Vector> {
    let (group_high, group_low) = GROUP;
    let vote = wire::RaftVoteRequest {
        group_high,
        group_low,
        ballot: ballot(4, 2),
        last: position(3, 17),
        transfer: false,
        trial: true,
        storage: 1,
    };
    let voted = wire::RaftVoteAnswer { ballot: ballot(3, 1), granted: true, last: position(3, 16) };
    let transfer = wire::RaftTransfer {
        group_high,
        group_low,
        ballot: ballot(3, 1),
        to: Some(voter(2)),
        last: position(3, 17),
    };
    vec![
        frame("vote", "A trial: would you?", FrameKind::RAFT_VOTE, vote, b""),
        frame("voted", "It would.", FrameKind::RAFT_VOTED, voted, b""),
        frame(
            "transfer",
            "The leader asks another voter to take over.",
            FrameKind::RAFT_TRANSFER,
            transfer,
            b"",
        ),
    ]
}

fn images() -> Vec<Vector> {
    let (group_high, group_low) = GROUP;
    let snapshot = wire::RaftSnapshot { group_high, group_low, ballot: ballot(3, 1), storage: 2 };
    let entry = wire::RaftSnapshotPart { log: Some(wire::LogPlace { epoch: 0, index: 9 }), offset: 100 };
    let image = wire::RaftImage {
        last: position(3, 17),
        members_at: position(1, 0),
        members: Bytes::from_static(b"members"),
        objects: Bytes::from_static(b"objects"),
    };
    vec![
        frame("snapshot", "The parts follow.", FrameKind::RAFT_SNAPSHOT, snapshot, b""),
        frame(
            "snapshot-part",
            "A part of a RaftImage.",
            FrameKind::RAFT_SNAPSHOT_PART,
            wire::RaftSnapshotPart::default(),
            b"part",
        ),
        frame(
            "snapshot-part-log",
            "The entry at offset 100 of the log that the command at 0.9 created, behind its time.",
            FrameKind::RAFT_SNAPSHOT_PART,
            entry,
            b"\0\0\0\0\0\0\0\x07entry",
        ),
        body("image-body", "What the parts make up together.", image),
    ]
}

#[test]
fn raft() {
    let vectors: Vec<Vector> = log().into_iter().chain(elections()).chain(images()).collect();
    check_file("raft.txt", &vectors);
}
