//! Reading a peer's certificate: whose key it holds, and whether its subject says so.

use macula_proto::PublicKey;
use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use crate::Refusal;

/// The certificate's key, and whether its subject's common name is the key's node id.
pub(crate) fn key_and_subject(leaf: &CertificateDer<'_>) -> Result<(PublicKey, bool), Refusal> {
    let cert = EndEntityCert::try_from(leaf).map_err(|cause| Refusal::BadCertificate(cause.to_string()))?;
    let key = PublicKey::from_spki(&cert.subject_public_key_info())
        .map_err(|cause| Refusal::BadCertificate(cause.to_string()))?;
    let names_it = common_name(cert.subject()) == Some(key.node_id().to_string().as_bytes());
    Ok((key, names_it))
}

/// The first common name (OID 2.5.4.3) of a subject, given without its outer SEQUENCE (RFC 5280 §4.1.2.4):
/// `SET { SEQUENCE { OID, string } }` repeated.
fn common_name(mut subject: &[u8]) -> Option<&[u8]> {
    const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
    while !subject.is_empty() {
        let (_, set, rest) = tlv(subject)?;
        let (_, attribute, _) = tlv(set)?;
        let (_, oid, value) = tlv(attribute)?;
        if oid == COMMON_NAME {
            return tlv(value).map(|(_, text, _)| text);
        }
        subject = rest;
    }
    None
}

/// Splits one DER element off: its tag, its content, and what follows. Lengths of one or two bytes suffice for names.
fn tlv(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => rest.split_first().map(|(len, rest)| (usize::from(*len), rest))?,
        0x82 => rest.split_first_chunk::<2>().map(|(len, rest)| (u16::from_be_bytes(*len).into(), rest))?,
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;
    use proptest::prelude::*;

    #[test]
    fn a_self_signed_certificate_names_the_id_of_its_key() {
        let identity = Identity::generate();
        let (key, names_it) = key_and_subject(&identity.chain()[0]).unwrap();
        assert_eq!(key.node_id(), identity.id());
        assert!(names_it);
    }

    #[test]
    fn other_attributes_before_the_common_name_are_skipped() {
        // O=x, CN=ab
        let subject = [
            &[0x31, 0x0a, 0x30, 0x08, 0x06, 0x03, 0x55, 0x04, 0x0a, 0x0c, 0x01, b'x'][..],
            &[0x31, 0x0b, 0x30, 0x09, 0x06, 0x03, 0x55, 0x04, 0x03, 0x0c, 0x02, b'a', b'b'],
        ]
        .concat();
        assert_eq!(common_name(&subject), Some(&b"ab"[..]));
    }

    proptest! {
        #[test]
        fn garbage_is_no_name_and_no_panic(bytes: Vec<u8>) {
            let _ = common_name(&bytes);
            let _ = key_and_subject(&CertificateDer::from(bytes));
        }
    }
}
