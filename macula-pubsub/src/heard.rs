//! Messages whose header was seen before, but for its number.
//!
//! ```text
//!   header  =  realm, topic, epoch │ sequence │ content type, headers, wait
//!              └─── before ──────┘            └────────── after ─────────┘
//! ```
//!
//! A publisher's messages on one topic mostly differ in nothing else. Whoever has read such a header once, and knows whom its
//! messages go to, need not decode the next one, nor look for its subscribers, nor copy names: comparing the bytes around the
//! number is enough. Only plain messages are remembered: those for filters, groups and acknowledgements go the whole way.
//!
//! A direct-mapped table of bounded size: of two headers that fall on one place, the later one stays.

use std::sync::Arc;
use std::time::Duration;

use macula_proto::NodeId;
use parking_lot::Mutex;

use crate::local::Subscriber;
use crate::message::{Content, Envelope};
use crate::window::Place;

/// Headers remembered; a power of two.
const HEADERS_MAX: usize = 1024;
/// Longer headers are not remembered.
const HEADER_BYTES_MAX: usize = 512;

/// The number's field in [`wire::Publish`](macula_proto::wire::Publish): field 5, a varint.
const SEQUENCE_TAG: u8 = 5 << 3;

/// See the module.
#[derive(Debug)]
pub(crate) struct Heard {
    places: Mutex<Vec<Option<Arc<Known>>>>,
}

/// A header that was read once.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) from: NodeId,
    before: Box<[u8]>,
    after: Box<[u8]>,
    /// Of the subscribers, when these were looked up.
    pub(crate) generation: u64,
    pub(crate) epoch: u64,
    pub(crate) wait: Duration,
    /// Where the topic is in the window of its publisher.
    pub(crate) place: Place,
    /// Who gets the messages, and what they have in common for each.
    pub(crate) targets: Vec<(Arc<Subscriber>, Arc<Envelope>)>,
}

/// What is true of a header's messages now.
pub(crate) struct Now<'a> {
    pub(crate) wait: Duration,
    pub(crate) generation: u64,
    pub(crate) place: Place,
    pub(crate) subscribers: &'a [Arc<Subscriber>],
}

/// A header, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parts<'a> {
    before: &'a [u8],
    pub(crate) sequence: u64,
    after: &'a [u8],
}

impl Heard {
    pub(crate) fn new() -> Self {
        Self { places: Mutex::new(vec![None; HEADERS_MAX]) }
    }

    /// What is known of a header.
    pub(crate) fn find(&self, from: NodeId, parts: &Parts<'_>) -> Option<Arc<Known>> {
        let places = self.places.lock();
        let known = places[place(&from, parts)].as_ref()?;
        known.is(&from, parts).then(|| known.clone())
    }

    /// Remembers a plain message's header, as long as `is_current` says that its subscribers are still the same.
    pub(crate) fn remember(
        &self,
        parts: &Parts<'_>,
        content: &Content,
        now: Now<'_>,
        is_current: impl FnOnce(u64) -> bool,
    ) {
        let Now { wait, generation, place: place_in_window, subscribers } = now;
        if parts.before.len() + parts.after.len() > HEADER_BYTES_MAX || parts.sequence != content.sequence {
            return;
        }
        let targets = subscribers.iter().map(|subscriber| {
            let envelope = content.envelope(subscriber.id, &subscriber.want.pattern);
            (subscriber.clone(), Arc::new(envelope))
        });
        let known = Known {
            from: content.publisher,
            before: parts.before.into(),
            after: parts.after.into(),
            generation,
            epoch: content.epoch,
            wait,
            place: place_in_window,
            targets: targets.collect(),
        };
        let mut places = self.places.lock();
        if is_current(generation) {
            places[place(&content.publisher, parts)] = Some(Arc::new(known));
        }
    }

    /// Forgets everything: call it after subscribers have changed, so that those that are gone are not kept.
    pub(crate) fn clear(&self) {
        self.places.lock().fill(None);
    }
}

impl Known {
    /// The number in a header that differs from this one in nothing else.
    pub(crate) fn continued_by(&self, header: &[u8]) -> Option<u64> {
        let rest = header.strip_prefix(&*self.before)?.strip_prefix(&[SEQUENCE_TAG])?;
        let (sequence, bytes) = varint(rest)?;
        (rest[bytes..] == *self.after).then_some(sequence)
    }

    fn is(&self, from: &NodeId, parts: &Parts<'_>) -> bool {
        *self.before == *parts.before && *self.after == *parts.after && self.from == *from
    }
}

impl<'a> Parts<'a> {
    /// Takes the header of a PUBLISH apart around its sequence number; `None` if it is not written in the order of its
    /// fields, as ours are, or has others than a plain message has.
    pub(crate) fn of(header: &'a [u8]) -> Option<Self> {
        let mut at = 0;
        loop {
            let field = at;
            let tag = *header.get(at)?;
            at += 1;
            match tag {
                // Realm, topic and publisher: a length, then so many bytes.
                0x0a | 0x12 | 0x1a => {
                    let (length, bytes) = varint(header.get(at..)?)?;
                    at = at.checked_add(bytes)?.checked_add(usize::try_from(length).ok()?)?;
                }
                // Epoch.
                0x20 => at += varint(header.get(at..)?)?.1,
                SEQUENCE_TAG => {
                    let (sequence, bytes) = varint(header.get(at..)?)?;
                    let after = &header[at + bytes..];
                    return is_plain(after).then_some(Self { before: &header[..field], sequence, after });
                }
                _ => return None,
            }
        }
    }
}

/// Whether these are only content type, headers and wait.
fn is_plain(fields: &[u8]) -> bool {
    let mut at = 0;
    while let Some(tag) = fields.get(at) {
        let rest = &fields[at + 1..];
        let Some((value, bytes)) = varint(rest) else { return false };
        let length = match tag {
            0x32 | 0x3a => usize::try_from(value).unwrap_or(usize::MAX),
            0x40 => 0,
            _ => return false,
        };
        at = at.saturating_add(1 + bytes).saturating_add(length);
    }
    at == fields.len()
}

/// A varint of protobuf, and how long it is.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0;
    for (nth, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * nth);
        if byte & 0x80 == 0 {
            return Some((value, nth + 1));
        }
    }
    None
}

/// FNV-1a over what tells headers apart.
fn place(from: &NodeId, parts: &Parts<'_>) -> usize {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut mix = |word: u64| hash = (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    for part in [&from.as_bytes()[..8], parts.before, parts.after] {
        let (words, rest) = part.as_chunks::<8>();
        words.iter().for_each(|word| mix(u64::from_le_bytes(*word)));
        rest.iter().for_each(|byte| mix(u64::from(*byte)));
    }
    (hash >> 20) as usize % HEADERS_MAX
}

#[cfg(test)]
mod tests {
    use macula_proto::{FrameKind, wire};
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_header_is_taken_apart_around_its_number() {
        let header = wire::Publish {
            realm: "home".into(),
            topic: "a.b".into(),
            epoch: u64::MAX,
            sequence: 300,
            content_type: "text/plain".into(),
            wait_millis: 7,
            ..wire::Publish::default()
        };
        let (one, two) =
            (header.encode_to_vec(), wire::Publish { sequence: 1 << 40, ..header }.encode_to_vec());
        let (one, two) = (Parts::of(&one).unwrap(), Parts::of(&two).unwrap());
        assert_eq!((one.sequence, two.sequence), (300, 1 << 40));
        assert_eq!((one.before, one.after), (two.before, two.after));
        let grouped =
            wire::Publish { topic: "a".into(), sequence: 3, grouped: true, ..wire::Publish::default() };
        assert_eq!(Parts::of(&grouped.encode_to_vec()), None, "not a plain message");
        assert_eq!(FrameKind::PUBLISH.0, 24, "field numbers above are those of Publish");
    }

    proptest! {
        #[test]
        fn garbage_has_parts_or_none_and_never_panics(header: Vec<u8>) {
            if let Some(parts) = Parts::of(&header) {
                prop_assert!(parts.before.len() + parts.after.len() < header.len());
            }
        }
    }
}
