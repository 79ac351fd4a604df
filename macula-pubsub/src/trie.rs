//! A trie of patterns: which of many subscriptions match a topic, without asking each of them.
//!
//! ```text
//!   patterns      a.b   a.*   a.#.z            (root)
//!                                                 │ a
//!                                                (·)
//!                                     b ┌─────────┼ * ───┐ #
//!                                      (1)       (2)    (↺)   a `#` node takes any segment and stays
//!                                                        │ z
//!                                                       (3)
//! ```
//!
//! A topic walks the trie with a set of nodes, each at most once for each of its segments. The cost depends on how
//! many *different* nodes fit the topic, not on how many subscriptions there are. Equivalent runs of wildcards
//! (`#.#`, `#.*`, `*.#.#`) are stored in one form, so that behind a `#` there is never another wildcard.

use std::collections::BTreeMap;
use std::sync::Arc;

use macula_proto::Name;

use crate::Pattern;
use crate::pattern::Segment;

/// Patterns with values. `K` tells apart the values of one pattern.
///
/// ```
/// use macula_pubsub::Trie;
///
/// let mut trie = Trie::new();
/// trie.insert(&"a.#".parse()?, 1, "everything under a");
/// trie.insert(&"a.b".parse()?, 2, "just a.b");
/// let mut found = Vec::new();
/// trie.matching(&"a.c".parse().unwrap(), |key, _| found.push(*key));
/// assert_eq!(found, [1]);
/// # Ok::<(), macula_pubsub::PatternError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Trie<K, V> {
    /// Node 0 is the root. Freed nodes are reused.
    nodes: Vec<Node<K, V>>,
    free: Vec<usize>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Node<K, V> {
    literals: BTreeMap<Arc<str>, usize>,
    one: Option<usize>,
    many: Option<usize>,
    /// Reached by `#`: takes any segment and stays.
    takes_any: bool,
    values: BTreeMap<K, V>,
}

const ROOT: usize = 0;

impl<K: Ord, V> Trie<K, V> {
    /// An empty trie.
    pub fn new() -> Self {
        Self { nodes: vec![Node::new(false)], free: Vec::new(), len: 0 }
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a value; returns the one that it replaces.
    pub fn insert(&mut self, pattern: &Pattern, key: K, value: V) -> Option<V> {
        let mut at = ROOT;
        for segment in canonical(pattern) {
            at = match self.nodes[at].child(segment) {
                Some(child) => child,
                None => self.grow(at, segment),
            };
        }
        let replaced = self.nodes[at].values.insert(key, value);
        self.len += usize::from(replaced.is_none());
        replaced
    }

    /// Takes a value out, with the nodes that nothing else needs.
    pub fn remove(&mut self, pattern: &Pattern, key: &K) -> Option<V> {
        let segments = canonical(pattern);
        let mut path = vec![ROOT];
        for segment in &segments {
            path.push(self.nodes[path[path.len() - 1]].child(*segment)?);
        }
        let removed = self.nodes[path[path.len() - 1]].values.remove(key)?;
        self.len -= 1;
        for (depth, segment) in segments.iter().enumerate().rev() {
            let child = path[depth + 1];
            if !self.nodes[child].is_bare() {
                break;
            }
            self.nodes[path[depth]].unlink(*segment);
            self.free.push(child);
        }
        Some(removed)
    }

    /// Calls `found` with every value whose pattern matches `topic`, each once. Returns how many nodes were
    /// looked at, which is the cost.
    pub fn matching<'a>(&'a self, topic: &Name, mut found: impl FnMut(&'a K, &'a V)) -> usize {
        let mut active = Vec::with_capacity(8);
        self.enter(ROOT, &mut active);
        let mut visited = active.len();
        let mut next = Vec::with_capacity(8);
        for segment in topic.segments() {
            for &at in &active {
                self.step(at, segment, &mut next);
            }
            // A `#` node stays and may also be entered anew.
            next.sort_unstable();
            next.dedup();
            visited += next.len();
            std::mem::swap(&mut active, &mut next);
            next.clear();
        }
        for &at in &active {
            self.nodes[at].values.iter().for_each(|(key, value)| found(key, value));
        }
        visited
    }

    /// Where one segment leads to from a node.
    fn step(&self, at: usize, segment: &str, next: &mut Vec<usize>) {
        let node = &self.nodes[at];
        if node.takes_any {
            next.push(at);
        }
        if let Some(&child) = node.literals.get(segment) {
            self.enter(child, next);
        }
        if let Some(child) = node.one {
            self.enter(child, next);
        }
    }

    /// Being at a node is also being at its `#`, which may stand for nothing.
    fn enter(&self, at: usize, active: &mut Vec<usize>) {
        active.push(at);
        active.extend(self.nodes[at].many);
    }

    fn grow(&mut self, parent: usize, segment: Segment<'_>) -> usize {
        let node = Node::new(segment == Segment::Many);
        let child = match self.free.pop() {
            Some(freed) => {
                self.nodes[freed] = node;
                freed
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        };
        self.nodes[parent].link(segment, child);
        child
    }
}

impl<K: Ord, V> Default for Trie<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Ord, V> Node<K, V> {
    fn new(takes_any: bool) -> Self {
        Self { literals: BTreeMap::new(), one: None, many: None, takes_any, values: BTreeMap::new() }
    }

    fn child(&self, segment: Segment<'_>) -> Option<usize> {
        match segment {
            Segment::Literal(literal) => self.literals.get(literal).copied(),
            Segment::One => self.one,
            Segment::Many => self.many,
        }
    }

    fn link(&mut self, segment: Segment<'_>, child: usize) {
        match segment {
            Segment::Literal(literal) => {
                self.literals.insert(literal.into(), child);
            }
            Segment::One => self.one = Some(child),
            Segment::Many => self.many = Some(child),
        }
    }

    fn unlink(&mut self, segment: Segment<'_>) {
        match segment {
            Segment::Literal(literal) => {
                self.literals.remove(literal);
            }
            Segment::One => self.one = None,
            Segment::Many => self.many = None,
        }
    }

    fn is_bare(&self) -> bool {
        self.values.is_empty() && self.literals.is_empty() && self.one.is_none() && self.many.is_none()
    }
}

/// The segments, with each run of wildcards that holds a `#` written as its `*`s and then one `#`.
fn canonical(pattern: &Pattern) -> Vec<Segment<'_>> {
    let mut segments = Vec::with_capacity(8);
    let mut owes_many = false;
    for segment in pattern.segments() {
        match segment {
            Segment::Many => owes_many = true,
            Segment::One => segments.push(segment),
            Segment::Literal(_) => {
                if std::mem::take(&mut owes_many) {
                    segments.push(Segment::Many);
                }
                segments.push(segment);
            }
        }
    }
    if owes_many {
        segments.push(Segment::Many);
    }
    segments
}

#[cfg(test)]
#[path = "trie_test.rs"]
mod tests;
