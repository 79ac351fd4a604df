//! Raft's questions to the others, over the mesh's streams.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use macula_proto::{Frame, FrameKind, wire};
use macula_transport::{StreamRx, StreamTx, Transport};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use prost::Message as _;
use tokio::task::AbortHandle;

use super::codec::{
    ballot_in, ballot_out, entries_out, group_parts, image_out, position_in, position_out, voter_out,
};
use super::state::{Image, LogEntries};
use super::types::{Ballot, Types, VoterId};
use crate::objects::LogId;
use crate::{GroupId, LogStore};

/// How long a follower may take to answer an append.
const APPENDED_MAX: Duration = Duration::from_secs(2);

/// How long a vote, or a transfer, may take; an election has to go on before.
const VOTED_MAX: Duration = Duration::from_secs(1);

/// How much of an image goes in one frame, in bytes.
const PART_BYTES: usize = 256 * 1024;

type Rpc<T> = Result<T, RPCError<Types>>;
type Appended<'s> = futures_util::stream::BoxStream<'s, Rpc<StreamAppendResult<Types>>>;

/// Makes a [`Link`] to each member of the group.
pub(crate) struct Links<T, S> {
    pub(crate) group: GroupId,
    pub(crate) me: VoterId,
    pub(crate) transport: T,
    pub(crate) log_entries: LogEntries<S>,
}

/// The way to one other member.
pub(crate) struct Link<T, S> {
    group: GroupId,
    me: VoterId,
    to: VoterId,
    transport: T,
    log_entries: LogEntries<S>,
}

impl<T: Transport, S: LogStore> RaftNetworkFactory<Types> for Links<T, S> {
    type Network = Link<T, S>;

    async fn new_client(&mut self, target: VoterId, _node: &openraft::EmptyNode) -> Link<T, S> {
        let Self { group, me, transport, log_entries } = self;
        let (transport, log_entries) = (transport.clone(), log_entries.clone());
        Link { group: *group, me: *me, to: target, transport, log_entries }
    }
}

fn unreachable(cause: &(impl std::error::Error + 'static)) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(cause))
}

fn broken(cause: &(impl std::error::Error + 'static)) -> RPCError<Types> {
    RPCError::Network(NetworkError::new(cause))
}

fn over() -> RPCError<Types> {
    RPCError::Network(NetworkError::from_string("the stream ended before the answer"))
}

fn append_frame(group: GroupId, storage: u64, request: &AppendEntriesRequest<Types>) -> Rpc<Frame> {
    let (group_high, group_low) = group_parts(group);
    let header = wire::RaftAppend {
        group_high,
        group_low,
        ballot: Some(ballot_out(&request.vote)),
        before: request.prev_log_id.as_ref().map(position_out),
        committed: request.leader_commit.as_ref().map(position_out),
        storage,
    };
    Frame::new(FrameKind::RAFT_APPEND, &header, entries_out(&request.entries)).map_err(|cause| broken(&cause))
}

/// What a follower said to an append whose first entry comes after `before`.
fn appended(frame: &Frame) -> Rpc<StreamAppendResult<Types>> {
    let answer: wire::RaftAppended = frame.header().map_err(|cause| broken(&cause))?;
    let last = answer.last.map(position_in);
    match answer.outcome() {
        wire::RaftOutcome::Matched => Ok(Ok(last)),
        wire::RaftOutcome::Conflict => {
            let last = last.ok_or_else(|| broken(&super::codec::CodecError::Missing("last")))?;
            Ok(Err(StreamAppendError::Conflict(last)))
        }
        wire::RaftOutcome::HigherBallot => {
            let ballot = ballot_in(answer.ballot).map_err(|cause| broken(&cause))?;
            Ok(Err(StreamAppendError::HigherVote(ballot)))
        }
        wire::RaftOutcome::NotReady | wire::RaftOutcome::Unspecified => {
            Err(broken(&super::codec::CodecError::Payload("an outcome that an append has not")))
        }
    }
}

async fn send_part(tx: &mut impl StreamTx, header: &wire::RaftSnapshotPart, payload: Bytes) -> Rpc<()> {
    let frame = Frame::new(FrameKind::RAFT_SNAPSHOT_PART, header, payload).map_err(|cause| broken(&cause))?;
    tx.send(frame).await.map_err(|cause| broken(&cause))
}

/// Ends the task that sends when nobody waits for answers any more.
struct Sending(AbortHandle);

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T: Transport, S: LogStore> Link<T, S> {
    fn timed_out(&self, action: RPCTypes, timeout: Duration) -> Timeout<Types> {
        Timeout { action, id: self.me, target: self.to, timeout }
    }

    /// One frame there, one back.
    async fn ask(&self, action: RPCTypes, frame: Frame, patience: Duration) -> Rpc<Frame> {
        let asking = async {
            let (mut tx, mut rx) =
                self.transport.stream(self.to.node, frame).await.map_err(|cause| unreachable(&cause))?;
            tx.finish().map_err(|cause| broken(&cause))?;
            rx.recv().await.map_err(|cause| broken(&cause))?.ok_or_else(over)
        };
        match tokio::time::timeout(patience, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(self.timed_out(action, patience).into()),
        }
    }

    async fn ask_for_vote(&self, request: VoteRequest<Types>, trial: bool) -> Rpc<VoteResponse<Types>> {
        let (group_high, group_low) = group_parts(self.group);
        let header = wire::RaftVoteRequest {
            group_high,
            group_low,
            ballot: Some(ballot_out(&request.vote)),
            last: request.last_log_id.as_ref().map(position_out),
            transfer: request.leadership_transfer,
            trial,
            storage: self.to.storage,
        };
        let frame =
            Frame::new(FrameKind::RAFT_VOTE, &header, Bytes::new()).map_err(|cause| broken(&cause))?;
        let answer = self.ask(RPCTypes::Vote, frame, VOTED_MAX).await?;
        let answer: wire::RaftVoteAnswer = answer.header().map_err(|cause| broken(&cause))?;
        let ballot = ballot_in(answer.ballot).map_err(|cause| broken(&cause))?;
        Ok(VoteResponse {
            vote: ballot,
            vote_granted: answer.granted,
            last_log_id: answer.last.map(position_in),
        })
    }

    async fn send_image(&self, ballot: &Ballot, snapshot: SnapshotOf<Types, Image>) -> Rpc<Frame> {
        let (group_high, group_low) = group_parts(self.group);
        let header = wire::RaftSnapshot {
            group_high,
            group_low,
            ballot: Some(ballot_out(ballot)),
            storage: self.to.storage,
        };
        let first =
            Frame::new(FrameKind::RAFT_SNAPSHOT, &header, Bytes::new()).map_err(|cause| broken(&cause))?;
        let (mut tx, mut rx) =
            self.transport.stream(self.to.node, first).await.map_err(|cause| unreachable(&cause))?;
        let objects = snapshot.snapshot.objects().map_err(|cause| broken(&cause))?;
        for log in objects.logs(None, usize::MAX) {
            self.send_log(&mut tx, log.id, log.first.0, log.next.0).await?;
        }
        let mut image =
            Bytes::from(image_out(&snapshot.meta, snapshot.snapshot.into_bytes()).encode_to_vec());
        while !image.is_empty() {
            let part = image.split_to(PART_BYTES.min(image.len()));
            send_part(&mut tx, &wire::RaftSnapshotPart::default(), part).await?;
        }
        tx.finish().map_err(|cause| broken(&cause))?;
        rx.recv().await.map_err(|cause| broken(&cause))?.ok_or_else(over)
    }

    /// Sends the entries of an application's log. What was trimmed since the image was made is left out: the receiver will
    /// hear that it was trimmed.
    async fn send_log(&self, tx: &mut T::Tx, log: LogId, mut next: u64, end: u64) -> Rpc<()> {
        loop {
            let entries =
                self.log_entries.read(log, next, end, PART_BYTES).map_err(|cause| broken(&cause))?;
            let Some((last, _)) = entries.last() else { return Ok(()) };
            next = last + 1;
            for (offset, entry) in entries {
                let header = wire::RaftSnapshotPart { log: Some(log.to_wire()), offset };
                send_part(tx, &header, entry).await?;
            }
        }
    }

    /// Sends what `input` gives, in a task of its own, and returns where the answers come.
    async fn stream_of<'s, I>(&'s mut self, mut input: I) -> Rpc<Appended<'s>>
    where
        I: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let Some(first) = input.next().await else { return Ok(futures_util::stream::empty().boxed()) };
        let frame = append_frame(self.group, self.to.storage, &first)?;
        let (mut tx, rx) =
            self.transport.stream(self.to.node, frame).await.map_err(|cause| unreachable(&cause))?;
        let (group, storage, waiting) = (self.group, self.to.storage, Arc::new(AtomicUsize::new(1)));
        let counted = waiting.clone();
        let sending = tokio::spawn(async move {
            while let Some(request) = input.next().await {
                let Ok(frame) = append_frame(group, storage, &request) else { return };
                counted.fetch_add(1, Ordering::Relaxed);
                if tx.send(frame).await.is_err() {
                    return;
                }
            }
            let _ = tx.finish();
        });
        let answers = Answers {
            rx,
            waiting,
            timeout: self.timed_out(RPCTypes::AppendEntries, APPENDED_MAX),
            _sending: Sending(sending.abort_handle()),
        };
        Ok(futures_util::stream::unfold(Some(answers), next_answer).boxed())
    }
}

/// The answers to a stream of appends, in order.
struct Answers<R> {
    rx: R,
    /// Appends that were sent and not answered.
    waiting: Arc<AtomicUsize>,
    timeout: Timeout<Types>,
    _sending: Sending,
}

/// After an answer other than that the logs match, nothing follows.
async fn next_answer<R: StreamRx>(
    answers: Option<Answers<R>>,
) -> Option<(Rpc<StreamAppendResult<Types>>, Option<Answers<R>>)> {
    let mut answers = answers?;
    let answer = answers.next().await?;
    let goes_on = matches!(answer, Ok(Ok(_)));
    Some((answer, goes_on.then_some(answers)))
}

impl<R: StreamRx> Answers<R> {
    async fn next(&mut self) -> Option<Rpc<StreamAppendResult<Types>>> {
        loop {
            return match tokio::time::timeout(APPENDED_MAX, self.rx.recv()).await {
                Ok(Ok(Some(frame))) => {
                    self.waiting.fetch_sub(1, Ordering::Relaxed);
                    Some(appended(&frame))
                }
                Ok(Ok(None)) => None,
                Ok(Err(cause)) => Some(Err(broken(&cause))),
                Err(_) if self.waiting.load(Ordering::Relaxed) == 0 => continue,
                Err(_) => Some(Err(self.timeout.clone().into())),
            };
        }
    }
}

impl<T: Transport, S: LogStore> RaftNetworkV2<Types> for Link<T, S> {
    type SnapshotData = Image;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<Types>> {
        let frame = append_frame(self.group, self.to.storage, &request)?;
        Ok(appended(&self.ask(RPCTypes::AppendEntries, frame, APPENDED_MAX).await?)?.into())
    }

    fn stream_append<'s, I>(
        &'s mut self,
        input: I,
        _option: RPCOption,
    ) -> futures_util::future::BoxFuture<'s, Rpc<Appended<'s>>>
    where
        I: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(self.stream_of(input))
    }

    async fn vote(&mut self, request: VoteRequest<Types>, _option: RPCOption) -> Rpc<VoteResponse<Types>> {
        self.ask_for_vote(request, false).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Rpc<VoteResponse<Types>> {
        self.ask_for_vote(request, true).await
    }

    async fn full_snapshot(
        &mut self,
        ballot: Ballot,
        snapshot: SnapshotOf<Types, Image>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let patience = option.hard_ttl();
        let frame = tokio::select! {
            frame = self.send_image(&ballot, snapshot) => frame?,
            closed = cancel => return Err(closed.into()),
            () = tokio::time::sleep(patience) => {
                return Err(self.timed_out(RPCTypes::InstallSnapshot, patience).into());
            }
        };
        let answer: wire::RaftAppended =
            frame.header().map_err(|cause| StreamingError::Network(NetworkError::new(&cause)))?;
        let ballot =
            ballot_in(answer.ballot).map_err(|cause| StreamingError::Network(NetworkError::new(&cause)))?;
        Ok(SnapshotResponse::new(ballot))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        _option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<Types>> {
        let (group_high, group_low) = group_parts(self.group);
        let header = wire::RaftTransfer {
            group_high,
            group_low,
            ballot: Some(ballot_out(request.from_leader())),
            to: Some(voter_out(request.to_node_id())),
            last: request.last_log_id().map(position_out),
        };
        let frame =
            Frame::new(FrameKind::RAFT_TRANSFER, &header, Bytes::new()).map_err(|cause| broken(&cause))?;
        let answer = self.ask(RPCTypes::TransferLeader, frame, VOTED_MAX).await?;
        let answer: wire::RaftAppended = answer.header().map_err(|cause| broken(&cause))?;
        let expected = *request.from_leader();
        Ok(match answer.outcome() {
            wire::RaftOutcome::Matched => Ok(()),
            wire::RaftOutcome::HigherBallot => {
                let actual = ballot_in(answer.ballot).map_err(|cause| broken(&cause))?;
                Err(TransferLeaderError::VoteChanged { expected, actual })
            }
            _ => Err(TransferLeaderError::LogNotFlushed {
                expected: request.last_log_id().copied(),
                actual: answer.last.map(position_in),
            }),
        })
    }
}
