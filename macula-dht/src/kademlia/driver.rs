//! The task that owns a node's machine: one `select!` between commands, answers and the clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use macula_proto::{Clock, Contact, Key, NodeId};
use macula_transport::{StreamRx, StreamTx, Target, Transport};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

use super::board::Board;
use super::lookup::LookupTrace;
use super::message::{Request, Response};
use super::node::{Done, Effect, Failure, Node, Now, Op, ReplyTo, RequestId};
use super::table::TableSnapshot;
use crate::{Announced, DirectoryError, Found};

/// Requests of this node under way at a time; beyond, they fail at once.
const REQUESTS_MAX: usize = 1_024;

/// Commands of users under way at a time; beyond, the next ones wait in the queue.
const OPERATIONS_MAX: usize = 4_096;

/// Commands taken in one turn before the clock and the answers have theirs.
const BUDGET: usize = 64;

/// How often dropped watches are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

type Answer<A> = oneshot::Sender<A>;

/// What the handle asks of the driver.
#[derive(Debug)]
pub(super) enum Command {
    Announce { key: Key, value: Bytes, lasting: bool, reply: Answer<Result<Announced, DirectoryError>> },
    Withdraw { key: Key, reply: Answer<Result<(), DirectoryError>> },
    Find { key: Key, paths: Option<usize>, reply: Answer<Result<Found, DirectoryError>> },
    Nodes { key: Key, reply: Answer<Result<LookupTrace, DirectoryError>> },
    Trace { key: Key, reply: Answer<Result<(LookupTrace, Found), DirectoryError>> },
    Bootstrap(Answer<Result<usize, DirectoryError>>),
    Snapshot(Answer<TableSnapshot>),
    Save(Answer<Bytes>),
    Contact(Contact),
    PeerUp(Contact),
    PeerLost(NodeId),
    PeerBack(NodeId, u64),
    PeerIs(NodeId, u64),
    Request { from: NodeId, sender: Option<Contact>, request: Request, reply: Answer<Response> },
}

/// Who waits for a command's result.
#[derive(Debug)]
enum Waiting {
    Announce(Answer<Result<Announced, DirectoryError>>),
    Withdraw(Answer<Result<(), DirectoryError>>),
    Find(Answer<Result<Found, DirectoryError>>),
    Nodes(Answer<Result<LookupTrace, DirectoryError>>),
    Trace(Answer<Result<(LookupTrace, Found), DirectoryError>>),
    Bootstrap(Answer<Result<usize, DirectoryError>>),
}

/// Runs a [`Kademlia`](super::Kademlia). If its task dies, [`Kademlia::driver`](super::Kademlia::driver) makes another
/// one that goes on where it stopped.
#[must_use = "nothing happens until it runs"]
pub struct KademliaDriver<T> {
    state: Arc<Mutex<State<T>>>,
}

impl<T: Transport> KademliaDriver<T> {
    pub(super) const fn new(state: Arc<Mutex<State<T>>>) -> Self {
        Self { state }
    }

    /// Runs until `stop` is cancelled (or every handle is dropped). After that, whoever waits gets
    /// [`DirectoryError::Closed`]. A second driver waits until the first has ended.
    pub async fn run(self, stop: CancellationToken) {
        self.state.lock().await.run(stop).await;
    }
}

impl<T> std::fmt::Debug for KademliaDriver<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KademliaDriver").finish_non_exhaustive()
    }
}

/// What a driver carries out and with what; it outlives the driver's task.
pub(super) struct State<T> {
    transport: T,
    node: Node,
    clock: Arc<dyn Clock>,
    commands: mpsc::Receiver<Command>,
    board: Arc<Board>,
    waiting: BTreeMap<Op, Waiting>,
    replies: BTreeMap<ReplyTo, Answer<Response>>,
    requests: JoinSet<(RequestId, Option<Response>)>,
    effects: Vec<Effect>,
    last_number: u64,
}

impl<T: Transport> State<T> {
    pub(super) fn new(
        transport: T,
        node: Node,
        clock: Arc<dyn Clock>,
        commands: mpsc::Receiver<Command>,
        board: Arc<Board>,
    ) -> Self {
        Self {
            transport,
            node,
            clock,
            commands,
            board,
            waiting: BTreeMap::new(),
            replies: BTreeMap::new(),
            requests: JoinSet::new(),
            effects: Vec::new(),
            last_number: 0,
        }
    }

    async fn run(&mut self, stop: CancellationToken) {
        let board = self.board.clone();
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let has_room = self.waiting.len() < OPERATIONS_MAX;
            let until_deadline = self.node.deadline().map(|at| at.since(self.clock.now()));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(until_deadline.unwrap_or(SWEEP_INTERVAL)) => {
                    let now = self.now();
                    self.node.on_timeout(now, &mut self.effects);
                }
                Some(answered) = self.requests.join_next() => {
                    if let Ok((id, response)) = answered {
                        self.answered(id, response);
                    }
                }
                keys = board.wanted() => {
                    for key in keys {
                        let now = self.now();
                        self.node.watch(now, key, &mut self.effects);
                    }
                }
                command = self.commands.recv(), if has_room => {
                    let Some(command) = command else { break };
                    self.commands(command);
                }
                _ = sweep.tick() => self.sweep(),
            }
            self.carry_out();
        }
        self.close();
    }

    /// Stopped in order: whoever waits is told so, and nothing more is taken.
    fn close(&mut self) {
        self.board.close();
        self.commands.close();
        while self.commands.try_recv().is_ok() {}
        self.waiting.clear();
        self.replies.clear();
        self.requests.abort_all();
    }

    fn commands(&mut self, first: Command) {
        self.command(first);
        for _ in 1..BUDGET {
            let Ok(next) = self.commands.try_recv() else { break };
            self.carry_out();
            self.command(next);
        }
    }

    fn command(&mut self, command: Command) {
        let now = self.now();
        match command {
            Command::Announce { key, value, lasting, reply } => {
                let op = self.wait(Waiting::Announce(reply));
                match lasting {
                    false => self.node.announce(now, op, key, value, &mut self.effects),
                    true => self.node.announce_lasting(now, op, key, value, &mut self.effects),
                }
            }
            Command::Withdraw { key, reply } => {
                let op = self.wait(Waiting::Withdraw(reply));
                self.node.withdraw(now, op, key, &mut self.effects);
            }
            Command::Find { key, paths, reply } => {
                let op = self.wait(Waiting::Find(reply));
                self.node.find(now, op, key, paths, &mut self.effects);
            }
            Command::Trace { key, reply } => {
                let op = self.wait(Waiting::Trace(reply));
                self.node.trace(now, op, key, &mut self.effects);
            }
            Command::Nodes { key, reply } => {
                let op = self.wait(Waiting::Nodes(reply));
                self.node.find_node(now, op, key, &mut self.effects);
            }
            Command::Bootstrap(reply) => {
                let op = self.wait(Waiting::Bootstrap(reply));
                self.node.bootstrap(now, op, &mut self.effects);
            }
            Command::Snapshot(reply) => tell(reply, self.node.snapshot(now)),
            Command::Save(reply) => tell(reply, self.node.save_table()),
            Command::Contact(contact) => self.node.add_contact(now, contact, &mut self.effects),
            Command::PeerUp(contact) => self.node.peer_up(now, contact, &mut self.effects),
            Command::PeerLost(id) => self.node.peer_lost(now, &id, &mut self.effects),
            Command::PeerBack(id, life) => {
                self.node.peer_is(now, &id, life, &mut self.effects);
                self.node.peer_back(now, &id, &mut self.effects);
            }
            Command::PeerIs(id, life) => self.node.peer_is(now, &id, life, &mut self.effects),
            Command::Request { from, sender, request, reply } => {
                let to = ReplyTo(self.number());
                self.replies.insert(to, reply);
                self.node.on_request(now, from, sender, request, to, &mut self.effects);
            }
        }
    }

    /// What time it is, as far as this node can know.
    fn now(&self) -> Now {
        self.node.correct(now(&*self.clock))
    }

    fn answered(&mut self, id: RequestId, response: Option<Response>) {
        let now = self.now();
        match response {
            Some(response) => self.node.on_response(now, id, response, &mut self.effects),
            None => self.node.on_failure(now, id, Failure::Peer, &mut self.effects),
        }
    }

    /// Carries out the effects, in order. Those that fail at once may bring further ones.
    fn carry_out(&mut self) {
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                match effect {
                    Effect::Send { id, to, request, timeout } => self.send(id, to, &request, timeout),
                    Effect::Reply { to, response } => {
                        if let Some(reply) = self.replies.remove(&to) {
                            tell(reply, response);
                        }
                    }
                    Effect::Watched { key, found } => self.board.show(&key, &found),
                    Effect::Done { op, outcome } => self.done(op, outcome),
                }
            }
        }
    }

    fn send(&mut self, id: RequestId, to: Contact, request: &Request, limit: Duration) {
        let frame = request.to_frame(self.node.local());
        let (Ok(frame), true) = (frame, self.requests.len() < REQUESTS_MAX) else {
            let now = self.now();
            self.node.on_failure(now, id, Failure::Local, &mut self.effects);
            return;
        };
        let transport = self.transport.clone();
        self.requests.spawn(async move {
            let answer = timeout(limit, ask(transport, to, frame)).await;
            (id, answer.ok().flatten())
        });
    }

    fn done(&mut self, op: Op, outcome: Done) {
        let Some(waiting) = self.waiting.remove(&op) else { return };
        match (waiting, outcome) {
            (Waiting::Announce(reply), Done::Announced(result)) => tell(reply, result),
            (Waiting::Withdraw(reply), Done::Withdrawn(result)) => tell(reply, result),
            (Waiting::Find(reply), Done::Found(result)) => tell(reply, result),
            (Waiting::Nodes(reply), Done::Nodes(result)) => tell(reply, result),
            (Waiting::Trace(reply), Done::Traced(result)) => tell(reply, result),
            (Waiting::Bootstrap(reply), Done::Bootstrapped(result)) => tell(reply, result),
            (waiting, outcome) => {
                // Each command has its kind of result; dropping the answer says "closed" rather than nothing.
                debug_assert!(false, "{waiting:?} cannot end in {outcome:?}");
            }
        }
    }

    fn sweep(&mut self) {
        for key in self.board.sweep() {
            self.node.unwatch(&key);
        }
        let local = self.transport.local();
        let now = self.now();
        self.node.set_local(now, local);
    }

    fn wait(&mut self, waiting: Waiting) -> Op {
        let op = Op(self.number());
        self.waiting.insert(op, waiting);
        op
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

/// One request and its response on a stream of their own.
async fn ask<T: Transport>(transport: T, to: Contact, request: macula_proto::Frame) -> Option<Response> {
    let id = to.id;
    transport.connect(Target::Contact(to)).await.ok()?;
    let (mut tx, mut rx) = transport.stream(id, request).await.ok()?;
    tx.finish().ok()?;
    let answer = rx.recv().await.ok()??;
    Response::from_frame(&answer).ok()
}

/// What time it is.
pub(super) fn now(clock: &dyn Clock) -> Now {
    Now { at: clock.now(), unix: clock.unix() }
}

/// Whoever asked may have gone since.
fn tell<A>(reply: Answer<A>, answer: A) {
    let _ = reply.send(answer);
}
