//! This node's part in a group, as it is kept on the disk.

use macula_proto::{MessageError, Realm, decode, wire};
use prost::Message as _;

use crate::raft::codec::{group_of, group_parts};
use crate::{GroupId, Slot, Write};

/// In place of a store's number: this node is a member no more.
pub(crate) const NO_STORAGE: u64 = 0;

/// Groups that one came from by recoveries and that are remembered, at most.
const REPLACED_MAX: usize = 8;

/// A part in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Under which number it is kept: the first one that the group had here. A recovery gives the group another number, and
    /// leaves all that is kept where it is.
    pub(crate) key: GroupId,
    /// The group.
    pub(crate) group: GroupId,
    /// The number of this node's store there.
    pub(crate) storage: u64,
    /// What the group was before recoveries, the last one first.
    pub(crate) replaces: Vec<GroupId>,
}

impl Part {
    /// In a group that has not been recovered here.
    pub(crate) const fn new(group: GroupId, storage: u64, replaces: Vec<GroupId>) -> Self {
        Self { key: group, group, storage, replaces }
    }

    /// The same, in the group that the present one becomes by a recovery.
    pub(crate) fn recovered_as(&self, group: GroupId) -> Self {
        let replaces = [self.group].into_iter().chain(self.replaces.iter().copied());
        let replaces = replaces.take(REPLACED_MAX).collect();
        Self { key: self.key, group, storage: self.storage, replaces }
    }

    pub(crate) fn write(&self, realm: &Realm) -> Write {
        let part = wire::GroupPart {
            realm: realm.to_wire(),
            storage: self.storage,
            group: (self.group != self.key).then(|| name_out(self.group)),
            replaces: names_out(&self.replaces),
        };
        Write::Set(Slot::Part, part.encode_to_vec().into())
    }

    /// A part that was given up.
    pub(crate) fn none(realm: &Realm) -> Write {
        let part = wire::GroupPart { realm: realm.to_wire(), storage: NO_STORAGE, ..Default::default() };
        Write::Set(Slot::Part, part.encode_to_vec().into())
    }

    /// What is kept under a number; `None`: of another realm.
    pub(crate) fn read(
        key: GroupId,
        part: bytes::Bytes,
        realm: &Realm,
    ) -> Result<Option<Self>, MessageError> {
        let wire::GroupPart { realm: of, storage, group, replaces } = decode(part)?;
        let group = group.map_or(key, name_in);
        let replaces = names_in(replaces);
        Ok((of == realm.to_wire()).then_some(Self { key, group, storage, replaces }))
    }
}

const fn name_out(group: GroupId) -> wire::GroupName {
    let (high, low) = group_parts(group);
    wire::GroupName { high, low }
}

const fn name_in(name: wire::GroupName) -> GroupId {
    group_of(name.high, name.low)
}

pub(super) fn names_out(groups: &[GroupId]) -> Vec<wire::GroupName> {
    groups.iter().take(REPLACED_MAX).map(|group| name_out(*group)).collect()
}

pub(super) fn names_in(names: Vec<wire::GroupName>) -> Vec<GroupId> {
    names.into_iter().take(REPLACED_MAX).map(name_in).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_read_as_it_was_written_and_only_in_its_realm() {
        let (home, away) = (Realm::default(), "away".parse().unwrap());
        let first = Part::new(GroupId(7), 3, Vec::new());
        let recovered = first.recovered_as(GroupId(8)).recovered_as(GroupId(9));
        assert_eq!((recovered.key, recovered.group), (GroupId(7), GroupId(9)));
        assert_eq!(recovered.replaces, [GroupId(8), GroupId(7)]);
        for part in [first, recovered] {
            let Write::Set(Slot::Part, bytes) = part.write(&home) else { panic!("not a part") };
            assert_eq!(Part::read(GroupId(7), bytes.clone(), &home).unwrap(), Some(part));
            assert_eq!(Part::read(GroupId(7), bytes, &away).unwrap(), None);
        }
        let many = (0..20).fold(Part::new(GroupId(1), 1, Vec::new()), |part, number| {
            part.recovered_as(GroupId(100 + number))
        });
        assert_eq!(many.replaces.len(), REPLACED_MAX);
    }
}
