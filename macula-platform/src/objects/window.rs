//! Which requests of a session have been made.

use std::collections::VecDeque;

use super::place::RequestId;

/// Numbers in one word.
const WORD: u64 = 64;

/// Most words. A number that is 4,096 and more below the highest one is not known any more, unless all below it have come.
const WORDS_MAX: usize = 64;

/// The requests of one session that have come, one by one, so that they may overtake each other by thousands. A number is
/// noted once, whatever came of it. Requests in order take no more than a word.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RequestWindow {
    /// The first number that `seen` has a bit for; a multiple of 64.
    from: u64,
    /// Of the numbers below this one, it is not known which have come. Of those from here to `from`, all have.
    late: u64,
    /// Whether numbers have come, from `from` on. The first word is not full, the last one not empty.
    seen: VecDeque<u64>,
}

/// What noting a number found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Noted {
    /// It comes for the first time.
    New,
    /// It came before.
    Again,
    /// It is too far below the highest to tell.
    Late,
}

impl Default for RequestWindow {
    /// Nothing has come; sessions count from 1, so 0 never comes.
    fn default() -> Self {
        Self { from: 0, late: 0, seen: VecDeque::from([1]) }
    }
}

impl RequestWindow {
    pub(super) fn note(&mut self, RequestId(number): RequestId) -> Noted {
        if number < self.late {
            return Noted::Late;
        }
        if number < self.from {
            return Noted::Again;
        }
        self.reach(number);
        let at = number - self.from;
        let (word, bit) = ((at / WORD) as usize, 1 << (at % WORD));
        let noted = if self.seen[word] & bit == 0 { Noted::New } else { Noted::Again };
        self.seen[word] |= bit;
        while self.seen.front() == Some(&u64::MAX) {
            self.seen.pop_front();
            self.from = self.from.saturating_add(WORD);
        }
        noted
    }

    /// Makes room for `number`, and forgets what is too far below it.
    fn reach(&mut self, number: u64) {
        let lowest = (number / WORD).saturating_sub(WORDS_MAX as u64 - 1) * WORD;
        if lowest > self.from {
            let gone = usize::try_from((lowest - self.from) / WORD).unwrap_or(usize::MAX);
            self.seen.drain(..gone.min(self.seen.len()));
            (self.from, self.late) = (lowest, lowest);
        }
        let words = ((number - self.from) / WORD) as usize + 1;
        if self.seen.len() < words {
            self.seen.resize(words, 0);
        }
    }

    /// Where it begins, what is too late, and its words.
    pub(super) fn parts(&self) -> (u64, u64, Vec<u8>) {
        (self.from, self.late, self.seen.iter().flat_map(|word| word.to_be_bytes()).collect())
    }

    /// Puts together what [`parts`](Self::parts) gives. `None` for all else.
    pub(super) fn from_parts(from: u64, late: u64, seen: &[u8]) -> Option<Self> {
        let (words, rest) = seen.as_chunks::<8>();
        let seen: VecDeque<u64> = words.iter().map(|word| u64::from_be_bytes(*word)).collect();
        let whole = rest.is_empty() && seen.len() <= WORDS_MAX && from.is_multiple_of(WORD) && late <= from;
        let trimmed = seen.front() != Some(&u64::MAX) && seen.back() != Some(&0);
        (whole && trimmed).then_some(Self { from, late, seen })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_is_new_once_and_late_after_thousands() {
        let mut window = RequestWindow::default();
        let mut note = |number| window.note(RequestId(number));
        assert_eq!(note(0), Noted::Again);
        assert_eq!((note(1), note(1)), (Noted::New, Noted::Again));
        assert_eq!((note(4095), note(2), note(2)), (Noted::New, Noted::New, Noted::Again));
        assert_eq!((note(4096), note(63), note(64)), (Noted::New, Noted::Late, Noted::New));
        assert_eq!((note(u64::MAX), note(u64::MAX), note(4097)), (Noted::New, Noted::Again, Noted::Late));
    }

    #[test]
    fn requests_in_order_take_no_room_and_are_known_for_ever() {
        let mut window = RequestWindow::default();
        assert!((1..100_000).all(|number| window.note(RequestId(number)) == Noted::New));
        assert_eq!(window.seen.len(), 1);
        assert_eq!(window.note(RequestId(7)), Noted::Again);
    }

    proptest! {
        #[test]
        fn it_remembers_as_a_set_does(numbers in vec(prop_oneof![0..300u64, 0..20_000u64], 0..300)) {
            let (mut window, mut seen, mut late) = (RequestWindow::default(), BTreeSet::from([0]), 0);
            for number in numbers {
                let expected = match (number < late, seen.contains(&number)) {
                    (true, _) => Noted::Late,
                    (false, true) => Noted::Again,
                    (false, false) => Noted::New,
                };
                prop_assert_eq!(window.note(RequestId(number)), expected, "{}", number);
                seen.insert(number);
                // What is far below is forgotten, unless all below has come.
                let lowest = (number / 64).saturating_sub(63) * 64;
                if (late..lowest).any(|number| !seen.contains(&number)) {
                    late = late.max(lowest);
                }
                let (from, late, words) = window.parts();
                prop_assert_eq!(RequestWindow::from_parts(from, late, &words), Some(window.clone()));
            }
        }
    }
}
