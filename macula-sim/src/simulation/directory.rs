//! Carrying out what the directory's machine wants, as its driver does in a real node; and its users' commands.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use macula_dht::kademlia::{
    Done, Effect, Failure, Findings, Node, Now, Op, ReplyTo, Request, RequestId, Response, StoreOutcome,
    Stored,
};
use macula_proto::{Contact, Key, NodeId};
use rand::Rng as _;

use super::Simulation;
use super::event::{Errand, Event, Parcel};
use crate::NodeIndex;
use crate::node::Layer;

/// Requests of one node under way at a time; beyond, they fail at once.
const REQUESTS_MAX: usize = 1_024;

/// Directories that do not do what they should. [`Default`] has none.
#[derive(Clone, Debug, Default)]
pub struct DirectoryFaults {
    /// Those that lie together. They say that they store what they are given, and do not; asked, they know no record
    /// and refer to each other and to nodes that do not exist, which they say are closest to the key.
    pub liars: BTreeSet<NodeIndex>,
    /// Liars refer to each other alone, all of whom answer: nothing gives them away.
    pub discreet: bool,
    /// Those that are slow.
    pub slow: BTreeSet<NodeIndex>,
    /// How long those take to answer, besides the way.
    pub slowness: Duration,
}

impl Simulation {
    /// From now on these directories misbehave.
    pub fn set_directory_faults(&mut self, faults: DirectoryFaults) {
        self.options.directory_faults = faults;
    }

    /// Announces `value` at `key` in a node's name.
    pub fn announce(&mut self, node: NodeIndex, key: Key, value: Bytes) -> Op {
        self.command(node, |directory, now, op, out| directory.announce(now, op, key, value, out))
    }

    /// Looks up the records at `key`.
    pub fn find(&mut self, node: NodeIndex, key: Key) -> Op {
        self.command(node, |directory, now, op, out| directory.find(now, op, key, None, out))
    }

    /// Looks up the records at `key` over several ways that have no node in common.
    pub fn find_disjoint(&mut self, node: NodeIndex, key: Key, paths: usize) -> Op {
        self.command(node, |directory, now, op, out| directory.find(now, op, key, Some(paths), out))
    }

    /// Looks up the nodes closest to `key`.
    pub fn find_node(&mut self, node: NodeIndex, key: Key) -> Op {
        self.command(node, |directory, now, op, out| directory.find_node(now, op, key, out))
    }

    /// A command's result, once there is one. It is given only once.
    pub fn take_done(&mut self, node: NodeIndex, op: Op) -> Option<Done> {
        self.done.remove(&(node, op))
    }

    fn command(&mut self, node: NodeIndex, act: impl FnOnce(&mut Node, Now, Op, &mut Vec<Effect>)) -> Op {
        let op = Op(self.number());
        self.directory_turn(node, |directory, now, out| act(directory, now, op, out));
        op
    }

    pub(super) fn bootstrap(&mut self, node: NodeIndex, op: Op) {
        self.directory_turn(node, |directory, now, out| directory.bootstrap(now, op, out));
    }

    /// Lets a node's directory do something, and does what it wants done.
    pub(super) fn directory_turn(
        &mut self,
        node: NodeIndex,
        act: impl FnOnce(&mut Node, Now, &mut Vec<Effect>),
    ) {
        let now = self.clocks(node);
        let Some(directory) = self.nodes[node.place()].directory.as_mut() else { return };
        let (now, mut out) = (directory.correct(now), Vec::new());
        act(directory, now, &mut out);
        for effect in out {
            self.carry_out(node, effect);
        }
        self.arm(node, Layer::Directory, self.now);
    }

    fn carry_out(&mut self, node: NodeIndex, effect: Effect) {
        match effect {
            Effect::Send { id, to, request, timeout } => {
                if matches!(&request, Request::Find(find) if find.records) {
                    self.figures.requests_for_records += 1;
                }
                let state = &mut self.nodes[node.place()];
                let sender = state.contact.clone();
                let parcel = self.pack_request(sender, request);
                let state = &mut self.nodes[node.place()];
                let has_room = state.asking.len() < REQUESTS_MAX;
                let (Some(parcel), true) = (parcel, has_room) else {
                    self.directory_turn(node, |directory, now, out| {
                        directory.on_failure(now, id, Failure::Local, out);
                    });
                    return;
                };
                state.asking.insert(id);
                let lives = state.lives;
                self.agenda.push(self.now + timeout, Event::RequestOver { node, lives, id });
                match self.index.get(&to.id).copied() {
                    Some(to) => self.connect(node, to, Errand::Ask(id, Box::new(parcel))),
                    // Nobody answers at a made-up address.
                    None => {
                        self.figures.requests += 1;
                        self.figures.dials += 1;
                    }
                }
            }
            Effect::Reply { to, response } => self.reply(node, to, response),
            Effect::Done { op, outcome } => {
                self.done.insert((node, op), outcome);
            }
            // Nobody here watches.
            Effect::Watched { .. } => {}
            other => self.violate("effect", format!("the simulator does not know {other:?}")),
        }
    }

    /// Sends a request over a link. If it cannot arrive, its timeout ends it.
    pub(super) fn send_request(
        &mut self,
        from: NodeIndex,
        to: NodeIndex,
        id: RequestId,
        parcel: Parcel<(Contact, Request)>,
    ) {
        self.figures.requests += 1;
        self.figures.request_bytes += parcel.bytes;
        if !self.network.is_live(from, to) {
            self.on_unknown_link(from, to);
        } else if self.network.is_open(self.now, from, to) {
            let at = self.now + self.network.stream_delay(self.now, from, to);
            let lives = self.nodes[from.place()].lives;
            self.agenda.push(at, Event::Request { from, lives, to, id, parcel });
        }
    }

    pub(super) fn on_request(
        &mut self,
        from: NodeIndex,
        lives: u32,
        to: NodeIndex,
        id: RequestId,
        parcel: Parcel<(Contact, Request)>,
    ) {
        if !self.network.is_live(from, to) {
            return;
        }
        self.trace.fold(self.now, to, 7, parcel.digest);
        let reply = ReplyTo(self.number());
        self.nodes[to.place()].owed.insert(reply, (from, lives, id));
        let asker = self.nodes[from.place()].id();
        let (sender, request) = parcel.message;
        if self.options.directory_faults.liars.contains(&to) {
            let lie = self.lie(&request);
            self.reply(to, reply, lie);
            return;
        }
        self.directory_turn(to, |directory, now, out| {
            directory.on_request(now, asker, Some(sender), request, reply, out);
        });
    }

    fn reply(&mut self, node: NodeIndex, to: ReplyTo, response: Response) {
        let Some((asker, lives, id)) = self.nodes[node.place()].owed.remove(&to) else {
            self.violate("replies", format!("{node} answers a request that nobody waits for"));
            return;
        };
        let Some(parcel) = self.pack_response(response) else { return };
        self.figures.request_bytes += parcel.bytes;
        if self.network.is_live(node, asker) && self.network.is_open(self.now, node, asker) {
            let faults = &self.options.directory_faults;
            let dawdling = if faults.slow.contains(&node) { faults.slowness } else { Duration::ZERO };
            let at = self.now + dawdling + self.network.stream_delay(self.now, node, asker);
            self.agenda.push(at, Event::Response { to: asker, lives, id, parcel });
        }
    }

    pub(super) fn on_response(&mut self, to: NodeIndex, lives: u32, id: RequestId, parcel: Parcel<Response>) {
        let state = &mut self.nodes[to.place()];
        if state.lives != lives || !state.asking.remove(&id) {
            return;
        }
        self.trace.fold(self.now, to, 8, parcel.digest);
        self.directory_turn(to, |directory, now, out| directory.on_response(now, id, parcel.message, out));
    }

    pub(super) fn on_request_over(&mut self, node: NodeIndex, lives: u32, id: RequestId) {
        let state = &mut self.nodes[node.place()];
        if state.lives != lives || !state.asking.remove(&id) {
            return;
        }
        self.trace.fold(self.now, node, 9, 0);
        self.directory_turn(node, |directory, now, out| directory.on_failure(now, id, Failure::Peer, out));
    }

    fn lie(&mut self, request: &Request) -> Response {
        match request {
            Request::Find(find) => {
                let contacts = self.false_contacts(&find.key);
                Response::Found(Findings { contacts, ..Findings::default() })
            }
            Request::Store(records) => {
                let outcomes = vec![StoreOutcome::default(); records.len()];
                Response::Stored(Stored { outcomes, ..Stored::default() })
            }
            Request::Notify(_) => Response::Notified(Vec::new()),
        }
    }

    /// As many as an answer holds: one half made up and closer to the key than anybody is, the other half liars; or all liars.
    fn false_contacts(&mut self, key: &Key) -> Vec<Contact> {
        let count = self.options.kademlia.k;
        let real = if self.options.directory_faults.discreet { count } else { count / 2 };
        // Some may not have been added yet.
        let liars = self.options.directory_faults.liars.iter();
        let liars = liars.filter_map(|liar| self.nodes.get(liar.place()));
        let mut closest: Vec<_> =
            liars.map(|liar| (key.distance(&liar.id().into()), &liar.contact)).collect();
        closest.sort_unstable_by_key(|(distance, _)| *distance);
        let mut contacts: Vec<_> =
            closest.into_iter().take(real).map(|(_, contact)| contact.clone()).collect();
        for _ in contacts.len()..count {
            let mut id = *key.as_bytes();
            self.rng.fill_bytes(&mut id[8..]);
            contacts.push(Contact::new(NodeId::from_bytes(id), SocketAddr::from(([192, 0, 2, 1], 4_000))));
        }
        contacts
    }

    fn pack_request(&mut self, sender: Contact, request: Request) -> Option<Parcel<(Contact, Request)>> {
        let bytes = request.wire_len(&sender);
        if !self.options.through_codec {
            return Some(Parcel::unencoded((sender, request), bytes));
        }
        let decoded = request.to_frame(&sender).ok().filter(|frame| frame.wire_len() == bytes);
        match decoded.map(|frame| Request::from_frame(&frame)) {
            Some(Ok((Some(from), decoded))) if from == sender && decoded == request => {
                Some(Parcel::unencoded((from, decoded), bytes))
            }
            other => {
                self.violate("codec", format!("{request:?} comes out as {other:?}"));
                None
            }
        }
    }

    fn pack_response(&mut self, response: Response) -> Option<Parcel<Response>> {
        let bytes = response.wire_len();
        if !self.options.through_codec {
            return Some(Parcel::unencoded(response, bytes));
        }
        let decoded = response.to_frame().ok().filter(|frame| frame.wire_len() == bytes);
        match decoded.map(|frame| Response::from_frame(&frame)) {
            Some(Ok(decoded)) if decoded == response => Some(Parcel::unencoded(decoded, bytes)),
            other => {
                self.violate("codec", format!("{response:?} comes out as {other:?}"));
                None
            }
        }
    }
}
