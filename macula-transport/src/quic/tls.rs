//! Mutual TLS 1.3 with the node's key on both sides.

use std::sync::Arc;

use macula_proto::{NodeId, SecretKey, Signer as _};
use parking_lot::{Mutex, RwLock};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureAlgorithm,
    SignatureScheme, version::TLS13,
};

use super::codes::certificate_error;
use super::config::QuicConfig;
use super::trust::{Side, Trust, TrustError, TrustStore};
use crate::{Identity, Refusal, TransportMetrics};

/// Carried in no packet (SNI is off), but the API wants one.
pub(crate) const SERVER_NAME: &str = "macula";

/// What this node shows and whom it believes; both can change while it runs.
#[derive(Debug)]
pub(crate) struct Credentials {
    identity: RwLock<Identity>,
    shown: RwLock<Arc<CertifiedKey>>,
    trust: RwLock<Arc<TrustStore>>,
    provider: Arc<CryptoProvider>,
    alpn: Vec<Vec<u8>>,
    metrics: TransportMetrics,
}

/// What a dial's certificate check found, more exact than a TLS alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Refused(Refusal),
    WrongPeer { found: NodeId },
}

impl Credentials {
    pub(crate) fn new(config: &QuicConfig) -> Result<Arc<Self>, TrustError> {
        let provider = provider();
        let trust = TrustStore::new(&config.trust, provider.signature_verification_algorithms.all)?;
        Ok(Arc::new(Self {
            shown: RwLock::new(Arc::new(certified(&config.identity))),
            identity: RwLock::new(config.identity.clone()),
            trust: RwLock::new(Arc::new(trust)),
            provider,
            alpn: config.alpn.iter().map(|name| name.clone().into_bytes()).collect(),
            metrics: config.metrics.clone(),
        }))
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity.read().clone()
    }

    pub(crate) fn trust(&self) -> Arc<TrustStore> {
        self.trust.read().clone()
    }

    pub(crate) fn set_identity(&self, identity: Identity) {
        *self.shown.write() = Arc::new(certified(&identity));
        *self.identity.write() = identity;
    }

    pub(crate) fn set_trust(&self, trust: &Trust) -> Result<(), TrustError> {
        let store = TrustStore::new(trust, self.provider.signature_verification_algorithms.all)?;
        *self.trust.write() = Arc::new(store);
        Ok(())
    }

    pub(crate) fn server(self: &Arc<Self>) -> Result<quinn::ServerConfig, Error> {
        let mut tls = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(DiallerCheck { credentials: self.clone() }))
            .with_cert_resolver(Arc::new(Shown(self.clone())));
        tls.alpn_protocols = self.alpn.clone();
        // No resumption: every connection proves its key anew.
        tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        tls.send_tls13_tickets = 0;
        let quic = QuicServerConfig::try_from(tls).map_err(|_| no_initial_suite())?;
        Ok(quinn::ServerConfig::with_crypto(Arc::new(quic)))
    }

    /// The configuration of one dial; `verdict` tells afterwards what its certificate check found.
    pub(crate) fn client(
        self: &Arc<Self>,
        expected: Option<NodeId>,
        verdict: Arc<Mutex<Option<Verdict>>>,
    ) -> Result<quinn::ClientConfig, Error> {
        let check = ListenerCheck { credentials: self.clone(), expected, verdict };
        let mut tls = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(check))
            .with_client_cert_resolver(Arc::new(Shown(self.clone())));
        tls.alpn_protocols = self.alpn.clone();
        tls.resumption = rustls::client::Resumption::disabled();
        tls.enable_sni = false;
        let quic = QuicClientConfig::try_from(tls).map_err(|_| no_initial_suite())?;
        Ok(quinn::ClientConfig::new(Arc::new(quic)))
    }

    fn check_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Refusal> {
        if signed.scheme != SignatureScheme::ED25519 {
            return Err(Refusal::KeyNotProven);
        }
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
            .map_err(|_| Refusal::KeyNotProven)
    }

    fn refuse(&self, refusal: &Refusal) -> Error {
        self.metrics.refused(refusal);
        Error::InvalidCertificate(certificate_error(refusal))
    }
}

fn provider() -> Arc<CryptoProvider> {
    #[cfg(feature = "aws-lc-rs")]
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    let provider = rustls::crypto::ring::default_provider();
    Arc::new(provider)
}

fn no_initial_suite() -> Error {
    Error::General("the TLS provider has no AES-128-GCM, which QUIC begins with".into())
}

fn certified(identity: &Identity) -> CertifiedKey {
    CertifiedKey::new(identity.chain().to_vec(), Arc::new(TlsKey::new(identity.secret().clone())))
}

/// Shows the node's current certificate, to diallers and listeners alike.
#[derive(Debug)]
struct Shown(Arc<Credentials>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.shown.read().clone())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.shown.read().clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The node's key in the shape that rustls signs with.
#[derive(Clone, Debug)]
pub(crate) struct TlsKey {
    secret: SecretKey,
    spki: Vec<u8>,
}

impl TlsKey {
    pub(crate) fn new(secret: SecretKey) -> Self {
        let spki = secret.public_key().to_spki();
        Self { secret, spki }
    }
}

impl SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&SignatureScheme::ED25519).then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(self.spki.as_slice().into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl Signer for TlsKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(self.secret.sign_raw(message).as_bytes().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// The dialler's look at whoever answered.
#[derive(Debug)]
struct ListenerCheck {
    credentials: Arc<Credentials>,
    expected: Option<NodeId>,
    verdict: Arc<Mutex<Option<Verdict>>>,
}

impl ListenerCheck {
    fn refuse(&self, refusal: Refusal) -> Error {
        let error = self.credentials.refuse(&refusal);
        *self.verdict.lock() = Some(Verdict::Refused(refusal));
        error
    }
}

impl ServerCertVerifier for ListenerCheck {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = self
            .credentials
            .trust()
            .check(leaf, intermediates, Side::Listener, now)
            .map_err(|refusal| self.refuse(refusal))?;
        if self.expected.is_some_and(|expected| expected != found) {
            *self.verdict.lock() = Some(Verdict::WrongPeer { found });
            return Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.credentials.check_signature(message, cert, signed).map_err(|refusal| self.refuse(refusal))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// The listener's look at whoever dialled.
#[derive(Debug)]
struct DiallerCheck {
    credentials: Arc<Credentials>,
}

impl ClientCertVerifier for DiallerCheck {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.credentials
            .trust()
            .check(leaf, intermediates, Side::Dialler, now)
            .map(|_id| ClientCertVerified::assertion())
            .map_err(|refusal| self.credentials.refuse(&refusal))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.credentials
            .check_signature(message, cert, signed)
            .map_err(|refusal| self.credentials.refuse(&refusal))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
