//! Versions and capabilities that a hello carries.

use std::fmt;

/// Application-layer protocol name in the TLS handshake (RFC 7301).
pub const ALPN: &str = "macula/1";

/// A protocol version. Another major version is another protocol; minor versions only add.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Version {
    /// Incompatible revisions.
    pub major: u32,
    /// Compatible additions.
    pub minor: u32,
}

impl Version {
    /// What this software speaks.
    pub const CURRENT: Self = Self { major: 1, minor: 0 };
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The minor versions of one major version that a node speaks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VersionRange {
    /// The major version.
    pub major: u32,
    /// Oldest minor version still spoken.
    pub minor_min: u32,
    /// Newest minor version spoken.
    pub minor_max: u32,
}

impl VersionRange {
    /// What this software speaks.
    pub const CURRENT: Self =
        Self { major: Version::CURRENT.major, minor_min: 0, minor_max: Version::CURRENT.minor };

    /// The newest version that both sides speak, if any.
    ///
    /// ```
    /// use macula_proto::{Version, VersionRange};
    /// let newer = VersionRange { major: 1, minor_min: 0, minor_max: 7 };
    /// assert_eq!(VersionRange::CURRENT.agree(newer), Some(Version { major: 1, minor: 0 }));
    /// ```
    pub fn agree(self, other: Self) -> Option<Version> {
        let minor = self.minor_max.min(other.minor_max);
        let common = self.major == other.major && minor >= self.minor_min && minor >= other.minor_min;
        common.then_some(Version { major: self.major, minor })
    }
}

/// A set of optional features. Bits that a node does not know are kept and ignored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// Takes part in the directory: may be asked to store records and to answer lookups.
    pub const DIRECTORY: Self = Self(1);
    /// Serves small calls that share a stream.
    pub const NUMBERED_CALLS: Self = Self(2);

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in `self`.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_agree_on_the_newest_common_minor() {
        let range = |major, minor_min, minor_max| VersionRange { major, minor_min, minor_max };
        assert_eq!(range(1, 0, 3).agree(range(1, 2, 9)), Some(Version { major: 1, minor: 3 }));
        assert_eq!(range(1, 0, 3).agree(range(1, 4, 9)), None);
        assert_eq!(range(1, 0, 3).agree(range(2, 0, 3)), None);
    }
}
