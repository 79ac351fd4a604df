//! At the resource: who comes with an old fencing token is refused.
//!
//! A process may be stopped for any time between seeing that it holds a lock and using what the lock protects; when it goes
//! on, somebody else may hold it. No lease helps against that, only the resource does: it remembers the largest token
//! that it saw, and refuses smaller ones.

mod file;

use std::collections::BTreeMap;
use std::convert::Infallible;

use macula_proto::Name;

use crate::objects::FencingToken;

pub use file::{Damage, FENCES_MAX, FileFences, FileFencesError};

/// The largest tokens that a resource saw under one name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// From those who had it alone.
    pub exclusive: FencingToken,
    /// From anybody.
    pub any: FencingToken,
}

/// Where the largest tokens are kept.
pub trait Fences {
    /// Why they cannot be kept.
    type Error: std::error::Error;

    /// What was seen under `name`.
    fn seen(&self, name: &Name) -> Seen;

    /// Keeps what was seen under `name`, as durable as the resource itself, before it returns.
    ///
    /// # Errors
    /// It is not certain that it is kept.
    fn keep(&mut self, name: &Name, seen: Seen) -> Result<(), Self::Error>;
}

/// Why somebody is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FenceError<E> {
    /// Somebody was granted it later, and was here already.
    #[error("`{name}`: token {given} is older than {seen}, which was here before")]
    Old {
        /// Under which name.
        name: Name,
        /// The token that came.
        given: FencingToken,
        /// The largest one that came before.
        seen: FencingToken,
    },
    /// The token cannot be kept, so it is not let in.
    #[error(transparent)]
    Keep(#[from] E),
}

/// Checks fencing tokens for a resource, such as a file, a table or a device.
///
/// Ask it at each use, in one step with the use itself: both under one lock, or in one transaction.
///
/// ```
/// use macula_platform::{FencedStore, FencingToken, MemoryFences};
/// use macula_proto::Name;
///
/// let mut gate = FencedStore::new(MemoryFences::default());
/// let inventory: Name = "inventory".parse()?;
/// let (anna, bert): (FencingToken, FencingToken) = ("0.17".parse()?, "0.23".parse()?);
///
/// gate.admit(&inventory, anna)?;
/// // Anna's process is stopped, her lease ends, and Bert is granted the lock.
/// gate.admit(&inventory, bert)?;
/// // Anna's process goes on.
/// let refused = gate.admit(&inventory, anna).unwrap_err();
/// assert_eq!(refused.to_string(), "`inventory`: token 0.17 is older than 0.23, which was here before");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct FencedStore<F> {
    fences: F,
}

impl<F: Fences> FencedStore<F> {
    /// Checks tokens against what `fences` remembers.
    pub const fn new(fences: F) -> Self {
        Self { fences }
    }

    /// Lets in who was granted `name` alone, or leads it.
    ///
    /// # Errors
    /// [`FenceError::Old`] if somebody was here whose token is larger.
    pub fn admit(&mut self, name: &Name, token: FencingToken) -> Result<(), FenceError<F::Error>> {
        let seen = self.fences.seen(name);
        self.check(name, token, seen.any)?;
        self.keep(name, seen, Seen { exclusive: token, any: token })
    }

    /// Lets in who was granted `name` together with others. Those share it in any order, but nobody comes before one who had
    /// it alone later.
    ///
    /// # Errors
    /// [`FenceError::Old`] if somebody was here who had it alone, and whose token is larger.
    pub fn admit_shared(&mut self, name: &Name, token: FencingToken) -> Result<(), FenceError<F::Error>> {
        let seen = self.fences.seen(name);
        self.check(name, token, seen.exclusive)?;
        self.keep(name, seen, Seen { any: seen.any.max(token), ..seen })
    }

    /// What was seen under `name`.
    pub fn seen(&self, name: &Name) -> Seen {
        self.fences.seen(name)
    }

    fn check(
        &self,
        name: &Name,
        given: FencingToken,
        seen: FencingToken,
    ) -> Result<(), FenceError<F::Error>> {
        match given < seen {
            true => Err(FenceError::Old { name: name.clone(), given, seen }),
            false => Ok(()),
        }
    }

    fn keep(&mut self, name: &Name, before: Seen, seen: Seen) -> Result<(), FenceError<F::Error>> {
        if seen != before {
            self.fences.keep(name, seen)?;
        }
        Ok(())
    }
}

/// Tokens in memory: for a resource that is empty after a restart as well.
#[derive(Clone, Debug, Default)]
pub struct MemoryFences {
    seen: BTreeMap<Name, Seen>,
}

impl Fences for MemoryFences {
    type Error = Infallible;

    fn seen(&self, name: &Name) -> Seen {
        self.seen.get(name).copied().unwrap_or_default()
    }

    fn keep(&mut self, name: &Name, seen: Seen) -> Result<(), Infallible> {
        self.seen.insert(name.clone(), seen);
        Ok(())
    }
}

#[cfg(test)]
#[path = "fence/fence_test.rs"]
mod tests;
