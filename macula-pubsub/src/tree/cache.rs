//! The messages that neighbours may still ask for: bounded in number, bytes and age.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use macula_proto::Timestamp;

use super::effect::{Body, Parcel, StreamId};

#[derive(Debug)]
pub(crate) struct Cache<M> {
    parcels: BTreeMap<(StreamId, u64), Parcel<M>>,
    /// The oldest first.
    ages: VecDeque<(Timestamp, StreamId, u64)>,
    bytes: usize,
    messages_max: usize,
    bytes_max: usize,
    ttl: Duration,
}

impl<M: Body> Cache<M> {
    pub(crate) fn new(messages_max: usize, bytes_max: usize, ttl: Duration) -> Self {
        Self {
            parcels: BTreeMap::new(),
            ages: VecDeque::new(),
            bytes: 0,
            messages_max: messages_max.max(1),
            bytes_max,
            ttl,
        }
    }

    pub(crate) fn put(&mut self, now: Timestamp, parcel: Parcel<M>) {
        let (stream, number) = (parcel.stream, parcel.number);
        if self.parcels.contains_key(&(stream, number)) {
            return;
        }
        self.bytes += parcel.body.bytes();
        self.parcels.insert((stream, number), parcel);
        self.ages.push_back((now, stream, number));
        while self.is_too_much(now) {
            self.drop_oldest();
        }
    }

    pub(crate) fn get(&self, stream: StreamId, number: u64) -> Option<&Parcel<M>> {
        self.parcels.get(&(stream, number))
    }

    /// A copy came by a shorter way.
    pub(crate) fn shorten(&mut self, stream: StreamId, number: u64, hops: u32) {
        if let Some(parcel) = self.parcels.get_mut(&(stream, number)) {
            parcel.hops = hops;
        }
    }

    /// The one that was put last.
    pub(crate) fn newest(&self) -> Option<&Parcel<M>> {
        let (_, stream, number) = self.ages.back()?;
        self.get(*stream, *number)
    }

    fn is_too_much(&self, now: Timestamp) -> bool {
        let is_old = self.ages.front().is_some_and(|(at, ..)| now.since(*at) > self.ttl);
        // The newest stays, however large it is.
        let is_full = self.parcels.len() > 1 && self.bytes > self.bytes_max;
        is_old || is_full || self.parcels.len() > self.messages_max
    }

    fn drop_oldest(&mut self) {
        if let Some((_, stream, number)) = self.ages.pop_front()
            && let Some(parcel) = self.parcels.remove(&(stream, number))
        {
            self.bytes -= parcel.body.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use macula_proto::NodeId;

    use super::*;

    #[derive(Clone, Debug)]
    struct TenBytes;

    impl Body for TenBytes {
        fn bytes(&self) -> usize {
            10
        }
    }

    fn parcel(number: u64) -> Parcel<TenBytes> {
        let stream = StreamId { origin: NodeId::from_bytes([1; 32]), run: 1 };
        Parcel { stream, number, since: 1, continued: false, hops: 0, answer: false, body: TenBytes }
    }

    fn held(cache: &Cache<TenBytes>) -> Vec<u64> {
        (0..100).filter(|number| cache.get(parcel(0).stream, *number).is_some()).collect()
    }

    #[test]
    fn it_is_bounded_in_number_bytes_and_age() {
        let at = |seconds| Timestamp::from_start(Duration::from_secs(seconds));
        let mut few = Cache::new(3, 1_000, Duration::from_secs(10));
        (1..=5).for_each(|number| few.put(at(0), parcel(number)));
        assert_eq!(held(&few), [3, 4, 5]);
        few.put(at(11), parcel(6));
        assert_eq!(held(&few), [6]);
        let mut small = Cache::new(100, 25, Duration::from_secs(10));
        (1..=5).for_each(|number| small.put(at(0), parcel(number)));
        assert_eq!(held(&small), [4, 5]);
        let mut tiny = Cache::new(100, 1, Duration::from_secs(10));
        tiny.put(at(0), parcel(1));
        assert_eq!(held(&tiny), [1], "the newest stays");
    }
}
