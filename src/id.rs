//! Validated identifiers and the secrets that belong to them.
//!
//! Owns what a well-formed peer id, pairing code, point, chunk, node id, server id or token is (protocol: signalling;
//! bootstrap; directory; link, section 1) and the names of the lease kinds. Knows nothing else of ours.

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
    Chunk = 7,
}

impl Kind {
    pub const ALL: [Kind; 7] = [
        Kind::Relay,
        Kind::Registration,
        Kind::Peer,
        Kind::TurnSession,
        Kind::Server,
        Kind::Claim,
        Kind::Chunk,
    ];

    /// The name used on the wire, in metrics, in tree names and by the CLI.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Relay => "relay",
            Kind::Registration => "registration",
            Kind::Peer => "peer",
            Kind::TurnSession => "turn_session",
            Kind::Server => "server",
            Kind::Claim => "claim",
            Kind::Chunk => "chunk",
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

/// The ceiling that points, tokens and relay ids share: 128 characters, and so 512 bytes.
pub const SHORT_NAME_CHARACTERS: usize = 128;

/// Whether a text keeps to it.
pub fn is_short_name(text: &str) -> bool {
    let most = SHORT_NAME_CHARACTERS;
    text.len() <= most || (text.len() <= 4 * most && text.chars().count() <= most)
}

/// A rendezvous point or token as memory knows it: the first 128 bits of the SHA-256 of its name. A fixed size
/// whatever a stranger sends; the names themselves stay in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PointKey([u8; 16]);

impl PointKey {
    pub fn of(name: &str) -> PointKey {
        let digest = Sha256::digest(name.as_bytes());
        PointKey(*digest.first_chunk().expect("a digest of 32 bytes"))
    }
}

/// Characters of a chunkId or channelId at most.
pub const CHUNK_ID_CHARACTERS: usize = 256;

/// A chunkId, or a channelId that was given: 1 to 256 characters.
pub fn is_chunk_id(text: &str) -> bool {
    // A character has four bytes at most, so that a long text is not counted through.
    (1..=4 * CHUNK_ID_CHARACTERS).contains(&text.len()) && text.chars().count() <= CHUNK_ID_CHARACTERS
}

/// What a chunk is named by: its channel, empty where none is given, and its id there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChunkName {
    channel: Arc<str>,
    chunk: Arc<str>,
}

impl ChunkName {
    pub fn parse(channel: &str, chunk: &str) -> Option<ChunkName> {
        let fits = (channel.is_empty() || is_chunk_id(channel)) && is_chunk_id(chunk);
        fits.then(|| ChunkName { channel: channel.into(), chunk: chunk.into() })
    }

    pub fn channel(&self) -> &Arc<str> {
        &self.channel
    }

    pub fn chunk(&self) -> &Arc<str> {
        &self.chunk
    }

    pub fn key(&self) -> ChunkKey {
        // With the length before it nothing else than this channel can be read out of the bytes.
        let length = (self.channel.len() as u64).to_be_bytes();
        let digest = Sha256::new().chain_update(length).chain_update(&*self.channel);
        ChunkKey(digest.chain_update(&*self.chunk).finalize().into())
    }
}

/// A chunk's name in a fixed size: the SHA-256 of both its parts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkKey([u8; 32]);

impl ChunkKey {
    /// As base64url without padding: 43 characters.
    pub fn text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// The reverse of [`ChunkKey::text`].
    pub fn parse(text: &str) -> Option<ChunkKey> {
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(ChunkKey)
    }
}

impl fmt::Debug for ChunkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// One socket's number, never repeated within a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u64);

/// One holding of an id, never repeated within a run. Whatever ends later names the id and its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// The SHA-256 of a token: all that is ever stored of it. However two are compared, it is in constant time.
#[derive(Clone, Copy, Eq)]
pub struct TokenDigest(pub [u8; 32]);

impl TokenDigest {
    pub fn of(token: &str) -> TokenDigest {
        TokenDigest(Sha256::digest(token.as_bytes()).into())
    }

    /// In constant time.
    pub fn matches(&self, token: &str) -> bool {
        *self == TokenDigest::of(token)
    }
}

impl PartialEq for TokenDigest {
    fn eq(&self, other: &TokenDigest) -> bool {
        use subtle::ConstantTimeEq;
        self.0.ct_eq(&other.0).into()
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
    fn chunks_are_named_by_characters_and_only_a_channel_may_be_empty() {
        let longest = "🦀".repeat(256);
        for good in ["a", " \n\0", &longest] {
            assert!(is_chunk_id(good), "{good:?}");
            let name = ChunkName::parse(good, good).unwrap();
            assert_eq!((&**name.channel(), &**name.chunk()), (good, good));
            assert!(ChunkName::parse("", good).is_some());
            assert!(ChunkName::parse(good, "").is_none());
        }
        for bad in ["x".repeat(257), format!("{longest}x"), "x".repeat(100_000)] {
            assert!(!is_chunk_id(&bad), "{} bytes", bad.len());
            assert!(ChunkName::parse(&bad, "a").is_none() && ChunkName::parse("a", &bad).is_none());
        }
        assert!(!is_chunk_id(""));
    }

    #[test]
    fn keys_of_chunks_differ_wherever_a_name_does_and_travel_as_text() {
        let key = |channel: &str, chunk: &str| ChunkName::parse(channel, chunk).unwrap().key();
        let eight = "\0\0\0\0\0\0\0\u{1}";
        let mut keys =
            vec![key("a", "bc"), key("ab", "c"), key("", "abc"), key("abc", "abc"), key("", eight)];
        keys.extend([key("", &format!("{eight}a")), key("a", eight)]);
        for key in &keys {
            assert_eq!((key.text().len(), ChunkKey::parse(&key.text())), (43, Some(*key)));
        }
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 7);
        assert_eq!(key("a", "bc"), key("a", "bc"));
        let whole = "A".repeat(43);
        assert!(ChunkKey::parse(&whole).is_some());
        for bad in ["", &whole[1..], &format!("{whole}A"), &format!("{whole}="), &format!("{}B", &whole[1..])]
        {
            assert_eq!(ChunkKey::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn short_names_count_characters_and_bytes() {
        assert!(is_short_name("") && is_short_name(&"x".repeat(128)) && is_short_name(&"🦀".repeat(128)));
        assert!(!is_short_name(&"x".repeat(129)) && !is_short_name(&"🦀".repeat(129)));
    }
}
