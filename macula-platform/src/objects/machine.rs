//! The replicated state machine: commands in, answers and effects out.

use std::collections::BTreeSet;

use macula_proto::{NodeId, UnixMillis};

use super::answer::{Answer, Ended, Refusal};
use super::change::{Change, Effects, SessionChange};
use super::codec::millis;
use super::command::{Command, Request};
use super::election::{Candidate, Elections};
use super::limits::{Bounded, EXPIRE_MAX, Limits};
use super::lock::{Locks, Wait};
use super::log::{Append, Logs};
use super::place::{Epoch, FencingToken, LogIndex, Nonce, SessionId, WriterId};
use super::session::{Session, Sessions};
use super::window::RequestWindow;

/// Sessions, elections, locks and logs of one realm: what a group replicates.
///
/// It is a function of the commands and their places alone. Whoever holds it calls [`apply`](Self::apply) with each
/// committed command in order, and takes or restores snapshots ([`encode`](Self::encode), [`decode`](Self::decode)).
///
/// ```
/// use std::time::Duration;
/// use macula_platform::{Answer, Command, Effects, LogIndex, Nonce, Objects, Request, RequestId, Standing};
/// use macula_proto::{NodeId, UnixMillis};
///
/// let (mut objects, mut effects) = (Objects::default(), Effects::default());
/// let anna = NodeId::from_bytes([1; 32]);
/// let mut ask = |index, request| {
///     objects.apply(LogIndex(index), Command::Asked { by: anna, stamp: UnixMillis(0), request }, &mut effects)
/// };
///
/// let open = Request::OpenSession { nonce: Nonce(7), ttl: Duration::from_secs(1) };
/// let Answer::SessionOpened { session, .. } = ask(1, open) else { panic!("refused") };
/// let campaign = Request::Campaign {
///     session,
///     election: "matchmaking".parse()?,
///     request: RequestId(1),
///     value: "anna:4000".into(),
/// };
/// let Answer::Standing(Standing::Granted(token)) = ask(2, campaign) else { panic!("not granted") };
/// assert_eq!(token.to_string(), "0.2", "where in the log it was granted");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Objects {
    pub(super) limits: Limits,
    /// The place of the last command.
    pub(super) last: FencingToken,
    /// Leases of before a recovery may still be valid, so that no session is opened.
    pub(super) recovering: bool,
    pub(super) sessions: Sessions,
    pub(super) elections: Elections,
    pub(super) locks: Locks,
    pub(super) logs: Logs,
}

/// One command at work: its place, who asked, and what it may touch beside its object.
pub(super) struct Step<'a> {
    pub(super) token: FencingToken,
    pub(super) by: NodeId,
    pub(super) sessions: &'a mut Sessions,
    pub(super) limits: &'a Limits,
    pub(super) out: &'a mut Effects,
}

impl Step<'_> {
    pub(super) const fn place(&self) -> WriterId {
        WriterId::new(self.token.epoch, self.token.index)
    }
}

impl Default for Objects {
    fn default() -> Self {
        Self::with_limits(Limits::ALL)
    }
}

impl Objects {
    /// Nothing yet, with other limits than those that all groups use. For tests: all voters must have the same.
    pub fn with_limits(limits: Limits) -> Self {
        let (last, recovering, sessions, elections) = Default::default();
        let (locks, logs) = Default::default();
        Self { limits, last, recovering, sessions, elections, locks, logs }
    }

    /// Carries out the command at index `at`, which is larger than that of any command before (in the same epoch), and at
    /// least 1. Effects are appended to `out`. A command that is refused has no effects.
    pub fn apply(&mut self, at: LogIndex, command: Command, out: &mut Effects) -> Answer {
        if let Command::RaiseEpoch { epoch } = command {
            return self.raise_epoch(at, epoch, out).unwrap_or_else(Answer::Refused);
        }
        if at <= self.last.index {
            return Refusal::IndexPast { given: at, last: self.last.index }.into();
        }
        self.last.index = at;
        let answer = match command {
            Command::Asked { by, stamp, request } => self.ask(by, stamp, request, out),
            Command::Expire { sessions } => self.expire(&sessions, out),
            Command::Trim { stamp } => {
                self.logs.see(stamp);
                let (_, _, logs, mut step) = self.parts(NOBODY, out);
                logs.trim(&mut step);
                Ok(Answer::Done)
            }
            Command::Resume { epoch } => {
                self.recovering &= epoch != self.last.epoch;
                Ok(Answer::Done)
            }
            Command::RaiseEpoch { .. } => Ok(Answer::Done),
        };
        answer.unwrap_or_else(Answer::Refused)
    }

    fn ask(
        &mut self,
        by: NodeId,
        stamp: UnixMillis,
        request: Request,
        out: &mut Effects,
    ) -> Result<Answer, Refusal> {
        request.check()?;
        match request {
            Request::OpenSession { nonce, ttl } => return self.open_session(by, nonce, millis(ttl), out),
            Request::CloseSession { session } => return self.close_session(by, session, out),
            Request::Campaign { .. }
            | Request::Resign { .. }
            | Request::Acquire { .. }
            | Request::Release { .. }
            | Request::Withdraw { .. } => {}
            Request::OpenWriter { .. }
            | Request::Append { .. }
            | Request::Retain { .. }
            | Request::DropLog { .. } => self.logs.see(stamp),
        }
        self.ask_object(by, request, out)
    }

    fn ask_object(&mut self, by: NodeId, request: Request, out: &mut Effects) -> Result<Answer, Refusal> {
        let (elections, locks, logs, mut step) = self.parts(by, out);
        let step = &mut step;
        match request {
            Request::Campaign { session, election, request, value } => {
                elections.campaign(step, election, Candidate { session, request, value: value[..].into() })
            }
            Request::Resign { session, election, campaign } => {
                elections.resign(step, session, &election, campaign)
            }
            Request::Acquire { session, lock, request, mode, wait } => {
                locks.acquire(step, lock, Wait { session, request, mode }, wait)
            }
            Request::Release { session, lock, acquired } => {
                locks.release(step, &lock, (session, acquired), false)
            }
            Request::Withdraw { session, lock, acquired } => {
                locks.release(step, &lock, (session, acquired), true)
            }
            Request::OpenWriter { log, nonce } => logs.open_writer(step, log, nonce),
            Request::Append { log, writer, sequence, entries } => {
                logs.append(step, &log, Append { writer, sequence, entries })
            }
            Request::Retain { log, retention } => logs.retain(step, &log, retention),
            Request::DropLog { log } => Ok(logs.drop_log(step, &log)),
            Request::OpenSession { .. } | Request::CloseSession { .. } => Ok(Answer::Done),
        }
    }

    fn parts<'a>(
        &'a mut self,
        by: NodeId,
        out: &'a mut Effects,
    ) -> (&'a mut Elections, &'a mut Locks, &'a mut Logs, Step<'a>) {
        let Self { limits, last, sessions, elections, locks, logs, .. } = self;
        (elections, locks, logs, Step { token: *last, by, sessions, limits, out })
    }

    fn open_session(
        &mut self,
        owner: NodeId,
        nonce: Nonce,
        ttl_ms: u64,
        out: &mut Effects,
    ) -> Result<Answer, Refusal> {
        if self.recovering {
            return Err(Refusal::Recovering);
        }
        if let Some((session, ttl)) = self.sessions.opened(owner, nonce) {
            return Ok(Answer::SessionOpened { session, ttl });
        }
        let id = SessionId::new(self.last.epoch, self.last.index);
        let (window, (elections, locks)) = (RequestWindow::default(), Default::default());
        let session = Session { owner, nonce, ttl_ms, window, elections, locks };
        let ttl = session.ttl();
        self.sessions.open(id, session, &self.limits)?;
        let change = SessionChange::Opened { ttl };
        out.changes.push(Change::Session { at: self.last.index, session: id, owner, change });
        Ok(Answer::SessionOpened { session: id, ttl })
    }

    fn close_session(
        &mut self,
        by: NodeId,
        session: SessionId,
        out: &mut Effects,
    ) -> Result<Answer, Refusal> {
        match self.sessions.of(session, by) {
            Ok(_) => {
                self.end_sessions(&BTreeSet::from([session]), SessionChange::Closed, out);
                Ok(Answer::Ended(Ended::Held))
            }
            Err(Refusal::SessionUnknown(_)) => Ok(Answer::Ended(Ended::Nothing)),
            Err(refusal) => Err(refusal),
        }
    }

    fn expire(&mut self, sessions: &[SessionId], out: &mut Effects) -> Result<Answer, Refusal> {
        if sessions.len() > EXPIRE_MAX {
            let (given, bound) = (sessions.len() as u64, EXPIRE_MAX as u64);
            return Err(Refusal::TooLarge { of: Bounded::Expired, given, bound });
        }
        self.end_sessions(&sessions.iter().copied().collect(), SessionChange::Expired, out);
        Ok(Answer::Done)
    }

    fn raise_epoch(&mut self, at: LogIndex, epoch: Epoch, out: &mut Effects) -> Result<Answer, Refusal> {
        if epoch <= self.last.epoch {
            return Err(Refusal::EpochPast(self.last.epoch));
        }
        self.last = FencingToken::new(epoch, at);
        self.recovering = true;
        self.logs.recovered(epoch);
        let all = self.sessions.open.keys().copied().collect();
        self.end_sessions(&all, SessionChange::Lost, out);
        Ok(Answer::Done)
    }

    /// Ends sessions with all that they hold or wait for. Those who waited behind them are granted by the same command.
    fn end_sessions(&mut self, gone: &BTreeSet<SessionId>, change: SessionChange, out: &mut Effects) {
        let (elections, locks, _, mut step) = self.parts(NOBODY, out);
        elections.end(&mut step, gone);
        locks.end(&mut step, gone);
        let at = step.token.index;
        for id in gone {
            if let Some(Session { owner, .. }) = step.sessions.remove(*id) {
                step.out.changes.push(Change::Session { at, session: *id, owner, change });
            }
        }
    }
}

/// Who asks for what the leader decides.
const NOBODY: NodeId = NodeId::from_bytes([0; 32]);

#[cfg(test)]
#[path = "machine_test.rs"]
mod tests;
