//! Supervision under paused time.

use std::sync::atomic::{AtomicUsize, Ordering};

use macula_transport::TokioClock;
use tokio::sync::mpsc;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn supervisor() -> Supervisor {
    let clock = Arc::new(TokioClock::starting_at(UnixMillis(0)));
    Supervisor::new(RestartPolicy::default(), clock, 1, SupervisorMetrics::default())
}

fn status(supervisor: &Supervisor, name: &str) -> TaskStatus {
    supervisor.status().into_iter().find(|task| &*task.name == name).unwrap()
}

async fn next(events: &mut broadcast::Receiver<TaskEvent>) -> TaskEventKind {
    events.recv().await.unwrap().kind
}

#[tokio::test(start_paused = true)]
async fn a_panicking_task_restarts_alone_and_its_intent_is_replayed() {
    let supervisor = supervisor();
    let mut events = supervisor.events();
    let (replayed, mut replays) = mpsc::channel(8);
    let (crash, crashes) = (Arc::new(tokio::sync::Notify::new()), Arc::new(AtomicUsize::new(0)));
    supervisor.spawn("steady", |stop| async move { stop.cancelled().await }).unwrap();
    let (trigger, lives) = (crash.clone(), crashes.clone());
    supervisor
        .task("fragile")
        .on_restart(move || {
            let replayed = replayed.clone();
            async move { replayed.send(()).await.unwrap() }
        })
        .spawn(move |_stop| {
            let (trigger, lives) = (trigger.clone(), lives.clone());
            async move {
                lives.fetch_add(1, Ordering::Relaxed);
                trigger.notified().await;
                panic!("as {}", "told");
            }
        })
        .unwrap();

    crash.notify_one();
    assert_eq!(next(&mut events).await, TaskEventKind::Failed(Failure::Panicked("as told".into())));
    assert_eq!(status(&supervisor, "fragile").state, TaskState::Restarting);
    assert_eq!(next(&mut events).await, TaskEventKind::Restarted);
    replays.recv().await.unwrap();

    let fragile = status(&supervisor, "fragile");
    assert_eq!((fragile.state, fragile.restarts), (TaskState::Running, 1));
    assert_eq!(fragile.last_failure, Some(Failure::Panicked("as told".into())));
    assert!((5..=10).contains(&fragile.since.0), "a small pause came first: {:?}", fragile.since);
    assert_eq!(crashes.load(Ordering::Relaxed), 2);
    let steady = status(&supervisor, "steady");
    assert_eq!((steady.state, steady.restarts, steady.since), (TaskState::Running, 0, UnixMillis(0)));
    assert!(replays.try_recv().is_err(), "once for each restart");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_fails_too_often_stays_down_and_is_reported() {
    let supervisor = supervisor();
    let (mut events, mut failed) = (supervisor.events(), supervisor.failed());
    supervisor.spawn("steady", |stop| async move { stop.cancelled().await }).unwrap();
    supervisor.spawn("hopeless", |_stop| async { panic!("again") }).unwrap();

    failed.changed().await.unwrap();
    assert_eq!(**failed.borrow(), ["hopeless".into()]);
    let mut kinds = vec![];
    while kinds.last() != Some(&TaskEventKind::GaveUp) {
        kinds.push(next(&mut events).await);
    }
    let restarts = kinds.iter().filter(|kind| **kind == TaskEventKind::Restarted).count();
    assert_eq!((restarts, kinds.len()), (5, 12), "five restarts, six failures, one end");
    let hopeless = status(&supervisor, "hopeless");
    assert_eq!((hopeless.state, hopeless.restarts), (TaskState::Failed, 5));
    assert!(!supervisor.kill("hopeless"));

    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(status(&supervisor, "hopeless"), hopeless, "it is not restarted further");
    assert_eq!(status(&supervisor, "steady").restarts, 0);
    let metrics = &supervisor.shared.metrics;
    assert_eq!((metrics.running.get(), metrics.failed.get()), (1, 1));
    let label = TaskLabel { task: "hopeless".into() };
    assert_eq!(metrics.failures.get_or_create(&label).get(), 6);
    assert_eq!(metrics.restarts.get_or_create(&label).get(), 5);
}

#[tokio::test(start_paused = true)]
async fn rare_failures_are_forgiven_for_ever() {
    let supervisor = supervisor();
    supervisor.spawn("ends", |_stop| tokio::time::sleep(3 * SECOND)).unwrap();
    tokio::time::sleep(300 * SECOND).await;
    let ends = status(&supervisor, "ends");
    assert!(ends.restarts > 90, "{ends:?}");
    assert_eq!(ends.last_failure, Some(Failure::Ended));
    assert!(supervisor.failed().borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn kill_is_a_crash_that_is_restarted() {
    let supervisor = supervisor();
    let mut events = supervisor.events();
    supervisor.spawn("victim", |_stop| std::future::pending()).unwrap();
    tokio::task::yield_now().await;
    assert!(supervisor.kill("victim"));
    assert!(!supervisor.kill("nobody"));
    assert_eq!(next(&mut events).await, TaskEventKind::Failed(Failure::Killed));
    assert_eq!(next(&mut events).await, TaskEventKind::Restarted);
    assert_eq!(status(&supervisor, "victim").restarts, 1);
}

#[tokio::test(start_paused = true)]
async fn panics_of_the_factory_and_of_the_replay_are_failures_of_the_task() {
    let supervisor = supervisor();
    let mut events = supervisor.events();
    let policy = RestartPolicy { restarts_max: 0, ..RestartPolicy::default() };
    fn factory(_stop: CancellationToken) -> std::future::Ready<()> {
        panic!("no life at all")
    }
    supervisor.task("factory").policy(policy).spawn(factory).unwrap();
    assert_eq!(next(&mut events).await, TaskEventKind::Failed(Failure::Panicked("no life at all".into())));
    assert_eq!(next(&mut events).await, TaskEventKind::GaveUp);

    supervisor
        .task("replay")
        .policy(RestartPolicy { restarts_max: 1, ..policy })
        .on_restart(|| async { panic!("lost the intent") })
        .spawn(|_stop| std::future::pending())
        .unwrap();
    tokio::task::yield_now().await;
    assert!(supervisor.kill("replay"));
    let expected = [
        TaskEventKind::Failed(Failure::Killed),
        TaskEventKind::Restarted,
        TaskEventKind::Failed(Failure::HookPanicked("lost the intent".into())),
        TaskEventKind::GaveUp,
    ];
    for kind in expected {
        assert_eq!(next(&mut events).await, kind);
    }
}

#[tokio::test(start_paused = true)]
async fn stopping_waits_for_the_willing_and_aborts_the_others() {
    let supervisor = supervisor();
    supervisor
        .spawn("willing", |stop| async move {
            stop.cancelled().await;
            tokio::time::sleep(SECOND).await;
        })
        .unwrap();
    supervisor.spawn("deaf", |_stop| std::future::pending()).unwrap();
    supervisor.spawn("resting", |_stop| async { panic!("just before the end") }).unwrap();
    tokio::task::yield_now().await;

    let begun = tokio::time::Instant::now();
    let late = supervisor.stop(3 * SECOND).await;
    assert_eq!(late, ["deaf".into()]);
    assert_eq!(begun.elapsed(), 3 * SECOND);
    assert!(
        supervisor.status().iter().all(|task| task.state == TaskState::Stopped),
        "{:?}",
        supervisor.status()
    );
    assert_eq!(supervisor.spawn("late", |_stop| async {}), Err(SpawnError::Stopping));
    assert_eq!(supervisor.shared.metrics.running.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_task_can_be_stopped_by_itself_and_names_are_unique() {
    let supervisor = supervisor();
    supervisor.spawn("one", |stop| async move { stop.cancelled().await }).unwrap();
    supervisor.spawn("two", |stop| async move { stop.cancelled().await }).unwrap();
    assert_eq!(supervisor.spawn("one", |_stop| async {}), Err(SpawnError::Taken("one".into())));
    assert!(supervisor.stop_task("one", SECOND).await);
    assert_eq!(status(&supervisor, "one").state, TaskState::Stopped);
    assert_eq!(status(&supervisor, "two").state, TaskState::Running);
}

#[tokio::test(start_paused = true)]
async fn when_the_supervisor_goes_so_do_its_tasks() {
    let supervisor = supervisor();
    let (alive, mut gone) = mpsc::channel::<()>(1);
    supervisor
        .spawn("orphan", move |_stop| {
            let alive = alive.clone();
            async move {
                let _alive = alive;
                std::future::pending::<()>().await;
            }
        })
        .unwrap();
    tokio::task::yield_now().await;
    drop(supervisor);
    assert_eq!(gone.recv().await, None);
}
