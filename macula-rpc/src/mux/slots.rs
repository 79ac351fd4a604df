//! Numbered places, used again and again under ever new numbers.

/// Things that wait, each known by a number that names nothing else afterwards: a late word about a former tenant of a
/// place is for nobody.
#[derive(Debug)]
pub(super) struct Slots<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
    /// Of the latest number drawn.
    generation: u32,
}

#[derive(Debug)]
struct Place<T> {
    number: u64,
    tenant: Option<T>,
}

impl<T> Slots<T> {
    /// Empty. Numbers differ from those of any other start that began with another `generation`, as far as one goes.
    pub(super) const fn new(generation: u32) -> Self {
        Self { places: Vec::new(), free: Vec::new(), generation }
    }

    /// Takes a place; `None` if `max` are taken.
    pub(super) fn insert(&mut self, tenant: T, max: usize) -> Option<u64> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.places.len() < max => {
                self.places.push(Place { number: 0, tenant: None });
                u32::try_from(self.places.len() - 1).ok()?
            }
            None => return None,
        };
        self.generation = self.generation.wrapping_add(1);
        let number = u64::from(self.generation) << 32 | u64::from(index);
        self.places[index as usize] = Place { number, tenant: Some(tenant) };
        Some(number)
    }

    /// Who has that very number.
    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let place = self.places.get_mut((number & u64::from(u32::MAX)) as usize)?;
        place.tenant.as_mut().filter(|_| place.number == number)
    }

    /// Gives the place back.
    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        let index = (number & u64::from(u32::MAX)) as u32;
        let place = self.places.get_mut(index as usize)?;
        if place.number != number {
            return None;
        }
        let tenant = place.tenant.take()?;
        self.free.push(index);
        Some(tenant)
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }

    /// All, with their numbers.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        self.places.iter_mut().filter_map(|place| Some((place.number, place.tenant.as_mut()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_names_one_tenant_only() {
        let mut slots = Slots::new(u32::MAX);
        let first = slots.insert("a", 2).unwrap();
        assert_eq!(slots.remove(first), Some("a"));
        let second = slots.insert("b", 2).unwrap();
        assert_ne!(first, second);
        assert_eq!(slots.get_mut(second), Some(&mut "b"));
        for stale in [first, 7, u64::MAX] {
            assert_eq!(slots.get_mut(stale), None);
            assert_eq!(slots.remove(stale), None);
        }
    }

    #[test]
    fn there_are_no_more_places_than_that() {
        let mut slots = Slots::new(0);
        let numbers: Vec<u64> = (0..3).map_while(|n| slots.insert(n, 2)).collect();
        assert_eq!(numbers.len(), 2);
        assert!(!slots.is_empty());
        assert!(numbers.iter().all(|number| slots.remove(*number).is_some()));
        assert!(slots.is_empty() && slots.insert(9, 2).is_some());
    }
}
