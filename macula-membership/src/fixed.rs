//! The in-memory implementation: members as a test sets them, without a protocol or time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use macula_proto::{Contact, NodeId, Timestamp};
use macula_transport::{Target, TransportError};
use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::member::check_tags;
use crate::{
    Event, EventReceiver, Incarnation, Joined, Member, MemberState, Membership, MembershipError, SeedFailure,
    SyncError, Tags,
};

/// Events that a subscriber may lag behind.
const EVENTS_MAX: usize = 1_024;

/// All nodes of one in-memory mesh. Cheap to clone.
#[derive(Clone, Default, Debug)]
pub struct StaticHub {
    nodes: Arc<Mutex<BTreeMap<NodeId, Slot>>>,
}

/// One node's view of a [`StaticHub`]. What one does, the others see before the call returns.
#[derive(Clone, Debug)]
pub struct StaticMembership {
    hub: StaticHub,
    id: NodeId,
}

#[derive(Debug)]
struct Slot {
    member: Member,
    /// Those who joined each other have the same.
    cell: NodeId,
    events: broadcast::Sender<Event>,
}

impl StaticHub {
    /// Adds a node, alone for now. Adding an id again is a restart: its incarnation grows, and it is alone again.
    pub fn node(&self, contact: Contact) -> StaticMembership {
        let id = contact.id;
        let mut nodes = self.nodes.lock();
        let before = nodes.get(&id).map_or(Incarnation::default(), |slot| slot.member.incarnation);
        let member = Member {
            contact: Arc::new(contact),
            state: MemberState::Alive,
            incarnation: before.next(),
            tags: Arc::default(),
            instance: before.next().0,
            since: Timestamp::ZERO,
        };
        nodes.insert(id, Slot { member, cell: id, events: broadcast::channel(EVENTS_MAX).0 });
        StaticMembership { hub: self.clone(), id }
    }

    /// The others see `id` suspected, or alive again.
    pub fn suspect(&self, id: NodeId, suspect: bool) {
        let state = if suspect { MemberState::Suspect } else { MemberState::Alive };
        let event = if suspect { Event::Suspected } else { Event::Refuted };
        self.change(id, |member| member.state = state, event);
    }

    /// `id` dies: the others see it suspected, then confirmed.
    pub fn crash(&self, id: NodeId) {
        self.suspect(id, true);
        self.change(id, |member| member.state = MemberState::Dead, Event::Confirmed);
    }

    /// Changes a member and tells those in its cell, itself only of updates.
    fn change(&self, id: NodeId, change: impl FnOnce(&mut Member), event: fn(Member) -> Event) {
        let mut nodes = self.nodes.lock();
        let Some(slot) = nodes.get_mut(&id) else { return };
        change(&mut slot.member);
        let (cell, event) = (slot.cell, event(slot.member.clone()));
        let own = matches!(event, Event::Updated(_));
        for (other, slot) in nodes.iter().filter(|(_, slot)| slot.cell == cell) {
            if *other != id || own {
                let _ = slot.events.send(event.clone());
            }
        }
    }

    /// Puts two cells together.
    fn merge(&self, one: NodeId, other: NodeId) {
        let mut nodes = self.nodes.lock();
        let (Some(into), Some(from)) = (nodes.get(&one), nodes.get(&other)) else { return };
        let (into, from) = (into.cell, from.cell);
        if into == from {
            return;
        }
        let present = |slot: &&Slot| slot.member.state.is_present();
        let of = |cell| nodes.values().filter(present).filter(move |slot| slot.cell == cell);
        for (a, b) in of(into).flat_map(|a| of(from).map(move |b| (a, b))) {
            let _ = a.events.send(Event::Joined(b.member.clone()));
            let _ = b.events.send(Event::Joined(a.member.clone()));
        }
        nodes.values_mut().filter(|slot| slot.cell == from).for_each(|slot| slot.cell = into);
    }

    fn find(&self, target: &Target) -> Option<NodeId> {
        let nodes = self.nodes.lock();
        let up = |id: &NodeId| nodes.get(id).is_some_and(|slot| slot.member.state.is_present());
        match target {
            Target::Id(id) => Some(*id).filter(up),
            Target::Contact(contact) => Some(contact.id).filter(up),
            Target::Addr(addr) => nodes
                .iter()
                .find(|(_, slot)| slot.member.contact.addrs.contains(addr))
                .map(|(id, _)| *id)
                .filter(up),
            _ => None,
        }
    }
}

impl Membership for StaticMembership {
    fn local(&self) -> Member {
        self.slot(|slot| slot.member.clone())
    }

    fn members(&self) -> Arc<[Member]> {
        let nodes = self.hub.nodes.lock();
        let cell = nodes.get(&self.id).map(|slot| slot.cell);
        let here = |slot: &&Slot| Some(slot.cell) == cell && slot.member.state.is_present();
        nodes.values().filter(here).map(|slot| slot.member.clone()).collect()
    }

    fn subscribe(&self) -> EventReceiver {
        EventReceiver::from(self.slot(|slot| slot.events.subscribe()))
    }

    async fn join(&self, seeds: Vec<Target>) -> Result<Joined, MembershipError> {
        if self.local().state == MemberState::Left {
            let back = |member: &mut Member| {
                (member.state, member.incarnation) = (MemberState::Alive, member.incarnation.next());
            };
            self.hub.change(self.id, back, Event::Joined);
        }
        let mut failures = Vec::new();
        for target in seeds {
            match self.hub.find(&target) {
                Some(id) if id == self.id => {}
                Some(id) => {
                    self.hub.merge(id, self.id);
                    return Ok(Joined { seeds: 1, members: self.members().len() });
                }
                None => {
                    let nobody = TransportError::Unreachable { addrs: Vec::new(), waited: Duration::ZERO };
                    failures.push(SeedFailure { target, cause: SyncError::Transport(nobody) });
                }
            }
        }
        if failures.is_empty() {
            return Ok(Joined { seeds: 0, members: self.members().len() });
        }
        Err(MembershipError::Unreachable(failures))
    }

    async fn leave(&self, _patience: Duration) -> Result<(), MembershipError> {
        self.hub.change(self.id, |member| member.state = MemberState::Left, Event::Left);
        Ok(())
    }

    fn set_tags(&self, tags: Tags) -> Result<(), MembershipError> {
        check_tags(&tags)?;
        let set = |member: &mut Member| {
            (member.tags, member.incarnation) = (Arc::new(tags), member.incarnation.next());
        };
        self.hub.change(self.id, set, Event::Updated);
        Ok(())
    }
}

impl StaticMembership {
    fn slot<R>(&self, read: impl FnOnce(&Slot) -> R) -> R {
        read(self.hub.nodes.lock().get(&self.id).expect("a node is never removed from its hub"))
    }
}
