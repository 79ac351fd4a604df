//! Calls to whoever leads an election, over real sockets.

// The lint lets tests unwrap, but not what they share.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use macula::{
    Call, CallError, CallRequest, CoordinationError, Decode, Election, Error, HandlerError, Node,
    Registration, Reply,
};

const ELECTION: &str = "matchmaking";

/// A candidate, and how often its handlers ran.
struct Candidate {
    node: Node,
    runs: Arc<AtomicUsize>,
    _offers: [Registration; 2],
}

impl Candidate {
    async fn start(name: &'static str, seed: &Node) -> Self {
        let node = Node::builder().name(name).listen("127.0.0.1:0").start().await.unwrap();
        node.join(&seed.listen_addrs()[0].to_string()).await.unwrap();
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = runs.clone();
        let who = move |_: Call| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move { Ok::<_, HandlerError>(Reply::new(name)) }
        };
        let counted = runs.clone();
        let hang = move |_: Call| {
            counted.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<Result<Reply, HandlerError>>()
        };
        let offers = [node.register("who", who).await.unwrap(), node.register("hang", hang).await.unwrap()];
        node.election(ELECTION).unwrap().campaign(name).await.unwrap();
        Self { node, runs, _offers: offers }
    }

    fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }
}

async fn who(election: &Election) -> Result<String, Error> {
    Ok(election.call("who", "").await?.text().unwrap().to_owned())
}

#[tokio::test]
async fn a_call_goes_to_the_leader_and_to_the_next_one_only_if_it_ran_nowhere() {
    let caller = Node::builder().name("caller").listen("127.0.0.1:0").start().await.unwrap();
    let election = caller.election(ELECTION).unwrap();
    let nobody = who(&election).await.unwrap_err();
    assert!(matches!(&nobody, Error::Coordination(CoordinationError::NoLeader { .. })), "{nobody}");
    let first = Candidate::start("first", &caller).await;
    let second = Candidate::start("second", &caller).await;
    assert_eq!(who(&election).await.unwrap(), "first");
    assert_eq!(who(&first.node.election(ELECTION).unwrap()).await.unwrap(), "first", "at the leader itself");

    // It resigns, and the next one is called.
    first.node.election(ELECTION).unwrap().resign().await.unwrap();
    let mut changes = election.changes();
    let follows =
        async { while changes.next().await.leader.is_none_or(|leader| leader.value != "second") {} };
    tokio::time::timeout(Duration::from_secs(10), follows).await.unwrap();
    assert_eq!(who(&election).await.unwrap(), "second");
    first.node.election(ELECTION).unwrap().campaign("first").await.unwrap();

    // It dies in the middle of a call: that may have run, so it is not made again.
    let (ran_first, ran_second) = (first.runs(), second.runs());
    let calling = tokio::spawn({
        let election = election.clone();
        async move { election.call("hang", "").await }
    });
    while second.runs() == ran_second {
        tokio::task::yield_now().await;
    }
    drop(second);
    let lost = calling.await.unwrap().unwrap_err();
    assert!(matches!(&lost, Error::Call(error) if error.may_have_run()), "{lost}");
    assert_eq!(first.runs(), ran_first, "nobody else got it");

    // Its session goes on for a moment. A call made now waits for the next leader, for it ran nowhere.
    let request = CallRequest::new("who".parse().unwrap()).timeout(Duration::from_secs(20));
    let reply = election.call_with(request).await.unwrap();
    assert_eq!(reply.text().unwrap(), "first");
    let unknown = election.call("nothing.of.the.kind", "").await.unwrap_err();
    assert!(matches!(&unknown, Error::Call(CallError::UnknownProcedure { .. })), "{unknown}");
}
