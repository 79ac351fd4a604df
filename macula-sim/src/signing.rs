//! Signatures that cost nothing.
//!
//! Keys are real Ed25519 keys, because ids derive from them and decoders check that they are; a signature is a keyed
//! hash instead. Anybody could forge it: nobody in a simulation tries.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use macula_proto::{Domain, PublicKey, SecretKey, Signature, Signer, Verifier};

/// Signs with a hash.
#[derive(Clone, Debug)]
pub(crate) struct CheapSigner(PublicKey);

/// Checks what a [`CheapSigner`] signed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CheapVerifier;

impl CheapSigner {
    /// The signer of the `number`-th node of the simulation with this seed.
    pub(crate) fn new(seed: u64, number: u32) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..12].copy_from_slice(&number.to_le_bytes());
        Self(SecretKey::from_seed(bytes).public_key())
    }
}

impl Signer for CheapSigner {
    fn public_key(&self) -> PublicKey {
        self.0
    }

    fn sign(&self, domain: Domain, bytes: &[u8]) -> Signature {
        signature(&self.0, domain, bytes)
    }
}

impl Verifier for CheapVerifier {
    fn verify(&self, key: &PublicKey, domain: Domain, bytes: &[u8], given: &Signature) -> bool {
        signature(key, domain, bytes) == *given
    }
}

fn signature(key: &PublicKey, domain: Domain, bytes: &[u8]) -> Signature {
    // Its keys are fixed: the same in every run.
    let mut hasher = DefaultHasher::new();
    (key, domain, bytes).hash(&mut hasher);
    let word = hasher.finish().to_le_bytes();
    Signature::from_bytes(std::array::from_fn(|i| word[i % 8]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_fits_its_key_domain_and_bytes_only() {
        let (one, other) = (CheapSigner::new(1, 0), CheapSigner::new(1, 1));
        let signature = one.sign(Domain::ALIVE, b"here");
        let fits = |key: &CheapSigner, domain, bytes: &[u8]| {
            CheapVerifier.verify(&key.public_key(), domain, bytes, &signature)
        };
        assert!(fits(&one, Domain::ALIVE, b"here"));
        assert!(!fits(&other, Domain::ALIVE, b"here"));
        assert!(!fits(&one, Domain::LEAVE, b"here"));
        assert!(!fits(&one, Domain::ALIVE, b"there"));
    }
}
