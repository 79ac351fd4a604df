//! A handler is never run twice for one call, and what an error says about it is true – whatever fails, and when.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use macula_proto::{NodeId, Realm};
use macula_transport::memory::Faults;
use proptest::prelude::{Just, ProptestConfig, Strategy as _, TestCaseError, any};
use proptest::{prop_assert, prop_assert_eq, prop_oneof, proptest};

use crate::mesh_test::{Node, TestMesh};
use crate::{Call, CallRequest, Procedures, RegisterOptions, Registration, Strategy};

/// What happens to the path between the caller and a provider.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Crash,
    Partition,
    RequestsLost,
    AnswersLost,
    Pause,
    Restart,
    Unregister,
}

#[derive(Clone, Debug)]
struct Scenario {
    fault: Fault,
    /// When it happens, counted from the call; negative: before.
    at_ms: i64,
    /// For how long.
    lasts_ms: u64,
    /// Which of the providers are hit.
    hit: [bool; 2],
    timeout_ms: u64,
    /// Whether connections are up before the call.
    warm: bool,
}

/// One way; a call takes a connection (if cold), this, the handler's time, and this again.
const LATENCY: Duration = Duration::from_millis(20);
const HANDLER: Duration = Duration::from_millis(50);

fn scenario() -> impl proptest::strategy::Strategy<Value = Scenario> {
    let fault = prop_oneof![
        Just(Fault::Crash),
        Just(Fault::Partition),
        Just(Fault::RequestsLost),
        Just(Fault::AnswersLost),
        Just(Fault::Pause),
        Just(Fault::Restart),
        Just(Fault::Unregister),
    ];
    let timeout = prop_oneof![50u64..300, Just(60_000)];
    (fault, -50i64..300, prop_oneof![1u64..200, 1000u64..30_000], any::<[bool; 2]>(), timeout, any::<bool>())
        .prop_map(|(fault, at_ms, lasts_ms, hit, timeout_ms, warm)| Scenario {
            fault,
            at_ms,
            lasts_ms,
            hit,
            timeout_ms,
            warm,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_call_runs_at_most_once_and_its_error_tells_the_truth(scenario in scenario()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(play(scenario))?;
    }
}

async fn play(scenario: Scenario) -> Result<(), TestCaseError> {
    let mesh = TestMesh::default();
    mesh.network.set_faults(Faults { latency: LATENCY, ..Faults::default() });
    let runs = Arc::new(AtomicUsize::new(0));
    let mut providers = Vec::new();
    for n in [1, 2] {
        let (id, node) = mesh.add(n);
        let offered = offer(&node, &runs).await;
        providers.push((n, id, Some(offered)));
    }
    let (caller_id, caller) = mesh.add(3);
    if scenario.warm {
        for (_, id, _) in &providers {
            let _ = caller.call(CallRequest::new("nothing".parse().unwrap()).to(*id)).await;
        }
    }
    if scenario.at_ms < 0 {
        begin(&mesh, &scenario, &mut providers, caller_id, &runs).await;
        tokio::time::sleep(Duration::from_millis(scenario.at_ms.unsigned_abs())).await;
    }
    let request = CallRequest::new("count".parse().unwrap())
        .strategy(Strategy::RoundRobin)
        .timeout(Duration::from_millis(scenario.timeout_ms));
    let call = tokio::spawn(async move { caller.call(request).await });
    if scenario.at_ms >= 0 {
        tokio::time::sleep(Duration::from_millis(scenario.at_ms.unsigned_abs())).await;
        begin(&mesh, &scenario, &mut providers, caller_id, &runs).await;
    }
    tokio::time::sleep(Duration::from_millis(scenario.lasts_ms)).await;
    mesh.network.heal_all();
    for (_, id, _) in &providers {
        mesh.network.resume(*id);
    }
    let outcome = call.await.expect("no panic");
    // Whatever is still under way arrives now.
    tokio::time::sleep(Duration::from_secs(120)).await;
    let runs = runs.load(Ordering::Relaxed);
    prop_assert!(runs <= 1, "ran {} times: {:?}", runs, outcome);
    match outcome {
        Ok(_) => prop_assert_eq!(runs, 1),
        Err(error) => prop_assert!(runs == 0 || error.may_have_run(), "ran, although: {}", error),
    }
    Ok(())
}

type Provider = (u8, NodeId, Option<Registration>);

async fn begin(
    mesh: &TestMesh,
    scenario: &Scenario,
    providers: &mut [Provider],
    caller: NodeId,
    runs: &Arc<AtomicUsize>,
) {
    for ((n, id, offered), hit) in providers.iter_mut().zip(scenario.hit) {
        match scenario.fault {
            _ if !hit => {}
            Fault::Crash => mesh.network.crash(*id),
            Fault::Partition => mesh.network.partition(*id, caller),
            Fault::RequestsLost => mesh.network.partition_one_way(caller, *id),
            Fault::AnswersLost => mesh.network.partition_one_way(*id, caller),
            Fault::Pause => mesh.network.pause(*id),
            Fault::Restart => {
                mesh.network.crash(*id);
                let (_, node) = mesh.add(*n);
                if let Some(old) = offered.take() {
                    old.keep();
                }
                *offered = Some(offer(&node, runs).await);
            }
            Fault::Unregister => drop(offered.take()),
        }
    }
}

async fn offer(node: &Node, runs: &Arc<AtomicUsize>) -> Registration {
    let runs = runs.clone();
    let handler = move |_: Call| {
        runs.fetch_add(1, Ordering::Relaxed);
        async {
            tokio::time::sleep(HANDLER).await;
            Ok("done".into())
        }
    };
    let options = RegisterOptions::default();
    node.register(Realm::default(), "count".parse().unwrap(), options, handler).await.unwrap()
}
