//! Identity keys (Ed25519, RFC 8032) and signed envelopes.

use std::fmt;

use bytes::Bytes;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::{NodeId, wire};

/// DER prefix of an Ed25519 SubjectPublicKeyInfo (RFC 8410 §4); the 32 key bytes follow.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Why bytes are not a usable key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not a 32-byte Ed25519 public key.
    #[error("not an Ed25519 public key")]
    Public,
    /// Not an Ed25519 private key in PKCS#8 form.
    #[error("not an Ed25519 private key in PKCS#8 form")]
    Private,
    /// Another kind of key in a SubjectPublicKeyInfo.
    #[error("the certificate's key is not Ed25519")]
    Spki,
}

/// Why a signed envelope is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignedError {
    /// The envelope is missing where one is required.
    #[error("the signed envelope is missing")]
    Missing,
    /// The key in the envelope is no key.
    #[error("signed envelope: {0}")]
    Key(#[from] KeyError),
    /// The signature has another length than 64 bytes.
    #[error("a signature has 64 bytes, not {0}")]
    Length(usize),
    /// The signature does not fit the bytes, the key or the domain.
    #[error("the signature does not match")]
    Mismatch,
}

/// What a signature is for. The tag is part of what is signed, so that a signature made for one purpose
/// is worthless for any other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Domain(&'static str);

impl Domain {
    /// A hello, bound to its connection.
    pub const HELLO: Self = Self("macula/1 hello");
    /// A member's own word that it is alive, with its tags.
    pub const ALIVE: Self = Self("macula/1 alive");
    /// A member's own word that it leaves.
    pub const LEAVE: Self = Self("macula/1 leave");
    /// A member's word that another does not answer.
    pub const SUSPECT: Self = Self("macula/1 suspect");
    /// A directory record, by its announcer.
    pub const RECORD: Self = Self("macula/1 record");
    /// A published message that others forward, by its publisher.
    pub const TREE: Self = Self("macula/1 tree");

    /// What is really signed: tag, zero byte, bytes.
    fn message(self, bytes: &[u8]) -> Vec<u8> {
        let mut message = Vec::with_capacity(self.0.len() + 1 + bytes.len());
        message.extend_from_slice(self.0.as_bytes());
        message.push(0);
        message.extend_from_slice(bytes);
        message
    }
}

/// An Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Takes the 32 bytes of RFC 8032 §5.1.5.
    ///
    /// # Errors
    /// [`KeyError::Public`] for another length or a point that is not on the curve.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| KeyError::Public)?;
        VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::Public)?;
        Ok(Self(bytes))
    }

    /// Takes a DER SubjectPublicKeyInfo, as a certificate holds it.
    ///
    /// # Errors
    /// [`KeyError::Spki`] for another algorithm, [`KeyError::Public`] for a bad point.
    pub fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        Self::from_bytes(der.strip_prefix(&SPKI_PREFIX).ok_or(KeyError::Spki)?)
    }

    /// The raw 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The DER SubjectPublicKeyInfo.
    pub fn to_spki(&self) -> Vec<u8> {
        [SPKI_PREFIX.as_slice(), &self.0].concat()
    }

    /// Whose key this is: the SHA-256 of the SubjectPublicKeyInfo, which is what
    /// `openssl pkey -pubin -outform DER | sha256sum` prints.
    pub fn node_id(&self) -> NodeId {
        NodeId::from_bytes(Sha256::digest(self.to_spki()).into())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey(of {})", self.node_id().short())
    }
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

impl Signature {
    /// Takes 64 raw bytes.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(..)")
    }
}

/// Signs in a node's name. Injected into the state machines, which never hold a key themselves.
pub trait Signer: Send + Sync + 'static {
    /// The key that verifies this signer's signatures.
    fn public_key(&self) -> PublicKey;

    /// Signs `bytes` for `domain`.
    fn sign(&self, domain: Domain, bytes: &[u8]) -> Signature;
}

/// Checks signatures. Injected, so that a simulation of thousands of nodes may use a cheaper scheme.
pub trait Verifier: Send + Sync + 'static {
    /// Whether `signature` was made by `key` over `bytes` for `domain`.
    fn verify(&self, key: &PublicKey, domain: Domain, bytes: &[u8], signature: &Signature) -> bool;
}

/// The verifier that production uses: strict Ed25519, no malleable or small-order keys.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ed25519Verifier;

impl Verifier for Ed25519Verifier {
    fn verify(&self, key: &PublicKey, domain: Domain, bytes: &[u8], signature: &Signature) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&key.0) else { return false };
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        key.verify_strict(&domain.message(bytes), &signature).is_ok()
    }
}

/// A node's private key. Wiped from memory when dropped; its `Debug` shows only whose it is.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// Draws a new key.
    pub fn generate(rng: &mut impl rand::CryptoRng) -> Self {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        Self::from_seed(seed)
    }

    /// The key of a given 32-byte seed (RFC 8032 §5.1.5).
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// Reads a PKCS#8 DER document.
    ///
    /// # Errors
    /// [`KeyError::Private`] for anything but an Ed25519 key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        SigningKey::from_pkcs8_der(der).map(Self).map_err(|_| KeyError::Private)
    }

    /// Writes a PKCS#8 DER document (RFC 8410, version 1).
    pub fn to_pkcs8(&self) -> Vec<u8> {
        let without_public =
            ed25519_dalek::pkcs8::KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
        without_public.to_pkcs8_der().expect("32 bytes always encode").as_bytes().to_vec()
    }

    /// Whose key this is.
    pub fn node_id(&self) -> NodeId {
        self.public_key().node_id()
    }

    /// Signs without a domain tag: for TLS, which brings its own.
    pub fn sign_raw(&self, bytes: &[u8]) -> Signature {
        Signature(self.0.sign(bytes).to_bytes())
    }
}

impl Signer for SecretKey {
    fn public_key(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    fn sign(&self, domain: Domain, bytes: &[u8]) -> Signature {
        self.sign_raw(&domain.message(bytes))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.node_id().short())
    }
}

/// Puts `body` into a signed envelope.
pub fn seal(signer: &dyn Signer, domain: Domain, body: Bytes) -> wire::Signed {
    let signature = signer.sign(domain, &body);
    wire::Signed {
        public_key: Bytes::copy_from_slice(signer.public_key().as_bytes()),
        signature: Bytes::copy_from_slice(signature.as_bytes()),
        body,
    }
}

/// Checks a signed envelope over the exact bytes received; returns its signer and its body.
///
/// # Errors
/// The first rule that the envelope breaks.
pub fn open(
    verifier: &dyn Verifier,
    domain: Domain,
    envelope: Option<&wire::Signed>,
) -> Result<(NodeId, Bytes), SignedError> {
    let envelope = envelope.ok_or(SignedError::Missing)?;
    let key = PublicKey::from_bytes(&envelope.public_key)?;
    let signature: [u8; 64] =
        envelope.signature.as_ref().try_into().map_err(|_| SignedError::Length(envelope.signature.len()))?;
    if !verifier.verify(&key, domain, &envelope.body, &Signature(signature)) {
        return Err(SignedError::Mismatch);
    }
    Ok((key.node_id(), envelope.body.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed([seed; 32])
    }

    #[test]
    fn pkcs8_and_spki_round_trip() {
        let secret = key(1);
        let back = SecretKey::from_pkcs8(&secret.to_pkcs8()).unwrap();
        assert_eq!(back.node_id(), secret.node_id());
        let public = secret.public_key();
        assert_eq!(PublicKey::from_spki(&public.to_spki()), Ok(public));
        assert_eq!(PublicKey::from_spki(b"rsa"), Err(KeyError::Spki));
        assert!(SecretKey::from_pkcs8(b"garbage").is_err());
    }

    #[test]
    fn an_envelope_opens_only_for_its_own_domain_bytes_and_key() {
        let sealed = seal(&key(1), Domain::ALIVE, Bytes::from_static(b"body"));
        let opened = open(&Ed25519Verifier, Domain::ALIVE, Some(&sealed));
        assert_eq!(opened, Ok((key(1).node_id(), Bytes::from_static(b"body"))));

        assert_eq!(open(&Ed25519Verifier, Domain::LEAVE, Some(&sealed)), Err(SignedError::Mismatch));
        assert_eq!(open(&Ed25519Verifier, Domain::ALIVE, None), Err(SignedError::Missing));

        let mut tampered = sealed.clone();
        tampered.body = Bytes::from_static(b"bodY");
        assert_eq!(open(&Ed25519Verifier, Domain::ALIVE, Some(&tampered)), Err(SignedError::Mismatch));

        let mut stolen = sealed.clone();
        stolen.public_key = Bytes::copy_from_slice(key(2).public_key().as_bytes());
        assert_eq!(open(&Ed25519Verifier, Domain::ALIVE, Some(&stolen)), Err(SignedError::Mismatch));

        let mut short = sealed;
        short.signature = Bytes::from_static(b"short");
        assert_eq!(open(&Ed25519Verifier, Domain::ALIVE, Some(&short)), Err(SignedError::Length(5)));
    }
}
