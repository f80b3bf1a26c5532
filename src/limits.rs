//! Owns every ceiling and interval that the layers below the settings obey: the sections an operator may change, with
//! their defaults and rules, and the constants that nobody may. Also owns what makes a struct a section of settings.
//! Must not know where settings come from, nor anything else of ours.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use figment::value::Value;
use ipnet::IpNet;

use Rule::AtLeast;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const MILLISECOND: Duration = Duration::from_millis(1);

/// Longer durations are refused, so that adding one to any date stays far from overflow.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

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
/// Messages dropped for their rate within 60 s before the socket is closed (signalling, section 1).
pub const DROPPED_MESSAGES_BEFORE_CLOSE: u32 = 300;
/// Requests that wait for the writer thread.
pub const ENGINE_QUEUE: usize = 8192;
/// Requests that share one transaction of the store.
pub const ENGINE_DRAIN: usize = 1024;
/// Bytes of a WebSocket's read buffer: it is zero-filled before every read, so small is fast.
pub const READ_BUFFER_BYTES: usize = 4 * KIB;
/// HTTP connections before their upgrade, in all and from one address.
pub const PENDING_CONNECTIONS: usize = 1024;
pub const PENDING_CONNECTIONS_PER_ADDRESS: usize = 64;
/// Bytes of a request's head.
pub const REQUEST_HEAD_BYTES: usize = 16 * KIB;
/// Bytes that a socket collects before it writes without being flushed; above what a session leaves unflushed.
pub const WRITE_BUFFER_BYTES: usize = 128 * KIB;
/// Bytes of the store's page cache as it is asked for; the store takes 3 to 5 times that.
pub const STORE_CACHE_BYTES: u64 = 64 * MIB as u64;

/// How a setting of one kind is read and printed.
pub(crate) trait Setting: PartialOrd + Sized {
    /// What is expected of a value, for error messages.
    const EXPECTED: &'static str;
    /// Reads what an environment variable or a flag says, or what stands between the quotes in TOML.
    fn from_text(text: &str) -> Option<Self>;
    /// Reads a value of a TOML file. Here: kinds that are strings in TOML.
    fn from_toml(value: &Value) -> Option<Self> {
        Self::from_text(value.as_str()?)
    }
    fn to_toml(&self) -> String;
}

/// What a value must obey beyond its kind.
pub(crate) enum Rule<T> {
    Any,
    AtLeast(T),
    /// What is expected, and whether a value is that.
    That(&'static str, fn(&T) -> bool),
}

impl<T: Setting> Rule<T> {
    /// The value itself, or what the rule expects instead.
    pub(crate) fn check(&self, value: T) -> Result<T, String> {
        match self {
            AtLeast(least) if value < *least => Err(format!("at least {}", least.to_toml())),
            Rule::That(expected, holds) if !holds(&value) => Err((*expected).to_owned()),
            _ => Ok(value),
        }
    }
}

/// One key of a section, as it was declared.
pub(crate) struct Key<T> {
    pub(crate) section: &'static str,
    pub(crate) name: &'static str,
    pub(crate) doc: &'static [&'static str],
    pub(crate) default: T,
    pub(crate) rule: Rule<T>,
}

/// Whoever walks over settings: the reader and the printer.
pub(crate) trait Visitor {
    fn section(&mut self, name: &'static str, doc: &'static [&'static str]);
    fn key<T: Setting>(&mut self, key: Key<T>, value: &mut T);
}

/// Declares a section: `name: Struct { key: kind = default, rule; … }` with a doc comment on the whole and on each key.
/// Makes the struct, its `Default`, and `visit`, which shows a [`Visitor`] each key apart from the others.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $section:ident: $Struct:ident {
            $(
                $(#[doc = $doc:literal])+
                $key:ident: $kind:ty = $default:expr $(, $rule:expr)?;
            )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $Struct {
            $( $(#[doc = $doc])+ pub $key: $kind, )+
        }

        impl Default for $Struct {
            fn default() -> Self {
                Self { $( $key: $default, )+ }
            }
        }

        impl $Struct {
            pub(crate) fn visit<V: $crate::limits::Visitor>(&mut self, visitor: &mut V) {
                visitor.section(stringify!($section), &[$($about),+]);
                $(
                    visitor.key(
                        $crate::limits::Key {
                            section: stringify!($section),
                            name: stringify!($key),
                            doc: &[$($doc),+],
                            default: $default,
                            rule: $crate::limits::section!(@rule $($rule)?),
                        },
                        &mut self.$key,
                    );
                )+
            }
        }
    };
    (@rule) => { $crate::limits::Rule::Any };
    (@rule $rule:expr) => { $rule };
}
pub(crate) use section;

section! {
    /// Ceilings of sockets and their messages.
    limits: ConnectionLimits {
        /// Sockets in all; past it an upgrade is refused with 503.
        max_connections: usize = 10_000, AtLeast(1);
        /// Sockets per address (IPv6: per /64); past it an upgrade is refused with 429.
        max_connections_per_address: usize = 50, AtLeast(1);
        /// Messages in 60 s per socket, and the burst it may spend at once; 0 = no limit.
        messages_per_minute: u32 = 100;
        /// Bytes of one message; a larger one closes the socket with 1009.
        max_message_bytes: usize = 256 * KIB, AtLeast(KIB);
        /// Time from the upgrade to the first complete message.
        first_message_timeout: Duration = 30 * SECOND, AtLeast(MILLISECOND);
        /// Bytes of unsent output per socket; past it the socket is closed as a slow consumer.
        outbox_bytes: usize = MIB, AtLeast(KIB);
        /// Bytes of unsent output of all sockets; past it the slowest one is closed.
        outbox_total_bytes: usize = 256 * MIB, AtLeast(KIB);
    }
}

section! {
    /// When a silent socket counts as dead.
    liveness: Liveness {
        /// Time between two pings to a socket.
        ping_interval: Duration = 30 * SECOND, AtLeast(MILLISECOND);
        /// Silence after which a socket is dropped; longer than ping_interval.
        timeout: Duration = MINUTE, AtLeast(MILLISECOND);
        /// Time the holder of an id has to answer a ping when somebody else asks for that id.
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
        /// Points and tokens of all peers; past it a registration is refused as "Registry full".
        max_entries: usize = 20_000_000, AtLeast(1);
        /// Bytes of names and dead drops in all; past it a registration is refused as "Registry full".
        max_stored_bytes: u64 = 8 * 1024 * MIB as u64, AtLeast(1);
    }
}

section! {
    /// The removal of what has ended.
    sweep: Sweep {
        /// Leases removed in one atomic batch; between two batches waiting requests are served.
        max_batch: usize = 128, AtLeast(1);
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

/// What the lower layers are handed of the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub connections: ConnectionLimits,
    pub liveness: Liveness,
    pub relays: RelayRules,
    pub rendezvous: RendezvousRules,
    pub sweep: Sweep,
    pub drain: Drain,
}

macro_rules! whole_numbers {
    ($($kind:ty: $expected:literal),+) => {
        $(impl Setting for $kind {
            const EXPECTED: &'static str = concat!("a whole number from 0 to ", $expected);

            fn from_text(text: &str) -> Option<Self> {
                // TOML has no larger numbers, and what is accepted here must be printable there.
                text.trim().parse::<i64>().ok()?.try_into().ok()
            }

            fn from_toml(value: &Value) -> Option<Self> {
                value.deserialize::<i64>().ok()?.try_into().ok()
            }

            fn to_toml(&self) -> String {
                self.to_string()
            }
        })+
    };
}
whole_numbers!(u32: "4294967295", u64: "9223372036854775807", usize: "9223372036854775807");

impl Setting for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_text(text: &str) -> Option<Self> {
        text.trim().parse().ok()
    }

    fn from_toml(value: &Value) -> Option<Self> {
        value.to_bool()
    }

    fn to_toml(&self) -> String {
        self.to_string()
    }
}

impl Setting for Duration {
    const EXPECTED: &'static str = r#"a duration such as "50ms", "30s" or "48h", of at most 100 years"#;

    fn from_text(text: &str) -> Option<Self> {
        humantime::parse_duration(text.trim()).ok().filter(|duration| *duration <= LONGEST)
    }

    /// In the largest unit that says it in one number: "48h" stays "48h", where humantime says "2days".
    fn to_toml(&self) -> String {
        let nanoseconds = self.as_nanos();
        [("h", HOUR), ("m", MINUTE), ("s", SECOND), ("ms", MILLISECOND)]
            .into_iter()
            .map(|(unit, length)| (unit, length.as_nanos()))
            .find(|(_, length)| nanoseconds >= *length && nanoseconds.is_multiple_of(*length))
            .map_or_else(
                || format!("\"{}\"", humantime::format_duration(*self)),
                |(unit, length)| format!("\"{}{unit}\"", nanoseconds / length),
            )
    }
}

impl Setting for String {
    const EXPECTED: &'static str = "a string";

    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn to_toml(&self) -> String {
        quoted(self)
    }
}

impl Setting for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn from_text(text: &str) -> Option<Self> {
        Some(text.into())
    }

    fn to_toml(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

impl Setting for SocketAddr {
    const EXPECTED: &'static str = r#"an address and port such as "127.0.0.1:9000" or "[::]:9000""#;

    fn from_text(text: &str) -> Option<Self> {
        text.trim().parse().ok()
    }

    fn to_toml(&self) -> String {
        format!("\"{self}\"")
    }
}

impl Setting for Vec<IpNet> {
    const EXPECTED: &'static str = r#"a list of networks or addresses such as ["10.0.0.0/8", "::1"]"#;

    /// Either as in TOML or with nothing but commas in between.
    fn from_text(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| network(part.trim_matches('"')))
            .collect()
    }

    fn from_toml(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(|part| network(part.as_str()?)).collect()
    }

    fn to_toml(&self) -> String {
        let parts: Vec<_> = self.iter().map(|network| format!("\"{network}\"")).collect();
        format!("[{}]", parts.join(", "))
    }
}

fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            char if char.is_control() => quoted.push_str(&format!("\\U{:08X}", u32::from(char))),
            char => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}
