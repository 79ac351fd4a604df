//! Making a group of one member out of what one member of another still has.
//!
//! ```text
//!   before   image │ entries that were committed │ entries that perhaps were │
//!   after    image of all that, with a new epoch │
//! ```
//!
//! The whole log is applied, not only what this member knows to be committed: a leader that is gone may have acknowledged
//! any entry that was on this disk. Those that nobody acknowledged take effect as well, which their askers have to expect
//! of whatever they were given no answer to.

use std::sync::Arc;

use bytes::Bytes;
use macula_proto::{decode, wire};
use openraft::EntryPayload;
use openraft::entry::RaftEntry as _;
use prost::Message as _;

use super::codec::{
    CodecError, ballot_in, ballot_out, entry_in, image_in, image_out, position_in, position_out,
};
use super::state::{LogEntries, leftovers};
use super::types::{Ballot, Membership, Position, SnapshotMeta, StoredMembership, VoterId};
use crate::objects::{Answer, Command, Effects, Epoch, LogIndex, Objects};
use crate::store::write_durably;
use crate::{GroupId, LogStore, Slot, StoreError, Write};

/// Entries that are read at once, in bytes.
const PAGE_BYTES: usize = 1024 * 1024;

/// What a recovery found, and made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rebuilt {
    /// The new epoch.
    pub(crate) epoch: Epoch,
    /// The last entry that this member had.
    pub(crate) last: u64,
    /// So many of its entries were not known to be committed.
    pub(crate) uncertain: u64,
}

fn damaged(cause: &dyn std::fmt::Display) -> StoreError {
    StoreError::Damaged(Arc::from(cause.to_string()))
}

/// What is read of a member before it is changed.
struct Found {
    objects: Objects,
    /// Of the image at first, then of the entry that was applied last.
    last: Option<Position>,
    ballot: Option<Ballot>,
    committed: Option<Position>,
}

/// Turns what is kept under `key` into the first and only member of another group. No engine may run on it.
///
/// All of it happens in one write, together with `part`: after a crash in the middle there is the old group, or the new one.
///
/// # Errors
/// [`StoreError`]; then nothing has changed.
pub(crate) async fn rebuild<S: LogStore>(
    store: &Arc<S>,
    key: GroupId,
    me: VoterId,
    epoch_at_least: Epoch,
    part: Write,
) -> Result<Rebuilt, StoreError> {
    // What the engine left behind on its way to the disk.
    write_durably(&**store, key, Vec::new()).await?;
    let log_entries = LogEntries::new(key, store.clone());
    let mut found = read(&**store, key)?;
    replay(&**store, key, &mut found, &log_entries).await?;
    let (ballot, last) = (found.ballot, found.last);
    let term =
        ballot.map_or(0, |ballot| ballot.leader_id.term).max(last.map_or(0, |at| at.leader_id.term)) + 1;
    let index = last.map_or(0, |at| at.index);
    let epoch = Epoch(found.objects.epoch().0 + 1).max(epoch_at_least);
    let at = position_in(wire::RaftPosition { term, index: index + 1 });
    let raise =
        found.objects.apply(LogIndex(at.index), Command::RaiseEpoch { epoch }, &mut Effects::default());
    if raise != Answer::Done {
        return Err(damaged(&"the epoch could not be raised"));
    }
    let mut writes = leftovers(&**store, key, &found.objects)?;
    writes.extend(first_state(at, me, &found.objects)?);
    writes.push(part);
    write_durably(&**store, key, writes).await?;
    let uncertain = index - found.committed.map_or(0, |at| at.index).min(index);
    Ok(Rebuilt { epoch, last: index, uncertain })
}

fn read<S: LogStore>(store: &S, key: GroupId) -> Result<Found, StoreError> {
    let (mut objects, mut last) = (Objects::default(), None);
    if let Some(bytes) = store.slot(key, Slot::Image)? {
        let image: wire::RaftImage = decode(bytes).map_err(|cause| damaged(&cause))?;
        let (meta, encoded) = image_in(image).map_err(|cause| damaged(&cause))?;
        objects = Objects::decode(&encoded).map_err(|cause| damaged(&cause))?;
        last = meta.last_log_id;
    }
    let committed = match store.slot(key, Slot::Committed)? {
        Some(bytes) => Some(position_in(decode(bytes).map_err(|cause| damaged(&cause))?)),
        None => last,
    };
    let ballot = match store.slot(key, Slot::Vote)? {
        Some(bytes) => {
            let ballot: wire::RaftBallot = decode(bytes).map_err(|cause| damaged(&cause))?;
            Some(ballot_in(Some(ballot)).map_err(|cause| damaged(&cause))?)
        }
        None => None,
    };
    Ok(Found { objects, last, ballot, committed })
}

/// Applies the log behind the image. Entries of applications' logs go to the disk on the way: nobody reads them there before
/// the objects count them.
async fn replay<S: LogStore>(
    store: &S,
    key: GroupId,
    found: &mut Found,
    log_entries: &LogEntries<S>,
) -> Result<(), StoreError> {
    loop {
        let from = found.last.map_or(0, |at| at.index + 1);
        let page = store.entries(key, from, u64::MAX, PAGE_BYTES)?;
        if page.is_empty() {
            return Ok(());
        }
        let mut effects = Effects::default();
        for (expected, (_, bytes)) in (from..).zip(page) {
            let entry = entry_in(bytes).map_err(|cause: CodecError| damaged(&cause))?;
            if entry.index() != expected {
                return Err(damaged(&format!("entry {expected} of the log is missing")));
            }
            found.last = Some(entry.log_id());
            let EntryPayload::Normal(proposal) = entry.payload else { continue };
            // Who runs the group passes over a command of a newer version, too.
            if let Ok(command) = Command::decode(proposal.0) {
                found.objects.apply(LogIndex(expected), command, &mut effects);
            }
        }
        log_entries.keep(effects.writes).await?;
    }
}

/// What a member has that was the only one from the start, and has just written an image.
fn first_state(at: Position, me: VoterId, objects: &Objects) -> Result<[Write; 5], StoreError> {
    let nodes = std::collections::BTreeMap::from([(me, openraft::EmptyNode {})]);
    let members = Membership::new(vec![[me].into()], nodes).map_err(|cause| damaged(&cause))?;
    let meta =
        SnapshotMeta { last_log_id: Some(at), last_membership: StoredMembership::new(Some(at), members) };
    let image = image_out(&meta, Bytes::from(objects.encode()));
    let position = Bytes::from(position_out(&at).encode_to_vec());
    let ballot = ballot_out(&Ballot::new(at.leader_id.term, me));
    Ok([
        Write::Truncate(0),
        Write::Set(Slot::Image, image.encode_to_vec().into()),
        Write::Set(Slot::Purged, position.clone()),
        Write::Set(Slot::Committed, position),
        Write::Set(Slot::Vote, ballot.encode_to_vec().into()),
    ])
}
