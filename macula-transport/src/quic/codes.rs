//! What refusals, closes and errors are called on the wire: TLS alerts, QUIC close codes, numbers in a welcome.
//!
//! ```text
//!   application close code   0 shutdown · 1 idle · 2 evicted · 3 protocol · 4 revoked · 5 abandoned dial
//!                            6 lost · 7 held for dead ·
//!                            0x100 + refusal code
//!   transport close code     0x100 + TLS alert (RFC 9001 §4.8)
//! ```

use macula_proto::limits::HEADER_BYTES_MAX;
use quinn::{ConnectionError, VarInt};
use rustls::CertificateError;

use crate::{CloseReason, Refusal};

/// Close codes from here on are refusals.
const REFUSAL_BASE: u64 = 0x100;
/// TLS alerts as QUIC transport errors start here (RFC 9001 §4.8).
const ALERT_BASE: u64 = 0x100;
/// CONNECTION_REFUSED (RFC 9000 §20.1).
const CONNECTION_REFUSED: u64 = 0x2;
/// A dial that another address of the same peer won.
pub(crate) const ABANDONED: u32 = 5;
/// Longest text of a refusal on the wire, in bytes.
const REASON_BYTES_MAX: usize = 256;
const _: () = assert!(REASON_BYTES_MAX < HEADER_BYTES_MAX);

impl Refusal {
    /// The number in a welcome; 0 means welcome.
    pub(crate) const fn code(&self) -> u32 {
        match self {
            Self::SubjectMismatch => 1,
            Self::KeyNotProven => 2,
            Self::BadCertificate(_) => 3,
            Self::UnknownAuthority => 4,
            Self::Expired => 5,
            Self::Revoked => 6,
            Self::TamperedHello => 7,
            Self::Version => 8,
            Self::Realm => 9,
            Self::Policy(_) => 10,
            Self::Full => 11,
            Self::Crossed => 12,
            Self::Unknown { code, .. } => *code,
        }
    }

    pub(crate) fn from_code(code: u32, reason: &str) -> Self {
        let reason: String = reason.chars().take(REASON_BYTES_MAX).collect();
        match code {
            1 => Self::SubjectMismatch,
            2 => Self::KeyNotProven,
            3 => Self::BadCertificate(reason),
            4 => Self::UnknownAuthority,
            5 => Self::Expired,
            6 => Self::Revoked,
            7 => Self::TamperedHello,
            8 => Self::Version,
            9 => Self::Realm,
            10 => Self::Policy(reason),
            11 => Self::Full,
            12 => Self::Crossed,
            code => Self::Unknown { code, reason },
        }
    }

    /// What goes beside the code, for people; at most 256 bytes.
    pub(crate) fn words(&self) -> String {
        let mut words = match self {
            Self::BadCertificate(cause) | Self::Policy(cause) => cause.clone(),
            other => other.to_string(),
        };
        while words.len() > REASON_BYTES_MAX {
            words.pop();
        }
        words
    }

    /// The name in metrics.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::SubjectMismatch => "subject_mismatch",
            Self::KeyNotProven => "key_not_proven",
            Self::BadCertificate(_) => "bad_certificate",
            Self::UnknownAuthority => "unknown_authority",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::TamperedHello => "tampered_hello",
            Self::Version => "version",
            Self::Realm => "realm",
            Self::Policy(_) => "policy",
            Self::Full => "full",
            Self::Crossed => "crossed",
            Self::Unknown { .. } => "unknown",
        }
    }

    pub(crate) fn close_code(&self) -> VarInt {
        VarInt::from_u32(self.code().saturating_add(REFUSAL_BASE as u32))
    }
}

/// The rustls error whose TLS alert stands for the refusal.
pub(crate) fn certificate_error(refusal: &Refusal) -> CertificateError {
    match refusal {
        Refusal::SubjectMismatch => CertificateError::NotValidForName,
        Refusal::KeyNotProven => CertificateError::BadSignature,
        Refusal::UnknownAuthority => CertificateError::UnknownIssuer,
        Refusal::Expired => CertificateError::Expired,
        Refusal::Revoked => CertificateError::Revoked,
        _ => CertificateError::InvalidPurpose,
    }
}

/// What a TLS alert (RFC 8446 §6.2) of the peer means.
fn refusal_of_alert(alert: u64) -> Refusal {
    match alert {
        42 => Refusal::SubjectMismatch,
        43 => Refusal::BadCertificate("the peer cannot use it".into()),
        44 => Refusal::Revoked,
        45 => Refusal::Expired,
        46 => Refusal::BadCertificate("the peer found it unacceptable".into()),
        48 => Refusal::UnknownAuthority,
        51 => Refusal::KeyNotProven,
        116 => Refusal::BadCertificate("the peer asks for one".into()),
        70 | 120 => Refusal::Version,
        other => Refusal::Unknown { code: other as u32, reason: "TLS alert".into() },
    }
}

/// The peer's refusal in a failed connection, if it is one.
pub(crate) fn refusal_of(error: &ConnectionError) -> Option<Refusal> {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let code = close.error_code.into_inner().checked_sub(REFUSAL_BASE)?;
            let reason = String::from_utf8_lossy(&close.reason);
            Some(Refusal::from_code(u32::try_from(code).unwrap_or(u32::MAX), &reason))
        }
        ConnectionError::ConnectionClosed(close) => match u64::from(close.error_code) {
            CONNECTION_REFUSED => Some(Refusal::Full),
            code => {
                (ALERT_BASE..ALERT_BASE + 0x100).contains(&code).then(|| refusal_of_alert(code - ALERT_BASE))
            }
        },
        // This node's own TLS stack ended it: no protocol in common is the one case with a name.
        ConnectionError::TransportError(error) if u64::from(error.code) == ALERT_BASE + 120 => {
            Some(Refusal::Version)
        }
        ConnectionError::VersionMismatch => Some(Refusal::Version),
        _ => None,
    }
}

impl CloseReason {
    /// The application close code.
    pub(crate) const fn code(self) -> u32 {
        match self {
            Self::Shutdown => 0,
            Self::Idle => 1,
            Self::Evicted => 2,
            Self::Protocol => 3,
            Self::Revoked => 4,
            Self::TimedOut | Self::Lost => 6,
            Self::GivenUp => 7,
        }
    }

    /// What a close code of the peer means.
    pub(crate) const fn from_code(code: u64) -> Self {
        match code {
            0 => Self::Shutdown,
            1 => Self::Idle,
            2 => Self::Evicted,
            3 => Self::Protocol,
            4 => Self::Revoked,
            7 => Self::GivenUp,
            _ => Self::Lost,
        }
    }

    /// What ended a connection, when this node did not.
    pub(crate) fn of(error: &ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => Self::from_code(close.error_code.into_inner()),
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::TransportError(_)
            | ConnectionError::ConnectionClosed(_)
            | ConnectionError::VersionMismatch => Self::Protocol,
            ConnectionError::Reset | ConnectionError::CidsExhausted | ConnectionError::LocallyClosed => {
                Self::Lost
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip() {
        for code in 1..=20 {
            assert_eq!(Refusal::from_code(code, "why").code(), code);
        }
        for reason in [
            CloseReason::Shutdown,
            CloseReason::Idle,
            CloseReason::Evicted,
            CloseReason::Protocol,
            CloseReason::Revoked,
            CloseReason::GivenUp,
        ] {
            assert_eq!(CloseReason::from_code(u64::from(reason.code())), reason);
        }
    }

    #[test]
    fn a_refusals_alert_means_the_same_refusal_at_the_other_end() {
        for refusal in [
            Refusal::SubjectMismatch,
            Refusal::KeyNotProven,
            Refusal::UnknownAuthority,
            Refusal::Expired,
            Refusal::Revoked,
        ] {
            let alert = rustls::AlertDescription::from(certificate_error(&refusal));
            assert_eq!(refusal_of_alert(u64::from(u8::from(alert))), refusal);
        }
    }
}
