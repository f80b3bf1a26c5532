//! What the log says of clients, and how much it says.
//!
//! Owns the blurring of addresses and ids, and the level that is in force. Must not know what is logged, nor anything else
//! of ours.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::Rng;
use sha2::{Digest, Sha256};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::reload::{Handle, Layer};

const DAY_MILLISECONDS: u64 = 24 * 60 * 60 * 1000;

/// What a level is, for error messages.
pub const LEVEL: &str =
    r#"a level (off, error, warn, info, debug, trace), or several such as "info,waypost::store=debug""#;

/// Stricter than the filter's own parser, which takes a misspelt level for the name of a module.
pub fn is_level(text: &str) -> bool {
    let is_level = |part: &str| part.contains(['=', '[']) || part.parse::<LevelFilter>().is_ok();
    EnvFilter::builder().parse(text).is_ok() && text.split(',').all(is_level)
}

/// Names clients in the log: by a keyed hash, the same for a day, or as they are. The key changes with the day (UTC), is in
/// memory alone, and the one before is forgotten: lines of two days cannot be linked. Cheap to clone.
#[derive(Clone)]
pub struct Blur(Arc<Inner>);

struct Inner {
    identities: bool,
    key: Mutex<Key>,
}

struct Key {
    day: u64,
    bytes: [u8; 32],
}

impl Key {
    fn of(day: u64) -> Key {
        #[allow(
            clippy::disallowed_methods,
            reason = "a key of the log owes nothing to the engine's generator"
        )]
        let mut rng = rand::make_rng::<rand::rngs::StdRng>();
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        Key { day, bytes }
    }
}

impl Blur {
    /// With `identities` clients are named as they are.
    pub fn new(identities: bool) -> Blur {
        Blur(Arc::new(Inner { identities, key: Mutex::new(Key::of(0)) }))
    }

    /// An address at a time in milliseconds since the Unix epoch, such as `a:5f3c9e21`.
    pub fn address(&self, address: IpAddr, now: u64) -> String {
        self.name("a", &address.to_string(), now)
    }

    /// The id of a lease, of a peer or of anything else that a client has named, such as `i:5f3c9e21`.
    pub fn id(&self, id: &str, now: u64) -> String {
        self.name("i", id, now)
    }

    fn name(&self, kind: &str, text: &str, now: u64) -> String {
        if self.0.identities {
            return text.to_owned();
        }
        let mut key = lock(&self.0.key);
        let day = now / DAY_MILLISECONDS;
        if key.day != day {
            *key = Key::of(day);
        }
        let digest = Sha256::new().chain_update(key.bytes).chain_update(kind).chain_update(text).finalize();
        let short: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{kind}:{short}")
    }
}

/// The least level that is logged, which may change at any time. Cheap to clone.
#[derive(Clone)]
pub struct LogLevel {
    filter: Handle<EnvFilter, Registry>,
    in_force: Arc<Mutex<String>>,
}

/// Why the level stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    #[error("expected {LEVEL}, found {0:?}")]
    Invalid(String),
    #[error("the log belongs to the program around this daemon")]
    NoLog,
}

impl LogLevel {
    /// A level that [`is_level`], and the filter that obeys it. Without the filter nothing can be set.
    pub fn new(level: &str) -> (Layer<EnvFilter, Registry>, LogLevel) {
        let (layer, filter) = Layer::new(EnvFilter::new(level));
        (layer, LogLevel { filter, in_force: Arc::new(Mutex::new(level.to_owned())) })
    }

    pub fn in_force(&self) -> String {
        lock(&self.in_force).clone()
    }

    pub fn set(&self, level: &str) -> Result<(), LevelError> {
        if !is_level(level) {
            return Err(LevelError::Invalid(level.to_owned()));
        }
        let mut in_force = lock(&self.in_force);
        self.filter.reload(EnvFilter::new(level)).map_err(|_| LevelError::NoLog)?;
        // Libraries that log by the crate `log` ask for a ceiling of its own.
        let ceiling = LevelFilter::current().to_string();
        log::set_max_level(ceiling.parse().unwrap_or(log::LevelFilter::Trace));
        level.clone_into(&mut in_force);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_for_a_day_and_another_one_the_next_and_elsewhere() {
        let (blur, address) = (Blur::new(false), IpAddr::from([203, 0, 113, 7]));
        let name = blur.address(address, 5);
        assert!(name.starts_with("a:") && name.len() == 10, "{name}");
        assert_eq!(blur.clone().address(address, DAY_MILLISECONDS - 1), name);
        assert_ne!(blur.address(IpAddr::from([203, 0, 113, 8]), 5), name);
        assert_ne!(blur.id("203.0.113.7", 5)[2..], name[2..], "an id that looks like an address is none");
        assert_ne!(Blur::new(false).address(address, 5), name);
        let next = blur.address(address, DAY_MILLISECONDS);
        assert_ne!(next, name);
        assert_ne!(blur.address(address, 5), name, "the key of a day that has passed is gone");
        assert_eq!(Blur::new(true).address(address, 5), "203.0.113.7");
    }

    #[test]
    fn a_level_without_its_filter_cannot_be_set() {
        let (filter, level) = LogLevel::new("info");
        assert_eq!(level.set("loud"), Err(LevelError::Invalid("loud".to_owned())));
        drop(filter);
        assert_eq!(level.set("debug"), Err(LevelError::NoLog));
        assert_eq!(level.in_force(), "info");
    }
}
