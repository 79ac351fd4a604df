//! The knobs, each with its reason, unit and default.

use std::time::Duration;

/// How a Kademlia node behaves. `Default` is meant for production.
#[derive(Clone, Debug)]
pub struct KademliaConfig {
    /// Contacts in a bucket, and holders of a record. 20 (Maymounkov & Mazières): so many that all of them failing
    /// within one republish interval is very unlikely. At least 1.
    pub k: usize,
    /// Requests that a lookup keeps under way at first. 3.
    pub alpha: usize,
    /// Requests that it may have under way once answers bring nothing closer: what is left then is to hear the
    /// k closest out, and doing that at once saves rounds. 10.
    pub alpha_max: usize,
    /// The longest that a lookup waits for one peer before it asks the next one as well. It waits less where peers
    /// usually answer faster. 500 ms.
    pub hedge_max: Duration,
    /// After this long without an answer a peer counts as failed; dialling is included. 3 s: less than a publisher waits for its look-ups.
    pub request_timeout: Duration,
    /// The same for storing a record: the peer has just answered, so it should be quick, and somebody waits. 2 s.
    pub store_timeout: Duration,
    /// Ways without a common node that lookups of records take, for finding, announcing and watching alike. Each has its part
    /// of the k closest to bring, so more of them cost about twice as much as one, and a part of them may be captured by
    /// hostile nodes without harm. 1 to 8: 1, where nodes trust each other; 4 where they do not.
    pub paths: usize,
    /// A lookup ends after this long with what it has. 15 s.
    pub lookup_timeout: Duration,
    /// A lookup asks at most so many times, whatever peers refer it to. 200.
    pub lookup_requests_max: usize,
    /// Referrals of referrals that a lookup follows: longer chains are made up. 16.
    pub hops_max: u32,
    /// Holders that must agree on a complete answer for a `find` to end before all k have answered. 3.
    pub agree: usize,
    /// Lookups that maintenance (refresh, republish, renewal) runs at a time. 8.
    pub background_max: usize,
    /// How long a record is good without being announced again. At most 48 h. 1 h.
    pub record_ttl: Duration,
    /// How often own records are announced again. A third of [`record_ttl`](Self::record_ttl), so that two misses do
    /// no harm: 20 min.
    pub republish_interval: Duration,
    /// How often a watch looks its key up again, which also renews it at the holders. 30 s.
    pub cache_ttl: Duration,
    /// How long a watch lives at a holder unless renewed. Twice [`cache_ttl`](Self::cache_ttl): 60 s.
    pub watch_lapse: Duration,
    /// At how many of the closest nodes a key is watched. Each of them is asked every [`cache_ttl`](Self::cache_ttl)
    /// and pushes every change, so fewer than k: 8. All 8 would have to fail within one refresh to miss a change.
    pub watch_holders: usize,
    /// How long a holder waits for watchers' acknowledgements before it answers a store. 500 ms.
    pub notify_timeout: Duration,
    /// A bucket in which nothing was looked up for so long is refreshed. 15 min.
    pub refresh_interval: Duration,
    /// A full bucket's least recently seen contact is probed on a newcomer's arrival if it was silent for so long.
    /// 60 s.
    pub probe_after: Duration,
    /// How many of one subnet may be in the routing table, and among those that a lookup asks.
    pub subnets: SubnetLimits,
    /// What may be stored here for others.
    pub quotas: Quotas,
    /// Which run of this node's process this is: drawn anew at each start, so that what was announced in an earlier one counts
    /// for nothing ([`Kademlia::peer_is`](super::Kademlia::peer_is)). 0: not said.
    pub life: u64,
}

impl Default for KademliaConfig {
    fn default() -> Self {
        Self {
            k: 20,
            alpha: 3,
            alpha_max: 10,
            hedge_max: Duration::from_millis(500),
            request_timeout: Duration::from_secs(3),
            store_timeout: Duration::from_secs(2),
            paths: 1,
            lookup_timeout: Duration::from_secs(15),
            lookup_requests_max: 200,
            hops_max: 16,
            agree: 3,
            background_max: 8,
            record_ttl: Duration::from_hours(1),
            republish_interval: Duration::from_mins(20),
            cache_ttl: Duration::from_secs(30),
            watch_lapse: Duration::from_mins(1),
            watch_holders: 8,
            notify_timeout: Duration::from_millis(500),
            refresh_interval: Duration::from_mins(15),
            probe_after: Duration::from_mins(1),
            subnets: SubnetLimits::default(),
            quotas: Quotas::default(),
            life: 0,
        }
    }
}

/// How many contacts of one subnet (IPv4 /24, IPv6 /48) a routing table and a lookup take, so that whoever owns one subnet
/// can capture neither: ids are free, addresses are not.
///
/// Loopback, private and link-local addresses are exempt by default: a mesh on one LAN has all its nodes in one
/// subnet, and nobody on the internet has an address there.
#[derive(Clone, Copy, Debug)]
pub struct SubnetLimits {
    /// In the whole table. 10.
    pub table_max: usize,
    /// In one bucket. 2.
    pub bucket_max: usize,
    /// Among those that one lookup asks, not counting those that fail. 4: ids made up near a key and put into one
    /// subnet stay a small part of the k closest.
    pub lookup_max: usize,
    /// Loopback addresses are not limited. `true`.
    pub exempt_loopback: bool,
    /// Private and link-local addresses (RFC 1918, RFC 3927, RFC 4193, RFC 4291) are not limited. `true`.
    pub exempt_private: bool,
}

impl SubnetLimits {
    /// Limits in the proportion of the default ones, with `table_max` of one subnet in the whole table. A mesh that lives in
    /// one public subnet needs as many as it has nodes.
    pub fn of_table(table_max: usize) -> Self {
        let part = |of_ten: usize| (table_max * of_ten).div_ceil(10).max(1);
        Self { table_max, bucket_max: part(2), lookup_max: part(4), ..Self::default() }
    }
}

impl Default for SubnetLimits {
    fn default() -> Self {
        Self { table_max: 10, bucket_max: 2, lookup_max: 4, exempt_loopback: true, exempt_private: true }
    }
}

/// What a node stores for others, at most.
#[derive(Clone, Copy, Debug)]
pub struct Quotas {
    /// Records at one key. 1,000.
    pub per_key: usize,
    /// Records of one announcer. 10,000.
    pub per_announcer: usize,
    /// Records of announcers in one subnet, at one key. See [`SubnetLimits`] for what a subnet is and which are exempt. 200:
    /// a fifth of a key.
    pub per_key_and_subnet: usize,
    /// Records of announcers in one subnet, in all. 20,000: a tenth of the store.
    pub per_subnet: usize,
    /// Records in all. 200,000.
    pub records: usize,
    /// Their size in all, in bytes, signatures included. 64 MiB.
    pub bytes: usize,
    /// Up to this many records at a key are answered in full, page by page; of more, a random sample is given.
    /// 512: above the number of subscribers at which pub/sub builds a tree.
    pub answer_records: usize,
    /// Watchers of one key. 512.
    pub watchers_per_key: usize,
    /// Keys that one peer watches. 4,096.
    pub watches_per_peer: usize,
    /// Watches in all. 100,000.
    pub watches: usize,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            per_key: 1_000,
            per_announcer: 10_000,
            per_key_and_subnet: 200,
            per_subnet: 20_000,
            records: 200_000,
            bytes: 64 << 20,
            answer_records: 512,
            watchers_per_key: 512,
            watches_per_peer: 4_096,
            watches: 100_000,
        }
    }
}
