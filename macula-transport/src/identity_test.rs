use super::*;

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_created_identity_is_the_same_after_loading() {
    let dir = dir();
    let path = dir.path().join("deep/node.key");
    let created = Identity::load_or_create(&path).unwrap();
    let loaded = Identity::load_or_create(&path).unwrap();
    assert_eq!(created.id(), loaded.id());
    assert_eq!(created.chain(), loaded.chain(), "the self-signed certificate is a function of the key");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no drafts are left behind");
}

#[cfg(unix)]
#[test]
fn a_created_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = dir();
    let path = dir.path().join("node.key");
    Identity::load_or_create(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn der_is_read_as_well_and_garbage_is_named_with_its_path() {
    let dir = dir();
    let path = dir.path().join("node.key");
    let secret = SecretKey::from_seed([3; 32]);
    fs::write(&path, secret.to_pkcs8()).unwrap();
    assert_eq!(Identity::load_or_create(&path).unwrap().id(), secret.node_id());
    fs::write(&path, b"garbage").unwrap();
    let error = Identity::load_or_create(&path).unwrap_err().to_string();
    assert!(error.contains("node.key") && error.contains("no Ed25519 private key"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"garbage", "what is there is never overwritten");
}

#[test]
fn a_chain_must_belong_to_the_key_and_name_its_id() {
    let (mine, other) = (SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32]));
    let pem = |params: CertificateParams, secret: &SecretKey| {
        let key = CertificateKey::new(secret);
        let der = params.self_signed(&key).unwrap().der().to_vec();
        format!(
            "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            data_encoding::BASE64.encode(&der)
        )
    };
    let key = key_pem(&mine);
    let good = pem(certificate_params(&mine.node_id()), &mine);
    assert_eq!(Identity::from_pem(good.as_bytes(), key.as_bytes()).unwrap().id(), mine.node_id());
    let others = pem(certificate_params(&other.node_id()), &other);
    assert!(matches!(Identity::from_pem(others.as_bytes(), key.as_bytes()), Err(IdentityError::OtherKey)));
    let misnamed = pem(certificate_params(&other.node_id()), &mine);
    assert!(matches!(
        Identity::from_pem(misnamed.as_bytes(), key.as_bytes()),
        Err(IdentityError::Subject(_))
    ));
    assert!(matches!(Identity::from_pem(b"", key.as_bytes()), Err(IdentityError::Chain(_))));
    assert!(matches!(Identity::from_pem(good.as_bytes(), b"none"), Err(IdentityError::Key)));
}
