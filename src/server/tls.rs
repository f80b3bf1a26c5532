//! TLS on the public listener.
//!
//! Owns the certificate and its key: how they are read, and what of TLS is spoken. Must not know connections, nor when the
//! files are read again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::secrets::tell_if_open;

/// Why there is no TLS; says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{} cannot be used as server.tls_cert: {source}; give the certificate and those above it as PEM", path.display())]
    Certificate { path: PathBuf, source: pem::Error },
    #[error("{} cannot be used as server.tls_key: {source}; give the certificate's private key as PEM", path.display())]
    Key { path: PathBuf, source: pem::Error },
    #[error("{} and {} cannot be used together: {source}; give a certificate and its own key", certificate.display(), key.display())]
    Pair { certificate: PathBuf, key: PathBuf, source: rustls::Error },
}

/// A certificate and its key, ready for connections.
#[derive(Clone)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    pub(super) acceptor: TlsAcceptor,
}

impl Identity {
    /// Reads PEM: the certificate first and then those above it; one private key.
    ///
    /// # Errors
    /// Which file is at fault, and why.
    pub fn load(certificate: &Path, key: &Path) -> Result<Identity, TlsError> {
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(certificate).and_then(|certificates| certificates.collect());
        let chain =
            chain.and_then(|chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) });
        let chain = chain.map_err(|source| TlsError::Certificate { path: certificate.to_owned(), source })?;
        let private = PrivateKeyDer::from_pem_file(key)
            .map_err(|source| TlsError::Key { path: key.to_owned(), source })?;
        tell_if_open(key);
        let paired = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain.clone(), private));
        let mut config = paired.map_err(|source| TlsError::Pair {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            source,
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Identity { chain, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }
}

impl PartialEq for Identity {
    /// A key is its certificate's alone.
    fn eq(&self, other: &Identity) -> bool {
        self.chain == other.chain
    }
}
