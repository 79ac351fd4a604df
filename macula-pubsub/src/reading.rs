//! Who wants a topic, as the directory's records say it: what a publisher reads before it sends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use macula_dht::Record;
use macula_proto::{Access, Action, Contact, Gate, Name, NodeId, Realm};

use crate::fanout::TreeKey;
use crate::group::{GROUPS_MAX, Member};
use crate::interest::{self, Decoded};
use crate::link::Link;
use crate::metrics::{FilterPlace, PubSubMetrics, RefuseReason};
use crate::{Filter, Group, Pattern, Payload};

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
    /// The trees in which the topic's messages are spread.
    pub(crate) trees: Vec<Arc<Roster>>,
    /// Of `links`, those that no tree covers, if there are trees.
    uncovered: Vec<Arc<Link>>,
    /// How many peers the trees cover.
    pub(crate) covered: usize,
    /// How many more records there seem to be than the directory gave.
    pub(crate) unnamed: usize,
}

/// A peer, and which messages it wants.
#[derive(Debug)]
struct Choosy {
    link: Arc<Link>,
    appetite: Appetite,
    /// It gets all messages by a tree.
    is_covered: bool,
}

/// The subscribers to one pattern that are too many to send to each.
#[derive(Debug)]
pub(crate) struct Roster {
    pub(crate) tree: TreeKey,
    /// Who takes part in the tree.
    pub(crate) members: Vec<Arc<Link>>,
    /// Who should.
    pub(crate) outside: Vec<Arc<Link>>,
    /// Where some of all of them are.
    pub(crate) contacts: Vec<Contact>,
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
    /// The patterns that it wants itself, and whether it is in their trees.
    patterns: BTreeMap<Pattern, bool>,
}

impl Wanted {
    /// The patterns that it wants itself.
    pub(crate) fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        self.patterns.keys()
    }
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

    /// Whether [`links`](Self::links) is all there is: nobody has filters, is in a group, or in a tree.
    pub(crate) fn is_plain(&self) -> bool {
        self.choosy.is_empty() && self.groups.is_empty() && self.trees.is_empty()
    }

    /// Whom to send every message oneself: all that want it, but for those that trees cover.
    pub(crate) fn direct(&self) -> &[Arc<Link>] {
        if self.trees.is_empty() { &self.links } else { &self.uncovered }
    }

    /// Who wants this very message. `all`: also those that trees cover.
    pub(crate) fn choose(&self, payload: &Payload, all: bool, metrics: &PubSubMetrics) -> Chosen {
        // Many peers may have one filter; it is evaluated once.
        let mut verdicts: BTreeMap<&Filter, bool> = BTreeMap::new();
        let mut accepts = |filter| *verdicts.entry(filter).or_insert_with(|| filter.accepts(payload));
        let mut chosen = Chosen::default();
        let choosy = || self.choosy.iter().filter(|peer| all || !peer.is_covered);
        for peer in choosy() {
            if peer.appetite.is_for(&mut accepts) {
                chosen.links.push(peer.link.clone());
            }
        }
        metrics.filter(FilterPlace::Publisher, (choosy().count() - chosen.links.len()) as u64);
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

    pub(crate) fn add(&mut self, link: &Arc<Link>, wanted: Wanted, trees: &BTreeSet<Pattern>) {
        let is_covered = wanted.patterns.iter().any(|(pattern, is_in)| *is_in && trees.contains(pattern));
        self.covered += usize::from(is_covered);
        match wanted.plain {
            Some(appetite) if appetite.everything => {
                if !trees.is_empty() && !is_covered {
                    self.uncovered.push(link.clone());
                }
                self.links.push(link.clone());
            }
            Some(appetite) => self.choosy.push(Choosy { link: link.clone(), appetite, is_covered }),
            None => {}
        }
        for (group, appetite) in wanted.groups {
            let choosy = Choosy { link: link.clone(), appetite, is_covered: false };
            self.groups.entry(group).or_default().push(choosy);
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
    let Decoded { wants, trees, .. } = allowed(record, (realm, topic), gate, metrics);
    if wants.is_empty() {
        return;
    }
    let contact = &record.announcer;
    let known = peers.entry(contact.id).or_insert_with(|| Wanted {
        sequence: record.sequence,
        contact: contact.clone(),
        plain: None,
        groups: BTreeMap::new(),
        patterns: BTreeMap::new(),
    });
    if known.sequence < record.sequence {
        (known.sequence, known.contact) = (record.sequence, contact.clone());
    }
    for want in wants {
        match want.group {
            None => {
                let is_in = trees.contains(&want.pattern);
                known.patterns.insert(want.pattern, is_in);
                known.plain.get_or_insert_default().add(want.filter);
            }
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
) -> Decoded {
    let mut decoded = interest::decode(&record.value);
    if decoded.invalid > 0 {
        metrics.refuse(RefuseReason::Interest);
    }
    let wants = &mut decoded.wants;
    wants.retain(|want| want.pattern.matches(topic));
    let wanted = wants.len();
    wants.retain(|want| {
        let action = Action::Subscribe(want.pattern.as_str());
        gate.check(Access { peer: record.announcer.id, realm, action }).is_ok()
    });
    if wants.is_empty() && wanted > 0 {
        metrics.refuse(RefuseReason::Forbidden);
    }
    decoded
}

/// Of the patterns that these peers want, those that more want than `direct_max`; or than half of it, if
/// there `was` a tree before.
pub(crate) fn crowded(
    peers: &BTreeMap<NodeId, Wanted>,
    direct_max: usize,
    was: impl Fn(&Pattern) -> bool,
) -> BTreeSet<Pattern> {
    if peers.len() <= direct_max / 2 {
        return BTreeSet::new();
    }
    let mut counts: BTreeMap<&Pattern, usize> = BTreeMap::new();
    for pattern in peers.values().flat_map(|wanted| wanted.patterns.keys()) {
        *counts.entry(pattern).or_insert(0) += 1;
    }
    let is_crowded =
        |pattern: &Pattern, count: usize| count > direct_max || (count > direct_max / 2 && was(pattern));
    let crowded = counts.into_iter().filter(|(pattern, count)| is_crowded(pattern, *count));
    crowded.map(|(pattern, _)| pattern.clone()).collect()
}

impl Roster {
    /// Those of `peers` that want the tree's pattern.
    pub(crate) fn new(
        tree: TreeKey,
        peers: &BTreeMap<NodeId, Wanted>,
        link: impl Fn(&Contact) -> Arc<Link>,
    ) -> Self {
        let (mut members, mut outside, mut contacts) = (Vec::new(), Vec::new(), Vec::new());
        for wanted in peers.values() {
            match wanted.patterns.get(&tree.pattern) {
                Some(true) => members.push(link(&wanted.contact)),
                Some(false) => outside.push(link(&wanted.contact)),
                None => continue,
            }
            contacts.push(wanted.contact.clone());
        }
        Self { tree, members, outside, contacts }
    }
}
