//! One monitor watches one task.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::metrics::TaskLabel;
use super::restart::{Intensity, Verdict};
use super::{Factory, Failure, Hook, RestartPolicy, Shared, TaskEvent, TaskEventKind, TaskState};

/// Most bytes of a panic's message that are kept.
const MESSAGE_BYTES_MAX: usize = 512;

pub(super) struct Monitor {
    pub(super) shared: Arc<Shared>,
    pub(super) name: Arc<str>,
    pub(super) policy: RestartPolicy,
    pub(super) factory: Factory,
    pub(super) hook: Option<Hook>,
    pub(super) stop: CancellationToken,
    pub(super) over: CancellationToken,
}

impl Monitor {
    /// Runs the task until it is stopped or given up.
    pub(super) async fn run(self) {
        let mut intensity = Intensity::new(self.policy);
        let mut restarted = false;
        let end = loop {
            let Some(failure) = self.run_once(restarted).await else { break TaskState::Stopped };
            self.failed(&failure);
            if self.stop.is_cancelled() {
                break TaskState::Stopped;
            }
            let verdict = intensity.on_failure(self.shared.clock.now(), &mut *self.shared.rng.lock());
            let Verdict::Restart(pause) = verdict else { break TaskState::Failed };
            if !self.pause(pause, &failure).await {
                break TaskState::Stopped;
            }
            restarted = true;
        };
        self.end(end);
    }

    /// One life of the task. `None` if it ended because it was told to.
    async fn run_once(&self, restarted: bool) -> Option<Failure> {
        let (factory, stop) = (self.factory.clone(), self.stop.clone());
        // The factory is called within the task, so that its own panic is the task's.
        let mut task = AbortOnDropHandle::new(tokio::spawn(async move { factory(stop).await }));
        self.started(task.abort_handle(), restarted);
        let hook = self.hook.as_ref().filter(|_| restarted).cloned();
        let mut hook = hook.map(|hook| AbortOnDropHandle::new(tokio::spawn(async move { hook().await })));
        loop {
            let replayed = async {
                match hook.as_mut() {
                    Some(hook) => hook.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                end = &mut task => return self.classify(end),
                end = replayed => {
                    hook = None;
                    if let Err(error) = end {
                        task.abort();
                        // Its own end says nothing more: the replay is what failed.
                        let _aborted = task.await;
                        let panic = error.try_into_panic();
                        return Some(panic.map_or(Failure::Killed, |panic| Failure::HookPanicked(message(&*panic))));
                    }
                }
            }
        }
    }

    fn classify(&self, end: Result<(), JoinError>) -> Option<Failure> {
        let stopping = self.stop.is_cancelled();
        match end.map_err(JoinError::try_into_panic) {
            Err(Ok(panic)) => Some(Failure::Panicked(message(&*panic))),
            Ok(()) | Err(Err(_)) if stopping => None,
            Ok(()) => Some(Failure::Ended),
            Err(Err(_)) => Some(Failure::Killed),
        }
    }

    fn started(&self, abort: tokio::task::AbortHandle, restarted: bool) {
        self.change(TaskState::Running, |task| {
            task.abort = Some(abort);
            task.restarts += u64::from(restarted);
        });
        if restarted {
            self.shared.metrics.restarts.get_or_create(&self.label()).inc();
            tracing::info!(task = %self.name, "task restarted");
            self.tell(TaskEventKind::Restarted);
        }
    }

    fn failed(&self, failure: &Failure) {
        self.shared.metrics.failures.get_or_create(&self.label()).inc();
        if let Some(task) = self.shared.tasks.lock().get_mut(&self.name) {
            task.last_failure = Some(failure.clone());
        }
        tracing::error!(task = %self.name, %failure, "task failed");
        self.tell(TaskEventKind::Failed(failure.clone()));
    }

    /// Waits before a restart; `false` if the task was told to stop meanwhile.
    async fn pause(&self, pause: Duration, failure: &Failure) -> bool {
        tracing::debug!(task = %self.name, ?pause, %failure, "restarting after a pause");
        self.change(TaskState::Restarting, |_| {});
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep(pause) => true,
        }
    }

    fn end(&self, state: TaskState) {
        self.change(state, |task| task.abort = None);
        self.shared.metrics.running.dec();
        if state == TaskState::Failed {
            let RestartPolicy { restarts_max, window, .. } = self.policy;
            tracing::error!(task = %self.name, restarts_max, ?window, "task failed too often and stays down");
            self.shared.metrics.failed.inc();
            self.shared.failed.send_modify(|failed| failed.push(self.name.clone()));
            self.tell(TaskEventKind::GaveUp);
        }
        self.over.cancel();
    }

    fn change(&self, state: TaskState, also: impl FnOnce(&mut super::Task)) {
        let since = self.shared.clock.unix();
        if let Some(task) = self.shared.tasks.lock().get_mut(&self.name) {
            (task.state, task.since) = (state, since);
            also(task);
        }
    }

    fn tell(&self, kind: TaskEventKind) {
        // Nobody has to listen.
        let _listeners = self.shared.events.send(TaskEvent { task: self.name.clone(), kind });
    }

    fn label(&self) -> TaskLabel {
        TaskLabel { task: self.name.clone() }
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("(a panic without a message)");
    text[..text.floor_char_boundary(MESSAGE_BYTES_MAX)].into()
}
