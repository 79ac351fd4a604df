//! Answers that a caller's node keeps, of procedures whose providers say for how long theirs are good.
//!
//! Pure: time is a parameter. Bounded in entries and bytes; the least recently used answer goes first. An answer's age is
//! counted from when its call began, so it is never given for longer after its handler ran than its provider said.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use macula_proto::Timestamp;

use crate::registry::Procedure;
use crate::{CallRequest, Headers, Reply};

/// What an entry takes besides the bytes of request and answer, roughly.
const ENTRY_OVERHEAD_BYTES: usize = 512;

/// An answer that takes more than this share of the room is not kept: it would cost too many others.
const SHARE_MAX: usize = 8;

/// The room that answers may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) entries: usize,
    /// Requests and answers together.
    pub(crate) bytes: usize,
}

/// Everything that an answer may depend on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Question {
    procedure: Procedure,
    payload: Bytes,
    content_type: String,
    headers: Headers,
}

/// Kept answers.
#[derive(Debug)]
pub(crate) struct Cache {
    answers: BTreeMap<Arc<Question>, Kept>,
    /// By when they were last used.
    uses: BTreeMap<u64, Arc<Question>>,
    next_use: u64,
    bytes: usize,
    room: Room,
}

#[derive(Debug)]
struct Kept {
    reply: Reply,
    asked: Timestamp,
    until: Timestamp,
    used: u64,
    bytes: usize,
}

impl Question {
    pub(crate) fn of(request: &CallRequest) -> Self {
        Self {
            procedure: Procedure { realm: request.realm.clone(), name: request.procedure.clone() },
            payload: request.payload.clone(),
            content_type: request.content_type.clone(),
            headers: request.headers.clone(),
        }
    }

    fn bytes(&self) -> usize {
        self.payload.len() + self.content_type.len() + bytes_of(&self.headers)
    }
}

impl Cache {
    pub(crate) const fn new(room: Room) -> Self {
        Self { answers: BTreeMap::new(), uses: BTreeMap::new(), next_use: 0, bytes: 0, room }
    }

    /// The answer to a question, with its age, if one is kept that is still good.
    pub(crate) fn get(&mut self, question: &Question, now: Timestamp) -> Option<Reply> {
        let kept = self.answers.get_mut(question)?;
        if kept.until <= now {
            self.remove(question);
            return None;
        }
        if let Some(question) = self.uses.remove(&kept.used) {
            kept.used = self.next_use;
            self.uses.insert(self.next_use, question);
            self.next_use += 1;
        }
        Some(Reply { age: Some(now - kept.asked), ..kept.reply.clone() })
    }

    /// Keeps the answer to a question that was asked at `asked`, in place of an earlier one. Returns how many others had
    /// to go for it, or `None` if it is not kept.
    pub(crate) fn put(
        &mut self,
        question: Question,
        reply: &Reply,
        asked: Timestamp,
        good_for: Duration,
        now: Timestamp,
    ) -> Option<u64> {
        self.remove(&question);
        let until = asked + good_for;
        let bytes = ENTRY_OVERHEAD_BYTES
            + question.bytes()
            + reply.payload.len()
            + reply.content_type.len()
            + bytes_of(&reply.headers);
        if until <= now || bytes > self.room.bytes / SHARE_MAX || self.room.entries == 0 {
            return None;
        }
        let mut evicted = 0;
        while self.bytes + bytes > self.room.bytes || self.answers.len() >= self.room.entries {
            let oldest = self.uses.first_key_value().map(|(_, question)| question.clone())?;
            self.remove(&oldest);
            evicted += 1;
        }
        let question = Arc::new(question);
        let kept = Kept { reply: reply.clone(), asked, until, used: self.next_use, bytes };
        self.uses.insert(self.next_use, question.clone());
        self.answers.insert(question, kept);
        self.next_use += 1;
        self.bytes += bytes;
        Some(evicted)
    }

    /// Forgets what is no longer good.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        let over: Vec<_> = self.answers.iter().filter(|(_, kept)| kept.until <= now).collect();
        let over: Vec<_> = over.into_iter().map(|(question, _)| question.clone()).collect();
        over.iter().for_each(|question| self.remove(question));
    }

    pub(crate) fn len(&self) -> usize {
        self.answers.len()
    }

    /// Room that is taken.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    fn remove(&mut self, question: &Question) {
        if let Some(kept) = self.answers.remove(question) {
            self.uses.remove(&kept.used);
            self.bytes -= kept.bytes;
        }
    }
}

fn bytes_of(headers: &Headers) -> usize {
    headers.iter().map(|(name, value)| name.len() + value.len()).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOM: Room = Room { entries: 4, bytes: 40_000 };
    const MINUTE: Duration = Duration::from_secs(60);

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_secs(secs))
    }

    fn question(payload: &str) -> Question {
        Question::of(&CallRequest::new("p".parse().unwrap()).payload(payload.to_owned()))
    }

    #[test]
    fn an_answer_is_good_from_its_call_on_for_as_long_as_was_said() {
        let mut cache = Cache::new(ROOM);
        assert_eq!(cache.put(question("a"), &"1".into(), at(10), MINUTE, at(15)), Some(0));
        let kept = cache.get(&question("a"), at(69)).unwrap();
        assert_eq!((kept.payload.as_ref(), kept.age), (&b"1"[..], Some(Duration::from_secs(59))));
        assert_eq!(cache.get(&question("a"), at(70)), None);
        assert_eq!((cache.len(), cache.bytes()), (0, 0));
        assert_eq!(cache.put(question("a"), &"1".into(), at(10), MINUTE, at(70)), None, "too late to keep");
    }

    #[test]
    fn every_part_of_a_question_counts() {
        let base = || CallRequest::new("p".parse().unwrap()).payload("x");
        let others = [
            base().realm("other".parse().unwrap()),
            CallRequest::new("q".parse().unwrap()).payload("x"),
            base().payload("y"),
            base().content_type("text/plain"),
            base().header("as", "admin"),
        ];
        let mut cache = Cache::new(ROOM);
        cache.put(Question::of(&base()), &"1".into(), at(0), MINUTE, at(0));
        for other in others {
            assert_eq!(cache.get(&Question::of(&other), at(1)), None, "{other:?}");
        }
        assert!(
            cache.get(&Question::of(&base().timeout(MINUTE)), at(1)).is_some(),
            "how it is asked does not"
        );
    }

    #[test]
    fn the_least_recently_used_goes_and_the_huge_does_not_come() {
        let mut cache = Cache::new(ROOM);
        for name in ["a", "b", "c", "d"] {
            cache.put(question(name), &"1".into(), at(0), MINUTE, at(0));
        }
        assert!(cache.get(&question("a"), at(1)).is_some());
        assert_eq!(cache.put(question("e"), &"1".into(), at(1), MINUTE, at(1)), Some(1));
        assert_eq!(cache.get(&question("b"), at(1)), None);
        assert!(cache.get(&question("a"), at(1)).is_some());
        let huge = Reply::new(vec![0; 5_001]);
        assert_eq!(cache.put(question("f"), &huge, at(1), MINUTE, at(1)), None);
        assert_eq!(cache.len(), 4);
        cache.expire(at(61));
        assert_eq!((cache.len(), cache.bytes()), (0, 0));
    }

    proptest! {
        #[test]
        fn the_room_is_never_exceeded_and_what_is_given_is_true(
            steps in prop::collection::vec((0u8..9, 0usize..6_000, 0u64..20, any::<bool>()), 1..60)
        ) {
            let mut cache = Cache::new(ROOM);
            let mut model = BTreeMap::new();
            for (now, (name, bytes, good_for, puts)) in steps.into_iter().enumerate() {
                let (now, name) = (at(now as u64), name.to_string());
                if puts {
                    let (reply, good_for) = (Reply::new(vec![1; bytes]), Duration::from_secs(good_for));
                    cache.put(question(&name), &reply, now, good_for, now);
                    model.insert(name, (bytes, now + good_for));
                } else if let Some(reply) = cache.get(&question(&name), now) {
                    let (bytes, until) = model[&name];
                    prop_assert!(reply.payload.len() == bytes && now < until);
                }
                prop_assert!(cache.len() <= ROOM.entries && cache.bytes() <= ROOM.bytes);
                prop_assert_eq!(cache.uses.len(), cache.answers.len());
                prop_assert_eq!(cache.answers.values().map(|kept| kept.bytes).sum::<usize>(), cache.bytes());
            }
        }
    }
}
