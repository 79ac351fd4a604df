//! Places in the replicated log, and what is named by them.

use std::fmt;
use std::str::FromStr;

use macula_proto::wire;

/// The index of a command in a group's replicated log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LogIndex(pub u64);

/// From which recovery from a lost quorum on: 0 before the first. After a recovery, indices may start lower than before;
/// places of the new epoch are larger than all before nevertheless. The number is the wall clock's at the recovery, in
/// seconds since 1970, so that of two members that are recovered one after the other the later one has the larger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Epoch(pub u64);

/// Text that is not a place: a place is written as its epoch and its index, with a dot in between.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an epoch and an index with a dot between them, such as `0.17`")]
pub struct PlaceError(String);

macro_rules! place {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name {
            /// The epoch.
            pub epoch: Epoch,
            /// The index within the epoch.
            pub index: LogIndex,
        }

        impl $name {
            /// The place `index` of `epoch`.
            pub const fn new(epoch: Epoch, index: LogIndex) -> Self {
                Self { epoch, index }
            }

            #[allow(dead_code, reason = "not every place goes everywhere")]
            pub(crate) const fn to_wire(self) -> wire::LogPlace {
                wire::LogPlace { epoch: self.epoch.0, index: self.index.0 }
            }

            #[allow(dead_code, reason = "not every place goes everywhere")]
            pub(crate) fn from_wire(place: Option<wire::LogPlace>) -> Self {
                let place = place.unwrap_or_default();
                Self { epoch: Epoch(place.epoch), index: LogIndex(place.index) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}.{}", self.epoch.0, self.index.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = PlaceError;

            fn from_str(text: &str) -> Result<Self, PlaceError> {
                let wrong = || PlaceError(text.chars().take(64).collect());
                let (epoch, index) = text.split_once('.').ok_or_else(wrong)?;
                let number = |digits: &str| digits.parse().map_err(|_| wrong());
                Ok(Self { epoch: Epoch(number(epoch)?), index: LogIndex(number(index)?) })
            }
        }
    };
}

place! {
    /// Goes with each grant of an election or a lock: where in the log it was granted. Of two grants of one name, the
    /// later one has the larger token, for ever; so a resource that remembers the largest it saw can refuse those who
    /// lost theirs without knowing it (see [`FencedStore`](crate::FencedStore)).
    ///
    /// Shared locks that are granted together have the same token.
    ///
    /// ```
    /// use macula_platform::FencingToken;
    ///
    /// let (before, after): (FencingToken, FencingToken) = ("0.700".parse()?, "1.12".parse()?);
    /// assert!(before < after, "the epoch counts first");
    /// # Ok::<(), macula_platform::PlaceError>(())
    /// ```
    FencingToken
}

place! {
    /// A session, by the place of the command that opened it.
    SessionId
}

place! {
    /// A log, by the place of the command that created it. A log that is dropped and created again has another one.
    LogId
}

place! {
    /// A writer of a log, by the place of the command that opened it.
    WriterId
}

/// A number that a node draws for something it wants once, so that asking again gives the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Nonce(pub u64);

/// The number of a request within its session. A session counts its requests upwards from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RequestId(pub u64);

/// The number of an append of one writer: 1 for its first, each later one is one larger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct WriterSequence(pub u64);

/// The place of an entry in a log: 0 for the first, without gaps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LogOffset(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for LogIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for LogOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_ordered_by_epoch_and_then_by_index() {
        let place = |text: &str| text.parse::<FencingToken>().unwrap();
        assert!(place("0.2") < place("0.10"));
        assert!(place("0.10") < place("1.1"));
        assert_eq!(place("3.4").to_string(), "3.4");
    }

    #[test]
    fn text_that_is_no_place_is_quoted() {
        for wrong in ["", "7", "7.", ".7", "1.2.3", "a.b", "-1.2"] {
            assert_eq!(wrong.parse::<SessionId>(), Err(PlaceError(wrong.into())), "{wrong}");
        }
    }
}
