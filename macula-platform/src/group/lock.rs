//! Locks, as applications use them.

use std::sync::Arc;
use std::time::Duration;

use macula_transport::Transport;
use tokio::sync::watch;

use super::client::{Client, Hold};
use super::election::PATIENCE;
use super::error::CoordinationError;
use super::seen::Look;
use crate::LogStore;
use crate::objects::{
    Answer, FencingToken, LockMode, LockName, Refusal, Request, RequestId, RequestInfo, SessionId, Standing,
};

/// Who waits in line asks so often how it stands, should it have missed what it was told.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// A lock of a realm. Clones are the same lock.
///
/// Who waits is served in order; shared holders are let in together, but not past somebody who waits for the lock alone.
pub struct Lock<T: Transport, S: LogStore> {
    name: LockName,
    client: Arc<Client<T, S>>,
}

impl<T: Transport, S: LogStore> Clone for Lock<T, S> {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), client: self.client.clone() }
    }
}

impl<T: Transport, S: LogStore> Lock<T, S> {
    pub(crate) const fn new(client: Arc<Client<T, S>>, name: LockName) -> Self {
        Self { name, client }
    }

    /// Its name.
    pub const fn name(&self) -> &LockName {
        &self.name
    }

    /// Waits for the lock, alone, for at most `timeout`.
    ///
    /// # Errors
    /// [`CoordinationError::Timeout`]: it waits no more. [`CoordinationError`] otherwise.
    pub async fn acquire(&self, timeout: Duration) -> Result<LockGuard<T, S>, CoordinationError> {
        self.wait_for(LockMode::Exclusive, timeout).await
    }

    /// The same, together with others who share it.
    ///
    /// # Errors
    /// The same.
    pub async fn acquire_shared(&self, timeout: Duration) -> Result<LockGuard<T, S>, CoordinationError> {
        self.wait_for(LockMode::Shared, timeout).await
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    /// [`CoordinationError::Busy`] if it is not.
    pub async fn try_lock(&self, mode: LockMode) -> Result<LockGuard<T, S>, CoordinationError> {
        let trying = async {
            let place = self.place(mode).await;
            match place.ask(false, PATIENCE).await? {
                Standing::Granted(token) => Ok(place.granted(token)),
                Standing::Busy | Standing::Waiting { .. } => Err(CoordinationError::Busy),
            }
        };
        tokio::time::timeout(PATIENCE, trying).await.unwrap_or(Err(CoordinationError::Timeout(PATIENCE)))
    }

    /// Who holds it and who waits, in order; at most 256.
    ///
    /// # Errors
    /// [`CoordinationError`] if the group does not answer.
    pub async fn requests(&self) -> Result<Vec<RequestInfo>, CoordinationError> {
        Ok(self.client.seat.look(Look::LockRequests(self.name.clone()), PATIENCE).await?.requests)
    }

    async fn wait_for(
        &self,
        mode: LockMode,
        timeout: Duration,
    ) -> Result<LockGuard<T, S>, CoordinationError> {
        let until = tokio::time::Instant::now() + timeout;
        loop {
            let Ok(place) = tokio::time::timeout_at(until, self.place(mode)).await else {
                return Err(CoordinationError::Timeout(timeout));
            };
            match tokio::time::timeout_at(until, place.stand_in_line()).await {
                Ok(Ok(token)) => return Ok(place.granted(token)),
                // The session was lost, and the place in line with it: again, from the end.
                Ok(Err(CoordinationError::SessionLost)) => {}
                Ok(Err(cause)) => return Err(cause),
                Err(_) => return place.give_up(timeout).await,
            }
        }
    }

    async fn place(&self, mode: LockMode) -> Place<T, S> {
        let session = self.client.open_session().await;
        let request = self.client.next_request();
        let hold = self.client.watch_hold(session, request);
        Place { lock: self.clone(), session, request, mode, hold, kept: false }
    }
}

/// A place in a lock's line. Given up when it is dropped, unless it became a guard.
struct Place<T: Transport, S: LogStore> {
    lock: Lock<T, S>,
    session: SessionId,
    request: RequestId,
    mode: LockMode,
    hold: watch::Receiver<Hold>,
    kept: bool,
}

impl<T: Transport, S: LogStore> Place<T, S> {
    async fn ask(&self, wait: bool, patience: Duration) -> Result<Standing, CoordinationError> {
        let (session, request, mode) = (self.session, self.request, self.mode);
        let acquire = Request::Acquire { session, lock: self.lock.name.clone(), request, mode, wait };
        match self.lock.client.seat.request(acquire, patience).await {
            Ok(Answer::Standing(standing)) => Ok(standing),
            Ok(other) => Err(CoordinationError::Protocol(format!("{other:?}"))),
            Err(CoordinationError::Refused(
                Refusal::SessionUnknown(_) | Refusal::RequestOver(_) | Refusal::RequestLate(_),
            )) => Err(CoordinationError::SessionLost),
            Err(other) => Err(other),
        }
    }

    /// Waits until it is granted.
    async fn stand_in_line(&self) -> Result<FencingToken, CoordinationError> {
        let mut hold = self.hold.clone();
        loop {
            if let Standing::Granted(token) = self.ask(true, PATIENCE).await? {
                return Ok(token);
            }
            let told = async {
                loop {
                    match *hold.borrow_and_update() {
                        Hold::Granted(token) => return Ok(token),
                        Hold::Over => return Err(CoordinationError::SessionLost),
                        Hold::Waiting => {}
                    }
                    if hold.changed().await.is_err() {
                        return Err(CoordinationError::SessionLost);
                    }
                }
            };
            if let Ok(told) = tokio::time::timeout(ASK_AGAIN, told).await {
                return told;
            }
        }
    }

    /// Leaves the line, unless it was granted meanwhile.
    async fn give_up(mut self, waited: Duration) -> Result<LockGuard<T, S>, CoordinationError> {
        let (session, acquired) = (self.session, self.request);
        let withdraw = Request::Withdraw { session, lock: self.lock.name.clone(), acquired };
        match self.lock.client.seat.request(withdraw, PATIENCE).await {
            Ok(Answer::Standing(Standing::Granted(token))) => return Ok(self.granted(token)),
            Ok(_) | Err(CoordinationError::Refused(_)) => {
                self.kept = true;
                self.lock.client.release_hold(session, acquired);
            }
            // The group has not heard of it: it is told until it has.
            Err(_) => {}
        }
        Err(CoordinationError::Timeout(waited))
    }

    fn granted(mut self, token: FencingToken) -> LockGuard<T, S> {
        self.kept = true;
        let (session, request, mode) = (self.session, self.request, self.mode);
        LockGuard {
            lock: self.lock.clone(),
            session,
            request,
            mode,
            token,
            hold: self.hold.clone(),
            released: false,
        }
    }
}

impl<T: Transport, S: LogStore> Drop for Place<T, S> {
    fn drop(&mut self) {
        if !self.kept {
            self.lock.client.release_later(&self.lock.name, self.session, self.request);
        }
    }
}

/// A lock that is held. Dropping it gives it back soon; [`release`](Self::release) does so before it returns.
///
/// # Guarantees
/// At any moment at most one node gets `true` from [`is_held`](Self::is_held) of a guard that holds the lock alone. As with
/// elections, what is done under the lock should carry [`token`](Self::token) to a resource that checks it.
pub struct LockGuard<T: Transport, S: LogStore> {
    lock: Lock<T, S>,
    session: SessionId,
    request: RequestId,
    mode: LockMode,
    token: FencingToken,
    hold: watch::Receiver<Hold>,
    released: bool,
}

impl<T: Transport, S: LogStore> LockGuard<T, S> {
    /// The fencing token of this grant.
    pub const fn token(&self) -> FencingToken {
        self.token
    }

    /// How it is held.
    pub const fn mode(&self) -> LockMode {
        self.mode
    }

    /// Whether the lock is held now: compares the lease with the clock, and asks nobody.
    pub fn is_held(&self) -> bool {
        let view = self.lock.client.session_now();
        let lost = matches!(*self.hold.borrow(), Hold::Over);
        !lost && view.session == Some(self.session) && view.lease.valid(self.lock.client.now())
    }

    /// Returns when the lock is lost: the session of this node ended, or its lease ran out.
    pub async fn lost(&self) {
        let (mut session, mut hold) = (self.lock.client.session(), self.hold.clone());
        while self.is_held() {
            hold.borrow_and_update();
            let left = session.borrow_and_update().lease.until().since(self.lock.client.now());
            tokio::select! {
                changed = session.changed() => if changed.is_err() { return; },
                changed = hold.changed() => if changed.is_err() { return; },
                () = tokio::time::sleep(left + Duration::from_millis(1)) => {}
            }
        }
    }

    /// Gives the lock back, and returns when the group knows.
    ///
    /// # Errors
    /// [`CoordinationError::Unavailable`] if it does not answer; then the lock is free when this node's session ends.
    pub async fn release(mut self) -> Result<(), CoordinationError> {
        self.released = true;
        let (session, acquired) = (self.session, self.request);
        let release = Request::Release { session, lock: self.lock.name.clone(), acquired };
        let released = self.lock.client.seat.request(release, PATIENCE).await;
        self.lock.client.release_hold(session, acquired);
        match released {
            Ok(_) | Err(CoordinationError::Refused(_)) => Ok(()),
            Err(other) => Err(other),
        }
    }
}

impl<T: Transport, S: LogStore> Drop for LockGuard<T, S> {
    fn drop(&mut self) {
        if !self.released {
            self.lock.client.release_later(&self.lock.name, self.session, self.request);
        }
    }
}
