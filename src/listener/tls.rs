//! TLS for listeners: certificates that may change while Weir runs.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::{
    config::bootstrap::{ListenerProtocol, ServerTls},
    tls::{TlsError, certificates, private_key, provider, read, roots},
};

/// A listener's TLS configuration, exchanged whole when its files change.
#[derive(Debug)]
pub struct ReloadingTls {
    files: ServerTls,
    protocol: ListenerProtocol,
    current: ArcSwap<ServerConfig>,
}

impl ReloadingTls {
    /// Reads the files for the first time.
    pub fn load(files: &ServerTls, protocol: ListenerProtocol) -> Result<(Self, Fingerprint), TlsError> {
        let material = Material::read(files)?;
        let config = material.build(protocol)?;
        let fingerprint = material.fingerprint;
        let this = Self { files: files.clone(), protocol, current: ArcSwap::from(config) };
        Ok((this, fingerprint))
    }

    /// What new connections use.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Reads the files again; takes them when they changed and are whole: a key that does not belong to the
    /// certificate (a pair caught between its two writes) is not taken. `Ok(None)` when nothing changed.
    pub fn refresh(&self, known: &Fingerprint) -> Result<Option<Fingerprint>, TlsError> {
        let material = Material::read(&self.files)?;
        if material.fingerprint == *known {
            return Ok(None);
        }
        self.current.store(material.build(self.protocol)?);
        Ok(Some(material.fingerprint))
    }
}

/// The bytes of the files, as last taken: compared whole, so that no change is missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint(Vec<Vec<u8>>);

struct Material {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    authorities: Option<RootCertStore>,
    fingerprint: Fingerprint,
}

impl Material {
    fn read(files: &ServerTls) -> Result<Self, TlsError> {
        let (cert, key) = (read(&files.cert)?, read(&files.key)?);
        let chain = certificates(&files.cert, &cert)?;
        let private = private_key(&files.key, &key)?;
        let mut seen = vec![cert, key];
        let authorities = match &files.client_ca {
            None => None,
            Some(path) => {
                let pem = read(path)?;
                let roots = roots(path, &pem)?;
                seen.push(pem);
                Some(roots)
            }
        };
        Ok(Self { chain, key: private, authorities, fingerprint: Fingerprint(seen) })
    }

    fn build(&self, protocol: ListenerProtocol) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = provider();
        let pair = CertifiedKey::from_der(self.chain.clone(), self.key.clone_key(), &provider)
            .map_err(|e| TlsError::Pair(e.to_string()))?;
        let versions = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| TlsError::Pair(e.to_string()))?;
        let verified = match &self.authorities {
            None => versions.with_no_client_auth(),
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider)
                    .build()
                    .map_err(|e| TlsError::Authorities(e.to_string()))?;
                versions.with_client_cert_verifier(verifier)
            }
        };
        let mut config = verified.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
        config.alpn_protocols = match protocol {
            ListenerProtocol::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            ListenerProtocol::Http1 => vec![b"http/1.1".to_vec()],
            ListenerProtocol::Http2 => vec![b"h2".to_vec()],
        };
        Ok(Arc::new(config))
    }
}
