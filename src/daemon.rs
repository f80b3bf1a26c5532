//! The daemon as a whole: `bind → addresses → join → shutdown`.
//!
//! Owns the order in which its parts start and end. Must not know what they do.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;

use crate::clock::Clock;
use crate::config::Settings;
use crate::engine::{self, Engine};
use crate::metrics::Metrics;
use crate::server::secrets::{self, AdminToken, ServerKey};
use crate::server::{self, Server};
use crate::store::{Faults, OpenError};

/// What the daemon keeps in its data directory.
pub const STORE: &str = "store";
pub const SERVER_KEY: &str = "server.key";
pub const ADMIN_TOKEN: &str = "admin.token";

/// Why the daemon did not start; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error("{} cannot be used: {source}", .path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Listen(io::Error),
}

impl StartError {
    /// 2 for what an operator has to mend before another try makes sense; 1 for an address that is in use.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::Store(_) | StartError::File { .. } => 2,
            StartError::Listen(_) => 1,
        }
    }
}

/// What a test brings along; the binary uses the default.
pub struct Surroundings {
    pub clock: Clock,
    pub rng: StdRng,
    pub faults: Faults,
}

impl Default for Surroundings {
    fn default() -> Surroundings {
        #[allow(clippy::disallowed_methods, reason = "the one generator, seeded from the operating system")]
        let rng = rand::make_rng();
        Surroundings { clock: Clock::system(), rng, faults: Faults::default() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub public: SocketAddr,
    pub admin: SocketAddr,
}

/// Why the daemon is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// An operator asked for it at the admin endpoint.
    Asked,
    /// A part of the daemon has ended by itself: then the rest is of no use.
    Broken,
}

pub struct Daemon {
    server: Server,
    engine: Engine,
    patience: Duration,
}

impl Daemon {
    pub async fn bind(settings: Settings) -> Result<Daemon, StartError> {
        Daemon::bind_in(settings, Surroundings::default()).await
    }

    pub async fn bind_in(settings: Settings, surroundings: Surroundings) -> Result<Daemon, StartError> {
        let Surroundings { clock, rng, faults } = surroundings;
        let limits = settings.limits();
        let folder = settings.server.data_dir.clone();
        let file = |path: PathBuf| move |source| StartError::File { path, source };
        // Its owner's alone, where it does not exist yet.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(file(folder.clone()))?;
        secrets::tell_if_open(&folder);
        let key = folder.join(SERVER_KEY);
        let key = ServerKey::load_or_create(&key).map_err(file(key))?;
        let admin_token = folder.join(ADMIN_TOKEN);
        let admin_token = AdminToken::load_or_create(&admin_token).map_err(file(admin_token))?;
        let metrics = Arc::new(Metrics::default());
        let engine = Engine::start(engine::Options {
            store: folder.join(STORE),
            limits: limits.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            rng,
            faults,
            server_id: key.server_id(),
        })?;
        let patience = limits.drain.timeout;
        let server = settings.server.clone();
        let server = Server::bind(server::Options {
            listen: server.listen,
            admin_listen: server.admin_listen,
            region: server.region().map(str::to_owned),
            trusted_proxies: server.trusted_proxies.clone(),
            endpoint: Box::new(move |bound| server.endpoint(bound)),
            limits,
            clock,
            metrics,
            server_key: key,
            admin_token,
            engine: engine.clone(),
        });
        match server.await {
            Ok(server) => Ok(Daemon { server, engine, patience }),
            Err(error) => {
                engine.stop().await;
                Err(StartError::Listen(error))
            }
        }
    }

    pub fn addresses(&self) -> Addresses {
        Addresses { public: self.server.public, admin: self.server.admin }
    }

    /// The engine, for whoever embeds the daemon.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Until there is a reason to end.
    pub async fn join(&mut self) -> Reason {
        let drain_asked = self.server.drain_asked.clone();
        tokio::select! {
            () = drain_asked.notified() => return Reason::Asked,
            () = self.server.ended() => {}
            () = self.engine.ended() => tracing::error!("the engine ended"),
        }
        Reason::Broken
    }

    /// Answers what is in flight, closes every socket, flushes (protocol: signalling, section 7).
    pub async fn shutdown(self) {
        self.engine.drain().await;
        if !self.server.shutdown(self.patience).await {
            tracing::warn!(patience = ?self.patience, "some sockets were still open at the end of the drain timeout");
        }
        self.engine.stop().await;
    }
}
