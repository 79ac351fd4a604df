//! Address ranges of one owner, and how many contacts in one count.
//!
//! Ids are free, addresses are not: whoever makes up a thousand ids still has to put them somewhere. So the routing
//! table, the candidates of a lookup and the records held each take only so many of one subnet.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use macula_proto::Contact;

use super::config::SubnetLimits;

/// An address range of one owner: an IPv4 /24 or an IPv6 /48.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subnet([u8; 6]);

/// How many there are of each subnet.
#[derive(Debug, Default)]
pub(super) struct Tally(BTreeMap<Subnet, usize>);

impl Tally {
    /// How many of one subnet there are.
    pub(super) fn of(&self, subnet: &Subnet) -> usize {
        self.0.get(subnet).copied().unwrap_or(0)
    }

    /// Whether each of `subnets` has fewer than `max`.
    pub(super) fn has_room(&self, subnets: &[Subnet], max: usize) -> bool {
        subnets.iter().all(|subnet| self.of(subnet) < max)
    }

    /// One more of each.
    pub(super) fn add(&mut self, subnets: &[Subnet]) {
        subnets.iter().for_each(|subnet| *self.0.entry(*subnet).or_default() += 1);
    }

    /// One less of each.
    pub(super) fn remove(&mut self, subnets: &[Subnet]) {
        for subnet in subnets {
            if let Some(count) = self.0.get_mut(subnet) {
                *count -= 1;
                if *count == 0 {
                    self.0.remove(subnet);
                }
            }
        }
    }

    /// Whether nothing is counted.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl SubnetLimits {
    /// The limited subnets that a contact's addresses are in, each once.
    pub(super) fn subnets(&self, contact: &Contact) -> Vec<Subnet> {
        let mut subnets: Vec<Subnet> = contact
            .addrs
            .iter()
            .map(|addr| addr.ip().to_canonical())
            .filter(|ip| !self.exempts(ip))
            .map(|ip| Subnet::of(&ip))
            .collect();
        subnets.sort_unstable();
        subnets.dedup();
        subnets
    }

    fn exempts(&self, ip: &IpAddr) -> bool {
        let private = match ip {
            IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
        };
        self.exempt_loopback && ip.is_loopback() || self.exempt_private && private
    }
}

impl Subnet {
    /// IPv4 as its mapped IPv6 form would need more than /48, so it gets a prefix of its own.
    fn of(ip: &IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self([0, 0, 4, a, b, c])
            }
            IpAddr::V6(ip) => Self(first_48(ip)),
        }
    }
}

fn first_48(ip: &Ipv6Addr) -> [u8; 6] {
    let [a, b, c, d, e, f, ..] = ip.octets();
    [a, b, c, d, e, f]
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use macula_proto::NodeId;

    use super::*;

    fn at(addrs: &[&str]) -> Contact {
        let addrs = addrs.iter().map(|addr| addr.parse::<SocketAddr>().unwrap()).collect();
        Contact { id: NodeId::from_bytes([1; 32]), addrs }
    }

    #[test]
    fn a_subnet_is_24_bits_of_ipv4_or_48_of_ipv6_and_private_ones_are_exempt() {
        let limits = SubnetLimits::default();
        let one = limits.subnets(&at(&["203.0.113.1:1", "203.0.113.200:2", "[::ffff:203.0.113.9]:3"]));
        assert_eq!(one, limits.subnets(&at(&["203.0.113.77:9"])), "mapped IPv4 is IPv4");
        assert_eq!(one.len(), 1);
        assert_ne!(one, limits.subnets(&at(&["203.0.114.1:1"])));
        let six = limits.subnets(&at(&["[2001:db8:1::1]:1", "[2001:db8:1:ffff::1]:1", "[2001:db8:2::1]:1"]));
        assert_eq!(six.len(), 2);
        for exempt in ["127.0.0.1:1", "[::1]:1", "10.0.0.1:1", "192.168.0.1:1", "[fe80::1]:1", "[fd00::1]:1"]
        {
            assert!(limits.subnets(&at(&[exempt])).is_empty(), "{exempt}");
        }
        let strict = SubnetLimits { exempt_loopback: false, exempt_private: false, ..limits };
        assert_eq!(strict.subnets(&at(&["127.0.0.1:1", "10.0.0.1:1"])).len(), 2);
    }

    #[test]
    fn what_is_taken_back_makes_room_again() {
        let subnets = SubnetLimits::default().subnets(&at(&["203.0.113.1:1"]));
        let mut tally = Tally::default();
        tally.add(&subnets);
        tally.add(&subnets);
        assert!(!tally.has_room(&subnets, 2) && tally.has_room(&[], 0));
        tally.remove(&subnets);
        assert!(tally.has_room(&subnets, 2));
        tally.remove(&subnets);
        assert!(tally.is_empty());
    }
}
