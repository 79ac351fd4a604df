//! Who this node is: a key and the certificate that shows it.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use macula_proto::{NodeId, PublicKey, SecretKey, Signer as _};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyIdMethod, SanType, SerialNumber};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::quic::certificate;

/// A key and its certificate chain, leaf first. Cheap to clone; the key never leaves it.
///
/// The certificate's subject carries the node id (the hash of the key), so that whoever sees the certificate can
/// check one against the other.
///
/// ```
/// let identity = macula_transport::Identity::generate();
/// assert_eq!(identity.id().to_string().len(), 52);
/// ```
#[derive(Clone, Debug)]
pub struct Identity {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: NodeId,
    secret: SecretKey,
    chain: Vec<CertificateDer<'static>>,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The key file cannot be read or written.
    #[error("identity file {}: {cause}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The key file holds something else.
    #[error("identity file {}: {cause}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        cause: Box<Self>,
    },
    /// Not an Ed25519 private key in PKCS#8 form.
    #[error("it holds no Ed25519 private key in PKCS#8 form (PEM or DER)")]
    Key,
    /// No certificate, or not a readable one.
    #[error("the certificate chain cannot be read: {0}")]
    Chain(String),
    /// The first certificate is for another key.
    #[error("the first certificate of the chain is not for this key")]
    OtherKey,
    /// The first certificate's subject names something else than the key's node id.
    #[error("the certificate's subject must have the common name {0} (the node id of its key)")]
    Subject(NodeId),
}

impl Identity {
    /// A new key with a self-signed certificate, kept nowhere.
    pub fn generate() -> Self {
        Self::from_secret(SecretKey::generate(&mut rand::rng()))
    }

    /// An existing key with a self-signed certificate, which is valid from 1975 to 4096: its age says nothing about
    /// the key, and many devices start with a wrong clock.
    pub fn from_secret(secret: SecretKey) -> Self {
        let chain = vec![self_signed(&secret)];
        Self { inner: Arc::new(Inner { id: secret.node_id(), secret, chain }) }
    }

    /// Reads the key from a PKCS#8 file (PEM or DER), or creates the file (mode 0600) with a new key if there is
    /// none. A file that others may read is used, with a warning in the log.
    ///
    /// # Errors
    /// [`IdentityError::File`] or [`IdentityError::Content`], with the path.
    pub fn load_or_create(path: impl AsRef<Path>) -> Result<Self, IdentityError> {
        let path = path.as_ref();
        let file_error = |cause| IdentityError::File { path: path.to_owned(), cause };
        match fs::read(path) {
            Ok(content) => {
                warn_if_readable(path);
                let secret = read_key(&content).map_err(|cause| IdentityError::Content {
                    path: path.to_owned(),
                    cause: Box::new(cause),
                })?;
                Ok(Self::from_secret(secret))
            }
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                let secret = SecretKey::generate(&mut rand::rng());
                match write_new(path, key_pem(&secret).as_bytes()) {
                    Ok(()) => Ok(Self::from_secret(secret)),
                    // Another process was faster: its key counts.
                    Err(raced) if raced.kind() == io::ErrorKind::AlreadyExists => Self::load_or_create(path),
                    Err(cause) => Err(file_error(cause)),
                }
            }
            Err(cause) => Err(file_error(cause)),
        }
    }

    /// A key with a certificate chain that an authority issued (PEM, leaf first; the key in PKCS#8, PEM or DER).
    ///
    /// # Errors
    /// What is wrong with the chain or the key, or that they do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let secret = read_key(key)?;
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|cause| IdentityError::Chain(cause.to_string()))?;
        let leaf = chain.first().ok_or_else(|| IdentityError::Chain("there is none".into()))?;
        let (key, names_it) =
            certificate::key_and_subject(leaf).map_err(|cause| IdentityError::Chain(cause.to_string()))?;
        if key != secret.public_key() {
            return Err(IdentityError::OtherKey);
        }
        if !names_it {
            return Err(IdentityError::Subject(secret.node_id()));
        }
        Ok(Self { inner: Arc::new(Inner { id: secret.node_id(), secret, chain }) })
    }

    /// Takes both as they are, right or wrong.
    #[cfg(test)]
    pub(crate) fn from_parts(secret: SecretKey, chain: Vec<CertificateDer<'static>>) -> Self {
        Self { inner: Arc::new(Inner { id: secret.node_id(), secret, chain }) }
    }

    /// The node's id.
    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    /// The key, for signing.
    pub fn secret(&self) -> &SecretKey {
        &self.inner.secret
    }

    /// The certificate chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.inner.chain
    }

    /// The key as PKCS#8 PEM, as [`load_or_create`](Self::load_or_create) stores it. Keep it secret.
    pub fn key_pem(&self) -> String {
        key_pem(&self.inner.secret)
    }
}

/// Lends a node's key to the certificate builder.
pub(crate) struct CertificateKey<'a> {
    secret: &'a SecretKey,
    public: PublicKey,
}

impl<'a> CertificateKey<'a> {
    pub(crate) fn new(secret: &'a SecretKey) -> Self {
        Self { secret, public: secret.public_key() }
    }
}

impl rcgen::PublicKeyData for CertificateKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.public.as_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl rcgen::SigningKey for CertificateKey<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.secret.sign_raw(message).as_bytes().to_vec())
    }
}

/// The certificate's fields for a node id: common name and DNS name.
pub(crate) fn certificate_params(id: &NodeId) -> CertificateParams {
    let name = id.to_string();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name.clone());
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.subject_alt_names =
        vec![SanType::DnsName(name.try_into().expect("base32 text is a DNS name of ASCII letters"))];
    params.key_identifier_method = KeyIdMethod::PreSpecified(id.as_bytes()[..20].to_vec());
    // A positive number; that is all that is asked of a self-signed certificate's serial.
    let mut serial = id.as_bytes()[..16].to_vec();
    serial[0] = serial[0] & 0x7f | 0x01;
    params.serial_number = Some(SerialNumber::from(serial));
    params
}

fn self_signed(secret: &SecretKey) -> CertificateDer<'static> {
    let key = CertificateKey::new(secret);
    certificate_params(&secret.node_id())
        .self_signed(&key)
        .expect("fixed fields and an Ed25519 key always encode")
        .der()
        .clone()
}

fn read_key(content: &[u8]) -> Result<SecretKey, IdentityError> {
    let from_pem = PrivatePkcs8KeyDer::from_pem_slice(content);
    let der = from_pem.as_ref().map_or(content, PrivatePkcs8KeyDer::secret_pkcs8_der);
    SecretKey::from_pkcs8(der).map_err(|_| IdentityError::Key)
}

fn key_pem(secret: &SecretKey) -> String {
    let base64 = data_encoding::BASE64.encode(&secret.to_pkcs8());
    let lines: Vec<&str> =
        (0..base64.len()).step_by(64).map(|at| &base64[at..base64.len().min(at + 64)]).collect();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
}

/// Writes a file that did not exist, all or nothing, readable by its owner alone.
fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy().into_owned();
    let draft = dir.join(format!(".{name}.{:016x}", rand::random::<u64>()));
    let written = private_file(&draft).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    // A link, unlike a rename, does not replace what another process put there meanwhile.
    let linked = written.and_then(|()| fs::hard_link(&draft, path));
    let _ = fs::remove_file(&draft);
    linked?;
    fs::File::open(dir)?.sync_all()
}

fn private_file(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(unix)]
fn warn_if_readable(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    if let Ok(meta) = fs::metadata(path)
        && meta.permissions().mode() & 0o077 != 0
    {
        tracing::warn!(path = %path.display(), "others may read this identity file; set its mode to 0600");
    }
}

#[cfg(not(unix))]
fn warn_if_readable(_path: &Path) {}

#[cfg(test)]
#[path = "identity_test.rs"]
mod tests;
