//! The schema: every key once, with its type, default, range, reason, and whether it may change at run time.
//!
//! The table below is the only place that names the keys. Parsing, validation, environment variables, the list
//! with sources and the reference page all follow from it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use macula_proto::{NodeId, Realm};

use super::field::{Field, GroupTiming, LogFormat, NodeIdSetting, RoutingStrategy};
use super::key::{Change, Key};
use super::rule;
use super::tag::Tag;
use super::value::{Kind, Rule, Value};
use crate::bootstrap::Seed;
use crate::tags;

/// `doc`, type, kind, default, change → the section structs, [`KEYS`] and [`Sections`].
macro_rules! schema {
    ($(
        $(#[doc = $section_doc:literal])+
        $section:ident: $Section:ident {
            $(
                $(#[doc = $doc:literal])+
                $field:ident: $Type:ty = $kind:expr, $default:expr, $change:expr;
            )+
        }
    )+) => {
        $(
            $(#[doc = $section_doc])+
            #[derive(Clone, Debug, PartialEq)]
            #[non_exhaustive]
            pub struct $Section {
                $( $(#[doc = $doc])+ pub $field: $Type, )+
            }
        )+

        /// All settings, by section.
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub struct Sections {
            $( $(#[doc = $section_doc])+ pub $section: $Section, )+
        }

        /// Every key there is, in the order of the reference page.
        pub const KEYS: &[Key] = &[$($(
            Key {
                name: concat!(stringify!($section), ".", stringify!($field)),
                kind: $kind,
                default: $default,
                doc: concat!($($doc, "\n"),+),
                change: $change,
            },
        )+)+];

        /// What each section is about.
        pub(crate) const SECTIONS: &[(&str, &str)] =
            &[$((stringify!($section), concat!($($section_doc, "\n"),+))),+];

        impl Sections {
            /// Takes one value for each of [`KEYS`], in that order.
            pub(crate) fn from_values<'a>(values: impl Iterator<Item = &'a Value>) -> Self {
                let mut values = values;
                Self { $( $section: $Section { $( $field: next(&mut values), )+ }, )+ }
            }
        }
    };
}

fn next<'a, T: Field>(values: &mut impl Iterator<Item = &'a Value>) -> T {
    values
        .next()
        .and_then(T::from_value)
        .expect("a key's kind yields its field's type: a test tries them all")
}

const fn span(min: Duration, max: Duration) -> Kind {
    Kind::Duration { min, max }
}

const fn count(min: u64, max: u64, unit: &'static str) -> Kind {
    Kind::Count { min, max, unit }
}

const fn list(each: Rule, items_min: usize, items_max: usize) -> Kind {
    Kind::List { each, items_min, items_max }
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const HOUR: Duration = secs(3_600);
const DAY: Duration = secs(86_400);

const IDENTITY: Change = Change::Restart("it is part of who the node is");
const SOCKET: Change = Change::Restart("sockets are bound when the node starts");
const LAYER: Change = Change::Restart("the layer takes it when it starts");

schema! {
    /// Who this node is, and where.
    node: NodeSection {
        /// The id that this node must have. An id is the hash of the node's key, so it cannot be chosen: `auto`
        /// takes whatever belongs to the key; an id written here is compared with the key's at the start, and a
        /// different one is an error. Use it where a lost or swapped key file must not go unnoticed.
        id: NodeIdSetting = Kind::Text(rule::NODE_ID), Some("auto"), IDENTITY;

        /// A name for people. It also names the default data directory and admin socket, so nodes of one user
        /// on one machine need different names.
        name: String = Kind::Text(rule::NODE_NAME), Some("node"), IDENTITY;

        /// The address and UDP port to listen at. The default takes IPv6 and IPv4 alike, and where nobody chose an
        /// address and the port is taken, one of the next; `0.0.0.0:4000` is IPv4 alone. Port 0 picks a free one.
        address: SocketAddr = Kind::Text(rule::LISTEN), Some("[::]:4000"), SOCKET;

        /// Where others are told to reach this node, when that is not where it listens: behind a NAT, in a
        /// container. Empty: the addresses of this machine's interfaces.
        advertise: Vec<SocketAddr> = list(rule::ADVERTISED, 0, 8), Some(""), SOCKET;

        /// Where the node keeps its key and what it knows of its peers. Unset:
        /// `$XDG_STATE_HOME/macula/NAME`, else `~/.local/state/macula/NAME`. One running node a directory.
        data_dir: Option<PathBuf> = Kind::Text(rule::PATH), None, IDENTITY;

        /// The realms that this node is in. Realms isolate topics, procedures and state from each other.
        realms: Vec<Realm> = list(rule::REALM, 1, 64), Some("default"), IDENTITY;

        /// What the node says about itself, for every member to see: small words such as `zone=eu-west` or `role=edge`.
        /// Names and values have at most 512 bytes in all, for they travel with the news of membership.
        tags: Vec<Tag> = list(rule::TAG, 0, tags::COUNT_MAX), Some(""), Change::Live;
    }

    /// The encrypted transport between nodes.
    quic: QuicSection {
        /// The application protocols of the TLS handshake, the preferred one first; peers must share one. Names of
        /// your own keep meshes apart that can reach each other.
        alpn: Vec<String> = list(rule::ALPN, 1, 8), Some("macula/1"), SOCKET;

        /// The certificate chain to show, in PEM, own certificate first. Unset: a self-signed one is made from
        /// the key.
        cert_file: Option<PathBuf> = Kind::Text(rule::PATH), None, SOCKET;

        /// The node's private key (Ed25519, PKCS#8 in PEM). Without a certificate, a file that is missing is made
        /// at the first start. Unset: `node.key` in the data directory.
        key_file: Option<PathBuf> = Kind::Text(rule::PATH), None, IDENTITY;

        /// The certificates of the authorities, in PEM, to one of which every peer's chain must lead. Unset: open
        /// mode, any peer that proves its own key may connect.
        ca_file: Option<PathBuf> = Kind::Text(rule::PATH), None, SOCKET;

        /// Certificates that the authorities revoked, in PEM. Connections of a revoked peer are closed.
        crl_file: Option<PathBuf> = Kind::Text(rule::PATH), None, SOCKET;

        /// How long the TLS handshake and the hello may take together, on either side. Five seconds outlast two
        /// lost packets on a slow link.
        handshake_timeout: Duration = span(ms(100), secs(60)), Some("5s"), LAYER;

        /// How long a stream that a peer opened may stay without its first frame.
        stream_timeout: Duration = span(ms(100), HOUR), Some("5s"), LAYER;

        /// A connection over which no application frame went for so long is closed. Pings do not count.
        idle_timeout: Duration = span(secs(1), DAY), Some("60s"), LAYER;

        /// How often a quiet connection is pinged while it is kept, so that NATs and firewalls remember it. A peer
        /// that has been silent for two and a half times as long is gone.
        keep_alive: Duration = span(ms(100), HOUR), Some("30s"), LAYER;

        /// Most live connections. Beyond it the least recently used one without work is closed. Each costs a few
        /// hundred KiB under load.
        connections_max: usize = count(1, 10_000, "connections"), Some("100"), LAYER;

        /// Largest UDP payload that path discovery tries. Larger packets cost less for each byte, where the
        /// network carries them; beyond 6552 the kernel's segmentation offload no longer takes ten at once.
        mtu_max: u16 = count(1_200, 6_552, "bytes"), Some("6500"), LAYER;
    }

    /// Who is alive (SWIM).
    membership: MembershipSection {
        /// How often a member is probed. A dead one is first noticed after about 1.6 periods, whatever the
        /// size of the mesh. Others are asked to probe a member as well after half a period without an answer.
        protocol_period: Duration = span(ms(10), secs(60)), Some("1s"), LAYER;

        /// How many others are asked to probe a member that did not answer. Three tell a dead member from a
        /// bad link, for little traffic.
        indirect_count: usize = count(0, 16, "members"), Some("3"), LAYER;

        /// Shortest time that a suspected member has to refute before it counts as dead. It lasts longer while few
        /// agree, and grows with the logarithm of the number of members.
        suspect_timeout: Duration = span(ms(20), HOUR), Some("4s"), LAYER;
    }

    /// The directory that finds subscribers and providers (Kademlia).
    routing: RoutingSection {
        /// How many nodes a bucket of the routing table holds, and how many hold a record.
        k: usize = count(1, 64, "nodes"), Some("20"), LAYER;

        /// How many nodes a lookup asks at once, to begin with.
        alpha: usize = count(1, 16, "requests"), Some("3"), LAYER;

        /// How many ways without a common node lookups take. Each costs requests of its own: four find what one
        /// finds with about three times as many, also where one node in five lies. One is enough among nodes
        /// that trust each other.
        paths: usize = count(1, 8, "paths"), Some("1"), LAYER;

        /// How many contacts of one public subnet (IPv4 /24, IPv6 /48) the routing table holds; a bucket holds a
        /// fifth of that, and a lookup asks two fifths. Ids are free, addresses are not. A mesh whose nodes
        /// are all in one public subnet needs about as many as it has nodes.
        subnet_max: usize = count(1, 100_000, "contacts"), Some("10"), LAYER;

        /// How often a bucket in which nothing was looked up is refreshed.
        refresh_interval: Duration = span(secs(1), DAY), Some("15m"), LAYER;
    }

    /// Publish and subscribe.
    pubsub: PubsubSection {
        /// How long a topic that nobody publishes to keeps its list of subscribers. A list in use is kept fresh
        /// by the directory, so this is no bound on staleness.
        cache_ttl: Duration = span(ms(100), DAY), Some("5m"), LAYER;

        /// How often subscriptions, and procedures too, are announced again. An announcement is good for three
        /// times as long, so that two misses do no harm.
        announce_interval: Duration = span(secs(1), secs(16 * 3_600)), Some("20m"), LAYER;

        /// Most topics whose subscribers are remembered. The least recently used go first.
        max_cache_size: usize = count(1, 1_000_000, "topics"), Some("10000"), LAYER;

        /// How many nodes that subscribe to the same pattern a publisher sends a message to itself. If there are more, they
        /// pass it on among themselves in a tree, until there are half as many. A copy to each costs one hop
        /// and a connection for each subscriber, of which a node keeps `quic.connections_max`.
        direct_max: usize = count(1, 100_000, "nodes"), Some("64"), LAYER;

        /// In how many such trees this node takes part as a subscriber, at most; each takes up to eight connections. Messages
        /// of further ones are sent to it directly by each publisher. 0: it takes part in none.
        trees_max: usize = count(0, 1_000, "trees"), Some("8"), LAYER;
    }

    /// Calls.
    rpc: RpcSection {
        /// How long a call may take when its caller says nothing.
        default_timeout: Duration = span(ms(1), HOUR), Some("5s"), Change::Live;

        /// Whether this node keeps answers that their providers say are good for a while, and gives them again to the
        /// same request without asking anybody. Providers say so for each procedure; no other answers are ever kept.
        cache_enabled: bool = Kind::Flag, Some("true"), Change::Live;

        /// How long an answer is kept at most, whatever its provider says: one that lies is believed for no longer.
        cache_age_max: Duration = span(ms(1), DAY), Some("5m"), LAYER;

        /// Room for kept answers and the requests to them; the least recently used go first.
        cache_bytes_max: usize = count(0, 1 << 30, "bytes"), Some("8388608"), LAYER;

        /// How a provider is chosen when the caller says nothing.
        routing_strategy: RoutingStrategy = Kind::Choice(RoutingStrategy::WORDS), Some("local-first"), Change::Live;
    }

    /// Coordination: elections, locks and logs, kept by a group of nodes in each realm.
    platform: PlatformSection {
        /// The nodes that found the realm's group together, by id, this one among them: the same list at each of them. Empty: a
        /// node without seeds founds a group alone when one is needed and none is found, and all others join it.
        founders: Vec<NodeId> = list(rule::FOUNDER, 0, 7), Some(""), LAYER;

        /// How many voters a group wants. Of three, one may be lost; of five, two, and each command costs more. An
        /// even number survives no more than the odd one below it.
        voters: usize = count(1, 7, "voters"), Some("3"), LAYER;

        /// Whether this node may become a voter. A node without a data directory never does, for it would forget what it
        /// acknowledged.
        eligible: bool = Kind::Flag, Some("true"), LAYER;

        /// A voter that is gone for so long is replaced by a node that has caught up, if there is one.
        replace_after: Duration = span(secs(1), DAY), Some("5m"), LAYER;

        /// Who holds an election or a lock and dies is followed by the next after this time. Shorter ones need more messages, and
        /// lose more to a node that is merely slow.
        session_ttl: Duration = span(ms(100), secs(60)), Some("1s"), LAYER;

        /// How fast a group notices that its leader is gone: `lan` takes a third of a second and expects answers within some
        /// milliseconds, `wan` takes two seconds. The same at all nodes of a realm.
        timing: GroupTiming = Kind::Choice(GroupTiming::WORDS), Some("lan"), LAYER;
    }

    /// How a node finds its first peers.
    bootstrap: BootstrapSection {
        /// Nodes to contact first. A host name may stand for several nodes; all of its addresses are tried.
        /// Also set by `MACULA_SEEDS`. A node without seeds waits until others find it.
        seeds: Vec<Seed> = list(rule::SEED, 0, 64), Some(""), Change::Live;
    }

    /// What happens when a part of the node fails.
    supervision: SupervisionSection {
        /// How often a failed task may be restarted within `restart_window`. After one more the task stays
        /// down and the node reports itself as unhealthy.
        restarts_max: u32 = count(0, 1_000, "restarts"), Some("5"), LAYER;

        /// See `restarts_max`.
        restart_window: Duration = span(ms(100), HOUR), Some("10s"), LAYER;
    }

    /// What is logged.
    log: LogSection {
        /// How much is logged: a level, then exceptions for single modules.
        level: String = Kind::Text(rule::LOG_FILTER), Some("info"), Change::Live;

        /// Lines for people or for machines.
        format: LogFormat = Kind::Choice(LogFormat::WORDS), Some("text"), Change::Restart("the log is opened when the process starts");
    }

    /// The local socket for operators.
    admin: AdminSection {
        /// The path of the Unix socket, at most 107 bytes. Unset: `$XDG_RUNTIME_DIR/macula/NAME.sock`; where that
        /// variable is missing, `macula/run/NAME.sock` in `$XDG_STATE_HOME` or `~/.local/state`.
        socket: Option<PathBuf> = Kind::Text(rule::PATH), None, SOCKET;
    }
}
