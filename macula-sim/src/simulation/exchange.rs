//! Exchanges of member lists over a stream, as the membership's driver runs them.
//!
//! ```text
//!   asker                     answerer
//!     │── Buckets ───────────────▶│  refused if it answers too many already
//!     │◀─────────────── Digest * ─│
//!     │── Exchange * ────────────▶│
//!     │◀─────────────── Supply * ─│
//! ```

use std::time::Duration;

use macula_membership::SyncMessage;

use super::Simulation;
use super::event::{Errand, Event, Parcel};
use crate::{Life, NodeIndex};

/// How often an exchange with a seed is tried that is too busy for it.
const JOIN_ATTEMPTS: u32 = 5;

/// A node exchanges lists with one seed at a time, unless that takes longer than this.
const JOIN_TURN: Duration = Duration::from_secs(1);

/// How often it looks whether it is the next one's turn.
const JOIN_LOOK: Duration = Duration::from_millis(50);

/// Before the first retry; it doubles with each.
const JOIN_PAUSE: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct ExchangeId(u64);

/// An attempt to join through a seed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Join {
    attempts: u32,
    seed: Option<NodeIndex>,
}

/// One exchange under way.
#[derive(Debug)]
pub(crate) struct Exchange {
    asker: NodeIndex,
    asker_lives: u32,
    answerer: NodeIndex,
    answerer_lives: u32,
    /// Whether the answerer has it among those that it answers.
    answering: bool,
    join: Option<Join>,
}

impl Simulation {
    pub(super) fn begin_exchange(&mut self, asker: NodeIndex, answerer: NodeIndex, join: Option<Join>) {
        let lives = |node: NodeIndex| self.nodes[node.place()].lives;
        let (asker_lives, answerer_lives) = (lives(asker), lives(answerer));
        let join = join.map(|join| Join { seed: Some(answerer), ..join });
        if let Some(join) = join
            && self.nodes[asker.place()].joining.is_some_and(|since| self.now - since < JOIN_TURN)
        {
            let at = self.now + JOIN_LOOK;
            self.agenda.push(at, Event::JoinAgain { from: asker, lives: asker_lives, join });
            return;
        }
        self.figures.exchanges += 1;
        let id = ExchangeId(self.number());
        if join.is_some() {
            self.nodes[asker.place()].joining = Some(self.now);
        }
        let exchange = Exchange { asker, asker_lives, answerer, answerer_lives, answering: false, join };
        self.exchanges.insert(id, exchange);
        self.agenda.push(self.now + self.options.swim.stream_timeout, Event::ExchangeOver { exchange: id });
        if !self.network.is_live(asker, answerer) {
            self.on_unknown_link(asker, answerer);
        }
        let first = self.nodes[asker.place()].swim.as_ref().map(macula_membership::Machine::begin_sync);
        self.send_step(id, asker, answerer, first.into_iter().collect());
    }

    /// Sends what makes up one step. If it cannot arrive, the exchange runs into its timeout.
    fn send_step(&mut self, id: ExchangeId, from: NodeIndex, to: NodeIndex, messages: Vec<SyncMessage>) {
        let parcels: Vec<_> = messages.into_iter().filter_map(|message| self.pack_sync(message)).collect();
        self.figures.exchange_bytes += parcels.iter().map(|parcel| parcel.bytes).sum::<u64>();
        if self.network.is_live(from, to) && self.network.is_open(self.now, from, to) {
            let at = self.now + self.network.stream_delay(self.now, from, to);
            self.agenda.push(at, Event::Step { exchange: id, to, parcels });
        }
    }

    fn pack_sync(&mut self, message: SyncMessage) -> Option<Parcel<SyncMessage>> {
        let bytes = message.wire_len();
        if !self.options.through_codec {
            return Some(Parcel::unencoded(message, bytes));
        }
        let decoded = message.to_frame().map(|frame| (frame.wire_len(), SyncMessage::from_frame(&frame)));
        match decoded {
            Ok((len, Ok(decoded))) if len == bytes && decoded.refused == 0 && decoded.message == message => {
                Some(Parcel::unencoded(decoded.message, bytes))
            }
            other => {
                self.violate("codec", format!("{message:?} of {bytes} bytes comes out as {other:?}"));
                None
            }
        }
    }

    pub(super) fn on_step(&mut self, id: ExchangeId, to: NodeIndex, parcels: Vec<Parcel<SyncMessage>>) {
        let Some(exchange) = self.exchanges.get_mut(&id) else { return };
        let lives = |node: NodeIndex| self.nodes[node.place()].lives;
        let stale = lives(exchange.asker) != exchange.asker_lives
            || lives(exchange.answerer) != exchange.answerer_lives;
        if stale {
            return;
        }
        let from = if to == exchange.asker { exchange.answerer } else { exchange.asker };
        let is_first =
            matches!(parcels.first(), Some(parcel) if matches!(parcel.message, SyncMessage::Buckets(_)));
        if is_first {
            let node = &mut self.nodes[to.place()];
            if node.answering >= self.options.swim.syncs_max {
                let at = self.now + self.network.stream_delay(self.now, to, from);
                self.agenda.push(at, Event::ExchangeRefused { exchange: id, to: from });
                return;
            }
            node.answering += 1;
            exchange.answering = true;
        }
        let is_last =
            matches!(parcels.last(), Some(parcel) if matches!(parcel.message, SyncMessage::Supply { .. }));
        let replies = self.read_step(from, to, &parcels);
        if is_last {
            self.end_exchange(id, true);
        } else {
            self.send_step(id, to, from, replies);
        }
    }

    fn read_step(
        &mut self,
        from: NodeIndex,
        to: NodeIndex,
        parcels: &[Parcel<SyncMessage>],
    ) -> Vec<SyncMessage> {
        let sender = self.nodes[from.place()].id();
        let mut replies = Vec::new();
        for parcel in parcels {
            self.trace.fold(self.now, to, 6, parcel.digest);
            let replies = &mut replies;
            self.swim_turn(to, |machine, now, out| {
                machine.on_sync(now, sender, &parcel.message, replies, out);
            });
        }
        replies
    }

    pub(super) fn on_exchange_refused(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get(&id) else { return };
        let (from, lives, join) = (exchange.asker, exchange.asker_lives, exchange.join);
        self.end_exchange(id, false);
        if let Some(mut join) = join {
            join.attempts += 1;
            let at = self.now + JOIN_PAUSE * 2u32.pow(join.attempts - 1);
            if join.attempts < JOIN_ATTEMPTS {
                self.agenda.push(at, Event::JoinAgain { from, lives, join });
            }
        }
    }

    pub(super) fn on_join_again(&mut self, from: NodeIndex, lives: u32, join: Join) {
        if self.nodes[from.place()].lives == lives
            && let Some(seed) = join.seed
        {
            self.connect(from, seed, Errand::Join(join));
        }
    }

    pub(super) fn on_exchange_over(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get(&id) else { return };
        if self.nodes[exchange.asker.place()].life == Life::Paused {
            // Its timer fires when it goes on.
            self.agenda.push(self.now + Duration::from_secs(1), Event::ExchangeOver { exchange: id });
        } else {
            self.end_exchange(id, false);
        }
    }

    /// An exchange is done, refused or too slow.
    fn end_exchange(&mut self, id: ExchangeId, done: bool) {
        let Some(exchange) = self.exchanges.remove(&id) else { return };
        self.figures.exchanges_failed += u64::from(!done);
        let answerer = &mut self.nodes[exchange.answerer.place()];
        let peer = answerer.id();
        if exchange.answering && answerer.lives == exchange.answerer_lives {
            answerer.answering = answerer.answering.saturating_sub(1);
        }
        let asker = &mut self.nodes[exchange.asker.place()];
        if exchange.join.is_some() && asker.lives == exchange.asker_lives {
            asker.joining = None;
        }
        let lives_on = asker.lives == exchange.asker_lives && asker.life != Life::Down;
        if exchange.join.is_none() && lives_on {
            self.swim_turn(exchange.asker, |machine, _, _| machine.on_sync_end(peer, done));
        }
    }
}
