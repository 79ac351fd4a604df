//! Which requests of a session have been made.

use super::place::RequestId;

/// The requests of one session that have come: all numbers down to 64 below the highest are known one by one, so that
/// requests may overtake each other by that much. A number is noted once, whatever came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RequestWindow {
    highest: u64,
    /// Bit `n` says whether `highest - n` has come.
    seen: u64,
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
    /// Nothing has come; sessions count from 1.
    fn default() -> Self {
        Self { highest: 0, seen: 1 }
    }
}

impl RequestWindow {
    pub(super) fn note(&mut self, RequestId(number): RequestId) -> Noted {
        if let Some(above) = number.checked_sub(self.highest).filter(|above| *above > 0) {
            let shift = u32::try_from(above).unwrap_or(u32::MAX);
            self.seen = self.seen.checked_shl(shift).unwrap_or(0) | 1;
            self.highest = number;
            return Noted::New;
        }
        let below = self.highest - number;
        if below >= u64::from(u64::BITS) {
            return Noted::Late;
        }
        let bit = 1 << below;
        let noted = if self.seen & bit == 0 { Noted::New } else { Noted::Again };
        self.seen |= bit;
        noted
    }

    pub(super) const fn parts(self) -> (u64, u64) {
        (self.highest, self.seen)
    }

    pub(super) const fn from_parts(highest: u64, seen: u64) -> Self {
        Self { highest, seen }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_is_new_once_and_late_after_sixty_four() {
        let mut window = RequestWindow::default();
        let mut note = |number| window.note(RequestId(number));
        assert_eq!(note(0), Noted::Again);
        assert_eq!((note(1), note(1)), (Noted::New, Noted::Again));
        assert_eq!((note(64), note(2), note(2)), (Noted::New, Noted::New, Noted::Again));
        assert_eq!(note(65), Noted::New);
        assert_eq!((note(1), note(2), note(3)), (Noted::Late, Noted::Again, Noted::New));
        assert_eq!((note(u64::MAX), note(u64::MAX), note(65)), (Noted::New, Noted::Again, Noted::Late));
    }

    proptest! {
        #[test]
        fn it_remembers_as_a_set_does(numbers in vec(0..300u64, 0..200)) {
            let (mut window, mut seen) = (RequestWindow::default(), BTreeSet::from([0]));
            for number in numbers {
                let highest = seen.last().copied().unwrap_or(0u64);
                let expected = match (highest.saturating_sub(number) >= 64, seen.contains(&number)) {
                    (true, _) => Noted::Late,
                    (false, true) => Noted::Again,
                    (false, false) => Noted::New,
                };
                prop_assert_eq!(window.note(RequestId(number)), expected, "{}", number);
                if expected == Noted::New {
                    seen.insert(number);
                }
            }
        }
    }
}
