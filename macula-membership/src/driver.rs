//! The driver: one task that feeds the machine, waits for its timers, and runs its errands.

use std::sync::Arc;

use macula_proto::{Contact, NodeId};
use macula_transport::{Target, Transport, TransportError};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::effect::Effects;
use crate::exchange;
use crate::inbox::{Errand, Input};
use crate::machine::Machine;
use crate::metrics::Refused;
use crate::swim::{Shared, Swim, join_through};
use crate::{Packet, SyncError};

/// Inputs handled before the timers are looked at again.
const INPUTS_A_TURN: usize = 256;

/// Runs a [`Swim`]. If its task dies, [`Swim::driver`] makes another one that goes on where it stopped.
#[derive(Debug)]
#[must_use = "nothing happens until it runs"]
pub struct SwimDriver<T: Transport> {
    swim: Swim<T>,
}

impl<T: Transport> SwimDriver<T> {
    pub(crate) const fn new(swim: Swim<T>) -> Self {
        Self { swim }
    }

    /// Runs until `stop` is cancelled. It does not say goodbye: see [`Membership::leave`](crate::Membership::leave).
    pub async fn run(self, stop: CancellationToken) {
        let shared = self.swim.shared;
        let mut errands = JoinSet::new();
        relink(&shared, true);
        loop {
            run_errands(&shared, work(&shared), &mut errands);
            let deadline = shared.deadline();
            let pause = deadline.since(shared.clock.now());
            if pause.is_zero() || !shared.inbox.is_empty() {
                // Others get their share of the thread between two turns.
                tokio::task::yield_now().await;
                if stop.is_cancelled() {
                    return;
                }
                continue;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = shared.wake.notified() => {}
                Some(_) = errands.join_next() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// One turn: inputs, then timers. Returns the errands to run.
fn work<T: Transport>(shared: &Shared<T>) -> Vec<Errand> {
    let (mut inputs, mut errands) = (Vec::new(), Vec::new());
    if shared.inbox.take(INPUTS_A_TURN, &mut inputs, &mut errands) {
        relink(shared, false);
    }
    let due = shared.deadline() <= shared.clock.now();
    if inputs.is_empty() && !due {
        return errands;
    }
    shared.turn(|machine, now, out| {
        for input in inputs {
            match input {
                Input::LinkUp(id) => machine.on_link_up(now, id, out),
                Input::LinkDown(id) => machine.on_link_down(now, id),
                Input::Datagram(from, frame) => match Packet::from_frame(&frame) {
                    Ok(decoded) => {
                        (0..decoded.refused).for_each(|_| shared.metrics.refuse(Refused::Garbage));
                        machine.on_packet(now, from, &decoded.message, out);
                    }
                    Err(_) => shared.metrics.refuse(Refused::Garbage),
                },
            }
        }
        if due {
            machine.on_timeout(now, out);
        }
    });
    errands
}

/// Reads the live connections from the transport: at the start, and after their comings and goings overflowed.
fn relink<T: Transport>(shared: &Shared<T>, restart: bool) {
    let links: Vec<NodeId> = shared.transport.peers().into_iter().map(|peer| peer.id).collect();
    shared.turn(|machine, now, out| {
        if restart {
            machine.on_restart(links);
        } else {
            relink_running(machine, now, &links, out);
        }
    });
}

fn relink_running(machine: &mut Machine, now: macula_proto::Timestamp, links: &[NodeId], out: &mut Effects) {
    for gone in machine.links_not_in(links) {
        machine.on_link_down(now, gone);
    }
    for id in links {
        machine.on_link_up(now, *id, out);
    }
}

fn run_errands<T: Transport>(shared: &Arc<Shared<T>>, list: Vec<Errand>, tasks: &mut JoinSet<()>) {
    while tasks.try_join_next().is_some() {}
    for errand in list {
        let shared = shared.clone();
        match errand {
            Errand::Dial(contact) => tasks.spawn(async move { dial(&shared, &contact).await }),
            Errand::Sync(contact) => tasks.spawn(async move { sync(&shared, &contact).await }),
            Errand::RetrySeeds => tasks.spawn(async move { retry_seeds(&shared).await }),
        };
    }
}

async fn dial<T: Transport>(shared: &Shared<T>, contact: &Contact) {
    let id = contact.id;
    let patience = shared.config.stream_timeout;
    let connect = shared.transport.connect(Target::Contact(contact.clone()));
    let outcome = tokio::time::timeout(patience, connect).await;
    shared.turn(|machine, now, out| match outcome {
        Ok(Ok(_)) => machine.on_link_up(now, id, out),
        Ok(Err(error)) => machine.on_dial_failed(now, id, is_local(&error), out),
        Err(_) => machine.on_dial_failed(now, id, false, out),
    });
}

async fn sync<T: Transport>(shared: &Shared<T>, contact: &Contact) {
    let outcome = sync_with(shared, contact).await;
    if let Err(error) = &outcome {
        tracing::debug!(peer = %contact.id.short(), %error, "anti-entropy failed");
    }
    shared.turn(|machine, _, _| machine.on_sync_end(contact.id, outcome.is_ok()));
}

async fn sync_with<T: Transport>(shared: &Shared<T>, contact: &Contact) -> Result<(), SyncError> {
    let patience = shared.config.stream_timeout;
    let connect = shared.transport.connect(Target::Contact(contact.clone()));
    tokio::time::timeout(patience, connect).await.map_err(|_| SyncError::TimedOut(patience))??;
    exchange::ask(shared, contact.id).await
}

/// Alone: tries the seeds until one answers.
async fn retry_seeds<T: Transport>(shared: &Shared<T>) {
    let seeds = shared.seeds.lock().clone();
    for seed in seeds {
        if join_through(shared, seed).await.is_ok() {
            return;
        }
    }
}

/// Whether a dial failed for reasons that lie on this node.
const fn is_local(error: &TransportError) -> bool {
    matches!(error, TransportError::PoolFull(_) | TransportError::Closed)
}
