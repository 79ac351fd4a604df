//! One-for-one supervision: a task that fails restarts alone, and its intent is replayed.
//!
//! ```text
//!             spawn
//!               │
//!               ▼      panic, unexpected end, kill
//!          ┌─ Running ───────────────────────────────┐
//!          │    ▲                                    ▼
//!     stop │    │ pause over: fresh task,   failed more than restarts_max
//!          │    │ then on_restart           times within the window?
//!          │    │                             no │        │ yes
//!          │    └───────────────── Restarting ◀──┘        ▼
//!          └──▶ Stopped ◀──── stop ────┘                Failed: stays down, the node is unhealthy
//! ```
//!
//! The window is counted for each task by itself: a task that fails now and then does not use up what its
//! neighbours are forgiven.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use macula_proto::{Clock, UnixMillis};
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{broadcast, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

mod metrics;
mod monitor;
mod restart;
mod shutdown;

pub use metrics::{SupervisorMetrics, TaskLabel};
pub use restart::RestartPolicy;
pub use shutdown::{Shutdown, StageReport};

use monitor::Monitor;

/// Events that a subscriber may lag behind; then it misses the oldest.
const EVENTS_MAX: usize = 256;

/// How long an aborted task may take to notice before it is left alone. It notices at its next await.
const ABORT_GRACE: Duration = Duration::from_secs(1);

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;
type Factory = Arc<dyn Fn(CancellationToken) -> Work + Send + Sync>;
type Hook = Arc<dyn Fn() -> Work + Send + Sync>;

/// Runs a node's tasks and restarts those that fail. Cheap to clone; when the last clone goes, all tasks are
/// aborted.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use macula::supervisor::{RestartPolicy, Supervisor, SupervisorMetrics};
/// use macula_proto::SystemClock;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
/// let clock = Arc::new(SystemClock::default());
/// let supervisor = Supervisor::new(RestartPolicy::default(), clock, 7, SupervisorMetrics::default());
/// supervisor.spawn("heartbeat", |stop| async move { stop.cancelled().await })?;
/// assert_eq!(supervisor.status()[0].restarts, 0);
/// assert!(supervisor.stop(Duration::from_secs(1)).await.is_empty());
/// # Ok::<(), macula::supervisor::SpawnError>(())
/// # }).map_err(std::io::Error::other)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Supervisor {
    shared: Arc<Shared>,
    /// Aborts what still runs when the last clone goes.
    monitors: Arc<Mutex<JoinSet<()>>>,
}

/// What a task does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TaskState {
    /// It runs.
    Running,
    /// It failed, and starts again after a pause.
    Restarting,
    /// It failed too often and stays down.
    Failed,
    /// It was told to stop, and did.
    Stopped,
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        })
    }
}

/// How a task failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// It panicked, with this message.
    #[error("panicked: {0}")]
    Panicked(String),
    /// It restarted, but what should have replayed its intent panicked.
    #[error("replaying its intent panicked: {0}")]
    HookPanicked(String),
    /// It returned, though nobody had told it to stop.
    #[error("ended though nobody stopped it")]
    Ended,
    /// It was killed on purpose.
    #[error("killed")]
    Killed,
}

/// A task as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskStatus {
    /// Its name.
    pub name: Arc<str>,
    /// What it does.
    pub state: TaskState,
    /// How often it was restarted so far.
    pub restarts: u64,
    /// Its latest failure, if any.
    pub last_failure: Option<Failure>,
    /// Since when it is in its state.
    pub since: UnixMillis,
}

/// Something happened to a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskEvent {
    /// Which task.
    pub task: Arc<str>,
    /// What.
    pub kind: TaskEventKind,
}

/// See [`TaskEvent`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskEventKind {
    /// It failed.
    Failed(Failure),
    /// It runs again.
    Restarted,
    /// It failed too often and stays down: the node is unhealthy.
    GaveUp,
}

/// Why a task is not started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// There is already a task of that name.
    #[error("there is already a task `{0}`")]
    Taken(Arc<str>),
    /// The supervisor has been told to stop.
    #[error("the supervisor has been told to stop")]
    Stopping,
}

/// A task to be started: see [`Supervisor::task`].
#[must_use = "nothing runs before `spawn`"]
pub struct TaskBuilder<'a> {
    supervisor: &'a Supervisor,
    name: Arc<str>,
    policy: RestartPolicy,
    on_restart: Option<Hook>,
}

impl Supervisor {
    /// A supervisor without tasks. `seed` draws the pauses before restarts.
    pub fn new(policy: RestartPolicy, clock: Arc<dyn Clock>, seed: u64, metrics: SupervisorMetrics) -> Self {
        let shared = Shared {
            policy,
            clock,
            metrics,
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            stop: CancellationToken::new(),
            tasks: Mutex::new(BTreeMap::new()),
            failed: watch::channel(vec![]).0,
            events: broadcast::channel(EVENTS_MAX).0,
        };
        Self { shared: Arc::new(shared), monitors: Arc::default() }
    }

    /// Starts a task, within a tokio runtime. `factory` is called for each start; the task must run until the
    /// token that it gets is cancelled, and then return soon.
    ///
    /// # Errors
    /// [`SpawnError`] if the name is taken or everything is being stopped.
    pub fn spawn<F, Fut>(&self, name: impl Into<Arc<str>>, factory: F) -> Result<(), SpawnError>
    where
        F: Fn(CancellationToken) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.task(name).spawn(factory)
    }

    /// Begins a task that needs more than [`Supervisor::spawn`] offers.
    pub fn task(&self, name: impl Into<Arc<str>>) -> TaskBuilder<'_> {
        TaskBuilder { supervisor: self, name: name.into(), policy: self.shared.policy, on_restart: None }
    }

    /// Makes a running task fail, as if it had crashed; says whether there was one.
    pub fn kill(&self, name: &str) -> bool {
        let tasks = self.shared.tasks.lock();
        let running = tasks.get(name).filter(|task| task.state == TaskState::Running);
        let Some(abort) = running.and_then(|task| task.abort.as_ref()) else { return false };
        abort.abort();
        true
    }

    /// All tasks, by name.
    pub fn status(&self) -> Vec<TaskStatus> {
        let tasks = self.shared.tasks.lock();
        let status = tasks.iter().map(|(name, task)| TaskStatus {
            name: name.clone(),
            state: task.state,
            restarts: task.restarts,
            last_failure: task.last_failure.clone(),
            since: task.since,
        });
        status.collect()
    }

    /// The tasks that failed too often. While there is one, the node is unhealthy.
    pub fn failed(&self) -> watch::Receiver<Vec<Arc<str>>> {
        self.shared.failed.subscribe()
    }

    /// What happens to tasks from now on. Whoever falls more than 256 events behind misses the oldest.
    pub fn events(&self) -> broadcast::Receiver<TaskEvent> {
        self.shared.events.subscribe()
    }

    /// Stops one task; says whether it ended by itself within the deadline. It is aborted otherwise.
    pub async fn stop_task(&self, name: &str, deadline: Duration) -> bool {
        let stop = self.shared.tasks.lock().get(name).map(|task| task.stop.clone());
        if let Some(stop) = stop {
            stop.cancel();
        }
        self.join(deadline, |task| task == name).await.is_empty()
    }

    /// Stops all tasks at once, aborts those that have not ended at the deadline, and names them. Nothing can be
    /// started afterwards.
    pub async fn stop(&self, deadline: Duration) -> Vec<Arc<str>> {
        // Under the lock of `start`: a task is either told to stop here, or refused there.
        {
            let _tasks = self.shared.tasks.lock();
            self.shared.stop.cancel();
        }
        self.join(deadline, |_| true).await
    }

    /// Waits for tasks that were told to stop; aborts and names those that are late.
    async fn join(&self, deadline: Duration, which: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let over = |names: &[Arc<str>]| {
            let tasks = self.shared.tasks.lock();
            names.iter().filter_map(|name| tasks.get(name)).map(|task| task.over.clone()).collect::<Vec<_>>()
        };
        let all: Vec<_> = self.shared.tasks.lock().keys().filter(|name| which(name)).cloned().collect();
        let _late_ones_are_looked_up_below = timeout(deadline, all_over(over(&all))).await;
        let late: Vec<_> = {
            let tasks = self.shared.tasks.lock();
            let is_late = |name: &&Arc<str>| tasks.get(*name).is_some_and(|task| !task.over.is_cancelled());
            let late: Vec<_> = all.iter().filter(is_late).cloned().collect();
            late.iter().filter_map(|name| tasks.get(name)?.abort.as_ref()).for_each(AbortHandle::abort);
            late
        };
        for task in &late {
            tracing::warn!(%task, ?deadline, "task did not stop in time; aborted");
        }
        if timeout(ABORT_GRACE, all_over(over(&late))).await.is_err() {
            tracing::error!(tasks = ?late, "aborted tasks still run: something in them blocks its thread");
        }
        late
    }

    fn start(
        &self,
        name: Arc<str>,
        policy: RestartPolicy,
        hook: Option<Hook>,
        factory: Factory,
    ) -> Result<(), SpawnError> {
        let shared = &self.shared;
        let mut tasks = shared.tasks.lock();
        if shared.stop.is_cancelled() {
            return Err(SpawnError::Stopping);
        }
        if tasks.contains_key(&name) {
            return Err(SpawnError::Taken(name));
        }
        let task = Task {
            state: TaskState::Running,
            restarts: 0,
            last_failure: None,
            since: shared.clock.unix(),
            abort: None,
            stop: shared.stop.child_token(),
            over: CancellationToken::new(),
        };
        let (stop, over) = (task.stop.clone(), task.over.clone());
        tasks.insert(name.clone(), task);
        drop(tasks);
        shared.metrics.running.inc();
        let monitor = Monitor { shared: shared.clone(), name, policy, factory, hook, stop, over };
        let mut monitors = self.monitors.lock();
        while monitors.try_join_next().is_some() {}
        monitors.spawn(monitor.run());
        Ok(())
    }
}

async fn all_over(over: Vec<CancellationToken>) {
    for task in over {
        task.cancelled().await;
    }
}

impl TaskBuilder<'_> {
    /// Another policy than the supervisor's.
    pub fn policy(mut self, policy: RestartPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Runs beside the fresh task after each restart, to replay what the failed one had been asked to do. If it
    /// panics, the task counts as failed; if the task fails first, it is aborted.
    pub fn on_restart<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.on_restart = Some(Arc::new(move || Box::pin(hook())));
        self
    }

    /// Starts the task: see [`Supervisor::spawn`].
    ///
    /// # Errors
    /// [`SpawnError`] if the name is taken or everything is being stopped.
    pub fn spawn<F, Fut>(self, factory: F) -> Result<(), SpawnError>
    where
        F: Fn(CancellationToken) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let factory: Factory = Arc::new(move |stop| Box::pin(factory(stop)));
        self.supervisor.start(self.name, self.policy, self.on_restart, factory)
    }
}

impl fmt::Debug for TaskBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskBuilder")
            .field("name", &self.name)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// What the supervisor and its monitors know together.
struct Shared {
    policy: RestartPolicy,
    clock: Arc<dyn Clock>,
    metrics: SupervisorMetrics,
    rng: Mutex<StdRng>,
    stop: CancellationToken,
    tasks: Mutex<BTreeMap<Arc<str>, Task>>,
    failed: watch::Sender<Vec<Arc<str>>>,
    events: broadcast::Sender<TaskEvent>,
}

struct Task {
    state: TaskState,
    restarts: u64,
    last_failure: Option<Failure>,
    since: UnixMillis,
    abort: Option<AbortHandle>,
    /// Tells it to stop.
    stop: CancellationToken,
    /// Cancelled once it will never run again.
    over: CancellationToken,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tasks = self.tasks.lock();
        f.debug_map().entries(tasks.iter().map(|(name, task)| (name, task.state))).finish()
    }
}

#[cfg(test)]
#[path = "supervisor/supervisor_test.rs"]
mod tests;
