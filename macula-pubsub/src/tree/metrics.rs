//! What the trees of a node count.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// One node's counts, for all its trees together.
#[derive(Clone, Debug, Default)]
pub struct TreeMetrics {
    /// Copies pushed on.
    pub pushed: Counter,
    /// Copies sent because they were asked for.
    pub answered: Counter,
    /// Copies that had come before.
    pub duplicates: Counter,
    /// Requests for messages that were announced and did not come.
    pub wanted: Counter,
    /// Messages given up: nobody who announced them sent them.
    pub lost: Counter,
    /// Links that a tree began to push over, because nothing came by the others.
    pub grafts: Counter,
    /// Links over which a copy came twice, so that messages are only announced there.
    pub prunes: Counter,
    /// Links that were made.
    pub links_made: Counter,
    /// Links that failed, fell silent, or were too slow.
    pub links_lost: Counter,
    /// Requests for a link that were refused.
    pub links_refused: Counter,
}

impl TreeMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let all = [
            ("pushed", "Copies pushed on in trees", &self.pushed),
            ("answered", "Copies sent in trees because they were asked for", &self.answered),
            ("duplicates", "Copies that had come before by a tree", &self.duplicates),
            ("wanted", "Requests for messages that were announced in a tree and did not come", &self.wanted),
            ("lost", "Messages of trees that nobody sent who had announced them", &self.lost),
            (
                "grafts",
                "Links of trees over which messages are pushed because nothing came by others",
                &self.grafts,
            ),
            ("prunes", "Links of trees over which a copy came twice", &self.prunes),
            ("links_made", "Links made in trees", &self.links_made),
            ("links_lost", "Links of trees that failed, fell silent or were too slow", &self.links_lost),
            ("links_refused", "Requests for a link in a tree that were refused", &self.links_refused),
        ];
        for (name, help, counter) in all {
            registry.register(format!("tree_{name}"), help, counter.clone());
        }
    }
}
