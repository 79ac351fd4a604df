//! What callers ask and what they get back.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use macula_proto::limits::PAYLOAD_BYTES_MAX;
use macula_proto::{Name, NodeId, Realm};
use tokio_util::sync::CancellationToken;

use crate::{CallError, Strategy};

/// Application headers of a call or a reply: at most [`HEADERS_MAX`], and [`HEADERS_BYTES_MAX`] bytes in all.
pub type Headers = BTreeMap<String, String>;

/// Most headers of a call or a reply.
pub const HEADERS_MAX: usize = 64;

/// Most bytes in the headers of a call or a reply, names and values together.
pub const HEADERS_BYTES_MAX: usize = 16 * 1024;

/// Longest name of a header, in bytes.
pub const HEADER_NAME_BYTES_MAX: usize = 128;

/// Longest value of a header, in bytes.
pub const HEADER_VALUE_BYTES_MAX: usize = 4096;

/// Longest content type, in bytes.
pub const CONTENT_TYPE_BYTES_MAX: usize = 128;

/// One call to be made. Build it with [`CallRequest::new`] and the methods that follow.
///
/// ```
/// use std::time::Duration;
/// use macula_rpc::{CallRequest, Strategy};
///
/// let request = CallRequest::new("math.add".parse()?)
///     .payload("[1, 2]")
///     .content_type("application/json")
///     .timeout(Duration::from_millis(300))
///     .strategy(Strategy::Nearest)
///     .idempotent(true);
/// assert_eq!(request.payload.len(), 6);
/// # Ok::<(), macula_proto::NameError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CallRequest {
    /// In which realm; `default` unless said otherwise.
    pub realm: Realm,
    /// What to call.
    pub procedure: Name,
    /// The request itself; at most 1 MiB.
    pub payload: Bytes,
    /// How the payload is encoded, in the application's own terms.
    pub content_type: String,
    /// Further facts for the handler.
    pub headers: Headers,
    /// How long to wait for the (last) result; `None` for the node's default.
    pub timeout: Option<Duration>,
    /// How to choose among several providers; `None` for the node's default.
    pub strategy: Option<Strategy>,
    /// Running the handler twice does no harm: the call may be tried elsewhere after it may have run.
    pub idempotent: bool,
    /// Call this very node, and no other.
    pub target: Option<NodeId>,
    /// Cancelling this cancels the call, as dropping its future does, but with an error to show for it.
    pub cancel: Option<CancellationToken>,
    /// Whether an answer that this node keeps will do; `None` for the node's default.
    pub caching: Option<Caching>,
}

/// What a call has to do with the answers that its node keeps: see [`RegisterOptions::cache_for`](crate::RegisterOptions).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Caching {
    /// A kept answer will do, as long as its provider holds it for good.
    #[default]
    On,
    /// A provider is asked, and its answer kept in place of an earlier one.
    Refresh,
    /// A provider is asked, and its answer not kept.
    Off,
}

impl CallRequest {
    /// A call of `procedure` in the default realm, with no payload.
    pub fn new(procedure: Name) -> Self {
        Self {
            realm: Realm::default(),
            procedure,
            payload: Bytes::new(),
            content_type: String::new(),
            headers: Headers::new(),
            timeout: None,
            strategy: None,
            idempotent: false,
            target: None,
            cancel: None,
            caching: None,
        }
    }

    /// In this realm.
    #[must_use]
    pub fn realm(mut self, realm: Realm) -> Self {
        self.realm = realm;
        self
    }

    /// With this payload.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    /// Encoded like this.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = content_type.into();
        self
    }

    /// With this header, in place of an earlier one of that name.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Waiting for so long.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Choosing among providers like this.
    #[must_use]
    pub const fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = Some(strategy);
        self
    }

    /// Whether the handler may run more than once for this call.
    #[must_use]
    pub const fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = idempotent;
        self
    }

    /// At this very node: a given one, or the leader of an election.
    #[must_use]
    pub const fn to(mut self, node: NodeId) -> Self {
        self.target = Some(node);
        self
    }

    /// With or without the answers that this node keeps.
    #[must_use]
    pub const fn caching(mut self, caching: Caching) -> Self {
        self.caching = Some(caching);
        self
    }

    /// Until this token is cancelled.
    #[must_use]
    pub fn cancelled_by(mut self, cancel: CancellationToken) -> Self {
        self.cancel = Some(cancel);
        self
    }

    /// Whether the request keeps the limits that hold on the wire, so that a local call keeps them too.
    pub(crate) fn check(&self) -> Result<(), CallError> {
        if self.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(CallError::PayloadTooLarge {
                bytes: self.payload.len(),
                bytes_max: PAYLOAD_BYTES_MAX,
            });
        }
        check_headers(&self.content_type, &self.headers).map_err(CallError::Headers)
    }
}

/// What a handler answers, or one part of its progress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reply {
    /// The answer itself; at most 1 MiB.
    pub payload: Bytes,
    /// How it is encoded.
    pub content_type: String,
    /// Further facts for the caller.
    pub headers: Headers,
    /// How long ago its call began, if it is an answer that this node kept; `None` straight from a handler.
    pub age: Option<Duration>,
}

impl Reply {
    /// An answer without content type and headers.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self { payload: payload.into(), ..Self::default() }
    }

    /// Encoded like this.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = content_type.into();
        self
    }

    /// With this header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }
}

impl<P: Into<Bytes>> From<P> for Reply {
    fn from(payload: P) -> Self {
        Self::new(payload)
    }
}

/// Which limit of headers or content type is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadersError {
    /// Too many.
    #[error("{0} headers: at most {HEADERS_MAX} are allowed")]
    Count(usize),
    /// Too much in all.
    #[error("{0} bytes of headers: at most {HEADERS_BYTES_MAX} are allowed")]
    Bytes(usize),
    /// A name that is empty or too long.
    #[error("a header's name has 1 to {HEADER_NAME_BYTES_MAX} bytes, not {0}")]
    Name(usize),
    /// A value that is too long.
    #[error("a header's value has at most {HEADER_VALUE_BYTES_MAX} bytes, not {0}")]
    Value(usize),
    /// A content type that is too long.
    #[error("a content type has at most {CONTENT_TYPE_BYTES_MAX} bytes, not {0}")]
    ContentType(usize),
}

/// Checks headers and content type against their limits.
pub(crate) fn check_headers(content_type: &str, headers: &Headers) -> Result<(), HeadersError> {
    if content_type.len() > CONTENT_TYPE_BYTES_MAX {
        return Err(HeadersError::ContentType(content_type.len()));
    }
    if headers.len() > HEADERS_MAX {
        return Err(HeadersError::Count(headers.len()));
    }
    let mut bytes = 0;
    for (name, value) in headers {
        if name.is_empty() || name.len() > HEADER_NAME_BYTES_MAX {
            return Err(HeadersError::Name(name.len()));
        }
        if value.len() > HEADER_VALUE_BYTES_MAX {
            return Err(HeadersError::Value(value.len()));
        }
        bytes += name.len() + value.len();
    }
    if bytes > HEADERS_BYTES_MAX { Err(HeadersError::Bytes(bytes)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_has_its_error() {
        let headers = |n: usize, name: usize, value: usize| -> Headers {
            (0..n).map(|i| (format!("{i:0name$}"), "v".repeat(value))).collect()
        };
        let check = |h: &Headers| check_headers("", h);
        assert_eq!(check(&headers(64, 4, 10)), Ok(()));
        assert_eq!(check(&headers(65, 4, 10)), Err(HeadersError::Count(65)));
        assert_eq!(check(&headers(1, 129, 10)), Err(HeadersError::Name(129)));
        assert_eq!(check(&[(String::new(), String::new())].into()), Err(HeadersError::Name(0)));
        assert_eq!(check(&headers(1, 4, 4097)), Err(HeadersError::Value(4097)));
        assert_eq!(check(&headers(5, 4, 4096)), Err(HeadersError::Bytes(5 * 4100)));
        let long = "x".repeat(129);
        assert_eq!(check_headers(&long, &Headers::new()), Err(HeadersError::ContentType(129)));
    }
}
