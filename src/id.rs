//! Validated identifiers and the secrets that belong to them.
//!
//! Owns what a well-formed peer id, pairing code, point, node id, server id or token is (protocol: signalling, sections
//! 1 and 6; bootstrap; directory; link, section 1) and the names of the lease kinds. Knows nothing else of ours.

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
    Peer = 3,
    TurnSession = 4,
    Server = 5,
    Claim = 6,
}

impl Kind {
    pub const ALL: [Kind; 6] =
        [Kind::Relay, Kind::Registration, Kind::Peer, Kind::TurnSession, Kind::Server, Kind::Claim];

    /// The name used on the wire, in metrics, in tree names and by the CLI.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Relay => "relay",
            Kind::Registration => "registration",
            Kind::Peer => "peer",
            Kind::TurnSession => "turn_session",
            Kind::Server => "server",
            Kind::Claim => "claim",
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

/// Declares an id that is a text of 1 to so many bytes from an alphabet. Cheap to clone.
macro_rules! text_ids {
    ($($(#[$doc:meta])* $Name:ident: $most:literal, $allowed:expr;)+) => { $(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $Name(Arc<str>);

        impl $Name {
            pub fn parse(text: &str) -> Option<$Name> {
                let allowed: fn(u8) -> bool = $allowed;
                let fits = (1..=$most).contains(&text.len()) && text.bytes().all(allowed);
                fits.then(|| $Name(text.into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $Name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $Name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    )+ };
}

text_ids! {
    /// The peerId of signalling. Pairing codes live in the same namespace.
    PeerId: 128, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    /// The peerId of bootstrap: visible ASCII.
    NodeId: 128, |byte| byte.is_ascii_graphic();
    /// The serverId of the directory.
    ServerId: 128, |byte| byte.is_ascii_alphanumeric() || b"_:.+/=-".contains(&byte);
    /// A TURN session: a token of ours.
    SessionId: 128, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    /// The server-id of link: printable ASCII, blanks too.
    LinkId: 256, |byte| matches!(byte, b' '..=b'~');
    /// The conn_id of link, one phone's connection: a token of ours.
    ConnId: 128, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
}

impl SessionId {
    pub fn new(rng: &mut impl Rng) -> SessionId {
        SessionId(new_token(rng).into())
    }
}

impl ConnId {
    pub fn new(rng: &mut impl Rng) -> ConnId {
        ConnId(new_token(rng).into())
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

/// The SHA-256 of a token: all that is ever stored of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenDigest(pub [u8; 32]);

impl TokenDigest {
    pub fn of(token: &str) -> TokenDigest {
        TokenDigest(Sha256::digest(token.as_bytes()).into())
    }

    /// In constant time.
    pub fn matches(&self, token: &str) -> bool {
        use subtle::ConstantTimeEq;
        self.0.ct_eq(&TokenDigest::of(token).0).into()
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(..)")
    }
}

/// A fresh token: 16 random bytes, base64url without padding.
pub fn new_token(rng: &mut impl Rng) -> String {
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
    fn other_ids_have_alphabets_of_their_own() {
        let is_node = |text: &str| NodeId::parse(text).is_some();
        assert!(is_node("12D3KooW/p2p~!") && is_node(&"x".repeat(128)));
        assert!(
            !is_node("")
                && !is_node("a b")
                && !is_node("a\u{7f}")
                && !is_node("\u{e4}")
                && !is_node(&"x".repeat(129))
        );
        let is_server = |text: &str| ServerId::parse(text).is_some();
        assert!(is_server("ed25519:aA0_-") && is_server("a.b+c/d="));
        assert!(!is_server("") && !is_server("a b") && !is_server("a?b") && !is_server("a%2F"));
        let is_link = |text: &str| LinkId::parse(text).is_some();
        assert!(is_link("my home {1}") && is_link(&"x".repeat(256)));
        assert!(!is_link("") && !is_link("a\tb") && !is_link("\u{e4}") && !is_link(&"x".repeat(257)));
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
