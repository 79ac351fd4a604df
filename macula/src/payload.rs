//! Typed payloads: what goes into a message or a call, and what comes out.
//!
//! The codec is the user's choice and goes along as a content type. [`Json`], [`MsgPack`] and [`Protobuf`] wrap
//! a value; strings and bytes go as they are.
//!
//! ```
//! use macula::{FromPayload, IntoPayload, Json};
//!
//! let (bytes, content_type) = Json([1, 2]).into_payload()?;
//! assert_eq!((bytes.as_ref(), content_type), (&b"[1,2]"[..], "application/json"));
//! let Json(numbers) = Json::<Vec<u32>>::from_payload(&bytes)?;
//! assert_eq!(numbers, [1, 2]);
//! # Ok::<(), macula::CodecError>(())
//! ```

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Something that can be sent.
pub trait IntoPayload {
    /// The bytes and their content type; an empty content type makes no claim.
    ///
    /// # Errors
    /// [`CodecError`] if the value cannot be written in its format.
    fn into_payload(self) -> Result<(Bytes, &'static str), CodecError>;
}

/// Something that can be read from what arrived.
pub trait FromPayload: Sized {
    /// Reads the bytes. The content type is not consulted: the caller says what it expects.
    ///
    /// # Errors
    /// [`CodecError`] if the bytes are not in the format.
    fn from_payload(bytes: &Bytes) -> Result<Self, CodecError>;
}

/// A value that does not fit its format, or bytes that do not fit the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{format}: {cause}")]
pub struct CodecError {
    /// Which format.
    format: &'static str,
    /// What its library says.
    cause: String,
}

impl CodecError {
    fn new(format: &'static str, cause: impl ToString) -> Self {
        Self { format, cause: cause.to_string() }
    }
}

/// JSON (RFC 8259), `application/json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<T>(pub T);

/// MessagePack with named fields, `application/msgpack`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsgPack<T>(pub T);

/// A protobuf message, `application/protobuf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protobuf<T>(pub T);

impl<T: Serialize> IntoPayload for Json<T> {
    fn into_payload(self) -> Result<(Bytes, &'static str), CodecError> {
        let bytes = serde_json::to_vec(&self.0).map_err(|cause| CodecError::new("JSON", cause))?;
        Ok((bytes.into(), "application/json"))
    }
}

impl<T: DeserializeOwned> FromPayload for Json<T> {
    fn from_payload(bytes: &Bytes) -> Result<Self, CodecError> {
        serde_json::from_slice(bytes).map(Self).map_err(|cause| CodecError::new("JSON", cause))
    }
}

impl<T: Serialize> IntoPayload for MsgPack<T> {
    fn into_payload(self) -> Result<(Bytes, &'static str), CodecError> {
        let bytes =
            rmp_serde::to_vec_named(&self.0).map_err(|cause| CodecError::new("MessagePack", cause))?;
        Ok((bytes.into(), "application/msgpack"))
    }
}

impl<T: DeserializeOwned> FromPayload for MsgPack<T> {
    fn from_payload(bytes: &Bytes) -> Result<Self, CodecError> {
        rmp_serde::from_slice(bytes).map(Self).map_err(|cause| CodecError::new("MessagePack", cause))
    }
}

impl<T: prost::Message> IntoPayload for Protobuf<T> {
    fn into_payload(self) -> Result<(Bytes, &'static str), CodecError> {
        Ok((self.0.encode_to_vec().into(), "application/protobuf"))
    }
}

impl<T: prost::Message + Default> FromPayload for Protobuf<T> {
    fn from_payload(bytes: &Bytes) -> Result<Self, CodecError> {
        T::decode(bytes.clone()).map(Self).map_err(|cause| CodecError::new("protobuf", cause))
    }
}

macro_rules! as_it_is {
    ($($type:ty, $content_type:literal, $into:expr;)*) => {
        $(impl IntoPayload for $type {
            fn into_payload(self) -> Result<(Bytes, &'static str), CodecError> {
                let into: fn($type) -> Bytes = $into;
                Ok((into(self), $content_type))
            }
        })*
    };
}

as_it_is! {
    Bytes, "", |bytes| bytes;
    Vec<u8>, "", Bytes::from;
    &'static [u8], "", Bytes::from_static;
    String, "text/plain", Bytes::from;
    &'static str, "text/plain", |text| Bytes::from_static(text.as_bytes());
}

/// Bytes with a content type of one's own.
impl IntoPayload for (Bytes, &'static str) {
    fn into_payload(self) -> Result<(Bytes, &'static str), CodecError> {
        Ok(self)
    }
}

impl FromPayload for Bytes {
    fn from_payload(bytes: &Bytes) -> Result<Self, CodecError> {
        Ok(bytes.clone())
    }
}

impl FromPayload for String {
    fn from_payload(bytes: &Bytes) -> Result<Self, CodecError> {
        Self::from_utf8(bytes.to_vec()).map_err(|cause| CodecError::new("text", cause))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Reading {
        room: String,
        celsius: f32,
    }

    #[test]
    fn each_format_round_trips() {
        let reading = Reading { room: "kitchen".into(), celsius: 21.5 };
        let (json, content_type) = Json(&reading).into_payload().unwrap();
        assert_eq!(content_type, "application/json");
        assert_eq!(Json::from_payload(&json), Ok(Json(Reading { room: "kitchen".into(), celsius: 21.5 })));
        let (packed, _) = MsgPack(&reading).into_payload().unwrap();
        assert_eq!(MsgPack::from_payload(&packed), Ok(MsgPack(reading)));
        let message = macula_proto::wire::LaneOpen { lane: 3 };
        let (proto, _) = Protobuf(message).into_payload().unwrap();
        assert_eq!(Protobuf::from_payload(&proto), Ok(Protobuf(message)));
        let (text, content_type) = "hello".into_payload().unwrap();
        assert_eq!((String::from_payload(&text), content_type), (Ok("hello".into()), "text/plain"));
    }

    #[test]
    fn bytes_of_another_format_are_refused_by_name() {
        let error = Json::<Reading>::from_payload(&Bytes::from_static(b"{")).unwrap_err();
        assert!(error.to_string().starts_with("JSON: "), "{error}");
        assert!(String::from_payload(&Bytes::from_static(b"\xff")).is_err());
    }
}
