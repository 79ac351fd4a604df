//! Each wire message survives its way through a frame, and each accepted input has one canonical encoding.

mod schema;

use bytes::Bytes;
use macula_proto::MessageError;
use proptest::collection::vec;
use proptest::prelude::*;
use schema::{MESSAGES, Shape};

/// What our limits accept is encoded again as a fixpoint: unknown fields, odd orders and long varints are gone, the
/// values stay.
fn check_fixpoint(shape: &Shape, input: &[u8]) -> Result<(), MessageError> {
    let once = (shape.reencode)(Bytes::copy_from_slice(input))?;
    let twice = (shape.reencode_unlimited)(&once);
    assert_eq!(once, twice, "{} does not settle on {input:02x?}", shape.name);
    Ok(())
}

proptest! {
    // A failing seed is printed; keep it as a file in `tests/corpus`.
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_message_goes_through_a_frame(seed: u64, payload in vec(any::<u8>(), 0..300)) {
        for shape in MESSAGES {
            let message = schema::seeded_message(shape, seed);
            check_fixpoint(shape, &message).expect("a generated message is valid");
            (shape.through_frame)(message.into(), Bytes::from(payload.clone()));
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_settle(input in vec(any::<u8>(), 0..200)) {
        for shape in MESSAGES {
            let _ = check_fixpoint(shape, &input);
        }
    }

    #[test]
    fn a_message_read_as_another_is_refused_or_settles(seed: u64, other in 0..MESSAGES.len()) {
        let message = schema::seeded_message(&MESSAGES[other], seed);
        for shape in MESSAGES {
            let _ = check_fixpoint(shape, &message);
        }
    }

    #[test]
    fn unknown_fields_change_nothing(seed: u64, unknown in vec(any::<u8>(), 0..50)) {
        for shape in MESSAGES {
            let known = schema::seeded_message(shape, seed);
            let mut extended = known.clone();
            schema::put_bytes(&mut extended, 1000, &unknown);
            let read = |message: Vec<u8>| (shape.reencode)(message.into()).expect("valid");
            prop_assert_eq!(read(extended), read(known), "{}", shape.name);
        }
    }
}
