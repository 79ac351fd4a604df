//! Raft's questions from the others.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use macula_proto::{Frame, FrameKind, NodeId, ProtoError, decode, wire};
use macula_transport::{ResetCode, StreamError, StreamRx, StreamTx};
use openraft::errors::Fatal;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    VoteRequest,
};
use openraft::type_config::alias::SnapshotOf;

use super::codec::{
    CodecError, ballot_in, ballot_out, entries_in, group_of, image_in, position_in, position_out, voter_in,
};
use super::state::{Image, LogEntries, State};
use super::types::{Ballot, Position, Types};
use crate::objects::LogId;
use crate::{GroupId, LogStore, StoreError};

/// An image of the objects may be so large, in bytes; the entries of logs come beside it.
const IMAGE_BYTES_MAX: usize = 256 * 1024 * 1024;

type Raft<S> = openraft::Raft<Types, State<S>>;

/// Why a stream was not served to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    Proto(#[from] ProtoError),
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("this node's part in the group has ended: {0}")]
    Stopped(String),
    #[error("{peer} speaks for {claimed}")]
    Impostor { peer: NodeId, claimed: NodeId },
    #[error("meant for another store of this node, {0:x}")]
    OtherStore(u64),
    #[error("an image of more than {IMAGE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("a frame that does not belong here: {0}")]
    Misplaced(FrameKind),
}

impl ServeError {
    /// What the peer is told.
    pub(crate) const fn code(&self) -> ResetCode {
        match self {
            Self::Proto(_) | Self::Codec(_) | Self::Impostor { .. } | Self::TooLarge | Self::Misplaced(_) => {
                ResetCode::PROTOCOL
            }
            Self::Stream(_) => ResetCode::CANCELLED,
            Self::Store(_) | Self::Stopped(_) | Self::OtherStore(_) => ResetCode::UNKNOWN,
        }
    }
}

impl From<Fatal<Types>> for ServeError {
    fn from(cause: Fatal<Types>) -> Self {
        Self::Stopped(cause.to_string())
    }
}

/// Which group a stream is for, by its first frame; `None` if it is none of Raft's.
pub(crate) fn group_asked(first: &Frame) -> Result<Option<GroupId>, ProtoError> {
    let (high, low) = match first.kind() {
        FrameKind::RAFT_APPEND => {
            let header: wire::RaftAppend = first.header()?;
            (header.group_high, header.group_low)
        }
        FrameKind::RAFT_VOTE => {
            let header: wire::RaftVoteRequest = first.header()?;
            (header.group_high, header.group_low)
        }
        FrameKind::RAFT_SNAPSHOT => {
            let header: wire::RaftSnapshot = first.header()?;
            (header.group_high, header.group_low)
        }
        FrameKind::RAFT_TRANSFER => {
            let header: wire::RaftTransfer = first.header()?;
            (header.group_high, header.group_low)
        }
        _ => return Ok(None),
    };
    Ok(Some(group_of(high, low)))
}

/// Serves one stream of a member's.
pub(crate) async fn serve<S: LogStore>(
    raft: &Raft<S>,
    log_entries: &LogEntries<S>,
    from: NodeId,
    first: Frame,
    tx: &mut impl StreamTx,
    rx: &mut impl StreamRx,
) -> Result<(), ServeError> {
    match first.kind() {
        FrameKind::RAFT_APPEND => serve_appends(raft, from, first, tx, rx).await,
        FrameKind::RAFT_VOTE => {
            let answer = vote(raft, from, &first).await?;
            answer_with(tx, FrameKind::RAFT_VOTED, &answer).await
        }
        FrameKind::RAFT_SNAPSHOT => {
            let answer = take_image(raft, log_entries, from, &first, rx).await?;
            answer_with(tx, FrameKind::RAFT_APPENDED, &answer).await
        }
        FrameKind::RAFT_TRANSFER => {
            let answer = transfer(raft, from, &first).await?;
            answer_with(tx, FrameKind::RAFT_APPENDED, &answer).await
        }
        other => Err(ServeError::Misplaced(other)),
    }
}

async fn answer_with(
    tx: &mut impl StreamTx,
    kind: FrameKind,
    answer: &impl prost::Message,
) -> Result<(), ServeError> {
    tx.send(Frame::new(kind, answer, Bytes::new())?).await?;
    Ok(tx.finish()?)
}

/// The ballot of a message that is its voter's own.
fn own_ballot(from: NodeId, ballot: Option<wire::RaftBallot>) -> Result<Ballot, ServeError> {
    let ballot = ballot_in(ballot)?;
    let claimed = ballot.leader_id.voted_for.node;
    if claimed != from {
        return Err(ServeError::Impostor { peer: from, claimed });
    }
    Ok(ballot)
}

/// What is meant for a store that this node has lost, the present one must not answer: it has acknowledged none of it.
fn for_this_store<S: LogStore>(raft: &Raft<S>, storage: u64) -> Result<(), ServeError> {
    if storage == raft.node_id().storage { Ok(()) } else { Err(ServeError::OtherStore(storage)) }
}

fn append_of<S: LogStore>(
    raft: &Raft<S>,
    from: NodeId,
    frame: &Frame,
) -> Result<AppendEntriesRequest<Types>, ServeError> {
    if frame.kind() != FrameKind::RAFT_APPEND {
        return Err(ServeError::Misplaced(frame.kind()));
    }
    let header: wire::RaftAppend = frame.header()?;
    for_this_store(raft, header.storage)?;
    Ok(AppendEntriesRequest {
        vote: own_ballot(from, header.ballot)?,
        prev_log_id: header.before.map(position_in),
        entries: entries_in(frame.payload().clone())?,
        leader_commit: header.committed.map(position_in),
    })
}

/// Hands on what comes, and answers in order. Appends are taken while earlier ones are still on their way to the disk.
async fn serve_appends<S: LogStore>(
    raft: &Raft<S>,
    from: NodeId,
    first: Frame,
    tx: &mut impl StreamTx,
    rx: &mut impl StreamRx,
) -> Result<(), ServeError> {
    /// Appends between the wire and Raft.
    const HANDED_ON_MAX: usize = 16;
    let (hand, handed) = tokio::sync::mpsc::channel(HANDED_ON_MAX);
    let requests = futures_util::stream::unfold(handed, |mut handed| async move {
        let request = handed.recv().await?;
        Some((request, handed))
    });
    let answers = raft.stream_append(Box::pin(requests));
    let reading = async {
        let mut next = Some(first);
        while let Some(frame) = next {
            if hand.send(append_of(raft, from, &frame)?).await.is_err() {
                return Ok(());
            }
            next = rx.recv().await?;
        }
        drop(hand);
        Ok::<(), ServeError>(())
    };
    let answering = async {
        futures_util::pin_mut!(answers);
        while let Some(answer) = answers.next().await {
            let answer = appended(answer?);
            tx.send(Frame::new(FrameKind::RAFT_APPENDED, &answer, Bytes::new())?).await?;
        }
        Ok(tx.finish()?)
    };
    futures_util::pin_mut!(reading, answering);
    tokio::select! {
        // Answering ends after the last answer, or with the first that nothing may follow.
        answered = &mut answering => answered,
        read = &mut reading => {
            read?;
            answering.await
        }
    }
}

fn appended(result: StreamAppendResult<Types>) -> wire::RaftAppended {
    let (outcome, last, ballot) = match result {
        Ok(last) => (wire::RaftOutcome::Matched, last, None),
        Err(StreamAppendError::Conflict(at)) => (wire::RaftOutcome::Conflict, Some(at), None),
        Err(StreamAppendError::HigherVote(ballot)) => (wire::RaftOutcome::HigherBallot, None, Some(ballot)),
    };
    outcome_out(outcome, last, ballot)
}

fn outcome_out(
    outcome: wire::RaftOutcome,
    last: Option<Position>,
    ballot: Option<Ballot>,
) -> wire::RaftAppended {
    wire::RaftAppended {
        outcome: outcome.into(),
        last: last.as_ref().map(position_out),
        ballot: ballot.as_ref().map(ballot_out),
    }
}

async fn vote<S: LogStore>(
    raft: &Raft<S>,
    from: NodeId,
    frame: &Frame,
) -> Result<wire::RaftVoteAnswer, ServeError> {
    let header: wire::RaftVoteRequest = frame.header()?;
    for_this_store(raft, header.storage)?;
    let request = VoteRequest {
        vote: own_ballot(from, header.ballot)?,
        last_log_id: header.last.map(position_in),
        leadership_transfer: header.transfer,
    };
    let answer = if header.trial { raft.pre_vote(request).await } else { raft.vote(request).await };
    let answer = answer.map_err(|cause| ServeError::Stopped(cause.to_string()))?;
    Ok(wire::RaftVoteAnswer {
        ballot: Some(ballot_out(&answer.vote)),
        granted: answer.vote_granted,
        last: answer.last_log_id.as_ref().map(position_out),
    })
}

async fn transfer<S: LogStore>(
    raft: &Raft<S>,
    from: NodeId,
    frame: &Frame,
) -> Result<wire::RaftAppended, ServeError> {
    let header: wire::RaftTransfer = frame.header()?;
    let (leader, to) = (own_ballot(from, header.ballot)?, voter_in(header.to)?);
    for_this_store(raft, to.storage)?;
    let request = TransferLeaderRequest::new(leader, to, header.last.map(position_in));
    let (outcome, last, ballot) = match raft.handle_transfer_leader(request).await? {
        Ok(()) => (wire::RaftOutcome::Matched, None, None),
        Err(TransferLeaderError::VoteChanged { actual, .. }) => {
            (wire::RaftOutcome::HigherBallot, None, Some(actual))
        }
        Err(TransferLeaderError::LogNotFlushed { actual, .. }) => (wire::RaftOutcome::NotReady, actual, None),
    };
    Ok(outcome_out(outcome, last, ballot))
}

/// Takes an image: entries of logs go straight to the disk, the objects are installed once they are complete.
async fn take_image<S: LogStore>(
    raft: &Raft<S>,
    log_entries: &LogEntries<S>,
    from: NodeId,
    first: &Frame,
    rx: &mut impl StreamRx,
) -> Result<wire::RaftAppended, ServeError> {
    let header: wire::RaftSnapshot = first.header()?;
    for_this_store(raft, header.storage)?;
    let ballot = own_ballot(from, header.ballot)?;
    let mut image = BytesMut::new();
    while let Some(frame) = rx.recv().await? {
        if frame.kind() != FrameKind::RAFT_SNAPSHOT_PART {
            return Err(ServeError::Misplaced(frame.kind()));
        }
        let part: wire::RaftSnapshotPart = frame.header()?;
        if part.log.is_some() {
            log_entries.take(LogId::from_wire(part.log), part.offset, frame.payload().clone()).await?;
            continue;
        }
        if image.len() + frame.payload().len() > IMAGE_BYTES_MAX {
            return Err(ServeError::TooLarge);
        }
        image.extend_from_slice(frame.payload());
    }
    let image: wire::RaftImage = decode(image.freeze()).map_err(CodecError::from)?;
    let (meta, objects) = image_in(image)?;
    let snapshot = SnapshotOf::<Types, Image> { meta, snapshot: Image::new(objects) };
    let answer = raft.install_full_snapshot(ballot, snapshot).await?;
    Ok(outcome_out(wire::RaftOutcome::Matched, None, Some(answer.vote)))
}
