//! [`Membership`] by the crate `foca`, over any [`Transport`].
//!
//! Foca picks whom it talks to among all members; so a message to a node without a connection dials first. It tells no
//! goodbye from a death and has no tags: those capabilities of the trait are missing here.

use std::collections::BTreeMap;
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use foca::{
    AccumulatingRuntime, Codec as _, Config, Foca, Message, NoCustomBroadcast, PeriodicParams, State, Timer,
};
use macula_membership::{
    Event, EventReceiver, Incarnation, Joined, Member, MemberState, Membership, MembershipError, SeedFailure,
    SyncError, Tags,
};
use macula_proto::{Clock as _, Frame, FrameKind, NodeId, Timestamp, wire};
use macula_transport::{Target, TokioClock, Transport, TransportError};
use parking_lot::Mutex;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::peer::{Peer, PeerCodec};

/// What fits a datagram of the in-memory network, beside the frame's head.
const PACKET_BYTES_MAX: NonZeroUsize = NonZeroUsize::new(1_150).expect("not zero");

/// Messages that wait for one dial; further ones are lost, as any datagram may be.
const WAITING_MAX: usize = 16;

/// Events that a subscriber may lag behind.
const EVENTS_MAX: usize = 4_096;

/// How long joining goes on asking a seed that does not answer.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);

/// Time between two announcements to a seed.
const JOIN_AGAIN: Duration = Duration::from_millis(500);

/// As the other's defaults, where both have the setting; the rest as foca's for a LAN.
pub(crate) fn config(suspect_timeout: Duration) -> Config {
    let every = |frequency, num_members| {
        let num_members = NonZeroUsize::new(num_members).expect("not zero");
        Some(PeriodicParams { frequency, num_members })
    };
    Config {
        probe_period: Duration::from_secs(1),
        probe_rtt: Duration::from_millis(500),
        num_indirect_probes: NonZeroUsize::new(3).expect("not zero"),
        max_transmissions: NonZeroU8::new(10).expect("not zero"),
        suspect_to_down_after: suspect_timeout,
        remove_down_after: Some(Duration::from_secs(3_600)),
        max_packet_size: PACKET_BYTES_MAX,
        notify_down_members: true,
        periodic_announce: every(Duration::from_secs(30), 1),
        periodic_announce_to_down_members: every(Duration::from_secs(30), 1),
        periodic_gossip: every(Duration::from_millis(200), 3),
    }
}

/// Foca over a transport. All clones are the same node.
pub(crate) struct FocaMembership<T: Transport> {
    shared: Arc<Shared<T>>,
}

impl<T: Transport> Clone for FocaMembership<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<T> {
    transport: T,
    clock: TokioClock,
    core: Mutex<Core>,
    events: broadcast::Sender<Event>,
    /// Rung when a timer was set.
    wake: Notify,
    /// Rung when a list of members came.
    fed: Notify,
}

struct Core {
    foca: Foca<Peer, PeerCodec, StdRng, NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Peer>,
    timers: BTreeMap<(Instant, u64), Timer<Peer>>,
    timers_set: u64,
    seen: Arc<[Member]>,
    /// What `seen` was made of.
    seen_of: (Option<Peer>, Vec<foca::Member<Peer>>),
    left: bool,
    /// What waits for a dial.
    dialling: BTreeMap<NodeId, Vec<Frame>>,
    /// Who has sent its list of members.
    fed_by: Option<NodeId>,
}

impl<T: Transport> FocaMembership<T> {
    pub(crate) fn new(transport: T, config: Config, clock: TokioClock, seed: u64) -> Self {
        let life = clock.unix().0;
        let me = Peer::new(&transport.local(), life).expect("a node has an address");
        let core = Core {
            foca: Foca::new(me, config, StdRng::seed_from_u64(seed), PeerCodec),
            runtime: AccumulatingRuntime::new(),
            timers: BTreeMap::new(),
            timers_set: 0,
            seen: Arc::new([]),
            seen_of: (None, Vec::new()),
            left: false,
            dialling: BTreeMap::new(),
            fed_by: None,
        };
        let (events, wake, fed) = (broadcast::channel(EVENTS_MAX).0, Notify::new(), Notify::new());
        let shared = Shared { transport, clock, core: Mutex::new(core), events, wake, fed };
        let node = Self { shared: Arc::new(shared) };
        node.turn(|_, _| ());
        node
    }

    /// Runs foca's timers until `stop` is cancelled.
    pub(crate) async fn run(self, stop: CancellationToken) {
        loop {
            let next = self.shared.core.lock().timers.first_key_value().map(|((at, _), _)| *at);
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.shared.wake.notified() => {}
                () = due => self.fire(Instant::now()),
            }
        }
    }

    /// A datagram arrived. What is no message of foca's is dropped.
    pub(crate) fn on_datagram(&self, from: NodeId, frame: &Frame) {
        let payload = frame.payload();
        let header = PeerCodec.decode_header(payload.as_ref());
        self.turn(|foca, runtime| {
            // Its errors are about what others sent; there is nobody here to report them to.
            let _ = foca.handle_data(payload, runtime);
        });
        if header.is_ok_and(|header| header.message == Message::Feed) {
            self.shared.core.lock().fed_by = Some(from);
            self.shared.fed.notify_waiters();
        }
    }

    fn fire(&self, now: Instant) {
        loop {
            let timer = {
                let mut core = self.shared.core.lock();
                match core.timers.first_entry() {
                    Some(first) if first.key().0 <= now => first.remove(),
                    _ => return,
                }
            };
            self.turn(|foca, runtime| {
                // A probe cycle that came out of step starts anew by itself.
                let _ = foca.handle_timer(timer, runtime);
            });
        }
    }

    /// Lets foca do something, and does what it wants done.
    fn turn<R>(
        &self,
        act: impl FnOnce(
            &mut Foca<Peer, PeerCodec, StdRng, NoCustomBroadcast>,
            &mut AccumulatingRuntime<Peer>,
        ) -> R,
    ) -> R {
        let mut core = self.shared.core.lock();
        let Core { foca, runtime, .. } = &mut *core;
        let result = act(foca, runtime);
        while let Some((after, timer)) = core.runtime.to_schedule() {
            core.timers_set += 1;
            let key = (Instant::now() + after, core.timers_set);
            core.timers.insert(key, timer);
            self.shared.wake.notify_one();
        }
        // Changes are read from the list of members: foca tells nobody that it suspects somebody.
        while core.runtime.to_notify().is_some() {}
        for event in core.look(self.shared.clock.now()) {
            // Nobody listening is fine.
            let _ = self.shared.events.send(event);
        }
        while let Some((to, packet)) = core.runtime.to_send() {
            let frame = Frame::new(FrameKind::SWIM_GOSSIP, &wire::LaneOpen::default(), packet);
            let frame = frame.expect("a packet fits a frame");
            self.send(&mut core, to, frame);
        }
        result
    }

    fn send(&self, core: &mut Core, to: Peer, frame: Frame) {
        if let Some(waiting) = core.dialling.get_mut(&to.id) {
            if waiting.len() < WAITING_MAX {
                waiting.push(frame);
            }
            return;
        }
        if let Err(TransportError::NotConnected(_)) = self.shared.transport.datagram(to.id, frame.clone()) {
            core.dialling.insert(to.id, vec![frame]);
            tokio::spawn(self.clone().dial(to));
        }
    }

    async fn dial(self, to: Peer) {
        let dialled = self.shared.transport.connect(Target::Contact(to.contact())).await;
        let waiting = self.shared.core.lock().dialling.remove(&to.id).unwrap_or_default();
        if dialled.is_ok() {
            for frame in waiting {
                // Lost again, as any datagram may be.
                let _ = self.shared.transport.datagram(to.id, frame);
            }
        }
    }

    async fn join_through(&self, seed: Target) -> Result<(), SyncError> {
        let peer = self.shared.transport.connect(seed).await?;
        let contact = peer.contact;
        let no_address = || SyncError::Transport(TransportError::NoAddress(contact.id));
        // Life 0: whichever it is in now.
        let peer = Peer::new(&contact, 0).ok_or_else(no_address)?;
        self.shared.core.lock().fed_by = None;
        let ask = async {
            loop {
                let fed = self.shared.fed.notified();
                tokio::pin!(fed);
                fed.as_mut().enable();
                if self.shared.core.lock().fed_by == Some(peer.id) {
                    return;
                }
                self.turn(|foca, runtime| {
                    foca.announce(peer, runtime).expect("an announcement fits a packet");
                });
                // Either was lost: ask again.
                let _ = tokio::time::timeout(JOIN_AGAIN, fed).await;
            }
        };
        tokio::time::timeout(JOIN_PATIENCE, ask).await.map_err(|_| SyncError::TimedOut(JOIN_PATIENCE))
    }
}

impl Core {
    /// This node, as a member.
    fn local(&self, now: Timestamp) -> Member {
        let state = if self.left { MemberState::Left } else { MemberState::Alive };
        // Foca does not show its own incarnation; the life is what grows here.
        member(self.foca.identity(), 0, state, now)
    }

    /// Takes a new snapshot if there is something new, and says what is different.
    fn look(&mut self, now: Timestamp) -> Vec<Event> {
        let me = (!self.left).then(|| *self.foca.identity());
        if me == self.seen_of.0 && self.foca.iter_members().eq(&self.seen_of.1) {
            return Vec::new();
        }
        self.seen_of = (me, self.foca.iter_members().cloned().collect());
        let mut new: Vec<Member> = self.foca.iter_members().map(|there| of_foca(there, now)).collect();
        if !self.left {
            new.push(self.local(now));
        }
        new.sort_unstable_by_key(Member::id);
        let me = self.foca.identity().id;
        let find = |list: &[Member], id| {
            let at = list.binary_search_by_key(&id, Member::id).ok()?;
            Some(list[at].clone())
        };
        let mut events = Vec::new();
        for member in &mut new {
            let event = match find(&self.seen, member.id()) {
                None => Event::Joined as fn(Member) -> Event,
                Some(before) if before.instance != member.instance => Event::Joined,
                Some(before) if before.state != member.state => {
                    if member.state == MemberState::Suspect {
                        Event::Suspected
                    } else {
                        Event::Refuted
                    }
                }
                Some(before) => {
                    member.since = before.since;
                    continue;
                }
            };
            events.push(event(member.clone()));
        }
        let gone = self.seen.iter().filter(|before| find(&new, before.id()).is_none());
        events.extend(gone.map(|gone| Event::Confirmed(Member { state: MemberState::Dead, ..gone.clone() })));
        events.retain(|event| event.member().id() != me);
        self.seen = new.into();
        events
    }
}

fn of_foca(there: &foca::Member<Peer>, now: Timestamp) -> Member {
    let state = match there.state() {
        State::Alive => MemberState::Alive,
        State::Suspect => MemberState::Suspect,
        State::Down => MemberState::Dead,
    };
    member(there.id(), there.incarnation(), state, now)
}

fn member(peer: &Peer, incarnation: foca::Incarnation, state: MemberState, since: Timestamp) -> Member {
    Member {
        contact: Arc::new(peer.contact()),
        state,
        incarnation: Incarnation((peer.life << 16) | u64::from(incarnation)),
        tags: Arc::default(),
        instance: peer.life,
        since,
    }
}

impl<T: Transport> Membership for FocaMembership<T> {
    fn local(&self) -> Member {
        self.shared.core.lock().local(self.shared.clock.now())
    }

    fn members(&self) -> Arc<[Member]> {
        self.shared.core.lock().seen.clone()
    }

    fn subscribe(&self) -> EventReceiver {
        self.shared.events.subscribe().into()
    }

    /// The seeds are asked one after the other, and forgotten afterwards.
    async fn join(&self, seeds: Vec<Target>) -> Result<Joined, MembershipError> {
        let had_left = std::mem::take(&mut self.shared.core.lock().left);
        if had_left {
            self.turn(|foca, runtime| {
                let next = foca.identity().next_life();
                foca.change_identity(next, runtime).expect("a new life is another identity");
            });
        }
        let (mut failures, mut joined) = (Vec::new(), Joined::default());
        for target in seeds {
            match self.join_through(target.clone()).await {
                Ok(()) => {
                    (joined.seeds, joined.members) = (1, self.members().len());
                    return Ok(joined);
                }
                Err(SyncError::Transport(TransportError::Myself)) => {}
                Err(cause) => failures.push(SeedFailure { target, cause }),
            }
        }
        joined.members = self.members().len();
        if failures.is_empty() { Ok(joined) } else { Err(MembershipError::Unreachable(failures)) }
    }

    /// Foca's goodbye goes out once, to a few; nobody acknowledges it, so nothing is waited for.
    async fn leave(&self, _patience: Duration) -> Result<(), MembershipError> {
        self.shared.core.lock().left = true;
        self.turn(|foca, runtime| foca.leave_cluster(runtime).expect("a goodbye fits a packet"));
        Ok(())
    }

    fn set_tags(&self, _tags: Tags) -> Result<(), MembershipError> {
        Err(MembershipError::Unsupported("tags"))
    }
}
