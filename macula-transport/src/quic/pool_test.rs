use std::time::Duration;

use super::*;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fake {
    n: u32,
    used: u64,
    busy: bool,
    closed: bool,
}

impl Pooled for Fake {
    fn is_closed(&self) -> bool {
        self.closed
    }

    fn last_used(&self) -> Timestamp {
        at(self.used)
    }

    fn is_busy(&self, _now: Timestamp) -> bool {
        self.busy
    }

    fn is_same(&self, other: &Self) -> bool {
        self.n == other.n
    }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_start(Duration::from_secs(seconds))
}

fn id(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn fake(n: u32, used: u64) -> Fake {
    Fake { n, used, busy: false, closed: false }
}

fn busy(n: u32, used: u64) -> Fake {
    Fake { busy: true, ..fake(n, used) }
}

/// A pool of the node `me` with these peers linked.
fn pool(me: u8, max: usize, links: Vec<(u8, Fake)>) -> Pool<Fake> {
    let mut pool = Pool::new(id(me), max);
    for (peer, link) in links {
        pool.reserve(None, at(0));
        pool.add(id(peer), 1, link);
    }
    pool
}

#[test]
fn the_smaller_id_lets_the_older_of_two_connections_go_and_the_larger_waits() {
    let mut small = pool(1, 9, vec![(2, fake(1, 0))]);
    let added = small.add(id(2), 1, fake(2, 0));
    assert_eq!((added.superseded, added.is_new), (vec![fake(1, 0)], false));
    assert_eq!(small.current(&id(2)), Some(fake(2, 0)));

    let mut large = pool(3, 9, vec![(2, fake(1, 0))]);
    assert_eq!(large.add(id(2), 1, fake(2, 0)).superseded, []);
    large.drain(&id(2), &fake(2, 0));
    assert_eq!(large.current(&id(2)), Some(fake(1, 0)), "the newest that is not on its way out");
    assert!(!large.remove(&id(2), &fake(2, 0)));
    assert!(large.remove(&id(2), &fake(1, 0)), "only the last one's end is the peer's");
}

#[test]
fn a_restarted_peers_old_connection_is_dead() {
    let mut large = pool(3, 9, vec![(2, fake(1, 0))]);
    let added = large.add(id(2), 77, fake(2, 0));
    assert_eq!((added.restarted, added.dead, added.superseded), (true, vec![fake(1, 0)], vec![]));
}

#[test]
fn a_peer_that_piles_up_connections_loses_its_oldest() {
    let mut large = pool(3, 9, vec![(2, fake(0, 0))]);
    let dead: Vec<_> = (1..10).flat_map(|n| large.add(id(2), 1, fake(n, 0)).dead).collect();
    assert_eq!(dead.first(), Some(&fake(0, 0)));
    assert!(large.every().len() <= 10);
}

#[test]
fn the_least_recently_used_goes_but_never_one_in_use() {
    let mut full = pool(1, 3, vec![(2, busy(1, 1)), (3, fake(2, 5)), (4, fake(3, 2))]);
    assert_eq!(full.reserve(None, at(9)), Room::Evict(fake(3, 2)));
    assert_eq!(full.reserve(None, at(9)), Room::Evict(fake(2, 5)));
    assert_eq!(full.reserve(None, at(9)), Room::Full);
    full.release();
    assert_eq!(full.reserve(None, at(9)), Room::Yes, "a place that was given back");
    assert_eq!(full.reserve(Some(&id(2)), at(9)), Room::Yes, "a peer that has its place already");
}

#[test]
fn idle_is_who_was_not_used_and_has_nothing_under_way() {
    let pool = pool(1, 9, vec![(2, busy(1, 0)), (3, fake(2, 0)), (4, fake(3, 8))]);
    assert_eq!(pool.idle(at(10), Duration::from_secs(5)), [fake(2, 0)]);
}

#[test]
fn a_closed_connection_is_not_used() {
    let closed = Fake { closed: true, ..fake(1, 0) };
    let pool = pool(1, 1, vec![(2, closed)]);
    assert_eq!(pool.current(&id(2)), None);
    assert!(pool.all().is_empty());
}
