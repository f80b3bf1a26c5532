//! Which settings may change while the daemon runs, and what has changed between two readings.
//!
//! Owns that list. Must not know how a change takes effect.

use super::Settings;
use crate::limits::{Key, Setting, Visitor};

/// Declares the settings that a reload exchanges: as they are written, and where they are kept.
macro_rules! reloaded {
    ($($name:literal: $section:ident.$key:ident,)+) => {
        /// The settings that take effect with a reload; all others need a restart.
        pub const RELOADED: &[&str] = &[$($name),+];

        fn exchange(running: &mut Settings, read: &Settings) {
            $(running.$section.$key.clone_from(&read.$section.$key);)+
        }
    };
}

reloaded! {
    "server.tls_cert": server.tls_cert,
    "server.tls_key": server.tls_key,
    "server.trusted_proxies": server.trusted_proxies,
    "log.level": log.level,
    "limits.max_connections": connections.max_connections,
    "limits.max_connections_per_address": connections.max_connections_per_address,
    "limits.messages_per_minute": connections.messages_per_minute,
    "limits.pair_requests_per_minute": connections.pair_requests_per_minute,
    "limits.http_requests_per_minute": connections.http_requests_per_minute,
    "limits.upgrades_per_minute": connections.upgrades_per_minute,
    "limits.link_upgrades_per_minute": connections.link_upgrades_per_minute,
    "limits.link_upgrade_burst": connections.link_upgrade_burst,
}

/// What differs between the settings that the daemon runs with and those that were read, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub applied: Vec<String>,
    pub need_restart: Vec<String>,
}

impl Settings {
    /// Takes over what may change while the daemon runs. Whether there is TLS may not.
    pub fn reload(&mut self, mut read: Settings) -> Changes {
        let mut differing = self.differing(&mut read);
        let mut settings = self.clone();
        exchange(&mut settings, &read);
        if self.server.tls().is_some() != read.server.tls().is_some() {
            settings.server.tls_cert.clone_from(&self.server.tls_cert);
            settings.server.tls_key.clone_from(&self.server.tls_key);
        }
        let need_restart = settings.differing(&mut read);
        *self = settings;
        differing.retain(|name| !need_restart.contains(name));
        Changes { applied: differing, need_restart }
    }

    fn differing(&self, other: &mut Settings) -> Vec<String> {
        let (mut own, mut others) = (Values::default(), Values::default());
        self.clone().visit(&mut own);
        other.visit(&mut others);
        let pairs = own.0.into_iter().zip(others.0);
        pairs.filter(|(own, other)| own != other).map(|((name, _), _)| name).collect()
    }
}

/// Each key and its value.
#[derive(Default)]
struct Values(Vec<(String, String)>);

impl Visitor for Values {
    fn section(&mut self, _: &'static str, _: &'static [&'static str]) {}

    fn key<T: Setting>(&mut self, key: Key<T>, value: &mut T) {
        self.0.push((format!("{}.{}", key.section, key.name), value.to_toml()));
    }
}
