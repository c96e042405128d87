//! What both sides of TLS need: the provider, and PEM files with errors that name them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// Why TLS material was not taken.
#[derive(Debug)]
pub enum TlsError {
    /// A file could not be read.
    Read(PathBuf, io::Error),
    /// A file does not hold what it should.
    Pem(PathBuf, String),
    /// The key does not belong to the certificate, or the pair cannot be used.
    Pair(String),
    /// The authorities cannot be used.
    Authorities(String),
}

impl std::fmt::Display for TlsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Read(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Pem(path, what) => write!(f, "{}: {what}", path.display()),
            Self::Pair(what) | Self::Authorities(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for TlsError {}

/// The one crypto provider: ring.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A file's bytes.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|e| TlsError::Read(path.to_owned(), e))
}

/// All certificates of a PEM file; at least one.
pub(crate) fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fault = |what: String| TlsError::Pem(path.to_owned(), what);
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| fault(format!("not a PEM certificate: {e}")))?;
    if found.is_empty() { Err(fault("holds no certificate".to_owned())) } else { Ok(found) }
}

/// The private key of a PEM file.
pub(crate) fn private_key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem)
        .map_err(|e| TlsError::Pem(path.to_owned(), format!("not a PEM private key: {e}")))
}

/// The authorities of a PEM file.
pub(crate) fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, pem)? {
        roots.add(certificate).map_err(|e| TlsError::Pem(path.to_owned(), e.to_string()))?;
    }
    Ok(roots)
}

/// Where distributions keep the authorities that they trust, as one file; `SSL_CERT_FILE` comes first.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The authorities that this system trusts. One that cannot be parsed is passed over, as everyone does.
pub(crate) fn system_roots() -> Result<RootCertStore, TlsError> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let candidates = named.iter().map(PathBuf::as_path).chain(BUNDLES.iter().map(Path::new));
    for path in candidates {
        if let Ok(pem) = std::fs::read(path) {
            let mut store = RootCertStore::empty();
            let (taken, _) = store.add_parsable_certificates(certificates(path, &pem)?);
            if taken > 0 {
                return Ok(store);
            }
        }
    }
    Err(TlsError::Authorities(
        "this system has no bundle of trusted authorities: set `ca`, or install ca-certificates".to_owned(),
    ))
}
