//! Coordination on one node: a seat in the group of each of its realms, and what the node wants there.

use std::collections::BTreeMap;
use std::sync::Arc;

use macula_proto::{Clock, Frame, FrameKind, Gate, NodeId, Realm};
use macula_transport::{ResetCode, StreamRx, StreamTx, Transport};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::config::CoordinationConfig;
use super::election::{Election, PATIENCE};
use super::error::CoordinationError;
use super::feed::Interest;
use super::lock::Lock;
use super::log::Log;
use super::message::{Ask, Manage, MessageError, Question};
use super::peers::Peers;
use super::recover::{Foreign, Recovered};
use super::seat::{Seat, Surroundings};
use super::seen::Look;
use crate::objects::{
    ElectionInfo, ElectionName, LockInfo, LockName, LogInfo, LogName, Objects, SessionId, SessionInfo,
};
use crate::raft::{Group, GroupStatus};
use crate::{GroupId, LogStore, VoterId};

/// What a node has to do with the group of a realm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealmStatus {
    /// The realm.
    pub realm: Realm,
    /// The group, if one is known.
    pub group: Option<GroupId>,
    /// Who leads it, as far as this node knows.
    pub leader: Option<VoterId>,
    /// Its voters, as far as this node knows.
    pub voters: Vec<VoterId>,
    /// What this node knows as a member, if it is one.
    pub member: Option<GroupStatus>,
    /// Another group of the same realm. The two are never merged: one has to be abandoned.
    pub foreign: Option<Foreign>,
    /// The group was recovered from a lost quorum, and grants no election and no lock before all leases of before are over. Only
    /// members know.
    pub recovering: bool,
}

/// Coordination on one node. Clones are the same.
pub struct Coordination<T: Transport, S: LogStore> {
    inner: Arc<Inner<T, S>>,
}

struct Inner<T: Transport, S: LogStore> {
    me: NodeId,
    realms: BTreeMap<Realm, Arc<Client<T, S>>>,
}

impl<T: Transport, S: LogStore> Clone for Coordination<T, S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

/// What coordination is injected with.
pub struct CoordinationEnvironment<T, S> {
    /// The way to other nodes.
    pub transport: T,
    /// Where groups are kept.
    pub store: Arc<S>,
    /// Who is around.
    pub peers: Arc<dyn Peers>,
    /// Time. It must go on while the machine is suspended, or a lease could seem to be valid after that.
    pub clock: Arc<dyn Clock>,
    /// Who may do what.
    pub gate: Arc<dyn Gate>,
    /// Where all chance comes from: another one at each start of a node.
    pub seed: u64,
}

impl<T: Transport, S: LogStore> Coordination<T, S> {
    /// For these realms. Nothing happens before [`run`](Self::run), and then only where this node is a member already:
    /// a group is looked for, or founded, when somebody needs it.
    pub fn new(
        environment: CoordinationEnvironment<T, S>,
        realms: impl IntoIterator<Item = Realm>,
        config: &CoordinationConfig,
    ) -> Self {
        let CoordinationEnvironment { transport, store, peers, clock, gate, seed } = environment;
        let me = transport.local().id;
        let client = |(number, realm): (usize, Realm)| {
            let around = Surroundings {
                transport: transport.clone(),
                store: store.clone(),
                peers: peers.clone(),
                clock: clock.clone(),
                gate: gate.clone(),
                seed: seed.wrapping_add(number as u64),
                config: config.clone(),
            };
            (realm.clone(), Client::new(Seat::new(realm, around)))
        };
        let realms = realms.into_iter().enumerate().map(client).collect();
        Self { inner: Arc::new(Inner { me, realms }) }
    }

    /// Takes part until told to stop: then sessions are closed, and leaders hand over.
    pub async fn run(&self, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        // Sessions are closed before a member stops, or there would be nobody left to tell.
        let members_stop = CancellationToken::new();
        for client in self.inner.realms.values() {
            tasks.spawn(client.seat.clone().run(members_stop.clone()));
            let (client, stop, members_stop) = (client.clone(), stop.clone(), members_stop.clone());
            tasks.spawn(async move {
                let watching = client.clone().watch(stop.clone());
                let keeping = client.keep_session(stop);
                tokio::join!(watching, keeping);
                members_stop.cancel();
            });
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(cause) = ended
                && cause.is_panic()
            {
                std::panic::resume_unwind(cause.into_panic());
            }
        }
    }

    /// Has the groups of this node's realms looked for, and founded where this node may, without waiting for their first use.
    pub fn need(&self) {
        for client in self.inner.realms.values() {
            client.seat.need();
        }
    }

    fn client(&self, realm: &Realm) -> Result<&Arc<Client<T, S>>, CoordinationError> {
        self.inner.realms.get(realm).ok_or_else(|| CoordinationError::NotInRealm(realm.clone()))
    }

    /// An election of a realm.
    ///
    /// # Errors
    /// [`CoordinationError::NotInRealm`].
    pub fn election(&self, realm: &Realm, name: ElectionName) -> Result<Election<T, S>, CoordinationError> {
        Ok(Election::new(self.client(realm)?.clone(), name))
    }

    /// A lock of a realm.
    ///
    /// # Errors
    /// [`CoordinationError::NotInRealm`].
    pub fn lock(&self, realm: &Realm, name: LockName) -> Result<Lock<T, S>, CoordinationError> {
        Ok(Lock::new(self.client(realm)?.clone(), name))
    }

    /// A log of a realm.
    ///
    /// # Errors
    /// [`CoordinationError::NotInRealm`].
    pub fn log(&self, realm: &Realm, name: LogName) -> Result<Log<T, S>, CoordinationError> {
        Ok(Log::new(self.client(realm)?.clone(), name))
    }

    /// Elections that somebody leads, after `after`, by name: one page.
    ///
    /// # Errors
    /// [`CoordinationError`] if the group does not answer.
    pub async fn elections(
        &self,
        realm: &Realm,
        after: Option<ElectionName>,
    ) -> Result<Vec<ElectionInfo>, CoordinationError> {
        Ok(self.client(realm)?.seat.look(Look::Elections(after), PATIENCE).await?.elections)
    }

    /// Locks that somebody holds, after `after`, by name: one page.
    ///
    /// # Errors
    /// [`CoordinationError`] if the group does not answer.
    pub async fn locks(
        &self,
        realm: &Realm,
        after: Option<LockName>,
    ) -> Result<Vec<LockInfo>, CoordinationError> {
        Ok(self.client(realm)?.seat.look(Look::Locks(after), PATIENCE).await?.locks)
    }

    /// Logs, after `after`, by name: one page.
    ///
    /// # Errors
    /// [`CoordinationError`] if the group does not answer.
    pub async fn logs(
        &self,
        realm: &Realm,
        after: Option<LogName>,
    ) -> Result<Vec<LogInfo>, CoordinationError> {
        Ok(self.client(realm)?.seat.look(Look::Logs(after), PATIENCE).await?.logs)
    }

    /// Sessions, after `after`, by age: one page.
    ///
    /// # Errors
    /// [`CoordinationError`] if the group does not answer.
    pub async fn sessions(
        &self,
        realm: &Realm,
        after: Option<SessionId>,
    ) -> Result<Vec<SessionInfo>, CoordinationError> {
        Ok(self.client(realm)?.seat.look(Look::Sessions(after), PATIENCE).await?.sessions)
    }

    /// Has the members of a realm's group changed.
    ///
    /// # Errors
    /// [`CoordinationError::Unwilling`] if the leader does not want to, with its reason.
    pub async fn manage(&self, realm: &Realm, change: Manage) -> Result<(), CoordinationError> {
        self.client(realm)?.seat.ask(Question::Manage(change), PATIENCE).await.map(drop)
    }

    /// Gives up this node's part in the group of a realm, with all that is in its store: the way out where two groups were
    /// founded in one realm. It then joins the other group, if more voters are wanted there.
    ///
    /// # Errors
    /// [`CoordinationError::NoMember`].
    pub async fn abandon(&self, realm: &Realm) -> Result<GroupId, CoordinationError> {
        self.client(realm)?.seat.abandon().await
    }

    /// Makes a new group of what this member of a realm's group has: the way out where a majority of the voters is lost for
    /// good. Elections and locks are granted again after [`TTL_MAX`](crate::objects::limits::TTL_MAX), logs take entries at
    /// once; other nodes become voters as they do in any group.
    ///
    /// All that the group acknowledged is kept as far as it had reached this member, in whose log the newest of it may be
    /// missing. So choose the member that has applied most (`raft status` tells), and be sure that the others are down: a
    /// majority of them that lives on goes on granting.
    ///
    /// # Errors
    /// [`CoordinationError::NoMember`]; [`CoordinationError::Unwilling`] where the group is not lost, unless `force` is set:
    /// it has a leader, or a majority of its voters runs. [`CoordinationError::Store`]: nothing has changed.
    pub async fn recover(&self, realm: &Realm, force: bool) -> Result<Recovered, CoordinationError> {
        self.client(realm)?.seat.recover(force).await
    }

    /// What this node has to do with the groups of its realms.
    pub fn status(&self) -> Vec<RealmStatus> {
        self.inner.realms.iter().map(|(realm, client)| status(realm, &client.seat)).collect()
    }

    /// Serves a stream that another node opened with one of this layer's frames.
    pub async fn on_stream(&self, from: NodeId, first: Frame, mut tx: T::Tx, mut rx: T::Rx) {
        let code = match first.kind() {
            FrameKind::GROUP_ASK => match Ask::from_frame(&first) {
                Ok(ask) => match self.inner.realms.get(&ask.realm) {
                    Some(client) => return client.seat.serve_ask(from, ask, &mut tx).await,
                    None => ResetCode::UNKNOWN,
                },
                Err(cause) => garbage(from, &cause),
            },
            FrameKind::GROUP_WATCH => match Interest::from_frame(&first) {
                Ok((realm, ..)) => match self.inner.realms.get(&realm) {
                    Some(client) => return client.seat.serve_watch(from, first, tx, rx).await,
                    None => ResetCode::UNKNOWN,
                },
                Err(cause) => garbage(from, &cause),
            },
            _ => match Group::<S>::asked(&first).and_then(|asked| self.member(asked)) {
                Some(group) => return group.serve(from, first, tx, rx).await,
                None => ResetCode::UNKNOWN,
            },
        };
        tx.reset(code);
        rx.stop(code);
    }

    fn member(&self, id: GroupId) -> Option<Group<S>> {
        self.members().into_iter().find(|group| group.id() == id)
    }

    /// Stops everything at once, as if the process were killed: nobody is told, and nothing is handed over. Whoever
    /// [`run`](Self::run)s it has to be gone already.
    #[cfg(feature = "testing")]
    pub async fn crash(&self) {
        for member in self.members() {
            member.stop().await;
        }
    }

    /// The groups that this node is a member of.
    pub(super) fn members(&self) -> Vec<Group<S>> {
        self.inner.realms.values().filter_map(|client| Some(client.seat.member()?.group)).collect()
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.inner.me
    }
}

fn garbage(from: NodeId, cause: &MessageError) -> ResetCode {
    tracing::debug!(peer = %from, %cause, "a question that is none");
    ResetCode::PROTOCOL
}

fn status<T: Transport, S: LogStore>(realm: &Realm, seat: &Seat<T, S>) -> RealmStatus {
    let told = seat.told(super::message::Outcome::Done);
    RealmStatus {
        realm: realm.clone(),
        group: seat.group_id(),
        leader: told.leader,
        voters: told.voters,
        member: seat.member().map(|member| member.group.status()),
        foreign: seat.foreign(),
        recovering: seat.member().is_some_and(|member| member.group.look(Objects::is_recovering)),
    }
}
