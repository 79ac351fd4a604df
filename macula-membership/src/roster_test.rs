use macula_proto::{Contact, SecretKey, UnixMillis};
use proptest::prelude::*;

use super::*;
use crate::statement::Presence;

fn statement(n: u8, incarnation: u64) -> Arc<Statement> {
    let key = SecretKey::from_seed([n; 32]);
    let contact = Arc::new(Contact { id: key.node_id(), addrs: Vec::new() });
    let presence = Presence { contact, tags: Arc::default(), instance: 0 };
    Arc::new(Statement::alive(&key, Incarnation(incarnation), presence, UnixMillis(0)))
}

const STATES: [MemberState; 4] =
    [MemberState::Alive, MemberState::Suspect, MemberState::Dead, MemberState::Left];

#[test]
fn an_entry_is_small() {
    assert_eq!(size_of::<Entry>(), 16);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The hashes, the count and the index are those of a list that was built at once from what is left.
    #[test]
    fn any_history_ends_like_a_fresh_list(steps in prop::collection::vec((0u8..6, 0u64..3, 0usize..5), 1..60)) {
        let mut roster = Roster::new(1);
        let mut model = std::collections::BTreeMap::new();
        for (n, incarnation, what) in steps {
            let statement = statement(n, incarnation);
            if let Some(state) = STATES.get(what) {
                roster.put(statement.clone(), *state, Timestamp::ZERO);
                model.insert(statement.id(), (statement, *state));
            } else {
                roster.remove(&statement.id());
                model.remove(&statement.id());
            }
        }
        let mut fresh = Roster::new(2);
        for (statement, state) in model.values() {
            fresh.put(statement.clone(), *state, Timestamp::ZERO);
        }
        prop_assert_eq!(roster.buckets(), fresh.buckets());
        prop_assert_eq!((roster.len(), roster.present()), (fresh.len(), fresh.present()));
        for (id, (statement, state)) in &model {
            let entry = roster.get(id).expect("in the model");
            prop_assert_eq!((entry.statement(), entry.state()), (statement, *state));
        }
    }
}
