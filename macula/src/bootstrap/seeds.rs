//! Seeds: addresses that are known before any peer is.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use macula_proto::limits::CONTACT_ADDRS_MAX;

/// Most seeds that a node keeps.
pub const SEEDS_MAX: usize = 64;

/// Longest host name, in bytes (RFC 1035 §2.3.4, without the root's dot).
const HOST_BYTES_MAX: usize = 253;

/// Where a mesh may be found: a host name or an IP address, and a port.
///
/// A name is looked up anew at each dial, since what it stands for may change.
///
/// ```
/// use macula::bootstrap::Seed;
/// let seed: Seed = "seed.example.org:4000".parse()?;
/// assert_eq!((seed.host(), seed.port()), ("seed.example.org", 4000));
/// assert_eq!("[2001:db8::1]:4000".parse::<Seed>()?.to_string(), "[2001:db8::1]:4000");
/// # Ok::<(), macula::bootstrap::SeedError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Seed {
    /// Lower case; an IPv6 address without brackets.
    host: String,
    port: u16,
}

/// Why a seed is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SeedError {
    /// The text has not the form `host:port`.
    #[error("`{0}` is not of the form host:port")]
    Form(String),
    /// The port is no number from 1 to 65535.
    #[error("`{0}` has no port from 1 to 65535")]
    Port(String),
    /// The host is neither an address nor a possible name.
    #[error("`{0}` is neither an IP address nor a host name (an IPv6 address stands in brackets)")]
    Host(String),
    /// The list is full.
    #[error("a node keeps at most {SEEDS_MAX} seeds: remove one first")]
    Full,
}

impl Seed {
    /// The host name, or the IP address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The UDP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The addresses behind the seed now, IPv6 and IPv4 in the order of the system's preference; at most
    /// [`CONTACT_ADDRS_MAX`], each once.
    ///
    /// # Errors
    /// What the resolver says. Set a deadline: a resolver may take long.
    pub async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let mut addrs: Vec<SocketAddr> = vec![];
        for addr in tokio::net::lookup_host((self.host.as_str(), self.port)).await? {
            let addr = without_scope(addr);
            if addrs.len() < CONTACT_ADDRS_MAX && !addrs.contains(&addr) {
                addrs.push(addr);
            }
        }
        if addrs.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", self.host)));
        }
        Ok(addrs)
    }
}

/// Flow labels say nothing about where a node is; a scope id does only for link-local addresses.
fn without_scope(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) if !v6.ip().is_unicast_link_local() => {
            SocketAddrV6::new(*v6.ip(), v6.port(), 0, 0).into()
        }
        other => other,
    }
}

impl FromStr for Seed {
    type Err = SeedError;

    fn from_str(text: &str) -> Result<Self, SeedError> {
        let quoted: String = text.chars().take(HOST_BYTES_MAX).collect();
        let (host, port) = text.rsplit_once(':').ok_or_else(|| SeedError::Form(quoted.clone()))?;
        let port = match port.parse() {
            Ok(port) if port != 0 && port_is_plain(text) => port,
            _ => return Err(SeedError::Port(quoted)),
        };
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match (bracketed, host.parse::<IpAddr>()) {
            (Some(v6), _) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6.to_ascii_lowercase(),
            (None, Ok(IpAddr::V4(v4))) => v4.to_string(),
            (None, Err(_)) if is_host_name(host) => host.trim_end_matches('.').to_ascii_lowercase(),
            _ => return Err(SeedError::Host(quoted)),
        };
        Ok(Self { host, port })
    }
}

/// `u16::from_str` alone would also take a plus sign.
fn port_is_plain(text: &str) -> bool {
    text.ends_with(|c: char| c.is_ascii_digit()) && !text.contains(":+")
}

fn is_host_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let label_is_fine = |label: &str| {
        let alphabet = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        (1..=63).contains(&label.len()) && label.chars().all(alphabet) && !label.starts_with('-')
    };
    // A name of digits and dots alone is a mistyped IPv4 address.
    let a_letter = host.chars().any(|c| c.is_ascii_alphabetic());
    host.len() <= HOST_BYTES_MAX && a_letter && host.split('.').all(label_is_fine)
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Who named a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SeedOrigin {
    /// The configuration: a file, or the program.
    Config,
    /// The environment.
    Environment,
    /// `add_seed`, while the node was running.
    Runtime,
}

impl fmt::Display for SeedOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Config => "configuration",
            Self::Environment => "environment",
            Self::Runtime => "added at run time",
        })
    }
}

/// A seed, and who named it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SeedEntry {
    /// The seed.
    pub seed: Seed,
    /// Who named it first.
    pub origin: SeedOrigin,
}

/// The seeds of a node, in order, each once; at most [`SEEDS_MAX`].
#[derive(Clone, Debug, Default)]
pub struct SeedList {
    seeds: BTreeMap<Seed, SeedOrigin>,
}

impl SeedList {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a seed; says whether it was new. Who named it first stays.
    ///
    /// # Errors
    /// [`SeedError::Full`].
    pub fn add(&mut self, seed: Seed, origin: SeedOrigin) -> Result<bool, SeedError> {
        if self.seeds.contains_key(&seed) {
            return Ok(false);
        }
        if self.seeds.len() >= SEEDS_MAX {
            return Err(SeedError::Full);
        }
        self.seeds.insert(seed, origin);
        Ok(true)
    }

    /// Removes a seed; says whether it was there.
    pub fn remove(&mut self, seed: &Seed) -> bool {
        self.seeds.remove(seed).is_some()
    }

    /// The configured seeds are these from now on; those that were added at run time stay. Seeds for which there
    /// is no room are left out, with a warning.
    pub fn replace(&mut self, origin: SeedOrigin, seeds: &[Seed]) {
        self.seeds.retain(|_, origin| *origin == SeedOrigin::Runtime);
        for seed in seeds {
            if let Err(error) = self.add(seed.clone(), origin) {
                tracing::warn!(%seed, %error, "seed left out");
            }
        }
    }

    /// The seeds and who named them, in order.
    pub fn entries(&self) -> Vec<SeedEntry> {
        self.seeds.iter().map(|(seed, origin)| SeedEntry { seed: seed.clone(), origin: *origin }).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.seeds.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.seeds.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_form_of_a_seed_is_read_and_written() {
        for (text, shown) in [
            ("seed.example.org:4000", "seed.example.org:4000"),
            ("Seed.Example.ORG.:1", "seed.example.org:1"),
            ("localhost:4000", "localhost:4000"),
            ("my_pod-0.svc:4000", "my_pod-0.svc:4000"),
            ("192.0.2.1:65535", "192.0.2.1:65535"),
            ("[2001:DB8::1]:4000", "[2001:db8::1]:4000"),
        ] {
            assert_eq!(text.parse::<Seed>().map(|seed| seed.to_string()), Ok(shown.into()));
        }
    }

    #[test]
    fn each_rule_has_its_error() {
        assert_eq!("seed".parse::<Seed>(), Err(SeedError::Form("seed".into())));
        for bad in ["seed:0", "seed:", "seed:65536", "seed:http", "seed:+1", "seed:-1"] {
            assert_eq!(bad.parse::<Seed>(), Err(SeedError::Port(bad.into())), "{bad}");
        }
        for bad in [
            ":4000",
            "2001:db8::1:4000",
            "[]:4000",
            "[x]:1",
            "[1.2.3.4]:1",
            "1.2.3:1",
            "a..b:1",
            "a b:1",
            "-a:1",
        ] {
            assert_eq!(bad.parse::<Seed>(), Err(SeedError::Host(bad.into())), "{bad}");
        }
    }

    #[test]
    fn a_list_holds_each_seed_once_and_no_more_than_it_may() {
        let mut list = SeedList::new();
        let seed = |n: usize| format!("s{n}.example:4000").parse::<Seed>().unwrap();
        for n in 0..SEEDS_MAX {
            assert_eq!(list.add(seed(n), SeedOrigin::Config), Ok(true));
        }
        assert_eq!(list.add(seed(0), SeedOrigin::Runtime), Ok(false));
        assert_eq!(list.entries()[0], SeedEntry { seed: seed(0), origin: SeedOrigin::Config });
        assert_eq!(list.add(seed(SEEDS_MAX), SeedOrigin::Runtime), Err(SeedError::Full));
        assert!(list.remove(&seed(0)) && !list.remove(&seed(0)));
        assert_eq!(list.add(seed(SEEDS_MAX), SeedOrigin::Runtime), Ok(true));
        assert_eq!(list.len(), SEEDS_MAX);
    }

    #[test]
    fn a_changed_configuration_replaces_what_was_configured_and_nothing_else() {
        let seed = |n: usize| format!("s{n}.example:4000").parse::<Seed>().unwrap();
        let mut list = SeedList::new();
        list.replace(SeedOrigin::Environment, &[seed(1), seed(2)]);
        list.add(seed(3), SeedOrigin::Runtime).unwrap();
        list.replace(SeedOrigin::Config, &[seed(2), seed(3), seed(4)]);
        let entries: Vec<_> = list.entries().into_iter().map(|entry| (entry.seed, entry.origin)).collect();
        let expected =
            [(seed(2), SeedOrigin::Config), (seed(3), SeedOrigin::Runtime), (seed(4), SeedOrigin::Config)];
        assert_eq!(entries, expected);
    }

    #[tokio::test]
    async fn addresses_resolve_to_themselves_in_both_families() {
        for (text, addr) in [("127.0.0.1:4000", "127.0.0.1:4000"), ("[::1]:4000", "[::1]:4000")] {
            let seed: Seed = text.parse().unwrap();
            assert_eq!(seed.resolve().await.unwrap(), [addr.parse::<SocketAddr>().unwrap()]);
        }
        let addrs = "localhost:4000".parse::<Seed>().unwrap().resolve().await.unwrap();
        assert!(addrs.iter().all(|addr| addr.ip().is_loopback() && addr.port() == 4000), "{addrs:?}");
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_so_that_it_reads_the_same(text in "[a-zA-Z0-9:.\\[\\]_-]{0,24}:[0-9]{1,5}") {
            if let Ok(seed) = text.parse::<Seed>() {
                prop_assert_eq!(seed.to_string().parse(), Ok(seed));
            }
        }
    }
}
