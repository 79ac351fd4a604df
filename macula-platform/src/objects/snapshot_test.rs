use super::*;

#[test]
fn nothing_round_trips() {
    let objects = Objects::default();
    assert_eq!(Objects::decode(&objects.encode()), Ok(objects));
}
