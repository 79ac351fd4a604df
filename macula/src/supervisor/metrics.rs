//! What supervision counts.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Which task.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TaskLabel {
    /// Its name.
    pub task: Arc<str>,
}

/// Counters and gauges of a [`Supervisor`](super::Supervisor).
#[derive(Clone, Debug, Default)]
pub struct SupervisorMetrics {
    /// Failures, by task.
    pub failures: Family<TaskLabel, Counter>,
    /// Restarts, by task.
    pub restarts: Family<TaskLabel, Counter>,
    /// Tasks that run or are about to run again.
    pub running: Gauge,
    /// Tasks that failed too often and stay down.
    pub failed: Gauge,
}

impl SupervisorMetrics {
    /// Makes them known to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("supervisor");
        registry.register("task_failures", "Failures of tasks", self.failures.clone());
        registry.register("task_restarts", "Restarts of tasks", self.restarts.clone());
        registry.register("tasks_running", "Tasks that run or are about to", self.running.clone());
        registry.register("tasks_failed", "Tasks that failed too often and stay down", self.failed.clone());
    }
}
