//! The service manager, where there is one: sockets that it has opened, and what it is told.
//!
//! Owns the environment by which both is done (`LISTEN_FDS`, `NOTIFY_SOCKET`, `WATCHDOG_USEC`). Must not know what the daemon
//! consists of.

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tracing::warn;

use crate::clock::Clock;
use crate::daemon::Addresses;
use crate::engine::Engine;
use crate::server::listen::{Handed, Inherited};

/// Why the sockets that were handed over cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum InheritError {
    #[error("a socket with the name {0:?} was handed over: name it public or admin (FileDescriptorName=)")]
    Name(String),
    #[error("two sockets with the name {0} were handed over: one is the most there may be")]
    Twice(&'static str),
    #[error("the socket {0} that was handed over cannot be used: {1}")]
    Kind(&'static str, std::io::Error),
}

/// The sockets that were handed over, by their names.
pub(super) fn inherited() -> Result<Inherited, InheritError> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut sockets = ListenFd::from_env();
    let mut inherited = Inherited::default();
    for (number, name) in (0..sockets.len()).zip(names.split(':').chain(std::iter::repeat(""))) {
        let (name, place) = match name {
            "public" => ("public", &mut inherited.public),
            "admin" => ("admin", &mut inherited.admin),
            other => return Err(InheritError::Name(other.to_owned())),
        };
        let handed = match sockets.take_unix_listener(number) {
            Ok(listener) => listener.map(Handed::Unix),
            Err(_) => {
                let listener = sockets.take_tcp_listener(number);
                listener.map_err(|error| InheritError::Kind(name, error))?.map(Handed::Tcp)
            }
        };
        if place.is_some() {
            return Err(InheritError::Twice(name));
        }
        *place = handed;
    }
    Ok(inherited)
}

/// It serves, now or again.
pub(super) fn ready(addresses: &Addresses) {
    let status = format!("listening on {}, admin endpoint on {}", addresses.public, addresses.admin);
    notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "the service manager cannot be told"),
    }
}

pub(super) fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("shutting down")]);
}

/// Tells again and again that the daemon is well, as long as its writer answers; never ends. Where nobody asks, it rests.
pub(super) async fn watchdog(engine: Engine) {
    let Some(patience) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let (clock, half) = (Clock::system(), patience / 2);
    loop {
        // A writer that takes longer than half of the patience may still answer in time.
        if engine.answers().await {
            notify(&[NotifyState::Watchdog]);
        }
        clock.sleep(half).await;
    }
}

/// Without a service manager nobody is told.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "the service manager cannot be told");
    }
}
