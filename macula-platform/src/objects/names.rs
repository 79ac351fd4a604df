//! Names of elections, locks and logs. One rule for all, that of [`Name`].

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use macula_proto::{Name, NameError};

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// It follows the rule of topics and procedures ([`Name`]): 1 to 255 bytes, at most 16 segments of
        /// `[A-Za-z0-9_-]` with dots between them.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Name);

        impl $name {
            /// The name.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }

            /// The same, as a name of whatever: a [`FencedStore`](crate::FencedStore) asks for one.
            pub const fn name(&self) -> &Name {
                &self.0
            }
        }

        impl From<Name> for $name {
            fn from(name: Name) -> Self {
                Self(name)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                name.parse().map(Self)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

name! {
    /// The name of an election.
    ElectionName
}

name! {
    /// The name of a lock. Locks and elections of the same name have nothing to do with each other.
    LockName
}

name! {
    /// The name of a log.
    LogName
}
