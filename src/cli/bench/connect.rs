//! Owns how the bench comes by its sockets: from which addresses they connect, how fast, and as whom. Must not know what
//! they are for.
#![allow(clippy::disallowed_methods, reason = "the bench is an edge: it connects in real time")]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use indicatif::ProgressBar;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::http::Uri;

use super::scenarios::{peer_id, random_hex, register};
use super::socket::{Answered, Socket};
use super::{Bench, BenchError};
use crate::client::{ClientError, link};

/// Sockets per source address: the daemon's limit is 50.
pub const SOCKETS_PER_ADDRESS: usize = 40;
/// Phones of a binary: the daemon's limit. With their binary they stay below its limit on link upgrades of one address.
pub const PHONES: usize = 16;
/// Connections being made at once.
const HANDSHAKES: usize = 64;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Descriptors for other things than sockets.
const SPARE_DESCRIPTORS: u64 = 64;

/// Makes connections to one server.
pub struct Dialer<'a> {
    bench: &'a Bench,
    /// Names this run in ids and tokens; 8 hex digits.
    pub run: String,
    /// The next free address; none where the server is on another machine.
    next: Option<AtomicU32>,
}

/// Addresses that nobody else connects from; or that of the machine.
pub struct Sources {
    first: Option<u32>,
    per_address: usize,
}

impl Sources {
    /// For the socket with this number.
    pub fn of(&self, number: usize) -> Option<IpAddr> {
        let address = self.first? + (number / self.per_address) as u32;
        Some(IpAddr::V4(address.into()))
    }
}

impl<'a> Dialer<'a> {
    pub fn new(bench: &'a Bench) -> Dialer<'a> {
        let loopback = bench.url.host().is_some_and(|host| match host {
            url::Host::Domain(name) => name == "localhost",
            url::Host::Ipv4(address) => address.is_loopback(),
            url::Host::Ipv6(_) => false,
        });
        // From anywhere in 127.1.0.0 to 127.128.0.0: a server still counts what the run before did from its addresses.
        let first = || u32::from(Ipv4Addr::new(127, 1, 0, 0)) + rand::random_range(0..1 << 23);
        Dialer { bench, run: random_hex(8), next: loopback.then(|| AtomicU32::new(first())) }
    }

    /// Addresses for so many sockets.
    pub fn sources(&self, sockets: usize, per_address: usize) -> Sources {
        let addresses = sockets.div_ceil(per_address) as u32;
        let first = self.next.as_ref().map(|next| next.fetch_add(addresses, Ordering::Relaxed));
        Sources { first, per_address }
    }

    /// Opens so many, of which `open` makes the one with a number.
    pub async fn ramp<T, F>(
        &self,
        count: usize,
        progress: &ProgressBar,
        open: impl FnMut(usize) -> F,
    ) -> Result<Vec<T>, BenchError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let began = Instant::now();
        let ramp = self.bench.ramp;
        let when_due = stream::iter(0..count).then(async |number| {
            if ramp > 0 {
                let due = began + Duration::from_secs_f64(number as f64 / f64::from(ramp));
                tokio::time::sleep_until(due.into()).await;
            }
            number
        });
        let opened = when_due
            .map(open)
            .map(|opening| async { timeout(PATIENCE, opening).await.map_err(|_| ClientError::Timeout)? });
        let opened = opened.buffered(HANDSHAKES).inspect_ok(|_| progress.inc(1));
        opened.try_collect().await.map_err(|error| BenchError::of("connecting", error))
    }

    /// A signalling socket that has registered its id.
    pub async fn peer(&self, number: usize, local: Option<IpAddr>) -> Result<Socket, ClientError> {
        let path = self.bench.url.path();
        let mut socket = self.upgrade(path, &HashMap::new(), local).await?;
        socket.ask(&register(&peer_id(&self.run, number)), Answered::By("registered")).await?;
        Ok(socket)
    }

    /// An HTTP connection.
    pub async fn http(&self, local: Option<IpAddr>) -> Result<Socket, ClientError> {
        let uri = format!("http://{}", self.bench.url.authority()).parse::<Uri>();
        Socket::http(&uri.map_err(|error| ClientError::Unreachable(error.into()))?, local).await
    }

    /// A binary that has its claim, and that of its phones which have this number between them.
    pub async fn link(&self, leg: Leg, group: usize, local: Option<IpAddr>) -> Result<Socket, ClientError> {
        let agent = concat!("waypost-bench/", env!("CARGO_PKG_VERSION")).to_owned();
        let mut headers = HashMap::from([
            ("x-pyrycode-server", format!("bench-{}-{group}", self.run)),
            ("user-agent", agent),
        ]);
        let path = match leg {
            Leg::Binary => {
                headers.insert("x-pyrycode-version", env!("CARGO_PKG_VERSION").to_owned());
                "/v1/server"
            }
            Leg::Phone => "/v1/client",
        };
        self.upgrade(path, &headers, local).await
    }

    async fn upgrade(
        &self,
        path: &str,
        headers: &HashMap<&'static str, String>,
        local: Option<IpAddr>,
    ) -> Result<Socket, ClientError> {
        let origin = format!("ws://{}", self.bench.url.authority());
        Socket::upgrade(link::upgrade(&origin, path, headers)?, local).await
    }
}

/// The two ends of link.
#[derive(Clone, Copy)]
pub enum Leg {
    Binary,
    Phone,
}

/// Allows this process as many sockets as it is going to open, or tells how many it may.
pub fn raise_descriptor_limit(sockets: usize) -> Result<(), u64> {
    let wanted = sockets as u64 + SPARE_DESCRIPTORS;
    let mut limit = getrlimit(Resource::Nofile);
    let Some(current) = limit.current.filter(|current| *current < wanted) else { return Ok(()) };
    if let Some(most) = limit.maximum.filter(|most| *most < wanted) {
        return Err(most);
    }
    limit.current = Some(wanted);
    setrlimit(Resource::Nofile, limit).map_err(|_| current)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_spread_over_addresses() {
        let sources = Sources { first: Some(u32::from(Ipv4Addr::new(127, 1, 0, 255))), per_address: 40 };
        let of = |number| sources.of(number);
        assert_eq!([of(0), of(39)], [Some(IpAddr::from([127, 1, 0, 255])); 2]);
        assert_eq!(of(40), Some(IpAddr::from([127, 1, 1, 0])));
        assert_eq!(Sources { first: None, per_address: 1 }.of(7), None);
    }
}
