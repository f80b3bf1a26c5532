//! Owns every ceiling and interval that the layers below the settings obey: the sections an operator may change, with
//! their defaults and rules, and the constants that nobody may. Must not know where settings come from, nor anything else
//! of ours.

mod setting;

use std::time::Duration;

use Rule::AtLeast;
pub(crate) use setting::{Key, Rule, Setting, Visitor, section, words};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const MILLISECOND: Duration = Duration::from_millis(1);

/// Live entries of different peers that one rendezvous point or token holds (signalling, section 4).
pub const MAX_ENTRIES_PER_POINT: usize = 64;
/// Dead drops in one rendezvous result; past it the list is cut (signalling, section 4).
pub const MAX_DROPS_PER_RESULT: usize = 256;
/// Payload bytes of all dead drops in one rendezvous result; past it the list is cut (signalling, section 4).
pub const MAX_DROP_BYTES_PER_RESULT: usize = 512 * KIB;
/// Relays told to a peer that registers (signalling, section 3).
pub const RELAYS_ON_REGISTER: usize = 10;
/// Relays in one answer, however many are asked for (signalling, section 3).
pub const MAX_RELAYS_PER_ANSWER: usize = 100;
/// Pair requests that wait for one code's answer (signalling, section 5).
pub const MAX_PAIR_REQUESTS_PER_CODE: usize = 10;
/// Links of one pairing code; a further one ends the oldest.
pub const MAX_LINKS_PER_CODE: usize = 16;
/// Characters that are kept of the name of a device that wants to pair or link (signalling, section 5).
pub const MAX_DEVICE_NAME_CHARACTERS: usize = 128;
/// Characters of the id that a linked device is given.
pub const MAX_DEVICE_ID_CHARACTERS: usize = 128;
/// Bytes of a call's session description and of one of its candidates (signalling, section 5).
pub const MAX_SDP_BYTES: usize = 64 * KIB;
pub const MAX_CANDIDATE_BYTES: usize = KIB;
/// Bytes of a chunk, as JSON (signalling, section 5).
pub const MAX_CHUNK_BYTES: usize = 64 * KIB;
/// Chunks in one announcement (signalling, section 5).
pub const MAX_CHUNKS_PER_ANNOUNCE: usize = 100;
/// Chunks that one socket has announced and may be asked for; a further one is refused.
pub const MAX_CHUNKS_PER_SOCKET: usize = 1000;
/// The same of all sockets together.
pub const MAX_ANNOUNCED_CHUNKS: usize = 1_000_000;
/// Sockets that may be asked for one chunk; a further one takes the place of one that was silent when asked, or is not asked.
pub const MAX_SOURCES_PER_CHUNK: usize = 64;
/// Time after which an announcement counts no more (signalling, section 5).
pub const CHUNK_SOURCE_TTL: Duration = HOUR;
/// Time for which a request waits for a chunk (signalling, section 5).
pub const CHUNK_REQUEST_TTL: Duration = Duration::from_secs(2 * 60);
/// Chunks that one socket waits for.
pub const MAX_CHUNK_REQUESTS_PER_SOCKET: usize = 256;
/// Channels that one socket subscribes to (signalling, section 5).
pub const MAX_SUBSCRIPTIONS_PER_SOCKET: usize = 100;
/// Sockets that subscribe to one channel: what is announced in it goes to all of them.
pub const MAX_SUBSCRIBERS_PER_CHANNEL: usize = 1000;
/// Bytes of announcements that are told at once and in a second; what one subscriber takes beside the bytes. Past it they wait.
pub const TOLD_AT_ONCE: u64 = 4 * MIB as u64;
pub const TOLD_PER_SECOND: u64 = 64 * MIB as u64;
pub const TOLD_PER_SUBSCRIBER: usize = 4 * KIB;
/// Chunks that a new subscriber is told of, the newest first, and bytes of their ids.
pub const MAX_CHUNKS_TOLD: usize = 1000;
pub const MAX_CHUNK_BYTES_TOLD: usize = 256 * KIB;
/// Requests and announcements whose time is up that are looked at in one turn of the writer.
pub const RUNG_PER_TURN: usize = 1024;
/// Messages dropped for their rate within 60 s before the socket is closed (signalling, section 1).
pub const DROPPED_MESSAGES_BEFORE_CLOSE: u32 = 300;
/// Requests that wait for the writer thread.
pub const ENGINE_QUEUE: usize = 8192;
/// Loads of relays that are written in one turn of the writer.
pub const LOADS_PER_TURN: usize = 1024;
/// Requests that the writer takes from its queue at once.
pub const ENGINE_DRAIN: usize = 1024;
/// Requests waiting for a flush at which they are committed while an earlier flush is still under way.
pub const COMMIT_AT: usize = 256;
/// Bytes of a WebSocket's read buffer: it is zero-filled before every read, so small is fast.
pub const READ_BUFFER_BYTES: usize = 3 * KIB;
/// The same of a socket of link, whose frames are larger: one read takes no more than this.
pub const LINK_READ_BUFFER_BYTES: usize = 32 * KIB;
/// HTTP connections that are no sockets, in all and from one address.
pub const HTTP_CONNECTIONS: usize = 8192;
pub const HTTP_CONNECTIONS_PER_ADDRESS: usize = 64;
/// Addresses that a whole IPv6 /48 counts for, wherever a limit is one of an address.
pub const ADDRESSES_PER_SITE: usize = 16;
/// Addresses whose requests are counted, for each limit; past it all begin anew.
pub const LIMITED_ADDRESSES: usize = 131_072;
/// Bytes of a bootstrap request's body (bootstrap, first section).
pub const PEER_BODY_BYTES: usize = 256 * KIB;
/// Bytes of a directory request's body (directory).
pub const SERVER_BODY_BYTES: usize = 4096;
/// Expired peers that one request, or all requests of one drain, remove (bootstrap, Expiry).
pub const MAX_CLEANED: usize = 1000;
/// Rows and facets that such a removal touches at most, a few more than 1000 ordinary peers have.
pub const MAX_CLEANED_PARTS: usize = 10_000;
/// Peers looked at in one turn of the writer while a list is made.
pub const LISTED_PER_TURN: usize = 1024;
/// Bytes of peers, by estimate, that are taken from the writer at once; a list of TURN servers ends there.
pub const LISTED_BYTES_PER_TURN: u64 = 256 * KIB as u64;
pub const TURN_LIST_BYTES: u64 = 4 * MIB as u64;
/// Fresh entries of the directory (directory).
pub const MAX_SERVERS: usize = 1000;
/// Frames and bytes of one phone that wait for its binary. While there is one the phone is not read from past them; in
/// the grace they are all that is kept (link, section 3).
pub const WAITING_FRAMES: usize = 64;
pub const WAITING_BYTES: usize = MIB;
/// Server-ids that are held or in their grace; past it a free one is refused.
pub const MAX_CLAIMS: usize = 100_000;
/// What a claim's grace has left at least after a restart, where it is not shorter by itself (link, section 4).
pub const LEAST_GRACE_LEFT: Duration = Duration::from_secs(5);
/// Time for a PROXY header, and for the handshake of TLS.
pub const CONNECTION_START_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a request's head, from the end of the one before on.
pub const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
pub const REQUEST_HEAD_BYTES: usize = 16 * KIB;
/// Streams of `/admin/api/events` that are open at once.
pub const EVENT_STREAMS: usize = 16;
/// Bytes that a socket collects before it writes without being flushed; above what a session leaves unflushed.
pub const WRITE_BUFFER_BYTES: usize = 128 * KIB;
/// Bytes of the store's page cache as it is asked for; the store takes 3 to 5 times that.
pub const STORE_CACHE_BYTES: u64 = 16 * MIB as u64;

section! {
    /// Ceilings of sockets and their messages.
    limits: ConnectionLimits {
        /// Sockets in all; past it an upgrade is refused with 503.
        max_connections: usize = 10_000, AtLeast(1);
        /// Sockets per address (IPv6: per /64); past it an upgrade is refused with 429.
        max_connections_per_address: usize = 50, AtLeast(1);
        /// Messages in 60 s per socket, and the burst it may spend at once; 0 = no limit.
        messages_per_minute: u32 = 100;
        /// Pair and link requests in 60 s per socket, and the burst it may spend at once; 0 = no limit.
        pair_requests_per_minute: u32 = 10;
        /// Bytes of one message; a larger one closes the socket with 1009.
        max_message_bytes: usize = 256 * KIB, AtLeast(KIB);
        /// Bytes of messages and bodies that arrive and are not handled yet, of all clients, past the first 8 KiB of each (link: 40 KiB); past it the oldest goes; at least 262144, and max_message_bytes and link.max_message_bytes.
        arriving_total_bytes: usize = 256 * MIB, AtLeast(PEER_BODY_BYTES);
        /// Time from the upgrade to the first complete message.
        first_message_timeout: Duration = 30 * SECOND, AtLeast(MILLISECOND);
        /// Bytes of unsent output per socket; past it the socket is closed as a slow consumer; at least max_message_bytes.
        outbox_bytes: usize = MIB, AtLeast(KIB);
        /// Bytes of unsent output of all sockets; past it the slowest one is closed; at least outbox_bytes.
        outbox_total_bytes: usize = 256 * MIB, AtLeast(KIB);
        /// HTTP requests in 60 s per address (IPv6: per /64), and the burst it may spend at once; past it 429; 0 = no limit.
        http_requests_per_minute: u32 = 600;
        /// Upgrades of signalling in 60 s per address (IPv6: per /64), and the burst it may spend at once; past it 429; 0 = no limit.
        upgrades_per_minute: u32 = 120;
        /// Link upgrades in 60 s per address (IPv6: per /64), once its burst is spent; past it 429; 0 = no limit.
        link_upgrades_per_minute: u32 = 10;
        /// Link upgrades that an address may spend at once.
        link_upgrade_burst: u32 = 20, AtLeast(1);
    }
}

section! {
    /// When a silent socket counts as dead.
    liveness: Liveness {
        /// Time between two pings to a socket.
        ping_interval: Duration = 30 * SECOND, AtLeast(MILLISECOND);
        /// Silence after which a socket is dropped; longer than ping_interval.
        timeout: Duration = MINUTE, AtLeast(MILLISECOND);
        /// Time the holder of an id has to answer a ping when somebody else asks for that id; for link see link.probe.
        takeover_probe: Duration = 5 * SECOND, AtLeast(MILLISECOND);
    }
}

section! {
    /// Relays.
    relays: RelayRules {
        /// Time after a start within which relays and tokens of before count as live; "0s" = none.
        restart_grace: Duration = 30 * SECOND;
    }
}

/// What a registration has lost is one small row.
const PER_MESSAGE: Rule<usize> = Rule::That("a whole number from 1 to 500", |most| (1..=500).contains(most));

section! {
    /// Rendezvous points, tokens and dead drops.
    rendezvous: RendezvousRules {
        /// TTL of daily points and dead drops.
        daily_ttl: Duration = 48 * HOUR, AtLeast(MILLISECOND);
        /// TTL of hourly tokens.
        hourly_ttl: Duration = 3 * HOUR, AtLeast(MILLISECOND);
        /// Whether points and dead drops outlive their peer's socket, until their TTL.
        keep_drops: bool = true;
        /// Points in one message; at most 500.
        max_points: usize = 50, PER_MESSAGE;
        /// Tokens in one message; at most 500.
        max_tokens: usize = 50, PER_MESSAGE;
        /// Dead drops in one message; at most 500.
        max_dead_drops: usize = 50, PER_MESSAGE;
        /// Bytes of one dead drop.
        max_payload_bytes: usize = 4 * KIB, AtLeast(1);
        /// Points that one peer holds.
        max_points_per_peer: usize = 500, AtLeast(1);
        /// Tokens that one peer holds.
        max_tokens_per_peer: usize = 500, AtLeast(1);
        /// Registrations in all; past it a new one is refused as "Registry full".
        max_registrations: usize = 10_000_000, AtLeast(1);
        /// Points and tokens of all peers, whose cost is memory; past it a registration is refused as "Registry full".
        max_entries: usize = 20_000_000, AtLeast(1);
        /// Bytes of names and dead drops in all, of which the disk takes several times that; past it a registration is refused as "Registry full".
        max_stored_bytes: u64 = 8 * 1024 * MIB as u64, AtLeast(1);
    }
}

section! {
    /// Pair requests and link requests between peers.
    pairing: PairingRules {
        /// Time after which a pair request or link request ends unanswered; longer than warning.
        request_timeout: Duration = 2 * MINUTE, AtLeast(MILLISECOND);
        /// How long before its end both sides of a pair request are warned; "0s" = not at all.
        warning: Duration = 30 * SECOND;
    }
}

section! {
    /// Chunks that are cached.
    chunks: ChunkRules {
        /// Time after which a chunk that was pushed ends.
        ttl: Duration = 30 * MINUTE, AtLeast(MILLISECOND);
        /// Bytes of chunks that are cached, names and 1024 bytes for each included; past it the least recently used go; at least 131072.
        cache_bytes: u64 = 64 * MIB as u64, AtLeast(128 * KIB as u64);
        /// Time that a source has to push a chunk that it was asked for; past it the next one is asked.
        pull_timeout: Duration = 10 * SECOND, AtLeast(MILLISECOND);
    }
}

section! {
    /// Bootstrap peers.
    peers: PeerRules {
        /// Time after which a bootstrap peer that was not heard has expired; a fifth of it is the heartbeat period that peers are told.
        ttl: Duration = 10 * MINUTE, AtLeast(MILLISECOND);
        /// Time between two sweeps of the expired peers and stale servers that no request has removed.
        backup_sweep: Duration = 15 * MINUTE, AtLeast(MILLISECOND);
        /// "open": anyone may register a peerId again; "strict": only its address (IPv6: /64) or its registrationToken, until it expires.
        ownership: Ownership = Ownership::Open;
        /// Bootstrap peers in all; past it a new one is refused as "Registry full".
        max: usize = 1_000_000, AtLeast(1);
        /// Bytes of memory that the records of all peers may take, by estimate; past it a registration is refused as "Registry full".
        max_bytes: u64 = 1024 * MIB as u64, AtLeast(1);
        /// Origins whose web pages may ask the bootstrap paths; "*" = any, none = no page. The directory answers any origin.
        cors_origins: Vec<String> = vec!["*".to_owned()], Rule::That(ORIGINS, are_origins);
    }
}

section! {
    /// TURN servers and their sessions.
    turn: TurnRules {
        /// Time after which a TURN session ends; at least "1s".
        session_ttl: Duration = 30 * MINUTE, AtLeast(SECOND);
        /// TURN sessions in all; past it there is no capacity.
        max_sessions: usize = 1_000_000, AtLeast(1);
    }
}

section! {
    /// The directory of servers.
    directory: DirectoryRules {
        /// Time after which a server that was not heard is stale.
        ttl: Duration = 5 * MINUTE, AtLeast(MILLISECOND);
        /// Secret that whoever writes to the directory must bear as Authorization: Bearer; empty = none.
        secret: String = String::new();
        /// "open": anyone may overwrite or remove an entry; "strict": only who has its ownerToken, until it is stale. Without effect where there is a secret.
        ownership: Ownership = Ownership::Open;
        /// Whether endpoints on loopback and private hosts are taken; they always are where server.listen is on loopback.
        allow_private: bool = false;
    }
}

section! {
    /// Link: a binary's claim and its phones.
    link: LinkRules {
        /// Time that a binary has to come back in, while its phones stay.
        grace: Duration = 30 * SECOND, AtLeast(MILLISECOND);
        /// Time between two pings to a binary or a phone.
        ping_interval: Duration = 30 * SECOND, AtLeast(MILLISECOND);
        /// Time from a ping to the pong; past it the socket is closed with 1011.
        pong_timeout: Duration = 30 * SECOND, AtLeast(MILLISECOND);
        /// Time in which a binary must answer the ping that is sent when another one claims its server-id.
        probe: Duration = 10 * SECOND, AtLeast(MILLISECOND);
        /// Phones of one server-id; past it a phone is closed with 4429.
        max_phones: usize = 16, AtLeast(1);
        /// Bytes of one message of a binary, its envelope included, or of a phone; a larger one closes the socket with 1009.
        max_message_bytes: usize = 256 * KIB, AtLeast(KIB);
        /// Bytes that may wait to be sent to one phone; past it the phone is closed with 1011; at least max_message_bytes.
        phone_queue_bytes: usize = 4 * MIB, AtLeast(KIB);
        /// Whether the phones are closed with 4404 when their binary comes back, instead of staying.
        evict_on_reclaim: bool = false;
    }
}

section! {
    /// The removal of what has ended.
    sweep: Sweep {
        /// Leases removed in one atomic batch; smaller = shorter waits beside a sweep, and a longer sweep.
        max_batch: usize = 64, AtLeast(1);
        /// Longest time between two sweeps; a nearer expiry is swept when it comes.
        interval: Duration = 15 * MINUTE, AtLeast(MILLISECOND);
    }
}

section! {
    /// The shutdown.
    drain: Drain {
        /// Longest time from the signal to the exit; "0s" = nobody is waited for.
        timeout: Duration = 10 * SECOND;
    }
}

/// Who may overwrite what another has registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Ownership {
    Open,
    Strict,
}

const ORIGINS: &str = r#"a list of origins such as ["https://app.example"], or ["*"]"#;

#[allow(clippy::ptr_arg, reason = "a rule looks at the value as it is kept")]
fn are_origins(origins: &Vec<String>) -> bool {
    let is_origin = |text: &String| {
        let host = text.split_once("://").map(|(_, host)| host);
        text == "*"
            || host.is_some_and(|host| {
                !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
            })
    };
    origins.iter().all(is_origin) && (origins.len() < 2 || !origins.iter().any(|origin| origin == "*"))
}

/// What the lower layers are handed of the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub connections: ConnectionLimits,
    pub liveness: Liveness,
    pub relays: RelayRules,
    pub rendezvous: RendezvousRules,
    pub pairing: PairingRules,
    pub chunks: ChunkRules,
    pub peers: PeerRules,
    pub turn: TurnRules,
    pub directory: DirectoryRules,
    pub link: LinkRules,
    pub sweep: Sweep,
    pub drain: Drain,
}
