//! Validated identifiers and the secrets that belong to them.
//!
//! Owns what a well-formed peer id, pairing code, point or resume token is (protocol: signalling, sections 1 and 6)
//! and the names of the lease kinds. Knows nothing else of ours.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::Rng;
use sha2::{Digest, Sha256};

/// What a lease is about. The number is part of the keys on disk: never reuse or change one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Relay = 1,
    Registration = 2,
}

impl Kind {
    pub const ALL: [Kind; 2] = [Kind::Relay, Kind::Registration];

    /// The name used on the wire, in metrics, in tree names and by the CLI.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Relay => "relay",
            Kind::Registration => "registration",
        }
    }

    pub const fn number(self) -> u8 {
        self as u8
    }

    pub fn from_number(number: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.number() == number)
    }

    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// 1 to 128 of `A-Za-z0-9_-`. Pairing codes live in the same namespace. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(Arc<str>);

impl PeerId {
    pub const MAX_LENGTH: usize = 128;

    pub fn parse(text: &str) -> Option<PeerId> {
        let fits = (1..=Self::MAX_LENGTH).contains(&text.len());
        let clean = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        (fits && clean).then(|| PeerId(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for PeerId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// Exactly 6 of A–Z without I and O, and 2–9.
pub fn is_pairing_code(text: &str) -> bool {
    text.len() == 6
        && text.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'2'..=b'9') && !matches!(byte, b'I' | b'O'))
}

/// The ceiling that points, tokens and relay ids share: 128 characters and 512 bytes.
pub fn is_short_name(text: &str) -> bool {
    text.len() <= 128 || (text.len() <= 512 && text.chars().count() <= 128)
}

/// A rendezvous point or token as memory knows it: the first 128 bits of the SHA-256 of its name. A fixed size
/// whatever a stranger sends; the names themselves stay in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PointKey([u64; 2]);

impl PointKey {
    pub fn of(name: &str) -> PointKey {
        let digest = Sha256::digest(name.as_bytes());
        let half = |at: usize| digest[at..at + 8].iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        PointKey([half(0), half(8)])
    }
}

/// One socket's number, never repeated within a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u64);

/// One holding of an id, never repeated within a run. Whatever ends later names the id and its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// The SHA-256 of a resume token: all that is ever stored of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ResumeDigest(pub [u8; 32]);

impl ResumeDigest {
    pub fn of(token: &str) -> ResumeDigest {
        ResumeDigest(Sha256::digest(token.as_bytes()).into())
    }

    /// In constant time.
    pub fn matches(&self, token: &str) -> bool {
        use subtle::ConstantTimeEq;
        self.0.ct_eq(&ResumeDigest::of(token).0).into()
    }
}

impl fmt::Debug for ResumeDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResumeDigest(..)")
    }
}

/// A fresh resume token: 16 random bytes, base64url without padding.
pub fn new_resume_token(rng: &mut impl Rng) -> String {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_ids_are_1_to_128_of_the_alphabet() {
        for good in ["a", "A-Z_09", &"x".repeat(128)] {
            assert_eq!(PeerId::parse(good).map(|id| id.as_str().to_owned()).as_deref(), Some(good));
        }
        for bad in ["", " a", "a b", "ä", "a.b", &"x".repeat(129)] {
            assert_eq!(PeerId::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn pairing_codes_leave_out_what_people_confuse() {
        assert!(is_pairing_code("ABC234"));
        for bad in ["ABC23", "ABC2345", "ABCI23", "ABCO23", "ABC123", "ABC023", "abc234", "ABC23É"] {
            assert!(!is_pairing_code(bad), "{bad:?}");
        }
    }

    #[test]
    fn short_names_count_characters_and_bytes() {
        assert!(is_short_name("") && is_short_name(&"x".repeat(128)) && is_short_name(&"🦀".repeat(128)));
        assert!(!is_short_name(&"x".repeat(129)) && !is_short_name(&"🦀".repeat(129)));
    }
}
