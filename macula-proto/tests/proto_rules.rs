//! Rules for the `.proto` files, on which the bound on decoding rests.

mod schema;

use schema::{Field, MESSAGES};

fn broken(rule: impl Fn(&Field) -> bool) -> Vec<String> {
    let fields = MESSAGES.iter().flat_map(|shape| shape.fields.iter().map(move |field| (shape, field)));
    let named = fields
        .filter(|(_, field)| rule(field))
        .map(|(shape, field)| format!("{}.{}", shape.name, field.name));
    named.collect()
}

/// `decode` counts the elements of the outermost message only. To repeat something inside of a nested message, pack it
/// into `bytes` (as in `Contact.addrs`), or send the nested message as `bytes` and decode it by itself.
#[test]
fn a_nested_message_has_no_repeated_fields() {
    let repeats = |name: &str| schema::shape(name).fields.iter().any(|field| field.repeated);
    let wrong = broken(|field| field.kind == "TYPE_MESSAGE" && repeats(field.message));
    assert_eq!(wrong, Vec::<String>::new(), "these fields nest a message that has repeated fields");
}

/// A repeated varint takes one byte on the wire and eight in memory, and no element is counted for it. Take `fixed64`,
/// `fixed32`, or `bytes`.
#[test]
fn repeated_numbers_have_a_fixed_size() {
    let allowed = ["TYPE_MESSAGE", "TYPE_BYTES", "TYPE_STRING", "TYPE_FIXED64", "TYPE_FIXED32"];
    let wrong = broken(|field| field.repeated && !allowed.contains(&field.kind));
    assert_eq!(wrong, Vec::<String>::new(), "these fields repeat a number of variable length");
}

#[test]
fn all_layers_have_messages() {
    for name in ["Signed", "Hello", "SwimPacket", "DhtFind", "Publish", "Call"] {
        assert_eq!(schema::shape(name).name, name);
    }
}
