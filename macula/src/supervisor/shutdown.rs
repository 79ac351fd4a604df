//! Stopping in order: one stage after the other, each with a deadline.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, timeout};

/// An ordered shutdown. Stages run one after the other; one that takes too long is dropped, and the next begins.
///
/// ```
/// use std::time::Duration;
/// use macula::supervisor::Shutdown;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?.block_on(async {
/// let reports = Shutdown::new()
///     .stage("leave", Duration::from_secs(2), async {})
///     .stage("drain", Duration::from_secs(5), std::future::pending())
///     .run()
///     .await;
/// assert!(reports[0].finished && !reports[1].finished);
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Default)]
#[must_use = "nothing stops before `run`"]
pub struct Shutdown<'a> {
    stages: Vec<Stage<'a>>,
}

struct Stage<'a> {
    name: &'static str,
    deadline: Duration,
    work: Pin<Box<dyn Future<Output = ()> + Send + 'a>>,
}

/// How one stage went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageReport {
    /// Its name.
    pub name: &'static str,
    /// How long it took.
    pub took: Duration,
    /// Whether it ended by itself, within its deadline.
    pub finished: bool,
}

impl<'a> Shutdown<'a> {
    /// No stages yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next stage. Its work begins once all earlier stages are over, and is dropped at its deadline.
    pub fn stage(
        mut self,
        name: &'static str,
        deadline: Duration,
        work: impl Future<Output = ()> + Send + 'a,
    ) -> Self {
        self.stages.push(Stage { name, deadline, work: Box::pin(work) });
        self
    }

    /// Runs all stages and says how they went.
    pub async fn run(self) -> Vec<StageReport> {
        let mut reports = Vec::with_capacity(self.stages.len());
        for Stage { name, deadline, work } in self.stages {
            let begun = Instant::now();
            let finished = timeout(deadline, work).await.is_ok();
            let took = begun.elapsed();
            if finished {
                tracing::debug!(stage = name, ?took, "shutdown stage done");
            } else {
                tracing::warn!(stage = name, ?deadline, "shutdown stage did not end in time; going on");
            }
            reports.push(StageReport { name, took, finished });
        }
        reports
    }
}

impl fmt::Debug for Shutdown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.stages.iter().map(|stage| (stage.name, stage.deadline))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[tokio::test(start_paused = true)]
    async fn stages_run_in_order_and_a_late_one_holds_up_nobody_for_longer_than_its_deadline() {
        let order = Mutex::new(vec![]);
        let reports = Shutdown::new()
            .stage("intake", Duration::from_secs(1), async { order.lock().push("intake") })
            .stage("leave", Duration::from_secs(2), async {
                order.lock().push("leave");
                std::future::pending::<()>().await;
            })
            .stage("close", Duration::from_secs(3), async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                order.lock().push("close");
            })
            .run()
            .await;
        assert_eq!(*order.lock(), ["intake", "leave", "close"]);
        let reported: Vec<_> = reports.iter().map(|r| (r.name, r.took.as_secs(), r.finished)).collect();
        assert_eq!(reported, [("intake", 0, true), ("leave", 2, false), ("close", 1, true)]);
    }
}
