//! Who wants a topic, as the directory's records say it: what a publisher reads before it sends.

use std::collections::BTreeMap;
use std::sync::Arc;

use macula_dht::Record;
use macula_proto::{Access, Action, Contact, Gate, Name, NodeId, Realm};

use crate::group::{GROUPS_MAX, Member};
use crate::interest::{self, Want};
use crate::link::Link;
use crate::metrics::{FilterPlace, PubSubMetrics, RefuseReason};
use crate::{Filter, Group, Payload};

/// The peers that want a topic.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    pub(crate) generation: u64,
    /// Those that want all of its messages, in order of id.
    pub(crate) links: Vec<Arc<Link>>,
    /// Those that want some of them, in order of id.
    choosy: Vec<Choosy>,
    /// Those that take turns, in order of id.
    groups: BTreeMap<Group, Vec<Choosy>>,
    /// How many more records there seem to be than the directory gave.
    pub(crate) unnamed: usize,
}

/// A peer, and which messages it wants.
#[derive(Debug)]
struct Choosy {
    link: Arc<Link>,
    appetite: Appetite,
}

/// Which messages of a topic a peer wants.
#[derive(Debug, Clone, Default)]
struct Appetite {
    everything: bool,
    /// Otherwise what one of these lets through.
    filters: Vec<Filter>,
}

/// What one peer wants of a topic, from all its records.
#[derive(Debug)]
pub(crate) struct Wanted {
    sequence: u64,
    /// What its newest record says of where it is.
    pub(crate) contact: Contact,
    plain: Option<Appetite>,
    groups: BTreeMap<Group, Appetite>,
}

/// Who gets one message, besides [`Reading::links`].
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    pub(crate) links: Vec<Arc<Link>>,
    /// The peers that can serve each group; at least one each.
    pub(crate) groups: BTreeMap<Group, Vec<Member>>,
}

impl Reading {
    /// Nobody yet.
    pub(crate) fn new(generation: u64, unnamed: usize) -> Self {
        Self { generation, unnamed, ..Self::default() }
    }

    /// Whether [`links`](Self::links) is all there is: nobody has filters or is in a group.
    pub(crate) fn is_plain(&self) -> bool {
        self.choosy.is_empty() && self.groups.is_empty()
    }

    /// Who wants this very message.
    pub(crate) fn choose(&self, payload: &Payload, metrics: &PubSubMetrics) -> Chosen {
        // Many peers may have one filter; it is evaluated once.
        let mut verdicts: BTreeMap<&Filter, bool> = BTreeMap::new();
        let mut accepts = |filter| *verdicts.entry(filter).or_insert_with(|| filter.accepts(payload));
        let mut chosen = Chosen::default();
        for peer in &self.choosy {
            if peer.appetite.is_for(&mut accepts) {
                chosen.links.push(peer.link.clone());
            }
        }
        metrics.filter(FilterPlace::Publisher, (self.choosy.len() - chosen.links.len()) as u64);
        for (group, peers) in &self.groups {
            let willing = peers.iter().filter(|peer| peer.appetite.is_for(&mut accepts));
            let members: Vec<Member> = willing.map(|peer| Member::There(peer.link.clone())).collect();
            if !members.is_empty() {
                chosen.groups.insert(group.clone(), members);
            }
        }
        chosen
    }

    /// Every peer that may get a message, in order of id.
    pub(crate) fn peers(&self) -> Vec<NodeId> {
        let choosy = self.choosy.iter().chain(self.groups.values().flatten()).map(|peer| &peer.link);
        let mut peers: Vec<NodeId> = self.links.iter().chain(choosy).map(|link| link.peer()).collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    }

    pub(crate) fn add(&mut self, link: &Arc<Link>, wanted: Wanted) {
        match wanted.plain {
            Some(appetite) if appetite.everything => self.links.push(link.clone()),
            Some(appetite) => self.choosy.push(Choosy { link: link.clone(), appetite }),
            None => {}
        }
        for (group, appetite) in wanted.groups {
            self.groups.entry(group).or_default().push(Choosy { link: link.clone(), appetite });
        }
    }
}

impl Appetite {
    fn add(&mut self, filter: Option<Filter>) {
        match filter {
            None => self.everything = true,
            Some(filter) => self.filters.push(filter),
        }
    }

    fn is_for<'a>(&'a self, accepts: impl FnMut(&'a Filter) -> bool) -> bool {
        self.everything || self.filters.iter().any(accepts)
    }
}

/// Adds what a record says to what is known of its announcer.
pub(crate) fn collect(
    record: &Record,
    (realm, topic): (&Realm, &Name),
    gate: &dyn Gate,
    metrics: &PubSubMetrics,
    peers: &mut BTreeMap<NodeId, Wanted>,
) {
    let wants = allowed(record, (realm, topic), gate, metrics);
    if wants.is_empty() {
        return;
    }
    let contact = &record.announcer;
    let known = peers.entry(contact.id).or_insert_with(|| Wanted {
        sequence: record.sequence,
        contact: contact.clone(),
        plain: None,
        groups: BTreeMap::new(),
    });
    if known.sequence < record.sequence {
        (known.sequence, known.contact) = (record.sequence, contact.clone());
    }
    for want in wants {
        match want.group {
            None => known.plain.get_or_insert_default().add(want.filter),
            // A node is in no more groups than that, unless it lies.
            Some(group) if known.groups.len() < GROUPS_MAX || known.groups.contains_key(&group) => {
                known.groups.entry(group).or_default().add(want.filter);
            }
            Some(_) => metrics.refuse(RefuseReason::Interest),
        }
    }
}

/// What the record's announcer wants of the topic, and may have.
fn allowed(
    record: &Record,
    (realm, topic): (&Realm, &Name),
    gate: &dyn Gate,
    metrics: &PubSubMetrics,
) -> Vec<Want> {
    let decoded = interest::decode(&record.value);
    if decoded.invalid > 0 {
        metrics.refuse(RefuseReason::Interest);
    }
    let mut wants = decoded.wants;
    wants.retain(|want| want.pattern.matches(topic));
    let wanted = wants.len();
    wants.retain(|want| {
        let action = Action::Subscribe(want.pattern.as_str());
        gate.check(Access { peer: record.announcer.id, realm, action }).is_ok()
    });
    if wants.is_empty() && wanted > 0 {
        metrics.refuse(RefuseReason::Forbidden);
    }
    wants
}
