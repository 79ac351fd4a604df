use super::*;

#[test]
fn payloads_show_what_they_hold_and_go_back_to_the_same_bytes() {
    for (bytes, content_type, encoding) in [
        (&b"{\"a\":1}"[..], JSON, Encoding::Json),
        (b"{\"a\":1}", "text/plain", Encoding::Text),
        (b"not json", JSON, Encoding::Text),
        (b"\xff\x00", "", Encoding::Base64),
    ] {
        let shown = Payload::show(bytes, content_type);
        assert_eq!(shown.encoding, encoding);
        assert_eq!(shown.to_bytes().unwrap().0, bytes);
    }
}

#[test]
fn a_payload_of_the_wrong_shape_is_refused() {
    let payload = Payload { encoding: Encoding::Text, payload: Value::from(1) };
    assert_eq!(payload.to_bytes(), Err(PayloadError(Encoding::Text)));
    let payload = Payload { encoding: Encoding::Base64, payload: "no base64!".into() };
    assert_eq!(payload.to_bytes(), Err(PayloadError(Encoding::Base64)));
}
