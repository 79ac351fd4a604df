//! The world: true time, a group with one log and changing leaders, and a network between it and the nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use macula_platform::checker::{Interval, overlaps};
use macula_platform::lease::{
    HolderEffect, KeepAlive, Keeper, KeeperEffect, Kept, KeptAlive, RoundId, STEP_MAX, Ticket,
};
use macula_platform::{
    Answer, Change, Command, Effects, LogIndex, Nonce, Objects, Refusal, Request, SessionChange, SessionId,
};
use macula_proto::{NodeId, Timestamp, UnixMillis};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::clock::DriftingClock;
use crate::findings::{Faults, Findings, Plant};
use crate::node::{CAMPAIGN, Client, Phase, Voter};

pub(crate) const TTL: Duration = Duration::from_millis(1_000);
const RUN: u64 = 20_000_000;
const VOTERS: usize = 3;
const CLIENTS: usize = 4;
/// Clocks of voters jump where they drift by no more than this.
const VOTER_JUMPS_DRIFT_MAX: u32 = 30_000;
/// A request is sent again after this.
const AGAIN: Duration = Duration::from_millis(150);

#[derive(Clone, Debug)]
enum Event {
    Elect,
    FirstCommit {
        term: u64,
    },
    Learn {
        voter: usize,
        term: u64,
    },
    VoterTimer {
        voter: usize,
    },
    ClientTimer {
        client: usize,
    },
    /// `ok`: a quorum confirmed it at some instant after the round began.
    Round {
        voter: usize,
        id: RoundId,
        ok: bool,
    },
    Commit {
        term: u64,
        from: Option<usize>,
        command: Command,
    },
    Ask {
        voter: usize,
        client: usize,
        request: Request,
    },
    KeepAlive {
        voter: usize,
        client: usize,
        keep_alive: KeepAlive,
    },
    /// `nonce`: of the request, if it was one for a session.
    Answered {
        client: usize,
        nonce: Option<Nonce>,
        answer: Answer,
    },
    Kept {
        client: usize,
        answer: KeptAlive,
    },
    Mischief,
}

pub(crate) struct World {
    faults: Faults,
    plant: Plant,
    rng: StdRng,
    now: u64,
    /// By time, and then in the order in which they were put there.
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    /// When the next leader is elected.
    next_election: u64,
    term: u64,
    leader: usize,
    ready: bool,
    /// Proposed to an earlier leader; the next one brings them along.
    carried: Vec<(Option<usize>, Command)>,
    objects: Objects,
    index: u64,
    voters: Vec<Voter>,
    clients: Vec<Client>,
    /// When a voter last heard of a session, in true time.
    heard: BTreeMap<(usize, SessionId), u64>,
    /// Which ends were proposed, by whom and in which term.
    proposed: BTreeSet<(usize, u64, SessionId)>,
    /// When each node relied on the election, and the last interval of each.
    intervals: Vec<Interval>,
    relied: [Option<Interval>; CLIENTS],
    findings: Findings,
}

impl World {
    pub(crate) fn new(faults: Faults, plant: Plant, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let drift = i64::from(faults.drift_ppm);
        let mut clock =
            || DriftingClock::new(rng.random_range(5_000_000..90_000_000), rng.random_range(-drift..=drift));
        let voters = (0..VOTERS).map(|_| Voter::new(clock())).collect();
        let clients = (0..CLIENTS).map(|_| Client::new(clock())).collect();
        let mut world = Self {
            faults,
            plant,
            rng,
            now: 0,
            events: BTreeMap::new(),
            sequence: 0,
            next_election: 0,
            term: 0,
            leader: 0,
            ready: false,
            carried: Vec::new(),
            objects: Objects::default(),
            index: 0,
            voters,
            clients,
            heard: BTreeMap::new(),
            proposed: BTreeSet::new(),
            intervals: Vec::new(),
            relied: [const { None }; CLIENTS],
            findings: Findings::default(),
        };
        world.after(0, Event::Elect);
        world.after(100_000, Event::Mischief);
        (0..CLIENTS).for_each(|client| world.after(10_000, Event::ClientTimer { client }));
        world
    }

    pub(crate) fn run(mut self) -> Findings {
        while let Some(((at, _), event)) = self.events.pop_first() {
            if at > RUN {
                break;
            }
            let led = self.relying().any(|client| client.granted.is_some());
            self.findings.led += if led { at - self.now } else { 0 };
            self.findings.time += at - self.now;
            self.now = at;
            self.handle(event);
            if self.relying().filter(|client| client.granted.is_some()).count() > 1 {
                self.findings.two_leaders += 1;
            }
            (0..CLIENTS).for_each(|client| self.note(client));
        }
        self.intervals.extend(self.relied.into_iter().flatten());
        self.findings.overlaps = overlaps(self.intervals).len() as u64;
        self.findings
    }

    /// Notes whether a node relies on the election at this instant.
    fn note(&mut self, client: usize) {
        let relies = self.clients[client].relies(self.now, self.plant);
        let token = self.clients[client].granted.filter(|_| relies);
        let open = self.relied[client].take_if(|open| token.is_none_or(|token| open.token != token.into()));
        self.intervals.extend(open);
        if let Some(token) = token {
            let (key, node, from) = ("e".into(), client.to_string(), self.now);
            let new = Interval { key, node, token: token.into(), from, until: from };
            self.relied[client].get_or_insert(new).until = self.now;
        }
    }

    fn relying(&self) -> impl Iterator<Item = &Client> {
        self.clients.iter().filter(|client| client.relies(self.now, self.plant))
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + delay, self.sequence), event);
    }

    fn within(&mut self, max: u64) -> u64 {
        self.rng.random_range(0..=max)
    }

    fn by_lot(&mut self, permille: u32) -> bool {
        self.rng.random_range(0..1000) < permille
    }

    /// Over the network.
    fn send(&mut self, event: Event) {
        let copies = if self.by_lot(self.faults.doubled_permille) { 2 } else { 1 };
        for _ in 0..copies {
            if !self.by_lot(self.faults.lost_permille) {
                let delay = 100 + self.within(self.faults.delay_max);
                self.after(delay, event.clone());
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Elect => self.elect(),
            Event::FirstCommit { term } => self.first_commit(term),
            Event::Learn { voter, term } => self.learn(voter, term),
            Event::VoterTimer { voter } => {
                self.voters[voter].timer = None;
                let local = self.voters[voter].clock.at(self.now);
                self.with_keeper(voter, |keeper, out| keeper.on_timeout(local, out));
            }
            Event::Round { voter, id, ok } => {
                self.findings.rounds_failed += u64::from(!ok);
                self.with_keeper(voter, |keeper, out| keeper.on_round(id, ok, out));
            }
            Event::Commit { term, from, command } => self.commit(term, from, command),
            Event::Ask { voter, client, request } => {
                let term = self.voters[voter].term;
                if self.voters[voter].keeper.is_serving() {
                    let by = NodeId::from_bytes([client as u8 + 1; 32]);
                    self.propose(term, Some(client), Command::Asked { by, stamp: UnixMillis(0), request });
                }
            }
            Event::KeepAlive { voter, client, keep_alive } => {
                let local = self.voters[voter].clock.at(self.now);
                if self.voters[voter].keeper.is_serving() {
                    self.heard.insert((voter, keep_alive.session), self.now);
                }
                let ticket = Ticket(client as u64);
                self.with_keeper(voter, |keeper, out| keeper.on_keep_alive(local, ticket, keep_alive, out));
            }
            Event::ClientTimer { client } | Event::Answered { client, .. } | Event::Kept { client, .. }
                if self.clients[client].paused_until > self.now =>
            {
                let rest = self.clients[client].paused_until - self.now;
                self.after(rest, event);
            }
            Event::ClientTimer { client } => self.client_timer(client),
            Event::Answered { client, nonce, answer } => self.answered(client, nonce, answer),
            Event::Kept { client, answer } => self.kept(client, answer),
            Event::Mischief => self.mischief(),
        }
    }

    fn elect(&mut self) {
        let deposed = self.leader;
        let term = self.voters[deposed].term;
        self.term += 1;
        self.leader = self.rng.random_range(0..VOTERS);
        self.ready = false;
        self.findings.leader_changes += 1;
        if deposed != self.leader {
            let unaware = self.within(self.faults.deposed_for);
            self.after(unaware, Event::Learn { voter: deposed, term });
        }
        // Whoever is elected has stopped whatever it led before.
        self.with_keeper(self.leader, Keeper::stop);
        let (first, next) = (1_000 + self.within(150_000), self.faults.leader_every / 2);
        self.after(first, Event::FirstCommit { term: self.term });
        let next = next + self.within(self.faults.leader_every);
        self.next_election = self.now + next;
        self.after(next, Event::Elect);
    }

    fn first_commit(&mut self, term: u64) {
        if term != self.term {
            return;
        }
        self.ready = true;
        for (from, command) in std::mem::take(&mut self.carried) {
            self.apply(from, command);
        }
        let voter = self.leader;
        let local = self.voters[voter].clock.at(self.now);
        let silent = if self.plant == Plant::NoFreshStart { TTL * 9 / 10 } else { Duration::ZERO };
        let sessions: Vec<(SessionId, Duration)> = self.objects.times_to_live().collect();
        for (session, _) in &sessions {
            self.heard.insert((voter, *session), self.now);
        }
        self.voters[voter].term = term;
        self.with_keeper(voter, |keeper, out| {
            let mut at = Timestamp::from_start(local.since(Timestamp::from_start(silent)));
            keeper.serve(at, sessions);
            while let Some(next) = keeper.deadline().filter(|next| at < local && *next < local) {
                at = next;
                keeper.on_timeout(at, out);
            }
        });
    }

    fn learn(&mut self, voter: usize, term: u64) {
        if self.voters[voter].term == term && (self.leader != voter || self.term != term) {
            self.with_keeper(voter, Keeper::stop);
        }
    }

    fn with_keeper(&mut self, voter: usize, act: impl FnOnce(&mut Keeper, &mut Vec<KeeperEffect>)) {
        let mut out = Vec::new();
        act(&mut self.voters[voter].keeper, &mut out);
        for effect in out {
            self.keeper_effect(voter, effect);
        }
        if let Some(deadline) = self.voters[voter].keeper.deadline() {
            let at = self.voters[voter].clock.when(deadline).max(self.now);
            if self.voters[voter].timer.is_none_or(|set| set > at) {
                self.voters[voter].timer = Some(at);
                self.after(at - self.now, Event::VoterTimer { voter });
            }
        }
    }

    fn keeper_effect(&mut self, voter: usize, effect: KeeperEffect) {
        let term = self.voters[voter].term;
        match effect {
            KeeperEffect::Round(id) if self.plant == Plant::NoRound => {
                self.after(0, Event::Round { voter, id, ok: true });
            }
            KeeperEffect::Round(id) => {
                // The quorum's word is from somewhere in between, and its way back takes a while.
                let (there, back) = (self.within(self.faults.delay_max), self.within(self.faults.delay_max));
                let ok = self.still_leads_in(term, there);
                self.after(there + back, Event::Round { voter, id, ok });
            }
            KeeperEffect::Answer { ticket, answer } => {
                let deposed = term != self.term && answer.outcome == Kept::Alive;
                self.findings.answers_of_deposed += u64::from(deposed);
                self.send(Event::Kept { client: ticket.0 as usize, answer });
            }
            KeeperEffect::Expire(sessions) => {
                self.check_silence(voter, &sessions);
                self.propose(term, None, Command::Expire { sessions });
            }
        }
    }

    /// Whether `term` is still the last one after `delay`: no other leader is elected until then.
    fn still_leads_in(&self, term: u64, delay: u64) -> bool {
        term == self.term && self.now + delay < self.next_election
    }

    fn check_silence(&mut self, voter: usize, sessions: &[SessionId]) {
        // The fastest clock shows the whole time to live after this; a jump counts a little, once or twice in that time.
        let jumps = if self.faults.clock_jumps { STEP_MAX * 2 } else { Duration::ZERO };
        let least =
            (TTL - jumps).as_micros() as u64 * 1_000_000 / (1_000_000 + u64::from(self.faults.drift_ppm));
        for session in sessions {
            let heard = self.heard.get(&(voter, *session)).copied().unwrap_or(0);
            let first = self.proposed.insert((voter, self.voters[voter].term, *session));
            if first && self.now - heard < least {
                self.findings.ended_too_soon += 1;
            }
        }
    }

    fn propose(&mut self, term: u64, from: Option<usize>, command: Command) {
        // Nobody takes a command from a leader that was deposed before.
        if term == self.term {
            let delay = 500 + self.within(self.faults.delay_max);
            self.after(delay, Event::Commit { term, from, command });
        }
    }

    fn commit(&mut self, term: u64, from: Option<usize>, command: Command) {
        if term == self.term && self.ready {
            self.apply(from, command);
        } else if term + 1 == self.term && !self.ready && self.by_lot(500) {
            self.carried.push((from, command));
        }
    }

    fn apply(&mut self, from: Option<usize>, command: Command) {
        self.index += 1;
        let mut effects = Effects::default();
        let nonce = match &command {
            Command::Asked { request: Request::OpenSession { nonce, .. }, .. } => Some(*nonce),
            _ => None,
        };
        let answer = self.objects.apply(LogIndex(self.index), command, &mut effects);
        let (voter, local) = (self.leader, self.voters[self.leader].clock.at(self.now));
        if let Answer::SessionOpened { session, ttl } = answer {
            self.heard.insert((voter, session), self.now);
            self.with_keeper(voter, |keeper, _| keeper.on_opened(local, session, ttl));
        }
        for change in effects.changes {
            match change {
                Change::Session { session, change: SessionChange::Expired, .. } => self.expired(session),
                Change::Election { leader: Some(leader), .. } => {
                    self.findings.granted += 1;
                    // It knows at once: the hardest case.
                    let client =
                        self.clients.iter_mut().find(|client| client.session() == Some(leader.session));
                    client.into_iter().for_each(|client| client.granted = Some(leader.token));
                }
                Change::Session { .. }
                | Change::Election { .. }
                | Change::Lock { .. }
                | Change::Log { .. } => {}
            }
        }
        if let Some(client) = from {
            self.send(Event::Answered { client, nonce, answer });
        }
    }

    fn expired(&mut self, session: SessionId) {
        self.findings.expired += 1;
        if self.relying().any(|client| client.session() == Some(session)) {
            self.findings.ended_while_valid += 1;
        }
        let voter = self.leader;
        self.with_keeper(voter, |keeper, _| keeper.on_ended(session));
    }

    fn client_timer(&mut self, client: usize) {
        self.clients[client].timer = None;
        let local = self.clients[client].clock.at(self.now);
        let (nonce, target) = (self.clients[client].nonce, self.clients[client].target);
        let elsewhere = self.rng.random_range(0..VOTERS);
        let mut asks = Vec::new();
        let mut effects = Vec::new();
        match &mut self.clients[client].phase {
            Phase::Opening { again, .. } if *again <= local => {
                *again = local + AGAIN;
                self.clients[client].target = elsewhere;
                asks.push((elsewhere, Request::OpenSession { nonce, ttl: TTL }));
            }
            Phase::Opening { again, .. } => *again = (*again).min(local + AGAIN),
            Phase::Open { holder, campaign } => {
                holder.on_timeout(local, &mut effects);
                if campaign.is_some_and(|at| at <= local) {
                    *campaign = Some(local + AGAIN);
                    let (session, election) = (holder.session(), "e".parse().expect("a name"));
                    let request =
                        Request::Campaign { session, election, request: CAMPAIGN, value: "".into() };
                    asks.extend([(target, request.clone()), (elsewhere, request)]);
                }
                *campaign = campaign.map(|at| at.min(local + AGAIN));
            }
        }
        for (voter, request) in asks {
            self.send(Event::Ask { voter, client, request });
        }
        self.holder_effects(client, effects);
        self.set_client_timer(client);
    }

    fn set_client_timer(&mut self, client: usize) {
        if let Some(deadline) = self.clients[client].deadline() {
            let at = self.clients[client].clock.when(deadline).max(self.now);
            if self.clients[client].timer.is_none_or(|set| set > at || set < self.now) {
                self.clients[client].timer = Some(at);
                self.after(at - self.now, Event::ClientTimer { client });
            }
        }
    }

    fn answered(&mut self, client: usize, nonce: Option<Nonce>, answer: Answer) {
        let local = self.clients[client].clock.at(self.now);
        match answer {
            // An answer about a session of before is of no use.
            Answer::SessionOpened { session, .. } if nonce == Some(self.clients[client].nonce) => {
                let plant = self.plant;
                self.clients[client].opened(local, session, plant);
                self.set_client_timer(client);
            }
            Answer::Standing(_) => {
                if let Phase::Open { campaign, .. } = &mut self.clients[client].phase {
                    *campaign = None;
                }
            }
            Answer::Refused(Refusal::SessionUnknown(session))
                if self.clients[client].session() == Some(session) =>
            {
                self.clients[client].reopen(local);
                self.set_client_timer(client);
            }
            _ => {}
        }
    }

    fn kept(&mut self, client: usize, answer: KeptAlive) {
        let (local, plant) = (self.clients[client].clock.at(self.now), self.plant);
        let effects = self.clients[client].answered(local, answer, plant);
        if matches!(answer.outcome, Kept::NotLeader | Kept::Busy) {
            // Who does not lead often knows who does.
            let other = self.rng.random_range(0..VOTERS);
            self.clients[client].target = if self.by_lot(700) { self.leader } else { other };
        }
        self.holder_effects(client, effects);
        self.set_client_timer(client);
    }

    fn holder_effects(&mut self, client: usize, effects: Vec<HolderEffect>) {
        for effect in effects {
            match effect {
                HolderEffect::Send(keep_alive) => {
                    // Mostly to the voter that answered before, so that a deposed one goes on being asked.
                    let voter = match self.by_lot(200) {
                        true => self.rng.random_range(0..VOTERS),
                        false => self.clients[client].target,
                    };
                    self.clients[client].target = voter;
                    self.send(Event::KeepAlive { voter, client, keep_alive });
                }
                HolderEffect::Lost(_) => {
                    let local = self.clients[client].clock.at(self.now);
                    self.clients[client].reopen(local);
                }
                HolderEffect::Lease(_) | HolderEffect::Lapsed => {}
            }
        }
    }

    fn mischief(&mut self) {
        let client = self.rng.random_range(0..CLIENTS);
        // A clock that goes back while its node pauses, and catches up before it goes on, cannot be noticed by anybody.
        let runs = self.clients[client].paused_until <= self.now;
        if self.faults.clock_jumps && runs && self.by_lot(60) {
            self.findings.clock_jumps += 1;
            let by = self.rng.random_range(1_500_000..3_000_000);
            let by = if self.by_lot(500) { by } else { -by };
            self.clients[client].clock.jump(by);
            let local = self.clients[client].clock.at(self.now);
            if let Phase::Opening { .. } = self.clients[client].phase {
                self.clients[client].reopen(local);
            }
            self.client_timer(client);
            // A leader that counts a jump as silence for a moment needs what holders take off for drift.
            if self.faults.drift_ppm <= VOTER_JUMPS_DRIFT_MAX {
                let voter = self.rng.random_range(0..VOTERS);
                self.voters[voter].clock.jump(-by);
                self.findings.voter_clock_jumps += 1;
            }
        }
        if self.faults.pause_max > 0 && self.by_lot(300) {
            self.findings.pauses += 1;
            // A pause is never cut short: what waits for its end would come later than the node goes on, and until then the
            // node would not look at a clock that it has.
            let until = self.now + self.within(self.faults.pause_max);
            let paused_until = &mut self.clients[client].paused_until;
            *paused_until = until.max(*paused_until);
        }
        self.after(200_000, Event::Mischief);
    }
}
