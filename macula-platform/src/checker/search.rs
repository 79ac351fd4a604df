//! The search for an order: Wing and Gong's, with Lowe's memory.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

use super::failure::Stuck;
use super::history::Operation;
use super::model::Model;

/// How much of the best order is told.
const TOLD: usize = 8;

/// Looks for an order of `operations` that the model allows. Gives the number of steps that it took.
///
/// What was tried is remembered as the operations done and the state reached. Of those that ended, a sum of pseudo-random
/// numbers is kept, one an operation, with 128 bits: two different sets with the same sum would make the search skip an order
/// that it has not tried, which can raise a false alarm once in 2^90 histories, and never hide a true one.
///
/// Operations that did not end are the dear ones, since each may be left out. They come only where nothing else can, only if
/// they change the state, the earliest of equal ones first; and whoever reaches with more of them what was reached with
/// fewer has gained nothing.
pub(super) fn search<M: Model>(
    operations: &[Operation<M::Call, M::Return>],
    model: M,
    steps_max: u64,
) -> Result<u64, Stuck<M>> {
    Search::new(operations, model).run(steps_max)
}

/// The same order for the same content, as everywhere here.
type Map<K, V> = HashMap<K, V, BuildHasherDefault<DefaultHasher>>;

/// A set of operations that did not end, one bit each.
type Opened = Box<[u64]>;

struct Search<'a, M: Model> {
    operations: &'a [Operation<M::Call, M::Return>],
    model: M,
    /// Beginnings and ends of operations that ended, by time.
    ended: List,
    /// Beginnings of the others.
    open: List,
    /// By place in `ended` or `open`: the operation, and whether it is its end.
    marks: Vec<Mark>,
    /// The place of an operation's end.
    ends: Vec<usize>,
    state: M::State,
    done: u128,
    /// Operations that ended, and are not done yet.
    missing: usize,
    /// Places that were taken out, and the state before each.
    order: Vec<(usize, M::State)>,
    /// By what is done of the operations that ended, and the state: the smallest sets of others that led there.
    tried: Map<(u128, M::State), Vec<Opened>>,
    /// Which of the operations that did not end took effect, one bit each.
    opened: Opened,
    /// By place: which bit it is, and the bit of the one before it with an equal call.
    bits: Map<usize, (usize, Option<usize>)>,
    best: Option<Stuck<M>>,
    best_place: usize,
}

#[derive(Clone, Copy)]
struct Mark {
    operation: usize,
    is_end: bool,
    is_open: bool,
}

/// Where the search goes on.
enum Next {
    /// With the operations that ended, from this place on.
    Ended(usize),
    /// With those that did not, from this place on, as far as they began before the place `before`.
    Open {
        from: usize,
        before: usize,
    },
    Back,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(operations: &'a [Operation<M::Call, M::Return>], model: M) -> Self {
        let mut times: Vec<(u64, bool, usize)> = Vec::with_capacity(operations.len() * 2);
        for (index, operation) in operations.iter().enumerate() {
            times.push((operation.invoked, false, index));
            times.extend(operation.returned.as_ref().map(|returned| (returned.time, true, index)));
        }
        times.sort_unstable();
        let mark = |&(_, is_end, operation): &(u64, bool, usize)| {
            let is_open = operations[operation].returned.is_none();
            Mark { operation, is_end, is_open }
        };
        // Place 0 is in front of all.
        let nothing = Mark { operation: 0, is_end: false, is_open: false };
        let marks: Vec<Mark> = std::iter::once(nothing).chain(times.iter().map(mark)).collect();
        let mut ends = vec![0; operations.len()];
        marks
            .iter()
            .enumerate()
            .filter(|(_, mark)| mark.is_end)
            .for_each(|(place, mark)| ends[mark.operation] = place);
        let places =
            |open: bool| marks.iter().enumerate().skip(1).filter(move |(_, mark)| mark.is_open == open);
        let bits = bits_of(operations, places(true).map(|(place, mark)| (place, mark.operation)));
        Self {
            ended: List::new(marks.len(), places(false).map(|(place, _)| place)),
            open: List::new(marks.len(), places(true).map(|(place, _)| place)),
            missing: operations.iter().filter(|operation| operation.returned.is_some()).count(),
            state: model.start(),
            operations,
            model,
            marks,
            ends,
            done: 0,
            order: Vec::new(),
            tried: Map::default(),
            opened: vec![0; bits.len().div_ceil(64)].into(),
            bits,
            best: None,
            best_place: 0,
        }
    }

    fn run(mut self, steps_max: u64) -> Result<u64, Stuck<M>> {
        let mut steps = 0;
        let mut next = Next::Ended(self.ended.first());
        while self.missing > 0 {
            steps += 1;
            if steps > steps_max {
                let best = self.best.take().unwrap_or_else(|| self.stuck(self.ended.first()));
                return Err(Stuck { undecided: true, ..best });
            }
            next = match next {
                Next::Ended(place) if self.marks[place].is_end => {
                    self.note(place);
                    Next::Open { from: self.open.first(), before: place }
                }
                Next::Ended(place) => match self.take(place) {
                    true => Next::Ended(self.ended.first()),
                    false => Next::Ended(self.ended.after(place)),
                },
                Next::Open { from, before } if from != 0 && from < before => match self.take(from) {
                    true => Next::Ended(self.ended.first()),
                    false => Next::Open { from: self.open.after(from), before },
                },
                Next::Open { .. } => Next::Back,
                Next::Back => match self.put_back() {
                    Some(next) => next,
                    None => return Err(self.best.take().unwrap_or_else(|| self.stuck(self.ended.first()))),
                },
            };
        }
        Ok(steps)
    }

    /// Lets the operation that begins at `place` take effect now, if the model allows it and it leads somewhere new.
    fn take(&mut self, place: usize) -> bool {
        let mark = self.marks[place];
        let operation = &self.operations[mark.operation];
        let value = operation.returned.as_ref().map(|returned| &returned.value);
        let Some(state) = self.model.step(&self.state, &operation.call, value) else { return false };
        if mark.is_open && (state == self.state || !self.open_bit(place)) {
            return false;
        }
        let done = if mark.is_open { self.done } else { self.done.wrapping_add(weight(mark.operation)) };
        if !is_new(self.tried.entry((done, state.clone())).or_default(), &self.opened) {
            self.close_bit(place);
            return false;
        }
        self.order.push((place, std::mem::replace(&mut self.state, state)));
        self.done = done;
        if mark.is_open {
            self.open.take(place);
        } else {
            self.ended.take(place);
            self.ended.take(self.ends[mark.operation]);
            self.missing -= 1;
        }
        true
    }

    /// Undoes the last one, and goes on behind it.
    fn put_back(&mut self) -> Option<Next> {
        let (place, state) = self.order.pop()?;
        let mark = self.marks[place];
        self.state = state;
        if mark.is_open {
            self.close_bit(place);
            self.open.put_back(place);
            return Some(Next::Open { from: self.open.after(place), before: self.first_end() });
        }
        self.done = self.done.wrapping_sub(weight(mark.operation));
        self.ended.put_back(self.ends[mark.operation]);
        self.ended.put_back(place);
        self.missing += 1;
        Some(Next::Ended(self.ended.after(place)))
    }

    /// Notes that an operation that did not end takes effect, unless an equal one that began before is left.
    fn open_bit(&mut self, place: usize) -> bool {
        let Some((bit, twin)) = self.bits.get(&place).copied() else { return false };
        if twin.is_some_and(|twin| self.opened[twin / 64] >> (twin % 64) & 1 == 0) {
            return false;
        }
        self.opened[bit / 64] |= 1 << (bit % 64);
        true
    }

    fn close_bit(&mut self, place: usize) {
        if let Some((bit, _)) = self.bits.get(&place) {
            self.opened[bit / 64] &= !(1 << (bit % 64));
        }
    }

    fn first_end(&self) -> usize {
        let mut place = self.ended.first();
        while !self.marks[place].is_end {
            place = self.ended.after(place);
        }
        place
    }

    /// Remembers the order that got furthest: the one that is stuck at the latest end.
    fn note(&mut self, place: usize) {
        if place > self.best_place {
            self.best_place = place;
            self.best = Some(self.stuck(place));
        }
    }

    fn stuck(&self, place: usize) -> Stuck<M> {
        let operation = |place: &usize| self.marks[*place].operation;
        let mut window: Vec<usize> = self.ended.until(place).chain(self.open.until(place)).collect();
        window.retain(|place| !self.marks[*place].is_end);
        let from = self.order.len().saturating_sub(TOLD);
        Stuck {
            at: operation(&place),
            done: self.order.len(),
            last_done: self.order[from..].iter().map(|(place, _)| operation(place)).collect(),
            state: self.state.clone(),
            window: window.iter().map(operation).collect(),
            undecided: false,
        }
    }
}

/// Places in order, of which some are taken out and put back in the opposite order. Place 0 is its end.
struct List {
    after: Vec<usize>,
    before: Vec<usize>,
}

impl List {
    fn new(len: usize, places: impl Iterator<Item = usize>) -> Self {
        let mut list = Self { after: vec![0; len], before: vec![0; len] };
        let mut last = 0;
        for place in places {
            list.after[last] = place;
            list.before[place] = last;
            last = place;
        }
        list.before[0] = last;
        list
    }

    fn first(&self) -> usize {
        self.after[0]
    }

    fn after(&self, place: usize) -> usize {
        self.after[place]
    }

    fn take(&mut self, place: usize) {
        let (before, after) = (self.before[place], self.after[place]);
        self.after[before] = after;
        self.before[after] = before;
    }

    fn put_back(&mut self, place: usize) {
        let (before, after) = (self.before[place], self.after[place]);
        self.after[before] = place;
        self.before[after] = place;
    }

    /// The places before `end`.
    fn until(&self, end: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(self.first()), |place| Some(self.after(*place)))
            .take_while(move |place| *place != 0 && *place < end)
    }
}

/// Numbers the operations that did not end, and finds for each the last one before it with an equal call.
fn bits_of<C: PartialEq, R>(
    operations: &[Operation<C, R>],
    open: impl Iterator<Item = (usize, usize)>,
) -> Map<usize, (usize, Option<usize>)> {
    let mut calls: Vec<&C> = Vec::new();
    let mut bits = Map::default();
    for (bit, (place, operation)) in open.enumerate() {
        let call = &operations[operation].call;
        bits.insert(place, (bit, calls.iter().rposition(|before| *before == call)));
        calls.push(call);
    }
    bits
}

/// Whether no subset of `opened` is among `known`, which then takes it in instead of all that it is a subset of.
fn is_new(known: &mut Vec<Opened>, opened: &[u64]) -> bool {
    let within =
        |small: &[u64], large: &[u64]| small.iter().zip(large).all(|(small, large)| small & !large == 0);
    if known.iter().any(|known| within(known, opened)) {
        return false;
    }
    known.retain(|known| !within(opened, known));
    known.push(opened.into());
    true
}

/// A pseudo-random number for an operation (SplitMix64, twice).
fn weight(operation: usize) -> u128 {
    let mix = |seed: u64| {
        let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let seed = operation as u64 * 2;
    u128::from(mix(seed)) << 64 | u128::from(mix(seed + 1))
}
