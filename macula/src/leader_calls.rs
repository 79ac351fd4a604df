//! Calls to whoever leads an election.

use std::time::Duration;

use macula_platform::{CoordinationError, FencingToken, Leader};
use macula_rpc::{Caching, CallError, CallRequest, Reply};
use tokio::time::Instant;

use crate::{Election, Error, IntoPayload};

impl Election {
    /// Calls a procedure at the node that leads this election, which has to offer it. The handler should look at
    /// [`is_leader`](Self::is_leader) itself before it does what only a leader may do, for it may have been deposed meanwhile.
    ///
    /// ```no_run
    /// # async fn example(node: macula::Node) -> Result<(), macula::Error> {
    /// let reply = node.election("matchmaking")?.call("matchmaking.join", "anna").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`CoordinationError::NoLeader`] if nobody leads, [`Error::Name`], [`Error::Codec`], or [`Error::Call`] with what went wrong and
    /// whether the handler may have run.
    pub async fn call(&self, procedure: &str, payload: impl IntoPayload) -> Result<Reply, Error> {
        let (bytes, content_type) = payload.into_payload()?;
        let request = CallRequest::new(procedure.parse()?);
        let request = request.payload(bytes).content_type(content_type);
        let calling: BoxFuture<'_, _> = Box::pin(self.call_with(request));
        calling.await
    }

    /// As [`call`](Self::call), with everything that can be said about a call but where it goes: realm and node are the election's
    /// and its leader's. An answer that this node keeps will not do.
    ///
    /// A leader that cannot be reached is waited out: as long as the call has certainly run nowhere, and the time is not over,
    /// it goes to the next one. Once it may have run, the failure is reported, unless the request is idempotent: then the next
    /// leader gets it as well.
    ///
    /// # Errors
    /// The same.
    pub async fn call_with(&self, mut request: CallRequest) -> Result<Reply, Error> {
        let timeout = request.timeout.unwrap_or_else(|| self.node.config().rpc.default_timeout);
        let until = Instant::now() + timeout;
        request.realm = self.realm.clone();
        request.caching = Some(Caching::Off);
        let mut leader = self.some_leader().await?;
        loop {
            request.target = Some(leader.owner);
            request.timeout = Some(until.saturating_duration_since(Instant::now()).max(AT_LEAST));
            let failed = match self.call_once(request.clone()).await {
                Err(Error::Call(error)) if may_go_on(&error, request.idempotent) => error,
                done => return done,
            };
            match tokio::time::timeout_at(until, self.leader_after(leader.token)).await {
                Ok(next) => leader = next,
                Err(_) => return Err(failed.into()),
            }
        }
    }

    /// Boxed, for a call's future is large, and callers of this are few.
    fn call_once(&self, request: CallRequest) -> BoxFuture<'_, Result<Reply, Error>> {
        Box::pin(self.node.call_with(request))
    }

    /// Who leads as last heard, else as the group says.
    async fn some_leader(&self) -> Result<Leader, Error> {
        if let Some(leader) = self.view().leader {
            return Ok(leader);
        }
        let nobody = || CoordinationError::NoLeader { election: self.inner.name().clone() };
        let asking: BoxFuture<'_, _> = Box::pin(self.get_leader());
        Ok(asking.await?.ok_or_else(nobody)?)
    }

    async fn leader_after(&self, token: FencingToken) -> Leader {
        let mut changes = self.changes();
        loop {
            if let Some(leader) = changes.next().await.leader.filter(|leader| leader.token > token) {
                return leader;
            }
        }
    }
}

type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A call that is made at all gets so long.
const AT_LEAST: Duration = Duration::from_millis(1);

/// Whether the next leader may be asked for the same.
fn may_go_on(error: &CallError, idempotent: bool) -> bool {
    match error {
        CallError::NoProviderReachable { .. } => idempotent || !error.may_have_run(),
        CallError::Lost { .. } => idempotent,
        _ => false,
    }
}
