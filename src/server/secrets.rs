//! The secrets in the data directory: the server's Ed25519 key and the admin token, made at the first start, readable
//! by their owner alone.
//!
//! Owns both files, and what may be said of who else can read them. Must not know what they are used for.

use std::io::{self, Write};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;

/// The server's own key: its public half is the server's name.
pub struct ServerKey(SigningKey);

impl ServerKey {
    /// Reads the key, or makes one. The file holds the 32 secret bytes as base64url.
    pub fn load_or_create(path: &Path) -> io::Result<ServerKey> {
        let text = load_or_create(path, &random_text())?;
        let bytes =
            URL_SAFE_NO_PAD.decode(text.trim()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let malformed =
            || io::Error::new(io::ErrorKind::InvalidData, "it does not hold 32 bytes of base64url");
        Ok(ServerKey(SigningKey::from_bytes(&bytes.ok_or_else(malformed)?)))
    }

    /// What its file holds. As secret as the file.
    pub fn text(&self) -> String {
        format!("{}\n", URL_SAFE_NO_PAD.encode(self.0.to_bytes()))
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// An Ed25519 signature.
    pub fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        use ed25519_dalek::Signer;
        self.0.sign(bytes).to_bytes()
    }

    /// What `server_info` calls serverId: "ed25519:" and the public key as base64url without padding.
    pub fn server_id(&self) -> String {
        format!("ed25519:{}", URL_SAFE_NO_PAD.encode(self.0.verifying_key().as_bytes()))
    }
}

/// The token that the admin endpoint asks for.
pub struct AdminToken(String);

impl AdminToken {
    pub fn load_or_create(path: &Path) -> io::Result<AdminToken> {
        let token = load_or_create(path, &random_text())?.trim().to_owned();
        if token.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty"));
        }
        Ok(AdminToken(token))
    }

    /// In constant time.
    pub fn matches(&self, shown: &str) -> bool {
        use subtle::ConstantTimeEq;
        self.0.as_bytes().ct_eq(shown.as_bytes()).into()
    }
}

/// Logs that others than its owner may read a file or enter a folder, as after a copy that did not keep modes.
pub fn tell_if_open(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).map_or(0, |meta| meta.permissions().mode() & 0o777);
    if mode & 0o077 != 0 {
        let (path, mode) = (path.display(), format!("{mode:o}"));
        tracing::warn!(%path, mode, "others may read this; take the mode from group and others");
    }
}

/// 32 random bytes as base64url.
fn random_text() -> String {
    use rand::Rng;
    let mut bytes = [0; 32];
    #[allow(
        clippy::disallowed_methods,
        reason = "a key is made once, from the operating system's randomness"
    )]
    rand::make_rng::<rand::rngs::StdRng>().fill_bytes(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The file appears whole, with mode 0600, or not at all.
fn load_or_create(path: &Path, fresh: &str) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        read => {
            tell_if_open(path);
            return read;
        }
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    // A temporary file is made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    writeln!(file, "{fresh}")?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    std::fs::File::open(folder)?.sync_all()?;
    Ok(fresh.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_the_same_and_are_their_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.key");
        let first = ServerKey::load_or_create(&path).unwrap().server_id();
        assert_eq!(ServerKey::load_or_create(&path).unwrap().server_id(), first);
        assert!(first.starts_with("ed25519:") && first.len() == "ed25519:".len() + 43);
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let path = folder.path().join("admin.token");
        AdminToken::load_or_create(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let token = AdminToken::load_or_create(&path).unwrap();
        assert!(token.matches(text.trim()) && !token.matches("") && !token.matches(&text));
    }

    #[test]
    fn a_malformed_key_is_an_error_and_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.key");
        std::fs::write(&path, "not a key").unwrap();
        assert!(ServerKey::load_or_create(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "not a key");
    }
}
