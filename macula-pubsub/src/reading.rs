//! Who wants a topic, as the directory's records say it: what a publisher reads before it sends.

use std::collections::BTreeMap;
use std::sync::Arc;

use macula_dht::Record;
use macula_proto::{Access, Action, Contact, Gate, Name, NodeId, Realm};

use crate::interest::{self, Want};
use crate::link::Link;
use crate::metrics::{FilterPlace, PubSubMetrics, RefuseReason};
use crate::{Filter, Payload};

/// The peers that want a topic.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    pub(crate) generation: u64,
    /// Those that want all of its messages, in order of id.
    pub(crate) links: Vec<Arc<Link>>,
    /// Those that want what one of their filters lets through, in order of id.
    pub(crate) choosy: Vec<Choosy>,
    /// How many more records there seem to be than the directory gave.
    pub(crate) unnamed: usize,
}

/// A peer that wants some of a topic's messages.
#[derive(Debug)]
pub(crate) struct Choosy {
    pub(crate) link: Arc<Link>,
    /// At least one.
    filters: Vec<Filter>,
}

/// What one peer wants of a topic, from all its records.
#[derive(Debug)]
pub(crate) struct Wanted {
    sequence: u64,
    /// What its newest record says of where it is.
    pub(crate) contact: Contact,
    everything: bool,
    filters: Vec<Filter>,
}

impl Reading {
    /// The peers that a message goes to besides `links`.
    pub(crate) fn choosy_links(&self, payload: &Payload, metrics: &PubSubMetrics) -> Vec<Arc<Link>> {
        // Many peers may have one filter; it is evaluated once.
        let mut verdicts: BTreeMap<&Filter, bool> = BTreeMap::new();
        let mut accepts = |filter| *verdicts.entry(filter).or_insert_with(|| filter.accepts(payload));
        let wanting = self.choosy.iter().filter(|peer| peer.filters.iter().any(&mut accepts));
        let links: Vec<Arc<Link>> = wanting.map(|peer| peer.link.clone()).collect();
        metrics.filter(FilterPlace::Publisher, (self.choosy.len() - links.len()) as u64);
        links
    }

    /// Every peer that may get a message, in order of id.
    pub(crate) fn peers(&self) -> Vec<NodeId> {
        let choosy = self.choosy.iter().map(|peer| &peer.link);
        let mut peers: Vec<NodeId> = self.links.iter().chain(choosy).map(|link| link.peer()).collect();
        peers.sort_unstable();
        peers
    }

    pub(crate) fn add(&mut self, link: Arc<Link>, wanted: Wanted) {
        if wanted.everything {
            self.links.push(link);
        } else {
            self.choosy.push(Choosy { link, filters: wanted.filters });
        }
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
        everything: false,
        filters: Vec::new(),
    });
    if known.sequence < record.sequence {
        (known.sequence, known.contact) = (record.sequence, contact.clone());
    }
    for want in wants {
        match want.filter {
            None => known.everything = true,
            Some(filter) => known.filters.push(filter),
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
