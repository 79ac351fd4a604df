//! Locks: who holds them, and who waits in line.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::answer::{Answer, Ended, Refusal, Standing};
use super::change::{Change, LockChange};
use super::command::LockMode;
use super::limits::Bounded;
use super::machine::Step;
use super::names::LockName;
use super::place::{FencingToken, RequestId, SessionId};
use super::usage::within;
use super::window::Noted;

/// All locks that somebody holds. One that nobody holds takes no memory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Locks {
    pub(super) by_name: BTreeMap<LockName, Lock>,
}

/// A lock that somebody holds: one holder alone, or several that share it. The line is strictly fair: nobody overtakes,
/// so a shared request behind an exclusive one waits although the holders share.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Lock {
    pub(super) holders: Vec<Hold>,
    pub(super) waiting: VecDeque<Wait>,
}

/// A request for a lock that was granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hold {
    pub(super) wait: Wait,
    pub(super) token: FencingToken,
}

/// A request for a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Wait {
    pub(super) session: SessionId,
    pub(super) request: RequestId,
    pub(super) mode: LockMode,
}

impl Wait {
    const fn key(&self) -> (SessionId, RequestId) {
        (self.session, self.request)
    }
}

impl Lock {
    /// Whether a request that nobody is in front of can be granted.
    fn admits(&self, mode: LockMode) -> bool {
        // Who holds it alone is the first, and who holds it with others has others of that kind.
        self.holders
            .first()
            .is_none_or(|first| (first.wait.mode, mode) == (LockMode::Shared, LockMode::Shared))
    }

    /// Whether those who hold it may do so together, and nobody waits who need not.
    pub(super) fn is_settled(&self) -> bool {
        let shared = self.holders.iter().all(|hold| hold.wait.mode == LockMode::Shared);
        let next = self.waiting.front();
        (shared || self.holders.len() == 1) && next.is_none_or(|next| !self.admits(next.mode))
    }

    fn standing(&self, session: SessionId, request: RequestId) -> Option<Standing> {
        let this = |wait: &Wait| wait.key() == (session, request);
        if let Some(hold) = self.holders.iter().find(|hold| this(&hold.wait)) {
            return Some(Standing::Granted(hold.token));
        }
        let ahead = self.waiting.iter().position(this)?;
        Some(Standing::Waiting { ahead: ahead as u64 })
    }
}

impl Locks {
    pub(super) fn acquire(
        &mut self,
        step: &mut Step<'_>,
        name: LockName,
        wanted: Wait,
        may_wait: bool,
    ) -> Result<Answer, Refusal> {
        let mine = step.sessions.of(wanted.session, step.by)?;
        let noted = mine.window.note(wanted.request);
        let known = mine.locks.contains(&(name.clone(), wanted.request));
        let lock = self.by_name.get(&name).filter(|_| known);
        let there = lock.and_then(|lock| lock.standing(wanted.session, wanted.request));
        match (there, noted) {
            (Some(standing), _) => Ok(Answer::Standing(standing)),
            (None, Noted::New) => self.enter(step, name, wanted, may_wait),
            (None, Noted::Again) => Err(Refusal::RequestOver(wanted.request)),
            (None, Noted::Late) => Err(Refusal::RequestLate(wanted.request)),
        }
    }

    fn enter(
        &mut self,
        step: &mut Step<'_>,
        name: LockName,
        wanted: Wait,
        may_wait: bool,
    ) -> Result<Answer, Refusal> {
        let lock = self.by_name.get(&name);
        let free = lock.is_none_or(|lock| lock.waiting.is_empty() && lock.admits(wanted.mode));
        if !free && !may_wait {
            return Ok(Answer::Standing(Standing::Busy));
        }
        let there = lock.map_or(0, |lock| lock.holders.len() + lock.waiting.len());
        within(Bounded::Waiters, there + 1, step.limits.waiters)?;
        step.sessions.usage.take_place(step.by, 0, step.limits)?;
        let name = self.by_name.get_key_value(&name).map_or(name, |(known, _)| known.clone());
        step.sessions.of(wanted.session, step.by)?.locks.insert((name.clone(), wanted.request));
        let lock = self.by_name.entry(name.clone()).or_default();
        if free {
            grant(step, &name, lock, wanted);
            return Ok(Answer::Standing(Standing::Granted(step.token)));
        }
        lock.waiting.push_back(wanted);
        Ok(Answer::Standing(Standing::Waiting { ahead: lock.waiting.len() as u64 - 1 }))
    }

    /// Ends a request, or only one that waits.
    pub(super) fn release(
        &mut self,
        step: &mut Step<'_>,
        name: &LockName,
        (session, request): (SessionId, RequestId),
        waiting_only: bool,
    ) -> Result<Answer, Refusal> {
        let mine = step.sessions.of(session, step.by)?;
        // An acquisition with this number that is still under way must not begin anew what ends here.
        mine.window.note(request);
        let standing = self.by_name.get(name).and_then(|lock| lock.standing(session, request));
        let ended = match standing {
            Some(Standing::Granted(token)) if waiting_only => {
                return Ok(Answer::Standing(Standing::Granted(token)));
            }
            Some(Standing::Granted(_)) => Ended::Held,
            Some(Standing::Waiting { .. }) => Ended::Waited,
            Some(Standing::Busy) | None => return Ok(Answer::Ended(Ended::Nothing)),
        };
        mine.locks.remove(&(name.clone(), request));
        self.remove(step, name, |wait| wait.key() == (session, request));
        Ok(Answer::Ended(ended))
    }

    /// Takes all sessions in `gone` out of all locks that they hold or wait for.
    pub(super) fn end(&mut self, step: &mut Step<'_>, gone: &BTreeSet<SessionId>) {
        let of_session = |id| step.sessions.open.get(id).map(|session| &session.locks);
        let places = gone.iter().filter_map(of_session).flatten();
        let names: BTreeSet<LockName> = places.map(|(name, _)| name.clone()).collect();
        for name in names {
            self.remove(step, &name, |wait| gone.contains(&wait.session));
        }
    }

    fn remove(&mut self, step: &mut Step<'_>, name: &LockName, gone: impl Fn(&Wait) -> bool) {
        let Some(lock) = self.by_name.get_mut(name) else { return };
        let mut over = Vec::new();
        lock.holders.retain(|hold| {
            let stays = !gone(&hold.wait);
            if !stays {
                over.push((hold.wait, LockChange::Released));
            }
            stays
        });
        lock.waiting.retain(|wait| {
            let stays = !gone(wait);
            if !stays {
                over.push((*wait, LockChange::Withdrawn));
            }
            stays
        });
        for (wait, change) in over {
            step.sessions.free_place(wait.session, 0);
            tell(step, name, wait, change);
        }
        while let Some(next) = lock.waiting.front().copied().filter(|next| lock.admits(next.mode)) {
            lock.waiting.pop_front();
            grant(step, name, lock, next);
        }
        if lock.holders.is_empty() {
            self.by_name.remove(name);
        }
    }
}

fn grant(step: &mut Step<'_>, name: &LockName, lock: &mut Lock, wait: Wait) {
    lock.holders.push(Hold { wait, token: step.token });
    tell(step, name, wait, LockChange::Granted { mode: wait.mode, token: step.token });
}

fn tell(step: &mut Step<'_>, name: &LockName, wait: Wait, change: LockChange) {
    let (at, lock) = (step.token.index, name.clone());
    step.out.changes.push(Change::Lock { at, lock, session: wait.session, request: wait.request, change });
}
