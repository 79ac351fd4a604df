//! Queue groups: subscriptions that share the work. One member of a group gets each message.
//!
//! ```text
//!                        picks a node of the group, in turn
//!   publish ──▶ group ──▶ b ──✗ no connection, or no room
//!                         └──▶ c ──▶ the member there with the shortest queue
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use macula_proto::NodeId;

use crate::link::Link;
use crate::message::Content;

/// Longest name of a queue group, in bytes.
pub const GROUP_BYTES_MAX: usize = 64;

/// Most queue groups that one node is in.
pub const GROUPS_MAX: usize = 64;

/// The name of a queue group. Of all subscriptions of a realm in one group, whatever their patterns, one gets each message.
///
/// ```
/// use macula_pubsub::Group;
///
/// let workers: Group = "workers".parse()?;
/// assert_eq!(workers.as_str(), "workers");
/// assert!("two words".parse::<Group>().is_err());
/// # Ok::<(), macula_pubsub::GroupError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(Arc<str>);

/// Which rule the name of a group breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// Empty, or too long.
    #[error("the name of a group has 1 to {GROUP_BYTES_MAX} bytes, not {0}")]
    Length(usize),
    /// A character outside the alphabet.
    #[error("`{group}` holds {found:?}: the name of a group is made of A-Z, a-z, 0-9, `_`, `-` and `.`")]
    Character {
        /// The name as given.
        group: String,
        /// The offending character.
        found: char,
    },
}

impl Group {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Group {
    type Err = GroupError;

    fn from_str(group: &str) -> Result<Self, GroupError> {
        if group.is_empty() || group.len() > GROUP_BYTES_MAX {
            return Err(GroupError::Length(group.len()));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        match group.chars().find(|c| !allowed(*c)) {
            Some(found) => Err(GroupError::Character { group: group.into(), found }),
            None => Ok(Self(group.into())),
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Group({})", self.0)
    }
}

/// Which of a node's subscriptions one copy is for. The default is for a publisher that knows of no group with members
/// elsewhere: every subscription, and of each group one member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Scope {
    /// The publisher picked nodes for groups: of groups, only those in `groups` are served here.
    pub(crate) grouped: bool,
    pub(crate) groups: Vec<Group>,
    /// Another node could not be given it: it is for `groups` only, and comes late.
    pub(crate) handed_over: bool,
    /// It is in no order with what comes by trees.
    pub(crate) apart: bool,
}

impl Scope {
    /// A copy that another node could not be given.
    pub(crate) fn handed_over(group: Group) -> Self {
        Self { grouped: true, groups: vec![group], handed_over: true, apart: false }
    }

    /// Whether a copy is for subscriptions of this group, or for those of none.
    pub(crate) fn includes(&self, group: Option<&Group>) -> bool {
        match group {
            None => !self.handed_over,
            Some(group) => !self.grouped || self.groups.contains(group),
        }
    }
}

/// A node with members of a group.
#[derive(Debug, Clone)]
pub(crate) enum Member {
    /// The publisher's own.
    Here,
    There(Arc<Link>),
}

impl Member {
    /// Bytes that wait to be sent there, if there is a connection.
    fn pending_bytes(&self) -> Option<usize> {
        match self {
            Self::Here => Some(0),
            Self::There(link) => link.pending_bytes(),
        }
    }

    /// Whether to try others first.
    fn passes(&self) -> bool {
        match self {
            Self::Here => false,
            Self::There(link) => link.passes(),
        }
    }
}

/// The nodes that can serve a group, in the order in which they are tried.
#[derive(Debug, Clone)]
pub(crate) struct Pick {
    pub(crate) group: Group,
    members: Vec<Member>,
}

impl Pick {
    /// Among `members`, at least one, those of `publisher`'s message number `sequence` in turn. Those that could not be
    /// reached lately come last. Of the first two, the one to which less waits to be sent comes first.
    pub(crate) fn new(group: Group, mut members: Vec<Member>, publisher: &NodeId, sequence: u64) -> Self {
        // Publishers begin at different members.
        let turn = sequence.wrapping_add(u64::from(publisher.as_bytes()[0]));
        let count = members.len();
        members.rotate_left((turn % count.max(1) as u64) as usize);
        members.sort_by_cached_key(Member::passes);
        if let [first, second, ..] = members.as_mut_slice()
            && let (Some(to_first), Some(to_second)) = (first.pending_bytes(), second.pending_bytes())
            && to_second < to_first
        {
            std::mem::swap(first, second);
        }
        // Taken from the end.
        members.reverse();
        Self { group, members }
    }

    /// How many can still be tried.
    pub(crate) fn left(&self) -> usize {
        self.members.len()
    }

    /// The next to try.
    pub(crate) fn next(&mut self) -> Option<Member> {
        self.members.pop()
    }
}

/// Which copies serve which groups.
#[derive(Debug, Default)]
pub(crate) struct Addressed {
    /// Whom this node's own copy is for.
    pub(crate) here: Scope,
    /// The groups that other nodes are to serve.
    pub(crate) there: BTreeMap<NodeId, (Arc<Link>, Vec<Pick>)>,
}

/// Picks a node for each of the `groups` that have members elsewhere; `local` has the groups with members here that
/// want the message.
pub(crate) fn address(
    content: &Content,
    groups: BTreeMap<Group, Vec<Member>>,
    local: &BTreeSet<&Group>,
) -> Addressed {
    let mut addressed = Addressed::default();
    if groups.is_empty() {
        return addressed;
    }
    let only_here = local.iter().filter(|group| !groups.contains_key(**group));
    addressed.here = Scope {
        grouped: true,
        groups: only_here.map(|group| (*group).clone()).collect(),
        ..Scope::default()
    };
    for (group, mut members) in groups {
        if local.contains(&group) {
            members.push(Member::Here);
        }
        let mut pick = Pick::new(group, members, &content.publisher, content.sequence);
        match pick.next() {
            Some(Member::There(link)) => {
                let (_, picks) = addressed.there.entry(link.peer()).or_insert_with(|| (link, Vec::new()));
                picks.push(pick);
            }
            Some(Member::Here) => addressed.here.groups.push(pick.group),
            None => {}
        }
    }
    addressed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert_eq!("".parse::<Group>(), Err(GroupError::Length(0)));
        assert_eq!("x".repeat(65).parse::<Group>(), Err(GroupError::Length(65)));
        let refused = "two words".parse::<Group>().unwrap_err();
        assert_eq!(refused, GroupError::Character { group: "two words".into(), found: ' ' });
        assert_eq!("a.b-c_9".parse::<Group>().unwrap().to_string(), "a.b-c_9");
    }

    #[test]
    fn a_scope_says_whom_a_copy_is_for() {
        let [workers, others]: [Group; 2] = ["workers", "others"].map(|group| group.parse().unwrap());
        let whom = |scope: &Scope| [None, Some(&workers), Some(&others)].map(|group| scope.includes(group));
        assert_eq!(whom(&Scope::default()), [true, true, true]);
        let picked = Scope { grouped: true, groups: vec![workers.clone()], ..Scope::default() };
        assert_eq!(whom(&picked), [true, true, false]);
        assert_eq!(whom(&Scope { grouped: true, ..Scope::default() }), [true, false, false]);
        assert_eq!(whom(&Scope::handed_over(others.clone())), [false, false, true]);
    }
}
