//! A bucket, and who stays in one that is full.
//!
//! ```text
//!   full bucket of k      k − k/2 places: those known longest        k/2 places: drawn by lot
//! ```
//!
//! Plain Kademlia keeps whoever came first. That is sound against those who come later, in whatever numbers, and helpless
//! against those who came before all others. So one half of a full bucket is drawn by lot from everybody who was ever heard
//! from: each id has a number that only this node can work out, and the lowest stay (min-wise sampling, as in Brahms,
//! Bortnikov et al. 2009). Neither calling early nor calling often makes that number lower. Who is hostile gets the part
//! of that half that is its part of the mesh, and at most the other half by being early.

use std::collections::VecDeque;
use std::time::Duration;

use macula_proto::{NodeId, Timestamp};

use super::table::Known;

/// One bucket.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// Least recently seen first.
    pub(super) known: Vec<Known>,
    /// Who would take a dead contact's place; the most recently seen last.
    pub(super) waiting: VecDeque<Known>,
    /// When something in this bucket's range was last looked up.
    pub(super) looked_up: Timestamp,
}

/// Gives each id its number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lots(pub(super) u64);

/// Who waits for a place and was not heard from for so long makes room for others that wait.
const WAIT_MAX: Duration = Duration::from_mins(5);

impl Lots {
    /// The number of an id: as good as random to whoever does not know the secret.
    pub(super) fn of(self, id: &NodeId) -> u64 {
        // Ids are hashes; their last bytes differ even where all first bits are shared. The rest is SplitMix64.
        let last = id.as_bytes().last_chunk().copied().unwrap_or_default();
        let mut lot = (u64::from_le_bytes(last) ^ self.0).wrapping_add(0x9e37_79b9_7f4a_7c15);
        lot = (lot ^ (lot >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        lot = (lot ^ (lot >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        lot ^ (lot >> 31)
    }
}

impl Bucket {
    pub(super) fn position(&self, id: &NodeId) -> Option<usize> {
        self.known.iter().position(|known| known.contact.id == *id)
    }

    /// Who has to give its place to `newcomer` in this full bucket; `None` if the newcomer has to wait.
    pub(super) fn loser(&self, newcomer: &NodeId, lots: Lots) -> Option<usize> {
        let drawn = self.known.len() / 2;
        let lot = lots.of(newcomer);
        let mut numbers: Vec<u64> = self.known.iter().map(|known| lots.of(&known.contact.id)).collect();
        numbers.sort_unstable();
        if drawn == 0 || lot >= numbers[drawn - 1] {
            return None;
        }
        // With the newcomer in it, the drawn half ends before the one that was the last of it.
        let edge = numbers[drawn - 1];
        let others = self.known.iter().enumerate();
        let undrawn = others.filter(|(_, known)| lots.of(&known.contact.id) >= edge);
        undrawn.max_by_key(|(_, known)| (known.since, known.contact.id)).map(|(at, _)| at)
    }

    /// Puts somebody among those that wait, of whom there are at most `max`: too many, and the one goes that was silent for
    /// too long, or else who has the highest number.
    pub(super) fn wait(&mut self, now: Timestamp, known: Known, lots: Lots, max: usize) {
        self.waiting.retain(|other| other.contact.id != known.contact.id);
        self.waiting.push_back(known);
        if self.waiting.len() <= max {
            return;
        }
        let is_silent = |known: &Known| now.since(known.seen) > WAIT_MAX;
        if self.waiting.front().is_some_and(is_silent) {
            self.waiting.pop_front();
            return;
        }
        let numbers = self.waiting.iter().map(|known| lots.of(&known.contact.id)).enumerate();
        if let Some((at, _)) = numbers.max_by_key(|(_, number)| *number) {
            self.waiting.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use macula_proto::{Contact, Key, Realm};

    use super::*;

    const K: usize = 20;

    fn known(n: u32, seconds: u64) -> Known {
        let key = Key::derive("bucket", &Realm::default(), &n.to_string());
        let contact =
            Contact::new(NodeId::from_bytes(*key.as_bytes()), SocketAddr::from(([127, 0, 0, 1], 4000)));
        let at = Timestamp::from_start(Duration::from_secs(seconds));
        Known { contact, since: at, seen: at, rtt: None, failures: 0 }
    }

    fn full(numbers: std::ops::Range<u32>) -> Bucket {
        Bucket { known: numbers.map(|n| known(n, n.into())).collect(), ..Bucket::default() }
    }

    fn offer(bucket: &mut Bucket, n: u32, lots: Lots) {
        let newcomer = known(n, n.into());
        if let Some(loser) = bucket.loser(&newcomer.contact.id, lots) {
            bucket.known.remove(loser);
            bucket.known.push(newcomer);
        }
    }

    #[test]
    fn who_came_first_keeps_one_half_and_the_other_is_drawn_from_all() {
        let (mut first, mut late) = (0, 0);
        for secret in 0..20 {
            let lots = Lots(secret);
            let mut bucket = full(0..K as u32);
            (20..520).for_each(|n| offer(&mut bucket, n, lots));
            let is_first = |known: &&Known| known.since < Timestamp::from_start(Duration::from_secs(20));
            let kept = bucket.known.iter().filter(is_first).count();
            assert_eq!(bucket.known.len(), K);
            assert!(kept >= K / 2, "those known longest have their half: {kept}");
            first += kept - K / 2;
            late += K - kept;
        }
        // The first are 4 % of all.
        assert!(first * 10 < late, "{first} of the drawn came first, {late} later");
    }

    #[test]
    fn calling_again_and_again_gains_nothing() {
        let lots = Lots(7);
        let mut bucket = full(0..K as u32);
        (20..120).for_each(|n| offer(&mut bucket, n, lots));
        let before = bucket.known.clone();
        for _ in 0..50 {
            for n in 20..120 {
                if bucket.position(&known(n, 0).contact.id).is_none() {
                    offer(&mut bucket, n, lots);
                }
            }
        }
        assert_eq!(bucket.known, before);
    }

    #[test]
    fn those_that_wait_are_the_lowest_numbers_of_late() {
        let lots = Lots(3);
        let mut bucket = Bucket::default();
        for n in 0..100 {
            let now = Timestamp::from_start(Duration::from_secs(n.into()));
            bucket.wait(now, known(n, n.into()), lots, 5);
        }
        let mut numbers: Vec<u64> = (0..100).map(|n| lots.of(&known(n, 0).contact.id)).collect();
        numbers.sort_unstable();
        let mut waiting: Vec<u64> = bucket.waiting.iter().map(|known| lots.of(&known.contact.id)).collect();
        waiting.sort_unstable();
        assert_eq!(waiting, numbers[..5]);
        for n in 1_000..1_005 {
            let now = Timestamp::from_start(Duration::from_secs(n.into()));
            bucket.wait(now, known(n, n.into()), lots, 5);
        }
        let late = Timestamp::from_start(Duration::from_secs(1_000));
        assert!(bucket.waiting.iter().all(|known| known.seen >= late), "the silent have made room");
    }
}
