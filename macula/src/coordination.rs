//! Elections, locks and logs.

use std::time::Duration;

use bytes::Bytes;
use macula_platform::{
    CandidateInfo, ElectionInfo, ElectionName, FencingToken, GroupId, Leader, LockInfo, LockMode, LockName,
    LogEntry, LogInfo, LogName, LogOffset, Manage, RealmStatus, Recovered, RedbStore, RequestInfo, Retention,
    SessionId, SessionInfo, Standing,
};
use macula_proto::{Name, Realm};
use macula_transport::QuicTransport;

use crate::{Error, Node};

pub use macula_platform::{CallbackId, CoordinationError, ElectionView, LogPage};

type Layer = macula_platform::Coordination<QuicTransport, RedbStore>;

/// Elections, locks and logs of the node's realms, kept by a group of nodes in each (see [`RealmStatus`]). A group is founded when
/// one is first needed, by a node that was started without seeds; all others find it.
impl Node {
    /// An election of the node's first realm. Any node may campaign, or just observe.
    ///
    /// ```no_run
    /// # async fn example(node: macula::Node) -> Result<(), macula::Error> {
    /// let election = node.election("matchmaking")?;
    /// election.on_change(|view| println!("leads: {}", view.is_leader));
    /// election.campaign("10.0.0.7:9000").await?;
    /// if let Some(token) = election.token() {
    ///     println!("this node leads; what it does carries {token}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Name`].
    pub fn election(&self, name: &str) -> Result<Election, Error> {
        self.election_in(self.realm(), name)
    }

    /// The same, of another realm.
    ///
    /// # Errors
    /// [`Error::Name`], [`CoordinationError::NotInRealm`].
    pub fn election_in(&self, realm: Realm, name: &str) -> Result<Election, Error> {
        let name = ElectionName::from(name.parse::<Name>()?);
        let inner = self.inner.core.coordination.election(&realm, name)?;
        Ok(Election { node: self.clone(), realm, inner })
    }

    /// A lock of the node's first realm.
    ///
    /// ```no_run
    /// # async fn example(node: macula::Node) -> Result<(), macula::Error> {
    /// use std::time::Duration;
    ///
    /// let guard = node.lock("inventory")?.acquire(Duration::from_secs(5)).await?;
    /// println!("alone here; what is written carries {}", guard.token());
    /// guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Name`].
    pub fn lock(&self, name: &str) -> Result<Lock, Error> {
        self.lock_in(self.realm(), name)
    }

    /// The same, of another realm.
    ///
    /// # Errors
    /// [`Error::Name`], [`CoordinationError::NotInRealm`].
    pub fn lock_in(&self, realm: Realm, name: &str) -> Result<Lock, Error> {
        let name = LockName::from(name.parse::<Name>()?);
        Ok(Lock { node: self.clone(), inner: self.inner.core.coordination.lock(&realm, name)? })
    }

    /// A log of the node's first realm.
    ///
    /// ```no_run
    /// # async fn example(node: macula::Node) -> Result<(), macula::Error> {
    /// use macula::LogOffset;
    ///
    /// let log = node.log("orders")?;
    /// log.append("one chair").await?;
    /// let mut tail = log.tail(LogOffset(0));
    /// loop {
    ///     let entry = tail.next().await?;
    ///     println!("{}: {:?}", entry.offset, entry.entry);
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Name`].
    pub fn log(&self, name: &str) -> Result<Log, Error> {
        self.log_in(self.realm(), name)
    }

    /// The same, of another realm.
    ///
    /// # Errors
    /// [`Error::Name`], [`CoordinationError::NotInRealm`].
    pub fn log_in(&self, realm: Realm, name: &str) -> Result<Log, Error> {
        let name = LogName::from(name.parse::<Name>()?);
        Ok(Log { node: self.clone(), inner: self.inner.core.coordination.log(&realm, name)? })
    }

    /// What this node has to do with the groups of its realms.
    pub fn groups(&self) -> Vec<RealmStatus> {
        self.inner.core.coordination.status()
    }

    /// Has the members of a realm's group changed.
    ///
    /// # Errors
    /// [`CoordinationError::Unwilling`] with the leader's reason.
    pub async fn manage_group(&self, realm: Realm, change: Manage) -> Result<(), Error> {
        self.coordinate(|layer| async move { layer.manage(&realm, change).await }).await
    }

    /// Gives up this node's part in a realm's group, with all that is in its store; see
    /// [`Coordination::abandon`](macula_platform::Coordination::abandon).
    ///
    /// # Errors
    /// [`CoordinationError::NoMember`].
    pub async fn abandon_group(&self, realm: Realm) -> Result<GroupId, Error> {
        self.coordinate(|layer| async move { layer.abandon(&realm).await }).await
    }

    /// Makes a new group of what this node has of a realm's group, after a majority of the voters was lost for good; see
    /// [`Coordination::recover`](macula_platform::Coordination::recover) for what is kept and what may be lost. With `force` also
    /// where the group seems to be well.
    ///
    /// # Errors
    /// [`CoordinationError::NoMember`]; [`CoordinationError::Unwilling`] where the group is not lost.
    pub async fn recover_group(&self, realm: Realm, force: bool) -> Result<Recovered, Error> {
        self.coordinate(|layer| async move { layer.recover(&realm, force).await }).await
    }

    /// Elections that somebody leads, by name, after `after`: at most 256.
    ///
    /// # Errors
    /// [`CoordinationError`] if the group does not answer.
    pub async fn elections(
        &self,
        realm: Realm,
        after: Option<ElectionName>,
    ) -> Result<Vec<ElectionInfo>, Error> {
        self.coordinate(|layer| async move { layer.elections(&realm, after).await }).await
    }

    /// Locks that somebody holds, by name, after `after`: at most 256.
    ///
    /// # Errors
    /// [`CoordinationError`] if the group does not answer.
    pub async fn locks(&self, realm: Realm, after: Option<LockName>) -> Result<Vec<LockInfo>, Error> {
        self.coordinate(|layer| async move { layer.locks(&realm, after).await }).await
    }

    /// Logs, by name, after `after`: at most 256.
    ///
    /// # Errors
    /// [`CoordinationError`] if the group does not answer.
    pub async fn logs(&self, realm: Realm, after: Option<LogName>) -> Result<Vec<LogInfo>, Error> {
        self.coordinate(|layer| async move { layer.logs(&realm, after).await }).await
    }

    /// Sessions, by age, after `after`: at most 256.
    ///
    /// # Errors
    /// [`CoordinationError`] if the group does not answer.
    pub async fn sessions(&self, realm: Realm, after: Option<SessionId>) -> Result<Vec<SessionInfo>, Error> {
        self.coordinate(|layer| async move { layer.sessions(&realm, after).await }).await
    }

    async fn coordinate<F, R>(&self, work: impl FnOnce(Layer) -> F) -> Result<R, Error>
    where
        F: Future<Output = Result<R, CoordinationError>> + Send + 'static,
        R: Send + 'static,
    {
        Ok(self.on_node(work(self.inner.core.coordination.clone())).await??)
    }
}

/// An election; see [`macula_platform::Election`] for what it guarantees. Clones are the same.
#[derive(Clone)]
pub struct Election {
    pub(crate) node: Node,
    pub(crate) realm: Realm,
    pub(crate) inner: macula_platform::Election<QuicTransport, RedbStore>,
}

impl Election {
    /// Becomes a candidate, or changes the value that observers see: an address, say. At most 1,024 bytes.
    ///
    /// # Errors
    /// [`Error::Coordination`].
    pub async fn campaign(&self, value: impl Into<Bytes>) -> Result<Standing, Error> {
        let (inner, value) = (self.inner.clone(), value.into());
        Ok(self.node.on_node(async move { inner.campaign(value).await }).await??)
    }

    /// Stands for election no more; if this node leads, the next candidate does.
    ///
    /// # Errors
    /// [`Error::Coordination`].
    pub async fn resign(&self) -> Result<(), Error> {
        let inner = self.inner.clone();
        Ok(self.node.on_node(async move { inner.resign().await }).await??)
    }

    /// Whether this node leads now: compares its lease with the clock, and asks nobody.
    pub fn is_leader(&self) -> bool {
        self.inner.is_leader()
    }

    /// The fencing token of this node's leadership, if it leads now.
    pub fn token(&self) -> Option<FencingToken> {
        self.inner.token()
    }

    /// How it looks from here now.
    pub fn view(&self) -> ElectionView {
        self.inner.view()
    }

    /// Who leads, after asking the group.
    ///
    /// # Errors
    /// [`Error::Coordination`].
    pub async fn get_leader(&self) -> Result<Option<Leader>, Error> {
        let inner = self.inner.clone();
        Ok(self.node.on_node(async move { inner.get_leader().await }).await??)
    }

    /// All candidates, the leader first, then in the order of their turns; at most 256.
    ///
    /// # Errors
    /// [`Error::Coordination`].
    pub async fn get_members(&self) -> Result<Vec<CandidateInfo>, Error> {
        let inner = self.inner.clone();
        Ok(self.node.on_node(async move { inner.get_members().await }).await??)
    }

    /// The same as [`register_callback`](Self::register_callback).
    pub fn on_change(&self, callback: impl FnMut(ElectionView) + Send + 'static) -> CallbackId {
        self.register_callback(callback)
    }

    /// Calls `callback` on the node's thread, at once with the present view, and then with each change: also when this node's lease
    /// runs out before anybody else leads. It must not block.
    pub fn register_callback(&self, callback: impl FnMut(ElectionView) + Send + 'static) -> CallbackId {
        let _on_node = self.node.inner.runtime.enter();
        self.inner.register_callback(callback)
    }

    /// No more calls. Returns whether there was such a callback.
    pub fn unregister_callback(&self, id: CallbackId) -> bool {
        self.inner.unregister_callback(id)
    }

    /// Views: the present one, then each that differs from the one before.
    pub fn changes(&self) -> ElectionChanges {
        ElectionChanges(self.inner.changes())
    }
}

/// Views of an election, see [`Election::changes`].
pub struct ElectionChanges(macula_platform::ElectionChanges<QuicTransport, RedbStore>);

impl ElectionChanges {
    /// The next view; the first time the present one.
    pub async fn next(&mut self) -> ElectionView {
        self.0.next().await
    }
}

/// A lock; see [`macula_platform::Lock`]. Clones are the same.
#[derive(Clone)]
pub struct Lock {
    node: Node,
    inner: macula_platform::Lock<QuicTransport, RedbStore>,
}

impl Lock {
    /// Waits for the lock, alone, for at most `timeout`.
    ///
    /// # Errors
    /// [`CoordinationError::Timeout`], [`Error::Coordination`].
    pub async fn acquire(&self, timeout: Duration) -> Result<LockGuard, Error> {
        let inner = self.inner.clone();
        let guard = self.node.on_node(async move { inner.acquire(timeout).await }).await??;
        Ok(self.guard(guard))
    }

    /// The same, together with others who share it.
    ///
    /// # Errors
    /// The same.
    pub async fn acquire_shared(&self, timeout: Duration) -> Result<LockGuard, Error> {
        let inner = self.inner.clone();
        let guard = self.node.on_node(async move { inner.acquire_shared(timeout).await }).await??;
        Ok(self.guard(guard))
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    /// [`CoordinationError::Busy`], [`Error::Coordination`].
    pub async fn try_lock(&self, mode: LockMode) -> Result<LockGuard, Error> {
        let inner = self.inner.clone();
        let guard = self.node.on_node(async move { inner.try_lock(mode).await }).await??;
        Ok(self.guard(guard))
    }

    /// Who holds it and who waits, in order; at most 256.
    ///
    /// # Errors
    /// [`Error::Coordination`].
    pub async fn requests(&self) -> Result<Vec<RequestInfo>, Error> {
        let inner = self.inner.clone();
        Ok(self.node.on_node(async move { inner.requests().await }).await??)
    }

    fn guard(&self, inner: macula_platform::LockGuard<QuicTransport, RedbStore>) -> LockGuard {
        LockGuard { node: self.node.clone(), inner: Some(inner) }
    }
}

/// A lock that is held; see [`macula_platform::LockGuard`]. Dropping it gives it back soon.
pub struct LockGuard {
    node: Node,
    /// `None` once given back.
    inner: Option<macula_platform::LockGuard<QuicTransport, RedbStore>>,
}

impl LockGuard {
    fn held(&self) -> &macula_platform::LockGuard<QuicTransport, RedbStore> {
        self.inner.as_ref().expect("only `release` and `drop` take it, and they are the last")
    }

    /// The fencing token of this grant.
    pub fn token(&self) -> FencingToken {
        self.held().token()
    }

    /// Whether the lock is held now: compares the lease with the clock, and asks nobody.
    pub fn is_held(&self) -> bool {
        self.held().is_held()
    }

    /// Returns when the lock is lost: this node's session ended, or its lease ran out.
    pub async fn lost(&self) {
        self.held().lost().await;
    }

    /// Gives the lock back, and returns when the group knows.
    ///
    /// # Errors
    /// [`Error::Coordination`]; then the lock is free when this node's session ends.
    pub async fn release(mut self) -> Result<(), Error> {
        let inner = self.inner.take().expect("only `release` and `drop` take it, and they are the last");
        Ok(self.node.on_node(async move { inner.release().await }).await??)
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        // It sends what it has to say from the node's thread.
        let _on_node = self.node.inner.runtime.enter();
        drop(self.inner.take());
    }
}

/// A log; see [`macula_platform::Log`]. Clones share one writer.
#[derive(Clone)]
pub struct Log {
    node: Node,
    inner: macula_platform::Log<QuicTransport, RedbStore>,
}

impl Log {
    /// Appends one entry, once, and returns its offset. The log is created if it is not there.
    ///
    /// # Errors
    /// [`CoordinationError::Unavailable`]: it may have been appended. [`Error::Coordination`].
    pub async fn append(&self, entry: impl Into<Bytes>) -> Result<LogOffset, Error> {
        self.append_all(vec![entry.into()]).await
    }

    /// Appends entries one behind the other, all or none, once, and returns the offset of the first.
    ///
    /// # Errors
    /// The same.
    pub async fn append_all(&self, entries: Vec<Bytes>) -> Result<LogOffset, Error> {
        let inner = self.inner.clone();
        Ok(self.node.on_node(async move { inner.append_all(entries).await }).await??)
    }

    /// Entries from an offset on, or from the oldest that is kept: one page, empty at the end.
    ///
    /// # Errors
    /// [`Error::Coordination`].
    pub async fn read(&self, from: LogOffset) -> Result<LogPage, Error> {
        let inner = self.inner.clone();
        Ok(self.node.on_node(async move { inner.read(from).await }).await??)
    }

    /// Entries from an offset on, one after the other, also those that will be appended.
    pub fn tail(&self, from: LogOffset) -> LogTail {
        LogTail { log: self.clone(), inner: None, position: from }
    }

    /// The log's bounds and settings; `None` if there is none of that name.
    ///
    /// # Errors
    /// [`Error::Coordination`].
    pub async fn info(&self) -> Result<Option<LogInfo>, Error> {
        let inner = self.inner.clone();
        Ok(self.node.on_node(async move { inner.info().await }).await??)
    }

    /// Says how much of the log is kept.
    ///
    /// # Errors
    /// [`Error::Coordination`].
    pub async fn retain(&self, retention: Retention) -> Result<(), Error> {
        let inner = self.inner.clone();
        Ok(self.node.on_node(async move { inner.retain(retention).await }).await??)
    }

    /// Deletes the log with all its entries.
    ///
    /// # Errors
    /// [`Error::Coordination`].
    pub async fn delete(&self) -> Result<(), Error> {
        let inner = self.inner.clone();
        Ok(self.node.on_node(async move { inner.delete().await }).await??)
    }
}

/// A log's entries as they come, see [`Log::tail`].
pub struct LogTail {
    log: Log,
    /// `None` at first, and after a call whose future was dropped: then it begins anew at its position.
    inner: Option<macula_platform::LogTail<QuicTransport, RedbStore>>,
    position: LogOffset,
}

impl LogTail {
    /// The offset of the next entry: keep it to go on after a crash.
    pub const fn position(&self) -> LogOffset {
        self.position
    }

    /// Waits for the next entry. Entries that retention removed before they were read are passed over: offsets tell.
    ///
    /// # Errors
    /// [`Error::Coordination`] if the group does not answer for ten seconds; the tail goes on where it was.
    pub async fn next(&mut self) -> Result<LogEntry, Error> {
        let mut inner = self.inner.take().unwrap_or_else(|| self.log.inner.tail(self.position));
        let (inner, entry) = self
            .log
            .node
            .on_node(async move {
                let entry = inner.next().await;
                (inner, entry)
            })
            .await?;
        self.position = inner.position();
        self.inner = Some(inner);
        Ok(entry?)
    }
}
