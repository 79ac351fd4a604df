//! What this node wants of a realm's group, and holds there: one session for all its elections and locks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use macula_proto::{NodeId, Timestamp};
use macula_transport::Transport;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::error::CoordinationError;
use super::feed::Interest;
use super::message::Question;
use super::plant::Plant;
use super::seat::Seat;
use crate::lease::{Holder, HolderEffect, KeptAlive, Lease};
use crate::objects::{
    Answer, Change, ElectionName, FencingToken, Leader, LockChange, LockName, LogId, LogIndex, LogName,
    LogOffset, Nonce, Request, RequestId, SessionId,
};
use crate::{GroupId, LogStore};

/// How long one try to open a session takes; tries go on as long as one is wanted.
const OPEN_MAX: Duration = Duration::from_secs(5);

/// Between two tries of what must be heard in the end.
const AGAIN: Duration = Duration::from_secs(1);

/// Elections that a new session stands for at the same time.
const CAMPAIGNS_AT_ONCE: usize = 32;

/// How long a node that stops waits until its session is closed.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// The session of this node, as far as it may rely on it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct SessionView {
    pub(super) session: Option<SessionId>,
    pub(super) lease: Lease,
}

/// An election, as this node sees it.
pub(super) struct Observed {
    pub(super) leader: watch::Sender<Option<Leader>>,
    /// By which command it became so; older news do not count.
    at: Mutex<LogIndex>,
    /// With which value this node campaigns.
    pub(super) campaign: Mutex<Option<Bytes>>,
    /// The number of its last campaign in the present session.
    pub(super) request: Mutex<RequestId>,
    /// Where this node resigned last: what it was granted before counts no more, whenever it is heard of.
    pub(super) resigned: Mutex<FencingToken>,
}

/// A request for a lock, as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    Waiting,
    Granted(FencingToken),
    Over,
}

/// A log's bounds: which log of its name, the first and the next offset.
pub(super) type Bounds = Option<(LogId, LogOffset, LogOffset)>;

/// This node at the group of one realm.
pub(crate) struct Client<T: Transport, S: LogStore> {
    pub(super) seat: Arc<Seat<T, S>>,
    session: watch::Sender<SessionView>,
    /// Numbers of the session's requests.
    requests: AtomicU64,
    session_wanted: Notify,
    is_session_wanted: Mutex<bool>,
    /// The group whose changes this node was told last.
    watched: Mutex<Option<GroupId>>,
    elections: Mutex<BTreeMap<ElectionName, Arc<Observed>>>,
    holds: Mutex<BTreeMap<(SessionId, RequestId), watch::Sender<Hold>>>,
    logs: Mutex<BTreeMap<LogName, watch::Sender<Bounds>>>,
    /// Counts changes of what is watched.
    interest: watch::Sender<u64>,
}

impl<T: Transport, S: LogStore> Client<T, S> {
    pub(crate) fn new(seat: Arc<Seat<T, S>>) -> Arc<Self> {
        Arc::new(Self {
            seat,
            session: watch::Sender::new(SessionView::default()),
            requests: AtomicU64::new(0),
            session_wanted: Notify::new(),
            is_session_wanted: Mutex::new(false),
            watched: Mutex::new(None),
            elections: Mutex::default(),
            holds: Mutex::default(),
            logs: Mutex::default(),
            interest: watch::Sender::new(0),
        })
    }

    pub(super) fn now(&self) -> Timestamp {
        self.seat.around.clock.now()
    }

    /// The session now, with its lease.
    pub(super) fn session(&self) -> watch::Receiver<SessionView> {
        self.session.subscribe()
    }

    pub(super) fn session_now(&self) -> SessionView {
        *self.session.borrow()
    }

    pub(super) fn next_request(&self) -> RequestId {
        RequestId(self.requests.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// The session, once there is one that this node may rely on: its first time to live may be over when the group
    /// answers late, until the first keep-alive is answered.
    pub(super) async fn open_session(&self) -> SessionId {
        *self.is_session_wanted.lock() = true;
        self.session_wanted.notify_one();
        let mut session = self.session();
        loop {
            let view = *session.borrow_and_update();
            if let Some(session) = view.session.filter(|_| view.lease.valid(self.now())) {
                return session;
            }
            if session.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Keeps a session alive, from when one is wanted until told to stop; then it is closed.
    pub(super) async fn keep_session(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let wanted = async {
                while !*self.is_session_wanted.lock() {
                    self.session_wanted.notified().await;
                }
                self.new_session().await
            };
            let holder = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                holder = wanted => holder,
            };
            let session = holder.session();
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.show(SessionView::default());
                    let close = Request::CloseSession { session };
                    let _ = self.seat.request(close, CLOSE_MAX).await;
                    return;
                }
                () = self.hold(holder) => {}
                // Places in another group's log mean something else: a session of the same number could be anybody's.
                () = self.seat.until_elsewhere() => {}
            }
            tracing::warn!(realm = %self.seat.realm, %session, "the session of this node was lost, with all that it held");
            self.holds.lock().retain(|(of, _), hold| {
                let lost = *of == session;
                if lost {
                    hold.send_replace(Hold::Over);
                }
                !lost
            });
            self.show(SessionView::default());
        }
    }

    fn show(&self, view: SessionView) {
        let before = self.session.send_replace(view);
        if before.session != view.session {
            self.interest.send_modify(|count| *count += 1);
        }
    }

    async fn new_session(&self) -> Holder {
        let around = &self.seat.around;
        loop {
            // Each try is for another session: its time counts from when it was first asked for, and tries may go on for minutes.
            // One that is opened late by an earlier try ends by itself.
            let (nonce, sent) = (Nonce(self.seat.draw()), self.now());
            let request = Request::OpenSession { nonce, ttl: around.config.session_ttl };
            match self.seat.request(request, OPEN_MAX).await {
                Ok(Answer::SessionOpened { session, ttl }) => {
                    return Holder::new(around.config.lease, session, ttl, sent, self.now());
                }
                Ok(other) => tracing::warn!(?other, "an answer that does not fit"),
                Err(cause) => tracing::debug!(realm = %self.seat.realm, %cause, "no session yet"),
            }
            tokio::time::sleep(around.config.session_ttl).await;
        }
    }

    /// Keeps a session alive until it is lost.
    async fn hold(&self, mut holder: Holder) {
        self.requests.store(0, Ordering::Relaxed);
        self.show(SessionView { session: Some(holder.session()), lease: holder.lease() });
        self.campaign_again(holder.session());
        let mut answers = JoinSet::new();
        let mut out = Vec::new();
        while let Some(deadline) = holder.deadline() {
            tokio::select! {
                biased;
                Some(answer) = answers.join_next() => {
                    if let Ok(Some(answer)) = answer {
                        holder.on_answer(self.now(), answer, &mut out);
                    }
                }
                () = tokio::time::sleep(deadline.since(self.now())) => holder.on_timeout(self.now(), &mut out),
            }
            for effect in out.drain(..) {
                match effect {
                    HolderEffect::Send(keep_alive) => {
                        let (seat, ttl) = (self.seat.clone(), self.seat.around.config.session_ttl);
                        answers.spawn(async move {
                            let told = seat.ask(Question::KeepAlive(keep_alive), ttl).await.ok()?;
                            KeptAlive::decode(told.answer).ok()
                        });
                    }
                    HolderEffect::Lease(lease) => {
                        let lease = self.counted(lease);
                        self.show(SessionView { session: Some(holder.session()), lease });
                    }
                    // Whoever asks compares the lease with the clock, and callbacks wait for its end by themselves.
                    HolderEffect::Lapsed => {}
                    HolderEffect::Lost(_) => return,
                }
            }
        }
    }

    /// Changes of this group are told from now on. What was known of another does not make them old news.
    pub(super) fn begin_to_watch(&self, group: GroupId) {
        let before = self.watched.lock().replace(group);
        if before.is_none_or(|before| before == group) {
            return;
        }
        for observed in self.elections.lock().values() {
            *observed.at.lock() = LogIndex::default();
            *observed.resigned.lock() = FencingToken::default();
        }
        for bounds in self.logs.lock().values() {
            bounds.send_replace(None);
        }
    }

    /// The lease as it is shown.
    fn counted(&self, lease: Lease) -> Lease {
        let around = &self.seat.around;
        match around.config.has(Plant::LeaseFromReply) && lease.valid(self.now()) {
            true => lease.ending_at(self.now() + around.config.lease.span(around.config.session_ttl)),
            false => lease,
        }
    }

    /// What this node watches.
    pub(super) fn interest(&self) -> Interest {
        Interest {
            session: self.session_now().session,
            elections: self.elections.lock().keys().cloned().collect(),
            logs: self.logs.lock().keys().cloned().collect(),
        }
    }

    /// Tells when [`interest`](Self::interest) has changed.
    pub(super) fn interest_changes(&self) -> watch::Receiver<u64> {
        self.interest.subscribe()
    }

    /// Takes in a change that was told.
    pub(super) fn on_change(&self, change: &Change) {
        match change {
            Change::Election { at, election, leader } => {
                if let Some(observed) = self.elections.lock().get(election) {
                    observed.note(*at, leader.clone());
                }
            }
            Change::Lock { session, request, change, .. } => {
                if let Some(hold) = self.holds.lock().get(&(*session, *request)) {
                    hold.send_replace(match change {
                        LockChange::Granted { token, .. } => Hold::Granted(*token),
                        LockChange::Released | LockChange::Withdrawn => Hold::Over,
                    });
                }
            }
            Change::Log { log, id, bounds, .. } => {
                if let Some(watched) = self.logs.lock().get(log) {
                    watched.send_replace(bounds.map(|(first, next)| (*id, first, next)));
                }
            }
            // The session's own keep-alives say so as well, and cannot be missed.
            Change::Session { .. } => {}
        }
    }

    /// An election that is watched from now on.
    pub(super) fn observe(&self, election: &ElectionName) -> Arc<Observed> {
        let mut is_new = false;
        let observed = self
            .elections
            .lock()
            .entry(election.clone())
            .or_insert_with(|| {
                is_new = true;
                Arc::new(Observed {
                    leader: watch::Sender::new(None),
                    at: Mutex::default(),
                    campaign: Mutex::default(),
                    request: Mutex::default(),
                    resigned: Mutex::default(),
                })
            })
            .clone();
        if is_new {
            self.interest.send_modify(|count| *count += 1);
        }
        observed
    }

    /// A log that is watched from now on.
    pub(super) fn watch_log(&self, log: &LogName) -> watch::Receiver<Bounds> {
        let mut is_new = false;
        let watched = self
            .logs
            .lock()
            .entry(log.clone())
            .or_insert_with(|| {
                is_new = true;
                watch::Sender::new(None)
            })
            .subscribe();
        if is_new {
            self.interest.send_modify(|count| *count += 1);
        }
        watched
    }

    /// A request for a lock that is watched until [`release_hold`](Self::release_hold).
    pub(super) fn watch_hold(&self, session: SessionId, request: RequestId) -> watch::Receiver<Hold> {
        self.holds
            .lock()
            .entry((session, request))
            .or_insert_with(|| watch::Sender::new(Hold::Waiting))
            .subscribe()
    }

    pub(super) fn release_hold(&self, session: SessionId, request: RequestId) {
        self.holds.lock().remove(&(session, request));
    }

    /// Gives a lock back, or leaves its line, without anybody waiting for it.
    pub(super) fn release_later(&self, lock: &LockName, session: SessionId, acquired: RequestId) {
        self.release_hold(session, acquired);
        // Dropped outside of a runtime, the session's end has to do.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (seat, lock, session_now) = (self.seat.clone(), lock.clone(), self.session());
        runtime.spawn(async move {
            // As long as the session lives, nobody else gets the lock, so the group must hear of it.
            while session_now.borrow().session == Some(session) {
                let release = Request::Release { session, lock: lock.clone(), acquired };
                match seat.request(release, OPEN_MAX).await {
                    Ok(_) | Err(CoordinationError::Refused(_)) => return,
                    Err(cause) => tracing::debug!(%cause, "a lock could not be given back yet"),
                }
                tokio::time::sleep(AGAIN).await;
            }
        });
    }

    /// There is a new session: what the last one stood for, this one does.
    fn campaign_again(&self, session: SessionId) {
        let campaigns: Vec<_> = self
            .elections
            .lock()
            .iter()
            .filter_map(|(election, observed)| {
                let value = observed.campaign.lock().clone()?;
                let request = self.next_request();
                *observed.request.lock() = request;
                Some((election.clone(), request, value))
            })
            .collect();
        let (seat, session_now) = (self.seat.clone(), self.session());
        tokio::spawn(futures_util::stream::iter(campaigns).for_each_concurrent(
            CAMPAIGNS_AT_ONCE,
            move |campaign| {
                let (seat, session_now) = (seat.clone(), session_now.clone());
                let (election, request, value) = campaign;
                async move {
                    let request = Request::Campaign { session, election, request, value };
                    while session_now.borrow().session == Some(session) {
                        match seat.request(request.clone(), OPEN_MAX).await {
                            Ok(_) => return,
                            Err(CoordinationError::Refused(cause)) => {
                                return tracing::warn!(%cause, "this node stands for election no more");
                            }
                            Err(cause) => tracing::debug!(%cause, "could not campaign again yet"),
                        }
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            },
        ));
    }

    /// Stands for an election, and says how it stands.
    pub(super) async fn campaign(
        &self,
        election: &ElectionName,
        value: Bytes,
        patience: Duration,
    ) -> Result<Answer, CoordinationError> {
        let observed = self.observe(election);
        *observed.campaign.lock() = Some(value.clone());
        let campaigning = async {
            let session = self.open_session().await;
            let request = self.next_request();
            *observed.request.lock() = request;
            self.seat
                .request(Request::Campaign { session, election: election.clone(), request, value }, patience)
                .await
        };
        let realm = self.seat.realm.clone();
        let late = CoordinationError::Unavailable {
            realm,
            waited: patience,
            why: "no session could be opened".into(),
        };
        tokio::time::timeout(patience, campaigning).await.unwrap_or(Err(late))
    }
}

impl Observed {
    /// The leader, if that is this node by its session, and it has not resigned since.
    pub(super) fn own(&self, me: NodeId, session: SessionId) -> Option<Leader> {
        let is_candidate = self.campaign.lock().is_some();
        let own = |leader: &&Leader| {
            let is_own = leader.session == session && leader.owner == me;
            is_candidate && is_own && leader.token > *self.resigned.lock()
        };
        self.leader.borrow().as_ref().filter(own).cloned()
    }

    fn note(&self, at: LogIndex, leader: Option<Leader>) {
        let mut last = self.at.lock();
        // A new epoch begins at lower indices, and with other tokens.
        let is_older = at < *last
            && leader.as_ref().is_none_or(|leader| {
                self.leader.borrow().as_ref().is_some_and(|known| known.token >= leader.token)
            });
        if is_older {
            return;
        }
        *last = at;
        self.leader.send_if_modified(|known| {
            let changed = *known != leader;
            *known = leader;
            changed
        });
    }
}
