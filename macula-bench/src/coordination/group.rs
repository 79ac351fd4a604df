//! Three voters and a client, each a process.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::Wrote;
use super::member::{Order, Status};
use crate::child::Child;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// One of the processes, through all its lives.
pub(crate) struct Process {
    arguments: Vec<String>,
    running: Option<Child>,
}

impl Process {
    pub(crate) fn new(dir: &Path, listen: SocketAddr, join: Option<SocketAddr>, voter: bool) -> Self {
        let dir = dir.display().to_string();
        let mut arguments: Vec<String> =
            ["coordination-member", "--dir", &dir, "--listen", &listen.to_string()]
                .map(str::to_owned)
                .to_vec();
        if let Some(join) = join {
            arguments.extend(["--join".to_owned(), join.to_string()]);
        }
        if voter {
            arguments.push("--voter".into());
        }
        Self { arguments, running: None }
    }

    pub(crate) fn start(&mut self) -> Result<(), String> {
        let mut child = Child::start(&self.arguments)?;
        child.line()?;
        self.running = Some(child);
        Ok(())
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.running = None;
    }

    /// Tells it something without waiting for the answer.
    pub(crate) fn tell(&mut self, order: &Order) -> Result<(), String> {
        let child = self.running.as_mut().ok_or("the process does not run")?;
        child.tell(&serde_json::to_string(order).map_err(|error| error.to_string())?)
    }

    pub(crate) fn answer<A: DeserializeOwned>(&mut self) -> Result<A, String> {
        self.running.as_mut().ok_or("the process does not run")?.figures()
    }

    pub(crate) fn ask<A: DeserializeOwned>(&mut self, order: &Order) -> Result<A, String> {
        self.tell(order)?;
        self.answer()
    }
}

/// The group and its client.
pub(crate) struct Group {
    pub(crate) voters: Vec<Process>,
    pub(crate) client: Process,
    pub(crate) founder: SocketAddr,
    pub(crate) dir: PathBuf,
}

/// What was measured of writes.
pub(crate) struct Writes {
    pub(crate) remote: Wrote,
    pub(crate) at_leader: Wrote,
    /// At the leader, a write of `remote`.
    pub(crate) syncs: f64,
}

impl Group {
    pub(crate) fn start(dir: &Path) -> Result<Self, String> {
        let addrs = free_addrs(4)?;
        let process = |at: usize| {
            let join = (at > 0).then(|| addrs[0]);
            Process::new(&dir.join(at.to_string()), addrs[at], join, at < 3)
        };
        let mut group = Self {
            voters: (0..3).map(process).collect(),
            client: process(3),
            founder: addrs[0],
            dir: dir.to_owned(),
        };
        for voter in &mut group.voters {
            voter.start()?;
        }
        group.client.start()?;
        let _: Wrote = group.client.ask(&Order::Write(1, 0.1))?;
        group.settle()?;
        Ok(group)
    }

    pub(crate) fn status(&mut self) -> Result<Vec<Status>, String> {
        self.voters.iter_mut().map(|voter| voter.ask(&Order::Status)).collect()
    }

    /// Waits until all three vote, and one of them leads; returns which.
    pub(crate) fn settle(&mut self) -> Result<usize, String> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let status = self.status()?;
            if let Some(leader) = status.iter().position(|one| one.leads)
                && status.iter().all(|one| one.votes && one.voters == 3)
            {
                return Ok(leader);
            }
            sleep(Duration::from_millis(50));
        }
        Err("no group of three voters".into())
    }

    pub(crate) fn write(&mut self, clients: usize, span: Duration) -> Result<Writes, String> {
        let leader = self.settle()?;
        let syncs =
            |group: &mut Self| group.voters[leader].ask::<Status>(&Order::Status).map(|status| status.syncs);
        let before = syncs(self)?;
        let remote: Wrote = self.client.ask(&Order::Write(clients, span.as_secs_f64()))?;
        let syncs = (syncs(self)? - before) as f64 / (remote.writes as f64).max(1.0);
        let at_leader = self.voters[leader].ask(&Order::Write(clients, span.as_secs_f64()))?;
        Ok(Writes { remote, at_leader, syncs })
    }
}

/// Addresses that nobody listens at now.
pub(crate) fn free_addrs(count: usize) -> Result<Vec<SocketAddr>, String> {
    let bound = (0..count).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>();
    let bound = bound.map_err(|cause| cause.to_string())?;
    bound.iter().map(|socket| socket.local_addr().map_err(|cause| cause.to_string())).collect()
}
