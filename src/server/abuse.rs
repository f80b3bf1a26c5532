//! What clients do past their limits, as lines of the log that fail2ban may read.
//!
//! Owns their format, and how many there may be: a flood must not fill the disk. Must not know what becomes of a client.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::App;
use super::drain::Token;
use super::gate::network_of;
use super::session::{BROKEN, Ended};
use crate::clock::Clock;
use crate::logging::Blur;
use crate::metrics::{Ending, Refusal};

const MINUTE: Duration = Duration::from_secs(60);
/// Lines of one address, or IPv6 /64, in a minute.
const LINES_PER_ADDRESS: u32 = 10;
/// Lines of all of them in a minute; as many again may tell at its end what was left out.
const LINES: usize = 300;

/// What a client has done.
#[derive(Clone, Copy)]
pub enum Event {
    /// A connection was dropped without an answer.
    Connection(Refusal),
    Upgrade(Refusal),
    /// A socket was closed.
    Socket(&'static str),
    /// An HTTP request was one too many.
    Request,
    /// A wrong admin token.
    Token,
}

impl Event {
    /// Its name and reason; `None` where the daemon is full, where all clients fail alike if a certificate or a proxy is not as
    /// it should be, and for headers of link, whose refusal is not logged (link, section 1).
    fn name(self) -> Option<(&'static str, &'static str)> {
        match self {
            Event::Connection(Refusal::Total | Refusal::BadTls | Refusal::BadProxyHeader)
            | Event::Upgrade(Refusal::Total | Refusal::BadHeader) => None,
            Event::Connection(reason) => Some(("connection_refused", reason.text())),
            Event::Upgrade(reason) => Some(("upgrade_refused", reason.text())),
            Event::Socket(reason) => Some(("socket_closed", reason)),
            Event::Request => Some(("request_refused", "rate_limited")),
            Event::Token => Some(("token_refused", "unauthorized")),
        }
    }
}

/// The lines of abuse.
pub struct AbuseLog {
    blur: Blur,
    /// Whether lines have the address as it is.
    plain: bool,
    clock: Clock,
    minute: Mutex<Minute>,
}

/// What was told since the last summary, and what was left out.
#[derive(Default)]
struct Minute {
    lines: usize,
    /// By IPv4 address or IPv6 /64. No more of them than lines.
    told: HashMap<IpAddr, Told>,
    others: u64,
}

struct Told {
    addr: String,
    lines: u32,
    more: u64,
}

impl AbuseLog {
    /// With `plain` lines have addresses as they are, else their networks as `blur` names them.
    pub fn new(blur: Blur, plain: bool, clock: Clock) -> AbuseLog {
        let blur = if plain { Blur::new(true) } else { blur };
        AbuseLog { blur, plain, clock, minute: Mutex::default() }
    }

    pub(super) fn note(&self, event: Event, address: IpAddr) {
        let address = address.to_canonical();
        // A proxy on a Unix socket that does not say whom it speaks for.
        let Some((event, reason)) = event.name().filter(|_| !address.is_unspecified()) else { return };
        if let Some(name) = self.take_line(network_of(address)) {
            let addr = if self.plain { address.to_string() } else { name };
            tracing::warn!(target: "waypost::abuse", parent: None, %event, %reason, %addr, "seen");
        }
    }

    /// Notes how a socket has ended, where its client was to blame.
    pub(super) fn ended(&self, ended: &Ended, address: IpAddr) {
        match ended.how {
            Ending::Failed if ended.code == Some(BROKEN.code) => {
                self.note(Event::Socket("bad_frame"), address)
            }
            Ending::Abuse | Ending::TooLarge | Ending::NotText | Ending::NotJson => {
                self.note(Event::Socket(ended.how.text()), address);
            }
            _ => {}
        }
    }

    /// How the network is named, if there is a line left for it.
    fn take_line(&self, network: IpAddr) -> Option<String> {
        let mut minute = self.lock();
        let full = minute.lines >= LINES;
        if !full && !minute.told.contains_key(&network) {
            let addr = self.blur.address(network, self.clock.now());
            minute.told.insert(network, Told { addr, lines: 0, more: 0 });
        }
        let Some(told) = minute.told.get_mut(&network) else {
            minute.others += 1;
            return None;
        };
        if full || told.lines >= LINES_PER_ADDRESS {
            told.more += 1;
            return None;
        }
        told.lines += 1;
        let addr = told.addr.clone();
        minute.lines += 1;
        Some(addr)
    }

    /// Tells what was left out since the last time.
    fn sum_up(&self) {
        let Minute { told, others, .. } = std::mem::take(&mut *self.lock());
        for Told { addr, more, .. } in told.into_values().filter(|told| told.more > 0) {
            tracing::warn!(target: "waypost::abuse", %addr, more, "and more");
        }
        if others > 0 {
            tracing::warn!(target: "waypost::abuse", more = others, "and more of other addresses");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Minute> {
        self.minute.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until the daemon ends.
pub(super) async fn sum_up_each_minute(app: Arc<App>, mut token: Token) {
    loop {
        let stopped = tokio::select! {
            () = app.clock.sleep(MINUTE) => false,
            () = token.stopped() => true,
        };
        app.abuse.sum_up();
        if stopped {
            return;
        }
    }
}
