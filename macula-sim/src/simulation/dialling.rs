//! Links come and go: dials, silence, idleness.

use super::event::{Errand, Event};
use super::{SWEEP_INTERVAL, Simulation};
use crate::faults::Partition;
use crate::{Life, NodeIndex};

/// Messages that pass, one after the other, before the dialler has the peer's hello: the handshake takes two, the
/// hellos two more, and the first of those travels with the end of the handshake.
const DIAL_MESSAGES: u32 = 3;

impl Simulation {
    /// Does `errand` over the link to `to`, dialling first if there is none.
    pub(super) fn connect(&mut self, from: NodeIndex, to: NodeIndex, errand: Errand) {
        if self.network.is_linked(from, to) {
            self.run_errand(from, to, errand);
            return;
        }
        self.figures.dials += 1;
        let delay = (0..DIAL_MESSAGES).map(|_| self.network.stream_delay(self.now, from, to)).sum();
        let lives = self.nodes[from.place()].lives;
        self.agenda.push(self.now + delay, Event::Dialled { from, lives, to, errand });
    }

    pub(super) fn on_dialled(&mut self, from: NodeIndex, lives: u32, to: NodeIndex, errand: Errand) {
        if self.nodes[from.place()].lives != lives {
            return;
        }
        let answers =
            self.nodes[to.place()].life == Life::Running && self.network.is_open(self.now, from, to);
        self.trace.fold(self.now, from, 3, u64::from(answers));
        if !answers {
            let at = self.now + self.options.dial_timeout;
            self.agenda.push(at, Event::DialFailed { from, lives, to, errand });
            return;
        }
        if !self.network.is_live(from, to) {
            self.network.link(self.now, from, to);
            self.tell_link(to, from);
            self.tell_link(from, to);
            self.limit_links(to);
            self.limit_links(from);
        }
        self.run_errand(from, to, errand);
    }

    pub(super) fn on_dial_failed(&mut self, from: NodeIndex, lives: u32, to: NodeIndex, errand: Errand) {
        if self.nodes[from.place()].lives != lives {
            return;
        }
        self.figures.dials_failed += 1;
        self.trace.fold(self.now, from, 4, to.0.into());
        let id = self.nodes[to.place()].id();
        match errand {
            Errand::Probe => {
                self.swim_turn(from, |machine, now, out| machine.on_dial_failed(now, id, false, out));
            }
            Errand::Sync => self.swim_turn(from, |machine, _, _| machine.on_sync_end(id, false)),
            Errand::Join(_) => self.figures.exchanges_failed += 1,
            Errand::Bootstrap(op) => self.bootstrap(from, op),
            // Its own timeout ends it.
            Errand::Ask(..) => {}
        }
    }

    fn run_errand(&mut self, from: NodeIndex, to: NodeIndex, errand: Errand) {
        let id = self.nodes[to.place()].id();
        match errand {
            Errand::Probe => self.swim_turn(from, |machine, now, out| machine.on_link_up(now, id, out)),
            Errand::Sync => self.begin_exchange(from, to, None),
            Errand::Join(join) => self.begin_exchange(from, to, Some(join)),
            Errand::Bootstrap(op) => self.bootstrap(from, op),
            Errand::Ask(id, parcel) => self.send_request(from, to, id, *parcel),
        }
    }

    /// A full pool closes the link that was not used for longest.
    fn limit_links(&mut self, node: NodeIndex) {
        let degree = self.network.degree(node);
        if degree > self.options.links_max
            && let Some(peer) = self.network.least_used(node)
        {
            self.figures.links_evicted += 1;
            self.close(node, peer);
        }
        self.links_max = self.links_max.max(degree.min(self.options.links_max));
    }

    fn tell_link(&mut self, node: NodeIndex, peer: NodeIndex) {
        let contact = self.nodes[peer.place()].contact.clone();
        let id = contact.id;
        self.swim_turn(node, |machine, now, out| machine.on_link_up(now, id, out));
        self.directory_turn(node, |directory, now, out| directory.peer_up(now, contact, out));
    }

    /// Something was sent to an end that does not know the link. One that runs says so; one that is dead does not.
    pub(super) fn on_unknown_link(&mut self, from: NodeIndex, to: NodeIndex) {
        if self.nodes[to.place()].life != Life::Running || !self.network.is_open(self.now, from, to) {
            return;
        }
        let back =
            self.network.stream_delay(self.now, from, to) + self.network.stream_delay(self.now, to, from);
        let lives = self.nodes[from.place()].lives;
        self.agenda.push(self.now + back, Event::LinkGone { node: from, lives, peer: to });
    }

    pub(super) fn on_link_gone(&mut self, node: NodeIndex, lives: u32, peer: NodeIndex) {
        if self.nodes[node.place()].lives != lives || self.network.is_live(node, peer) {
            return;
        }
        self.trace.fold(self.now, node, 5, peer.0.into());
        self.network.forget(node, peer);
        let id = self.nodes[peer.place()].id();
        self.swim_turn(node, |machine, now, _| machine.on_link_down(now, id));
    }

    pub(super) fn schedule_partition(&mut self, partition: Partition) {
        let at = partition.time.start + self.options.link_silence;
        self.agenda.push(at, Event::Silence { partition });
    }

    /// Links across a partition that lasts are dead by now.
    pub(super) fn on_silence(&mut self, partition: &Partition) {
        if !partition.time.contains(&self.now) {
            return;
        }
        for (one, other) in self.network.across(partition) {
            self.close(one, other);
        }
    }

    pub(super) fn on_sweep(&mut self) {
        self.agenda.push(self.now + SWEEP_INTERVAL, Event::Sweep);
        if self.now.since_start() < self.options.link_idle {
            return;
        }
        let since = macula_proto::Timestamp::from_start(self.now.since_start() - self.options.link_idle);
        for (one, other) in self.network.idle(since) {
            self.close(one, other);
        }
    }

    /// A link ends, and both ends notice.
    fn close(&mut self, one: NodeIndex, other: NodeIndex) {
        for (node, peer) in [(one, other), (other, one)] {
            self.network.forget(node, peer);
            let lives = self.nodes[node.place()].lives;
            self.agenda.push(self.now, Event::LinkGone { node, lives, peer });
        }
    }
}
