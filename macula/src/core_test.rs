//! Whole nodes on the in-memory network, under paused time: all layers, wired as in production, minutes in milliseconds.

use std::collections::BTreeSet;

use macula_dht::KademliaConfig;
use macula_platform::{CoordinationConfig, RedbStore, StoreMetrics, StoreOptions};
use macula_proto::{AllowAll, Capabilities, Name, NodeId, Realm, SecretKey};
use macula_pubsub::{Payload, Published, SubscribeOptions, Subscription};
use macula_rpc::{
    Call, CallError, CallRequest, HandlerError, Procedures, RegisterOptions, Registration, Reply, Strategy,
};
use macula_transport::memory::{Faults, MemoryConfig, MemoryNetwork, MemoryTransport};
use macula_transport::{Target, TokioClock};
use tokio::time::{Duration, Instant, timeout};

use super::*;
use crate::supervisor::{RestartPolicy, SupervisorMetrics};

/// Long enough for every suspicion, back-off and repair.
const PATIENCE: Duration = Duration::from_secs(180);

struct Mesh {
    network: MemoryNetwork,
    nodes: Vec<Whole>,
}

/// A node, and what keeps it running.
struct Whole {
    core: Core<MemoryTransport>,
    _supervisor: Supervisor,
}

impl Mesh {
    /// So many nodes that joined through the first.
    async fn of(count: u8, faults: Faults) -> Self {
        let mut mesh = Self { network: MemoryNetwork::new(u64::from(count)), nodes: Vec::new() };
        mesh.network.set_faults(faults);
        for n in 0..count {
            let whole = mesh.start(n);
            mesh.nodes.push(whole);
            if n > 0 {
                mesh.join(usize::from(n), 0).await;
            }
        }
        mesh.settled(&(0..usize::from(count)).collect::<Vec<_>>()).await;
        mesh
    }

    fn start(&self, n: u8) -> Whole {
        let config = MemoryConfig { capabilities: Capabilities::DIRECTORY, ..MemoryConfig::from(n + 1) };
        let transport = self.network.node(config);
        let env = Environment {
            signer: Arc::new(SecretKey::from_seed([n + 1; 32])),
            clock: Arc::new(TokioClock::default()),
            gate: Arc::new(AllowAll),
            seed: n.into(),
            epoch: rand::random(),
            store: Arc::new(RedbStore::in_memory(StoreOptions::default(), StoreMetrics::default())),
            boot_clock: Arc::new(TokioClock::default()),
        };
        let config = CoreConfig {
            swim: SwimConfig::default(),
            directory: KademliaConfig { k: 3, ..KademliaConfig::default() },
            pubsub: PubSubConfig::default(),
            rpc: RpcConfig::default(),
            coordination: CoordinationConfig::default(),
            realms: vec![Realm::default()],
        };
        let book = transport.book().clone();
        let clock = env.clock.clone();
        let core = Core::new(transport, book, config, env);
        let supervisor =
            Supervisor::new(RestartPolicy::default(), clock, n.into(), SupervisorMetrics::default());
        core.spawn(&supervisor).unwrap();
        Whole { core, _supervisor: supervisor }
    }

    async fn join(&self, at: usize, through: usize) {
        let seed = Target::Contact(self.core(through).transport.local());
        self.core(at).swim.join(vec![seed.clone()]).await.unwrap();
        self.core(at).directory.bootstrap(vec![seed]).await.unwrap();
    }

    fn core(&self, at: usize) -> &Core<MemoryTransport> {
        &self.nodes[at].core
    }

    fn id(&self, at: usize) -> NodeId {
        self.core(at).transport.local().id
    }

    fn ids(&self, of: &[usize]) -> Vec<NodeId> {
        of.iter().map(|at| self.id(*at)).collect()
    }

    /// Waits until each of these sees these, and nobody else.
    async fn settled(&self, among: &[usize]) {
        let expected: BTreeSet<NodeId> = self.ids(among).into_iter().collect();
        let begun = Instant::now();
        for at in among {
            let sees = || {
                let members = self.core(*at).swim.members();
                members.iter().map(Member::id).collect::<BTreeSet<_>>()
            };
            while sees() != expected {
                assert!(begun.elapsed() < PATIENCE, "node {at} sees {} of {}", sees().len(), expected.len());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    async fn subscribe(&self, at: usize, pattern: &str) -> Subscription {
        let pattern = pattern.parse().unwrap();
        let pubsub = &self.core(at).pubsub;
        pubsub.subscribe(&Realm::default(), pattern, SubscribeOptions::default()).await.unwrap()
    }

    async fn publish(&self, at: usize, topic: &str, text: &str) -> Published {
        let topic: Name = topic.parse().unwrap();
        self.core(at).pubsub.publish(&Realm::default(), &topic, Payload::new(text.to_owned())).await.unwrap()
    }

    /// Publishes until it arrives.
    async fn reaches(&self, from: usize, topic: &str, subscription: &mut Subscription, text: &str) {
        let begun = Instant::now();
        loop {
            self.publish(from, topic, text).await;
            match timeout(Duration::from_millis(500), subscription.recv()).await {
                Ok(Some(message)) if message.payload == text => return,
                _ => assert!(begun.elapsed() < PATIENCE, "{text} does not arrive"),
            }
        }
    }

    async fn offer(&self, at: usize, procedure: &str) -> Registration {
        let answer = move |_: Call| async move { Ok::<Reply, HandlerError>(format!("{at}").into()) };
        let rpc = &self.core(at).rpc;
        rpc.register(Realm::default(), procedure.parse().unwrap(), RegisterOptions::default(), answer)
            .await
            .unwrap()
    }

    /// Who answers.
    async fn call(&self, from: usize, procedure: &str) -> Result<String, CallError> {
        let request = CallRequest::new(procedure.parse().unwrap()).strategy(Strategy::RoundRobin);
        let reply = self.core(from).rpc.call(request).await?;
        Ok(String::from_utf8_lossy(&reply.payload).into_owned())
    }
}

async fn texts(subscription: &mut Subscription, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    while texts.len() < count {
        let message = timeout(PATIENCE, subscription.recv()).await.expect("in time").expect("open");
        texts.push(String::from_utf8_lossy(&message.payload).into_owned());
    }
    texts
}

#[tokio::test(start_paused = true)]
async fn a_message_goes_to_whom_it_concerns_and_to_nobody_else() {
    let mesh = Mesh::of(8, Faults::lan()).await;
    let mut at_seven = mesh.subscribe(7, "home.*").await;
    assert_eq!(mesh.publish(2, "home.kitchen", "21").await.peers, 1);
    assert_eq!(texts(&mut at_seven, 1).await, ["21"]);
    let received = |at: usize| mesh.core(at).pubsub.metrics().received.get();
    assert_eq!((0..8).map(received).collect::<Vec<_>>(), [0, 0, 0, 0, 0, 0, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_or_out_of_order_on_a_bad_network() {
    let mesh = Mesh::of(5, Faults { loss: 0.05, ..Faults::wan() }).await;
    let mut at_four = mesh.subscribe(4, "t").await;
    let sent: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    for text in &sent {
        assert_eq!(mesh.publish(1, "t", text).await.peers, 1, "{text}");
    }
    assert_eq!(texts(&mut at_four, sent.len()).await, sent);
}

#[tokio::test(start_paused = true)]
async fn halves_that_were_cut_apart_work_alone_and_then_together() {
    let mesh = Mesh::of(6, Faults::lan()).await;
    let (left, right) = ([0, 1, 2], [3, 4, 5]);
    let mut before = mesh.subscribe(4, "before").await;
    mesh.reaches(1, "before", &mut before, "whole").await;
    mesh.network.partition_sides(&mesh.ids(&left), &mesh.ids(&right));
    mesh.settled(&left).await;
    mesh.settled(&right).await;
    // Each half goes on.
    mesh.reaches(5, "before", &mut before, "half").await;
    let mut during = mesh.subscribe(2, "during").await;
    mesh.reaches(0, "during", &mut during, "half").await;
    assert_eq!(mesh.publish(1, "before", "nobody").await.peers, 0, "those beyond the cut count as dead");

    mesh.network.heal_all();
    mesh.settled(&[0, 1, 2, 3, 4, 5]).await;
    mesh.reaches(1, "before", &mut before, "whole again").await;
    mesh.reaches(4, "during", &mut during, "whole again").await;
}

#[tokio::test(start_paused = true)]
async fn a_crashed_provider_is_called_last_and_its_successor_is_found() {
    let mut mesh = Mesh::of(5, Faults::lan()).await;
    let _offers = [mesh.offer(1, "who").await, mesh.offer(2, "who").await];
    let answers: BTreeSet<String> =
        [mesh.call(4, "who").await.unwrap(), mesh.call(4, "who").await.unwrap()].into();
    assert_eq!(answers, BTreeSet::from(["1".to_owned(), "2".to_owned()]), "in turn");
    mesh.network.crash(mesh.id(1));
    mesh.settled(&[0, 2, 3, 4]).await;
    for from in [0, 3, 4] {
        let begun = Instant::now();
        assert_eq!(mesh.call(from, "who").await.unwrap(), "2");
        assert!(begun.elapsed() < Duration::from_secs(1), "nobody waits for the dead");
    }
    // The same node, started again, is one of the mesh again, with what it offers now.
    mesh.nodes[1] = mesh.start(1);
    mesh.join(1, 3).await;
    mesh.settled(&[0, 1, 2, 3, 4]).await;
    let _again = mesh.offer(1, "new").await;
    assert_eq!(mesh.call(0, "new").await.unwrap(), "1");
}

#[tokio::test(start_paused = true)]
async fn a_paused_node_is_one_of_the_mesh_afterwards() {
    let mesh = Mesh::of(5, Faults::lan()).await;
    let mut at_two = mesh.subscribe(2, "t").await;
    mesh.reaches(0, "t", &mut at_two, "before").await;
    for pause in [Duration::from_secs(3), Duration::from_secs(90)] {
        mesh.network.pause(mesh.id(2));
        tokio::time::sleep(pause).await;
        mesh.network.resume(mesh.id(2));
        mesh.settled(&[0, 1, 2, 3, 4]).await;
        mesh.reaches(3, "t", &mut at_two, &format!("after {pause:?}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_left_is_alone_and_is_asked_for_nothing_until_it_is_back() {
    let mesh = Mesh::of(3, Faults::lan()).await;
    let mut at_two = mesh.subscribe(2, "t").await;
    let _offer = mesh.offer(2, "who").await;
    assert_eq!(mesh.call(0, "who").await.unwrap(), "2");
    mesh.core(2).swim.leave(PATIENCE).await.unwrap();
    let members = mesh.core(2).swim.members();
    assert_eq!(
        members.iter().map(|m| (m.id(), m.state)).collect::<Vec<_>>(),
        [(mesh.id(2), MemberState::Left)]
    );
    mesh.settled(&[0, 1]).await;
    assert_eq!(mesh.publish(0, "t", "nobody").await, Published::default());
    let refused = mesh.call(0, "who").await.unwrap_err();
    assert!(!refused.may_have_run(), "{refused}");
    mesh.join(2, 1).await;
    mesh.settled(&[0, 1, 2]).await;
    mesh.reaches(0, "t", &mut at_two, "back").await;
    assert_eq!(mesh.call(0, "who").await.unwrap(), "2");
}
