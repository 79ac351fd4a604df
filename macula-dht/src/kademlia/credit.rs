//! Whose referrals a lookup follows.
//!
//! Anybody can make up contacts that are closer to a key than anybody is, as many as it likes, and each that is asked
//! costs a request and a wait. A referrer most of whose referrals turn out to be silent loses its credit: what only such
//! nodes refer to is asked after all else. An honest node refers to those that answered it, so it seldom gets there;
//! and if it does, others name the same contacts.

use std::collections::BTreeMap;

use macula_proto::NodeId;

/// Silent referrals before a referrer can lose its credit.
const SILENT_MIN: u32 = 3;

/// What became of the referrals of each node, within one lookup.
#[derive(Debug, Default)]
pub(super) struct Credit(BTreeMap<NodeId, Tally>);

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    answered: u32,
    silent: u32,
}

impl Credit {
    /// Someone that these nodes referred to is slow or has failed.
    pub(super) fn silent(&mut self, referrers: &[NodeId]) {
        for referrer in referrers {
            self.0.entry(*referrer).or_default().silent += 1;
        }
    }

    /// Someone that these nodes referred to has answered, perhaps after it had been taken for silent.
    pub(super) fn answered(&mut self, referrers: &[NodeId], was_silent: bool) {
        for referrer in referrers {
            let tally = self.0.entry(*referrer).or_default();
            tally.answered += 1;
            tally.silent -= u32::from(was_silent && tally.silent > 0);
        }
    }

    /// Whether a contact that these nodes refer to is worth asking before all else is asked. One that nobody had to refer
    /// to is.
    pub(super) fn is_good(&self, referrers: &[NodeId]) -> bool {
        let trusts = |referrer: &NodeId| {
            self.0
                .get(referrer)
                .is_none_or(|tally| tally.silent < SILENT_MIN || tally.silent < tally.answered)
        };
        referrers.is_empty() || referrers.iter().any(trusts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    #[test]
    fn whose_referrals_are_silent_loses_credit_and_gets_it_back() {
        let mut credit = Credit::default();
        let (liar, honest) = (id(1), id(2));
        assert!(credit.is_good(&[]) && credit.is_good(&[liar]));
        for _ in 0..SILENT_MIN {
            assert!(credit.is_good(&[liar]));
            credit.silent(&[liar]);
        }
        assert!(!credit.is_good(&[liar]));
        assert!(credit.is_good(&[liar, honest]), "one good word is enough");
        credit.answered(&[liar], true);
        assert!(credit.is_good(&[liar]), "it was only slow");
    }

    #[test]
    fn some_dead_contacts_cost_nobody_its_credit() {
        let mut credit = Credit::default();
        for _ in 0..20 {
            credit.answered(&[id(1)], false);
            credit.answered(&[id(1)], false);
            credit.silent(&[id(1)]);
            assert!(credit.is_good(&[id(1)]));
        }
    }
}
