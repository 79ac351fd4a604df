//! What a tree's nodes say to each other, and what a machine asks its driver to do.

use macula_proto::{Contact, NodeId};

/// Most ranges in one announcement or request.
pub const SPANS_MAX: usize = 64;

/// Most numbers in one range.
pub const SPAN_NUMBERS_MAX: u64 = 256;

/// Most contacts in one word.
pub const CONTACTS_MAX: usize = 8;

/// In a [`Span`]: whoever announces it does not say how far it is from the publisher.
pub const HOPS_UNKNOWN: u32 = u32::MAX;

/// All messages of one publisher in one tree, for as long as it counts them without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// The publisher.
    pub origin: NodeId,
    /// Drawn anew whenever the publisher begins to count from 1.
    pub run: u64,
}

/// Messages of one stream, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Whose.
    pub stream: StreamId,
    /// The first number.
    pub first: u64,
    /// The last number.
    pub last: u64,
    /// How many times the last of them was sent until it came to who announces it; [`HOPS_UNKNOWN`] for what is announced again.
    pub hops: u32,
    /// They came late, so that they are not pushed on: whoever lacks them asks at once.
    pub late: bool,
}

/// What is carried: what the machine must know of a message's content.
pub trait Body: Clone {
    /// Its size, in bytes.
    fn bytes(&self) -> usize;
}

/// A message in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel<M> {
    /// Whose.
    pub stream: StreamId,
    /// Its number: from 1, without gaps.
    pub number: u64,
    /// The oldest number that was published a few seconds before this one, or later: who hears of the stream for the
    /// first time begins there.
    pub since: u64,
    /// Shortly before number 1, the publisher sent directly what has no number.
    pub continued: bool,
    /// How many times it was sent so far.
    pub hops: u32,
    /// It was asked for.
    pub answer: bool,
    /// The message itself.
    pub body: M,
}

/// What one node of a tree says to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Asks for a link. `urgent`: it has none.
    Ask {
        /// It must not be refused.
        urgent: bool,
    },
    /// The link stands.
    Accept,
    /// There is no room.
    Refuse {
        /// Who else could be asked.
        others: Vec<Contact>,
    },
    /// There is no link (any more).
    Leave,
    /// What you pushed came twice: announce instead.
    Prune,
    /// Messages that can be asked for. Without any, a sign of life.
    Have(Vec<Span>),
    /// Asks for messages. `graft`: and to push from now on.
    Want {
        /// Which.
        spans: Vec<Span>,
        /// To be pushed to from now on.
        graft: bool,
    },
    /// Some of whom the sender knows; `reply` asks for the same.
    Others {
        /// Who.
        others: Vec<Contact>,
        /// Whether it is a question.
        reply: bool,
    },
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect<M> {
    /// Say something.
    Tell {
        /// To whom.
        to: Contact,
        /// What.
        word: Word,
    },
    /// Send a message.
    Push {
        /// To whom.
        to: Vec<NodeId>,
        /// What; `hops` counts this one.
        parcel: Parcel<M>,
    },
    /// Hand a message to the subscribers here: in order for each stream, none twice.
    Deliver(Parcel<M>),
    /// There are no links, and nobody is known who could be asked: more contacts are wanted.
    Alone,
}
