//! TLS as a client meets it. Owns certificates, their files, and a client that trusts nothing else. Must not know any single
//! story.
#![allow(dead_code, reason = "each test file uses its share")]

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertifiedKey, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use waypost::config::Settings;

use crate::daemon::soon;

pub const NAME: &str = "registry.example";

/// A certificate that nobody has signed but itself, and its key.
pub struct Certificate(CertifiedKey<KeyPair>);

impl Certificate {
    pub fn new() -> Certificate {
        Certificate(rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap())
    }

    pub fn der(&self) -> CertificateDer<'static> {
        self.0.cert.der().clone()
    }

    /// Writes both files, the key for its owner alone.
    pub fn write(&self, folder: &Path) -> (PathBuf, PathBuf) {
        let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        fs::write(&certificate, self.0.cert.pem()).unwrap();
        fs::write(&key, self.0.signing_key.serialize_pem()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        (certificate, key)
    }

    /// The same, for a daemon with these settings.
    pub fn set(&self, folder: &Path, settings: &mut Settings) {
        (settings.server.tls_cert, settings.server.tls_key) = self.write(folder);
    }

    /// A connection to whoever has this certificate.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        self.on(TcpStream::connect(address).await?).await
    }

    /// The same on a connection that is there.
    pub async fn on(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let mut trusted = RootCertStore::empty();
        trusted.add(self.der()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(trusted)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        soon(TlsConnector::from(Arc::new(config)).connect(NAME.try_into().unwrap(), stream)).await
    }
}

/// What a request is answered with; the connection ends with it.
pub async fn get(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), path: &str, headers: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // Without a close_notify it would be an error, and so it is where nobody answers.
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

/// The first message on a socket, which is then closed by its end.
pub async fn first_message(stream: impl AsyncRead + AsyncWrite + Unpin) -> Value {
    use futures_util::StreamExt;
    let (mut socket, _) = soon(tokio_tungstenite::client_async("ws://localhost/ws", stream)).await.unwrap();
    let message = soon(socket.next()).await.unwrap().unwrap();
    serde_json::from_str(message.to_text().unwrap()).unwrap()
}
