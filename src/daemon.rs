//! The daemon as a whole: `bind → addresses → join → shutdown`.
//!
//! Owns the order in which its parts start and end. Must not know what they do.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;

use crate::clock::Clock;
use crate::config::{Changes, Settings};
use crate::engine::{self, Engine};
use crate::logging::{Blur, LogLevel};
use crate::metrics::Metrics;
use crate::server::listen::{Address, Inherited};
use crate::server::secrets::{self, AdminToken, ServerKey};
use crate::server::tls::{Identity, TlsError};
use crate::server::{self, AbuseLog, Changing, Server};
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
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{0}")]
    Listen(io::Error),
}

impl StartError {
    /// 2 for what an operator has to mend before another try makes sense; 1 for an address that is in use.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::Store(_) | StartError::File { .. } | StartError::Tls(_) => 2,
            StartError::Listen(_) => 1,
        }
    }
}

/// What is brought along beside the settings: by a test all of it, by the binary what its service manager has opened.
pub struct Surroundings {
    pub clock: Clock,
    pub rng: StdRng,
    pub faults: Faults,
    pub inherited: Inherited,
    /// What may be set of the log.
    pub log_level: LogLevel,
}

impl Default for Surroundings {
    fn default() -> Surroundings {
        #[allow(clippy::disallowed_methods, reason = "the one generator, seeded from the operating system")]
        let rng = rand::make_rng();
        let (faults, inherited) = (Faults::default(), Inherited::default());
        let (_, log_level) = LogLevel::new("info");
        Surroundings { clock: Clock::system(), rng, faults, inherited, log_level }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub public: Address,
    pub admin: Address,
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
    /// What it runs with: as it was read, but for what has changed since and needs a restart.
    settings: Settings,
    identity: Option<Identity>,
}

impl Daemon {
    pub async fn bind(settings: Settings) -> Result<Daemon, StartError> {
        Daemon::bind_in(settings, Surroundings::default()).await
    }

    pub async fn bind_in(settings: Settings, surroundings: Surroundings) -> Result<Daemon, StartError> {
        let Surroundings { clock, rng, faults, inherited, log_level } = surroundings;
        let mut on = settings.clone();
        if let Some(handed) = &inherited.public {
            on.server.listen = handed.address().map_err(StartError::Listen)?;
        }
        let limits = on.limits();
        let identity = identity(&settings)?;
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
        let blur = Blur::new(settings.log.identities);
        let engine = Engine::start(engine::Options {
            store: folder.join(STORE),
            limits: limits.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            rng,
            faults,
            server_id: key.server_id(),
            blur: blur.clone(),
        })?;
        let patience = limits.drain.timeout;
        let server = settings.server.clone();
        let server = Server::bind(server::Options {
            listen: server.listen.clone(),
            admin_listen: server.admin_listen.clone(),
            blur_addresses: server.admin_blur_addresses,
            inherited,
            proxy_header: server.proxy_protocol,
            region: server.region().map(str::to_owned),
            endpoint: Box::new(move |bound| server.endpoint(bound)),
            changing: changing(&settings, identity.clone()),
            limits,
            metrics,
            server_key: key,
            admin_token,
            engine: engine.clone(),
            log_level,
            abuse: AbuseLog::new(
                blur,
                settings.log.identities || settings.log.abuse_addresses,
                clock.clone(),
            ),
            clock,
        });
        match server.await {
            Ok(server) => Ok(Daemon { server, engine, patience, settings, identity }),
            Err(error) => {
                engine.stop().await;
                Err(StartError::Listen(error))
            }
        }
    }

    pub fn addresses(&self) -> Addresses {
        Addresses { public: self.server.public.clone(), admin: self.server.admin.clone() }
    }

    /// Takes over what may change while it runs, the certificate's file included; tells what has changed.
    ///
    /// # Errors
    /// What is wrong with the certificate or its key; then nothing has changed.
    pub fn reload(&mut self, read: Settings) -> Result<Changes, TlsError> {
        let identity = identity(&read)?;
        let mut changes = self.settings.reload(read);
        if self.identity.is_some() && identity.is_some() && identity != self.identity {
            self.identity = identity;
            let name = "server.tls_cert";
            if !changes.applied.iter().any(|applied| applied == name) {
                changes.applied.insert(0, name.to_owned());
            }
        }
        self.server.reload(changing(&self.settings, self.identity.clone()));
        Ok(changes)
    }

    /// What it runs with.
    pub fn settings(&self) -> &Settings {
        &self.settings
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

fn identity(settings: &Settings) -> Result<Option<Identity>, TlsError> {
    settings.server.tls().map(|(certificate, key)| Identity::load(certificate, key)).transpose()
}

fn changing(settings: &Settings, identity: Option<Identity>) -> Changing {
    let trusted_proxies = settings.server.trusted_proxies.clone();
    Changing { trusted_proxies, identity, connections: settings.connections.clone() }
}
