//! 256-bit identifiers: of nodes, and of places in the directory.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, DecodeKind};
use sha2::{Digest, Sha256};

use crate::Realm;

/// Length of an id in bytes.
const ID_BYTES: usize = 32;

/// Length of an id as base32 text.
const TEXT_BYTES: usize = 52;

/// Why bytes or text are not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// The binary form has another length than 32 bytes.
    #[error("an id has 32 bytes, not {0}")]
    Length(usize),
    /// The text form is not 52 base32 characters.
    #[error("`{0}` is not an id: an id is written as 52 characters a-z, 2-7 (base32)")]
    Text(String),
    /// The text form has a last character that no id ends with: 52 characters have four bits more than an id.
    #[error("`{0}` is not an id: an id ends with `a` or `q`, so at least the last character is wrong")]
    End(String),
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; ID_BYTES]);

        impl $name {
            /// Wraps 32 raw bytes.
            pub const fn from_bytes(bytes: [u8; ID_BYTES]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; ID_BYTES] {
                &self.0
            }

            /// The first ten characters of the text form: enough for people to tell ids apart.
            pub fn short(&self) -> String {
                let mut text = self.to_string();
                text.truncate(10);
                text
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = IdError;

            fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
                bytes.try_into().map(Self).map_err(|_| IdError::Length(bytes.len()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let quoted = || text.chars().take(64).collect();
                let wrong = || IdError::Text(quoted());
                if text.len() != TEXT_BYTES {
                    return Err(wrong());
                }
                let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).map_err(|error| match error.kind {
                    DecodeKind::Trailing => IdError::End(quoted()),
                    _ => wrong(),
                })?;
                Self::try_from(bytes.as_slice()).map_err(|_| wrong())
            }
        }
    };
}

id! {
    /// Who a node is: the SHA-256 of its public key (as DER SubjectPublicKeyInfo).
    ///
    /// Written as base32 in lower case, which fits a DNS label.
    ///
    /// ```
    /// use macula_proto::NodeId;
    /// let id = NodeId::from_bytes([7; 32]);
    /// assert_eq!(id.to_string().len(), 52);
    /// assert_eq!(id.to_string().parse(), Ok(id));
    /// ```
    NodeId
}

id! {
    /// A place in the directory. Keys and node ids share one 256-bit space with the XOR metric
    /// (Maymounkov & Mazières 2002, §2.1).
    Key
}

impl Key {
    /// The key of `name` in `realm`, for one kind of thing (`"topic"`, `"procedure"`, …).
    ///
    /// Each part is preceded by its length, so that no two different inputs collide by concatenation.
    pub fn derive(kind: &str, realm: &Realm, name: &str) -> Self {
        let mut hash = Sha256::new();
        for part in [kind, realm.as_str(), name] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        Self(hash.finalize().into())
    }

    /// How far `self` is from `other`.
    pub fn distance(&self, other: &Self) -> Distance {
        Distance(std::array::from_fn(|i| self.0[i] ^ other.0[i]))
    }
}

impl From<NodeId> for Key {
    fn from(id: NodeId) -> Self {
        Self(id.0)
    }
}

/// XOR distance between two [`Key`]s; smaller is closer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Distance([u8; ID_BYTES]);

impl Distance {
    /// How many leading bits both ends share: 256 for equal keys.
    pub fn leading_zeros(&self) -> u32 {
        let zero_bytes = self.0.iter().take_while(|byte| **byte == 0).count();
        let bits = self.0.get(zero_bytes).map_or(0, |byte| byte.leading_zeros());
        zero_bytes as u32 * 8 + bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_of_the_wrong_shape_is_refused_and_quoted() {
        assert_eq!("abc".parse::<NodeId>(), Err(IdError::Text("abc".into())));
        let one_outside_the_alphabet = "1".repeat(TEXT_BYTES);
        assert!(one_outside_the_alphabet.parse::<NodeId>().is_err());
        let (good, bad) = (format!("{}q", "b".repeat(51)), "b".repeat(52));
        assert!(good.parse::<NodeId>().is_ok());
        assert_eq!(bad.parse::<NodeId>(), Err(IdError::End(bad)));
        assert_eq!(NodeId::try_from(&[0u8; 31][..]), Err(IdError::Length(31)));
    }

    #[test]
    fn derived_keys_do_not_collide_by_concatenation() {
        let realm = Realm::default();
        assert_ne!(Key::derive("a", &realm, "bc"), Key::derive("ab", &realm, "c"));
    }

    #[test]
    fn leading_zeros_count_shared_bits() {
        let zero = Key::from_bytes([0; 32]);
        assert_eq!(zero.distance(&zero).leading_zeros(), 256);
        let mut bytes = [0; 32];
        bytes[1] = 0b0001_0000;
        assert_eq!(zero.distance(&Key::from_bytes(bytes)).leading_zeros(), 11);
    }

    proptest! {
        #[test]
        fn text_round_trips(bytes: [u8; 32]) {
            let id = NodeId::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn the_xor_metric_is_symmetric(a: [u8; 32], b: [u8; 32]) {
            let (a, b) = (Key::from_bytes(a), Key::from_bytes(b));
            prop_assert_eq!(a.distance(&b), b.distance(&a));
        }
    }
}
