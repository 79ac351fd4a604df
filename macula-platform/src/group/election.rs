//! Elections, as applications use them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use macula_transport::Transport;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::client::{Client, Observed, SessionView};
use super::error::CoordinationError;
use super::message::Question;
use super::seen::Look;
use crate::LogStore;
use crate::objects::{
    Answer, CandidateInfo, ElectionInfo, ElectionName, FencingToken, Leader, Request, Standing,
};

/// How long a question to the group takes at most, where nothing else is said.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What an election looks like from one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElectionView {
    /// Who leads, as last heard. A leader that dies is seen here until its session is over.
    pub leader: Option<Leader>,
    /// Whether this node leads, and may rely on it.
    pub is_leader: bool,
}

/// Names a callback, to take it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallbackId(u64);

/// An election of a realm, seen from this node: it may campaign, or just observe. Clones are the same election.
///
/// # Guarantees
/// At any moment at most one node of the realm gets `true` from [`is_leader`](Self::is_leader), as long as clocks drift by no
/// more than [`HolderConfig::drift_permille`](crate::lease::HolderConfig). What a process does after it asked is another
/// matter: it may be paused for longer than its lease. So whatever is to be done by one node only should carry
/// [`token`](Self::token) to a resource that refuses tokens lower than one it has seen.
pub struct Election<T: Transport, S: LogStore> {
    name: ElectionName,
    client: Arc<Client<T, S>>,
    observed: Arc<Observed>,
    callbacks: Arc<Mutex<Callbacks>>,
}

#[derive(Default)]
struct Callbacks {
    last: u64,
    running: BTreeMap<CallbackId, DropGuard>,
}

impl<T: Transport, S: LogStore> Clone for Election<T, S> {
    fn clone(&self) -> Self {
        let Self { name, client, observed, callbacks } = self;
        Self {
            name: name.clone(),
            client: client.clone(),
            observed: observed.clone(),
            callbacks: callbacks.clone(),
        }
    }
}

impl<T: Transport, S: LogStore> Election<T, S> {
    pub(crate) fn new(client: Arc<Client<T, S>>, name: ElectionName) -> Self {
        let observed = client.observe(&name);
        Self { name, client, observed, callbacks: Arc::default() }
    }

    /// Its name.
    pub const fn name(&self) -> &ElectionName {
        &self.name
    }

    /// Becomes a candidate, or changes the value that observers see of this one. From then on this node leads whenever it
    /// is its turn, until it [`resign`](Self::resign)s: also after its session was lost, with a new one.
    ///
    /// Returns how it stands: granted, or how many come before. Who leads may rely on it from [`is_leader`](Self::is_leader)
    /// on, which is at most a moment later.
    ///
    /// # Errors
    /// [`CoordinationError::Unavailable`] or [`NoGroup`](CoordinationError::NoGroup) if the group did not answer in ten seconds;
    /// the node stands for election nevertheless, as soon as it can. [`CoordinationError::Refused`] past a limit.
    pub async fn campaign(&self, value: Bytes) -> Result<Standing, CoordinationError> {
        let answered = self.client.campaign(&self.name, value, PATIENCE).await;
        if let Err(CoordinationError::Refused(_) | CoordinationError::Forbidden(_)) = &answered {
            *self.observed.campaign.lock() = None;
        }
        match answered? {
            Answer::Standing(standing) => Ok(standing),
            other => Err(CoordinationError::Protocol(format!("{other:?}"))),
        }
    }

    /// Stands for election no more; if this node leads, the next candidate does. [`is_leader`](Self::is_leader) is false
    /// from the call on.
    ///
    /// # Errors
    /// [`CoordinationError::Unavailable`]: the group has not heard of it. Then its session keeps the place.
    pub async fn resign(&self) -> Result<(), CoordinationError> {
        *self.observed.campaign.lock() = None;
        let Some(session) = self.client.session_now().session else { return Ok(()) };
        let (election, campaign) = (self.name.clone(), *self.observed.request.lock());
        let resign = Request::Resign { session, election, campaign };
        let told = self.client.seat.ask(Question::Request(resign), PATIENCE).await?;
        let mut resigned = self.observed.resigned.lock();
        *resigned = told.at.max(*resigned);
        Ok(())
    }

    /// Whether this node leads now: compares its lease with the clock, and asks nobody.
    pub fn is_leader(&self) -> bool {
        self.token().is_some()
    }

    /// The fencing token of this node's leadership, if it leads now.
    pub fn token(&self) -> Option<FencingToken> {
        let view = self.client.session_now();
        let leader = self.observed.own(self.client.seat.me(), view.session?)?;
        view.lease.valid(self.client.now()).then_some(leader.token)
    }

    /// Who leads, as this node last heard.
    pub fn leader(&self) -> Option<Leader> {
        self.observed.leader.borrow().clone()
    }

    /// Who leads, after asking the group.
    ///
    /// # Errors
    /// [`CoordinationError`] if it does not answer.
    pub async fn get_leader(&self) -> Result<Option<Leader>, CoordinationError> {
        Ok(self.look().await?.map(|election| election.leader))
    }

    async fn look(&self) -> Result<Option<ElectionInfo>, CoordinationError> {
        let seen = self.client.seat.look(Look::Election(self.name.clone()), PATIENCE).await?;
        Ok(seen.elections.into_iter().next())
    }

    /// All candidates, the leader first, then in the order of their turns; at most 256.
    ///
    /// # Errors
    /// [`CoordinationError`] if the group does not answer.
    pub async fn get_members(&self) -> Result<Vec<CandidateInfo>, CoordinationError> {
        Ok(self.client.seat.look(Look::Candidates(self.name.clone()), PATIENCE).await?.candidates)
    }

    /// How it looks from here now.
    pub fn view(&self) -> ElectionView {
        ElectionView { leader: self.leader(), is_leader: self.is_leader() }
    }

    /// A stream of views: the present one, then each that differs from the one before.
    pub fn changes(&self) -> ElectionChanges<T, S> {
        ElectionChanges {
            election: self.clone(),
            leader: self.observed.leader.subscribe(),
            session: self.client.session(),
            last: None,
        }
    }

    /// The same as [`register_callback`](Self::register_callback).
    pub fn on_change(&self, callback: impl FnMut(ElectionView) + Send + 'static) -> CallbackId {
        self.register_callback(callback)
    }

    /// Calls `callback` at once with the present view, and then with each change: also when this node's lease runs out
    /// before anybody else leads. Calls follow each other; one that blocks holds up those after it.
    pub fn register_callback(&self, mut callback: impl FnMut(ElectionView) + Send + 'static) -> CallbackId {
        let mut changes = self.changes();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = stopped.cancelled() => return,
                    view = changes.next() => callback(view),
                }
            }
        });
        let mut callbacks = self.callbacks.lock();
        callbacks.last += 1;
        let id = CallbackId(callbacks.last);
        callbacks.running.insert(id, stop.drop_guard());
        id
    }

    /// No more calls. Returns whether there was such a callback.
    pub fn unregister_callback(&self, id: CallbackId) -> bool {
        self.callbacks.lock().running.remove(&id).is_some()
    }
}

/// Views of an election, see [`Election::changes`].
pub struct ElectionChanges<T: Transport, S: LogStore> {
    election: Election<T, S>,
    leader: watch::Receiver<Option<Leader>>,
    session: watch::Receiver<SessionView>,
    last: Option<ElectionView>,
}

impl<T: Transport, S: LogStore> ElectionChanges<T, S> {
    /// The next view that differs from the one before; the first time the present one.
    pub async fn next(&mut self) -> ElectionView {
        loop {
            self.leader.borrow_and_update();
            let until = self.session.borrow_and_update().lease.until();
            let view = self.election.view();
            if self.last.as_ref() != Some(&view) {
                self.last = Some(view.clone());
                return view;
            }
            // A leader looks again when its lease is over.
            let left = until.since(self.election.client.now());
            tokio::select! {
                changed = self.leader.changed() => if changed.is_err() { std::future::pending::<()>().await; },
                changed = self.session.changed() => if changed.is_err() { std::future::pending::<()>().await; },
                () = tokio::time::sleep(left + Duration::from_millis(1)), if view.is_leader => {}
            }
        }
    }
}
