//! Decoding protobuf messages from peers without allocating out of proportion.

use bytes::{Buf, Bytes};
use prost::Message;

use crate::limits::{MESSAGE_BYTES_PER_ELEMENT, MESSAGE_ELEMENTS_FREE};

/// Why bytes are not the message they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The protobuf decoder refuses them.
    #[error("not the message it should be: {0}")]
    Decode(#[from] prost::DecodeError),
    /// The message holds more fields than its size justifies.
    #[error("{elements} fields in a message of {message_bytes} bytes")]
    TooManyElements {
        /// Length-delimited fields at the top level.
        elements: usize,
        /// The message's size.
        message_bytes: usize,
    },
}

/// Decodes a message that came from elsewhere: a frame's header, the body of a signed envelope, a record's value.
/// Unknown fields are skipped, as in any protobuf.
///
/// The memory that it takes is bounded: see [`DECODED_BYTES_PER_BYTE`](crate::limits::DECODED_BYTES_PER_BYTE). Depth is
/// bounded as well: what is nested deeper than 100 levels is refused.
///
/// ```
/// use macula_proto::{decode, wire};
/// use prost::Message;
///
/// let lane = wire::LaneOpen { lane: 7 };
/// assert_eq!(decode::<wire::LaneOpen>(lane.encode_to_vec().into())?, lane);
/// # Ok::<(), macula_proto::MessageError>(())
/// ```
///
/// # Errors
/// [`MessageError::TooManyElements`] before anything is allocated, [`MessageError::Decode`] for all that is no `M`.
pub fn decode<M: Message + Default>(message: Bytes) -> Result<M, MessageError> {
    let elements = count_elements(&message);
    if elements > MESSAGE_ELEMENTS_FREE + message.len() / MESSAGE_BYTES_PER_ELEMENT {
        return Err(MessageError::TooManyElements { elements, message_bytes: message.len() });
    }
    Ok(M::decode(message)?)
}

/// Counts the length-delimited fields at the top level of a protobuf message, without allocating. That is enough,
/// because no message that is nested in another has repeated fields (`tests/proto_rules.rs` sees to it).
///
/// The fields of a group count as if they stood outside: the real decoder skips groups, and so goes on behind them.
/// Whatever is malformed ends the count; the real decoder then reports it.
fn count_elements(mut message: &[u8]) -> usize {
    const VARINT: u64 = 0;
    const FIXED64: u64 = 1;
    const LENGTH_DELIMITED: u64 = 2;
    const GROUP_START: u64 = 3;
    const GROUP_END: u64 = 4;
    const FIXED32: u64 = 5;
    let mut elements = 0;
    // At the end of the input the decoder would allocate its error; so it is not asked.
    while !message.is_empty()
        && let Ok(key) = prost::encoding::decode_varint(&mut message)
    {
        let skip = match key & 7 {
            VARINT => prost::encoding::decode_varint(&mut message).map(|_| 0),
            FIXED64 => Ok(8),
            LENGTH_DELIMITED => {
                elements += 1;
                prost::encoding::decode_varint(&mut message)
            }
            GROUP_START | GROUP_END => Ok(0),
            FIXED32 => Ok(4),
            _ => break,
        };
        match skip {
            Ok(bytes) if bytes <= message.len() as u64 => message.advance(bytes as usize),
            _ => break,
        }
    }
    elements
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::HelloBody;

    fn hello(realms: usize) -> Vec<u8> {
        HelloBody { realms: vec!["r".into(); realms], ..HelloBody::default() }.encode_to_vec()
    }

    #[test]
    fn many_elements_need_many_bytes() {
        assert_eq!(decode::<HelloBody>(hello(256).into()).map(|hello| hello.realms.len()), Ok(256));
        let refused = decode::<HelloBody>(hello(1000).into());
        assert_eq!(refused, Err(MessageError::TooManyElements { elements: 1000, message_bytes: 3000 }));
    }

    #[test]
    fn a_group_does_not_hide_what_follows() {
        const GROUP_OF_FIELD_99: [u8; 4] = [0x9b, 0x06, 0x9c, 0x06];
        let message = [&GROUP_OF_FIELD_99[..], &hello(1000)].concat();
        assert!(HelloBody::decode(message.as_slice()).is_ok(), "the group is skipped as an unknown field");
        let refused = decode::<HelloBody>(message.into());
        assert_eq!(refused, Err(MessageError::TooManyElements { elements: 1000, message_bytes: 3004 }));
    }

    #[test]
    fn deep_nesting_is_refused() {
        const GROUP_START_OF_FIELD_99: [u8; 2] = [0x9b, 0x06];
        let refused = decode::<HelloBody>(GROUP_START_OF_FIELD_99.repeat(10_000).into());
        assert!(
            matches!(&refused, Err(MessageError::Decode(cause)) if cause.to_string().contains("recursion")),
            "{refused:?}"
        );
    }
}
