//! From checked values to the types that the rest of the node works with.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use macula_proto::{NodeId, Realm};

use super::tag::Tag;
use super::value::Value;
use crate::bootstrap::Seed;

/// A type that a key's value turns into.
pub(crate) trait Field: Sized {
    /// `None` if the key's kind does not fit this type, which is a mistake in the schema.
    fn from_value(value: &Value) -> Option<Self>;
}

/// `node.id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeIdSetting {
    /// Whatever belongs to the node's key.
    Auto,
    /// This one, or the node does not start.
    Exactly(NodeId),
}

impl Field for NodeIdSetting {
    fn from_value(value: &Value) -> Option<Self> {
        match text(value)? {
            "auto" => Some(Self::Auto),
            id => id.parse().ok().map(Self::Exactly),
        }
    }
}

/// An enum whose variants are written as words.
macro_rules! words {
    ($(#[$doc:meta])* $Name:ident { $( $(#[$variant_doc:meta])* $Variant:ident = $word:literal, )+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $Name { $( $(#[$variant_doc])* $Variant, )+ }

        impl $Name {
            /// The words, as they are written.
            pub const WORDS: &[&str] = &[$($word),+];

            /// The word for this.
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$Variant => $word, )+ }
            }
        }

        impl fmt::Display for $Name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Field for $Name {
            fn from_value(value: &Value) -> Option<Self> {
                match text(value)? {
                    $( $word => Some(Self::$Variant), )+
                    _ => None,
                }
            }
        }
    };
}

words! {
    /// `platform.timing`: how fast a group notices that its leader is gone.
    GroupTiming {
        /// For nodes in one place.
        Lan = "lan",
        /// For nodes far apart.
        Wan = "wan",
    }
}

words! {
    /// `rpc.routing_strategy`: how a provider is chosen.
    RoutingStrategy {
        /// This node, if it offers the procedure; else any.
        LocalFirst = "local-first",
        /// Each in turn.
        RoundRobin = "round-robin",
        /// Any, all equally likely.
        Random = "random",
        /// The smallest round-trip time.
        Nearest = "nearest",
        /// The fewest calls running.
        LeastLoaded = "least-loaded",
    }
}

impl From<RoutingStrategy> for macula_rpc::Strategy {
    fn from(strategy: RoutingStrategy) -> Self {
        match strategy {
            RoutingStrategy::LocalFirst => Self::LocalFirst,
            RoutingStrategy::RoundRobin => Self::RoundRobin,
            RoutingStrategy::Random => Self::Random,
            RoutingStrategy::Nearest => Self::Nearest,
            RoutingStrategy::LeastLoaded => Self::LeastLoaded,
        }
    }
}

words! {
    /// `log.format`: lines for people or for machines.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

impl Field for Duration {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Duration(duration) => Some(*duration),
            _ => None,
        }
    }
}

impl Field for bool {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        }
    }
}

impl Field for String {
    fn from_value(value: &Value) -> Option<Self> {
        text(value).map(Self::from)
    }
}

impl Field for SocketAddr {
    fn from_value(value: &Value) -> Option<Self> {
        text(value)?.parse().ok()
    }
}

impl Field for Option<PathBuf> {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Unset => Some(None),
            value => Some(Some(text(value)?.into())),
        }
    }
}

macro_rules! counts {
    ($($Type:ty)+) => {$(
        impl Field for $Type {
            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    Value::Count(count) => Self::try_from(*count).ok(),
                    _ => None,
                }
            }
        }
    )+};
}

counts!(u16 u32 usize);

macro_rules! lists {
    ($($Type:ty)+) => {$(
        impl Field for Vec<$Type> {
            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    Value::List(items) => items.iter().map(|item| item.parse().ok()).collect(),
                    _ => None,
                }
            }
        }
    )+};
}

lists!(String SocketAddr Realm Seed Tag NodeId);

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}
