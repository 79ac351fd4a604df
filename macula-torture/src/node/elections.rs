//! Candidates, and observers who ask the group.

use std::time::Duration;

use macula::Election;
use macula_platform::checker::Outcome;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::{Instant, sleep, timeout};

use super::Work;
use crate::model::{ReignCall, ReignReturn};
use crate::record::{Line, Relied};
use crate::resource::Door;

const NAMES: [&str; 2] = ["matchmaking", "billing"];

/// How often a candidate looks whether it leads.
const LOOK: Duration = Duration::from_millis(4);

/// Between seeing that it leads and using the resource: what it is needed for.
const WORK: Duration = Duration::from_millis(15);

/// How long an observer waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn begin(work: &Work) {
    for (task, name) in (10..).zip(NAMES) {
        tokio::spawn(stand(work.clone(), task, name));
        tokio::spawn(observe(work.clone(), task + 10, name));
    }
}

/// Stands for an election, uses the resource while it leads, and resigns now and then.
async fn stand(work: Work, task: u64, name: &'static str) {
    let mut rng = StdRng::seed_from_u64(work.process(task));
    let Ok(election) = work.node.election(name) else { return };
    let Ok(door) = Door::open(&work.options.resource).await else { return };
    let using = tokio::spawn(use_resource(election.clone(), door, name));
    loop {
        while election.campaign(work.options.number.to_string()).await.is_err() {
            sleep(LOOK * 10).await;
        }
        let resigns = Instant::now() + Duration::from_millis(rng.random_range(500..6_000));
        while Instant::now() < resigns || !election.is_leader() {
            look(&work, &election, name);
            sleep(LOOK).await;
            if using.is_finished() {
                return;
            }
        }
        while election.resign().await.is_err() {
            sleep(LOOK * 10).await;
        }
        sleep(Duration::from_millis(rng.random_range(20..400))).await;
    }
}

fn look(work: &Work, election: &Election, name: &str) {
    let after = work.record.now();
    let Some(token) = election.token() else { return };
    work.record.write(Line::Relied(Relied {
        key: format!("election {name}"),
        node: work.options.number,
        token: token.into(),
        shared: false,
        after,
        before: work.record.now(),
    }));
}

async fn use_resource(election: Election, mut door: Door, name: &'static str) {
    loop {
        let token = election.token();
        sleep(WORK).await;
        if let Some(token) = token
            && door.enter(name, token, false).await.is_err()
        {
            return;
        }
    }
}

/// Asks the group who leads.
async fn observe(work: Work, task: u64, name: &'static str) {
    let mut rng = StdRng::seed_from_u64(work.process(task));
    let Ok(election) = work.node.election(name) else { return };
    let process = work.process(task);
    loop {
        work.record.reign(process, name, Outcome::Invoke(ReignCall::Observe));
        let Ok(Ok(leader)) = timeout(PATIENCE, election.get_leader()).await else {
            work.record.reign(process, name, Outcome::Unknown);
            continue;
        };
        let number = |value: &[u8]| std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        let leader = leader.map(|leader| (number(&leader.value).unwrap_or(u64::MAX), leader.token.into()));
        work.record.reign(process, name, Outcome::Ok(ReignReturn::Leader(leader)));
        sleep(Duration::from_millis(rng.random_range(10..60))).await;
    }
}
