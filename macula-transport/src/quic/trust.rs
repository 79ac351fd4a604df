//! Whom to believe: anyone who proves a key, or only those whom an authority vouches for.

use macula_proto::NodeId;
use rustls::pki_types::UnixTime;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, SignatureVerificationAlgorithm, TrustAnchor,
};
use webpki::{
    BorrowedCertRevocationList, CertRevocationList, EndEntityCert, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert,
};

use super::certificate::key_and_subject;
use crate::Refusal;

/// Whom this node connects with.
///
/// In both modes a peer's certificate must be within its dates, carry the node id of its key as common name, and
/// the peer must prove that key.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Trust {
    /// Anyone with a self-signed certificate. An id can then be had for free; it only cannot be stolen.
    #[default]
    Open,
    /// Only those whose certificate leads to one of `roots` and is on none of `crls`. A certificate that no list
    /// covers counts as good; a list that is past its next update is still used, so that a forgotten update locks
    /// nobody out and frees nobody either.
    Authority {
        /// The authorities' certificates (DER).
        roots: Vec<CertificateDer<'static>>,
        /// Revocation lists (DER).
        crls: Vec<CertificateRevocationListDer<'static>>,
    },
}

/// Why a [`Trust`] cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// No authority at all would let nobody in.
    #[error("at least one authority certificate is needed")]
    NoRoots,
    /// A root certificate is none.
    #[error("authority certificate {index}: {cause}")]
    Root {
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it.
        cause: String,
    },
    /// A revocation list is none.
    #[error("revocation list {index}: {cause}")]
    Crl {
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it.
        cause: String,
    },
}

impl Trust {
    /// Reads authority certificates and revocation lists (may be empty) from PEM.
    ///
    /// # Errors
    /// Which item is wrong.
    pub fn authority_from_pem(roots: &[u8], crls: &[u8]) -> Result<Self, TrustError> {
        let roots = CertificateDer::pem_slice_iter(roots)
            .enumerate()
            .map(|(index, root)| root.map_err(|cause| TrustError::Root { index, cause: cause.to_string() }))
            .collect::<Result<Vec<_>, _>>()?;
        let crls = CertificateRevocationListDer::pem_slice_iter(crls)
            .enumerate()
            .map(|(index, crl)| crl.map_err(|cause| TrustError::Crl { index, cause: cause.to_string() }))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self::Authority { roots, crls })
    }
}

/// A [`Trust`] made ready for checking certificates.
#[derive(Debug)]
pub(crate) struct TrustStore {
    /// `None`: open.
    authority: Option<Authority>,
    algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
}

#[derive(Debug)]
struct Authority {
    anchors: Vec<TrustAnchor<'static>>,
    crls: Vec<CertRevocationList<'static>>,
}

/// On which side of the connection the certificate's owner is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    Listener,
    Dialler,
}

impl TrustStore {
    pub(crate) fn new(
        trust: &Trust,
        algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
    ) -> Result<Self, TrustError> {
        let Trust::Authority { roots, crls } = trust else { return Ok(Self { authority: None, algorithms }) };
        if roots.is_empty() {
            return Err(TrustError::NoRoots);
        }
        let mut anchors = Vec::with_capacity(roots.len());
        for (index, root) in roots.iter().enumerate() {
            let anchor = anchor_from_trusted_cert(root)
                .map_err(|cause| TrustError::Root { index, cause: cause.to_string() })?;
            anchors.push(anchor.to_owned());
        }
        let mut lists = Vec::with_capacity(crls.len());
        for (index, crl) in crls.iter().enumerate() {
            let list = BorrowedCertRevocationList::from_der(crl.as_ref())
                .and_then(|list| list.to_owned())
                .map_err(|cause| TrustError::Crl { index, cause: cause.to_string() })?;
            lists.push(CertRevocationList::from(list));
        }
        Ok(Self { authority: Some(Authority { anchors, crls: lists }), algorithms })
    }

    /// Whose certificate this is, if it is to be believed. That its key was proven is checked elsewhere.
    pub(crate) fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        side: Side,
        now: UnixTime,
    ) -> Result<NodeId, Refusal> {
        let (key, names_it) = key_and_subject(leaf)?;
        if !names_it {
            return Err(Refusal::SubjectMismatch);
        }
        match &self.authority {
            Some(authority) => {
                self.verify(leaf, &authority.anchors, intermediates, &authority.crls, side, now)?;
            }
            None => {
                // A self-signed certificate is its own authority.
                let own = anchor_from_trusted_cert(leaf).map_err(|cause| bad(&cause))?;
                self.verify(leaf, &[own], &[], &[], side, now)?;
            }
        }
        Ok(key.node_id())
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        anchors: &[TrustAnchor<'_>],
        intermediates: &[CertificateDer<'_>],
        crls: &[CertRevocationList<'_>],
        side: Side,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let cert = EndEntityCert::try_from(leaf).map_err(|cause| bad(&cause))?;
        let usage = match side {
            Side::Listener => KeyUsage::server_auth(),
            Side::Dialler => KeyUsage::client_auth(),
        };
        let crls: Vec<&CertRevocationList<'_>> = crls.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .build()
        });
        cert.verify_for_usage(self.algorithms, anchors, intermediates, now, usage, revocation, None)
            .map(|_path| ())
            .map_err(|cause| refusal(&cause))
    }
}

fn bad(cause: &webpki::Error) -> Refusal {
    Refusal::BadCertificate(cause.to_string())
}

fn refusal(cause: &webpki::Error) -> Refusal {
    match cause {
        webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => Refusal::Expired,
        webpki::Error::CertRevoked => Refusal::Revoked,
        webpki::Error::UnknownIssuer => Refusal::UnknownAuthority,
        // Signed by someone else under the authority's name: not that authority's word either.
        webpki::Error::InvalidSignatureForPublicKey => Refusal::UnknownAuthority,
        other => bad(other),
    }
}

#[cfg(test)]
#[path = "trust_test.rs"]
mod tests;
