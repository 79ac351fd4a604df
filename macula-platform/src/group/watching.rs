//! Watching a group's objects: the side that is told, and the side that tells.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use macula_proto::{Frame, NodeId};
use macula_transport::{ResetCode, StreamRx, StreamTx, Transport};
use parking_lot::Mutex;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::feed::{Interest, change_in, change_out};
use super::seat::Seat;
use crate::raft::Group;
use crate::{GroupId, LogStore};

/// Between two tries to find somebody who tells.
const PAUSE: Duration = Duration::from_millis(100);

/// Streams on which one node is told at a time, at most: it needs one, and has another for a moment when it begins anew.
const STREAMS_OF_NODE_MAX: usize = 4;

/// Why somebody is told no more.
enum Ended {
    /// This node is not a member.
    NoMember,
    /// It watches too much, or asks for what is none.
    Protocol,
    /// It does not read, or is gone.
    Gone,
    /// It lagged behind and has to begin anew, or it watches with more streams than it may.
    Lagged,
}

/// Streams on which each node is told.
pub(crate) type Watchers = Mutex<BTreeMap<NodeId, usize>>;

/// One of a node's streams.
struct Watcher<'a> {
    all: &'a Watchers,
    node: NodeId,
}

impl<'a> Watcher<'a> {
    /// `None`: the node has as many as it may.
    fn admit(all: &'a Watchers, node: NodeId) -> Option<Self> {
        let mut streams = all.lock();
        let count = streams.entry(node).or_default();
        if *count >= STREAMS_OF_NODE_MAX {
            return None;
        }
        *count += 1;
        Some(Self { all, node })
    }
}

impl Drop for Watcher<'_> {
    fn drop(&mut self) {
        if let Entry::Occupied(mut streams) = self.all.lock().entry(self.node) {
            *streams.get_mut() -= 1;
            if *streams.get() == 0 {
                streams.remove();
            }
        }
    }
}

impl<T: Transport, S: LogStore> Seat<T, S> {
    /// Tells a node what it watches, as long as it does.
    pub(crate) async fn serve_watch(&self, from: NodeId, first: Frame, mut tx: T::Tx, mut rx: T::Rx) {
        let watcher = Watcher::admit(&self.watchers, from);
        let ended = match watcher {
            Some(_) => self.tell_changes(first, &mut tx, &mut rx).await,
            None => Ended::Lagged,
        };
        let code = match ended {
            Ended::NoMember => ResetCode::UNKNOWN,
            Ended::Protocol => ResetCode::PROTOCOL,
            Ended::Lagged => ResetCode::OVERLOADED,
            Ended::Gone => ResetCode::CANCELLED,
        };
        tx.reset(code);
        rx.stop(code);
    }

    async fn tell_changes(&self, first: Frame, tx: &mut T::Tx, rx: &mut T::Rx) -> Ended {
        let Ok((_, asked, more)) = Interest::from_frame(&first) else { return Ended::Protocol };
        let Some(group) = self.member().map(|member| member.group).filter(|group| group.id() == asked) else {
            return Ended::NoMember;
        };
        let mut changes = group.watch();
        let mut interest = Interest::default();
        if let Err(ended) = add(&mut interest, more, &group, tx).await {
            return ended;
        }
        loop {
            tokio::select! {
                frame = rx.recv() => {
                    let Ok(Some(frame)) = frame else { return Ended::Gone };
                    let Ok((_, _, more)) = Interest::from_frame(&frame) else { return Ended::Protocol };
                    if let Err(ended) = add(&mut interest, more, &group, tx).await {
                        return ended;
                    }
                }
                change = changes.recv() => {
                    let change = match change {
                        Ok(change) => change,
                        Err(RecvError::Lagged(_)) => return Ended::Lagged,
                        Err(RecvError::Closed) => return Ended::NoMember,
                    };
                    if !interest.wants(&change) {
                        continue;
                    }
                    let Ok(frame) = change_out(&change) else { return Ended::Protocol };
                    if tx.send(frame).await.is_err() {
                        return Ended::Gone;
                    }
                }
            }
        }
    }
}

/// Takes in what somebody wants to watch as well, and tells how it is now.
async fn add<S: LogStore>(
    interest: &mut Interest,
    more: Interest,
    group: &Group<S>,
    tx: &mut impl StreamTx,
) -> Result<(), Ended> {
    let present = group.look(|objects| more.present(objects));
    if !interest.add(more) {
        return Err(Ended::Protocol);
    }
    for change in present {
        let frame = change_out(&change).map_err(|_| Ended::Protocol)?;
        tx.send(frame).await.map_err(|_| Ended::Gone)?;
    }
    Ok(())
}

impl<T: Transport, S: LogStore> Client<T, S> {
    /// Keeps this node told of what it watches, until told to stop.
    pub(super) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let watching = async {
                let mut changed = self.interest_changes();
                while self.interest().is_empty() && changed.changed().await.is_ok() {}
                self.watch_once().await;
                tokio::time::sleep(PAUSE).await;
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = watching => {}
            }
        }
    }

    /// Watches at one member until that ends.
    async fn watch_once(&self) {
        if let Some(member) = self.seat.member() {
            return self.watch_here(&member.group).await;
        }
        let Some(known) = self.seat.known() else { return };
        let gone = |node: &NodeId| self.seat.around.peers.is_gone(node);
        let members = known.leader.into_iter().chain(known.voters).map(|voter| voter.node);
        if let Some(node) = members.into_iter().find(|node| !gone(node)) {
            self.watch_at(node, known.group).await;
        }
    }

    /// This node is a member, and looks at its own objects.
    async fn watch_here(&self, group: &Group<S>) {
        self.begin_to_watch(group.id());
        let mut changes = group.watch();
        let mut interests = self.interest_changes();
        let mut watched = Interest::default();
        loop {
            let interest = self.interest();
            let more = interest.without(&watched);
            for change in group.look(|objects| more.present(objects)) {
                self.on_change(&change);
            }
            watched = interest;
            tokio::select! {
                biased;
                change = changes.recv() => match change {
                    Ok(change) => if watched.wants(&change) {
                        self.on_change(&change);
                    },
                    Err(RecvError::Lagged(_)) => watched = Interest::default(),
                    Err(RecvError::Closed) => return,
                },
                changed = interests.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    async fn watch_at(&self, node: NodeId, group: GroupId) {
        let mut interests = self.interest_changes();
        let watched = self.interest();
        let Ok(frames) = watched.to_frames(&self.seat.realm, group) else { return };
        let mut frames = frames.into_iter();
        let Some(first) = frames.next() else { return };
        let Ok((mut tx, mut rx)) = self.seat.around.transport.stream(node, first).await else {
            self.seat.forget_leader();
            return;
        };
        self.begin_to_watch(group);
        let telling = async {
            let mut watched = watched;
            loop {
                for frame in frames.by_ref() {
                    if tx.send(frame).await.is_err() {
                        return;
                    }
                }
                if interests.changed().await.is_err() {
                    return;
                }
                let interest = self.interest();
                let more = interest.without(&watched);
                watched = interest;
                if more.is_empty() {
                    continue;
                }
                let Ok(more) = more.to_frames(&self.seat.realm, group) else { return };
                frames = more.into_iter();
            }
        };
        let listening = async {
            while let Ok(Some(frame)) = rx.recv().await {
                match change_in(&frame) {
                    Ok(change) => self.on_change(&change),
                    Err(cause) => return tracing::debug!(peer = %node, %cause, "a change that is none"),
                }
            }
            self.seat.forget_leader();
        };
        tokio::select! {
            () = telling => {}
            () = listening => {}
        }
    }
}
