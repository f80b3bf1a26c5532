//! The front end: listeners, routes and sessions.
//!
//! Owns what routes and sessions share, what of it a reload exchanges, and the order of ending. Must not know sled or the
//! registries: whatever it needs it asks the engine.

mod abuse;
mod accept;
mod admin;
mod answering;
mod arriving;
pub mod asyncapi;
mod drain;
mod frames;
mod gate;
mod http;
mod later;
mod limiter;
mod link;
pub mod listen;
mod pace;
mod proxy;
mod public;
pub mod secrets;
mod session;
mod signalling;
mod socket;
pub mod tls;
mod upgrade;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::clock::Clock;
use crate::engine::Engine;
use crate::limits::{ConnectionLimits, Limits};
use crate::logging::LogLevel;
use crate::metrics::{Dialect, DialectLabel, Metrics};
use crate::wire::signalling::{ServerMessage, encode};
use accept::{Before, accept};
use arriving::Arriving;
use drain::Drain;
use gate::Gate;
use later::Spread;
use limiter::RequestLimiter;
use listen::{Address, Inherited, Listener};
use secrets::{AdminToken, ServerKey};
use tls::Identity;

pub use abuse::AbuseLog;
// What is read of a request before anything else is done with it, for `fuzz/` too.
pub use gate::{client_address, network_of};
pub use http::Bearer;
pub use http::bootstrap::page as peer_page;
pub use limiter::{Limiter, Verdict};
pub use link::header_gate;
pub use proxy::client as proxied_client;

/// What the front end is started with.
pub struct Options {
    pub listen: Address,
    pub admin_listen: Address,
    /// Whether the admin listener shows addresses of clients as networks alone.
    pub blur_addresses: bool,
    pub inherited: Inherited,
    /// Whether trusted proxies send a PROXY header, and nobody else connects.
    pub proxy_header: bool,
    /// What `server_info` tells, given the address that was bound.
    pub endpoint: Box<dyn FnOnce(&Address) -> String + Send>,
    pub region: Option<String>,
    pub changing: Changing,
    pub limits: Limits,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub server_key: ServerKey,
    pub admin_token: AdminToken,
    pub engine: Engine,
    pub log_level: LogLevel,
    pub abuse: AbuseLog,
}

/// What a reload exchanges.
pub struct Changing {
    /// For connections and requests from now on.
    pub trusted_proxies: Vec<IpNet>,
    /// For connections from now on; TLS is spoken where there is one at the start.
    pub identity: Option<Identity>,
    /// Of these the rates and the numbers of sockets; a socket keeps the rates that it was opened with.
    pub connections: ConnectionLimits,
}

/// What routes and sessions share.
struct App {
    engine: Engine,
    /// As they were at the start; whoever needs what a reload exchanges looks at `changing`.
    limits: Limits,
    changing: ArcSwap<Changing>,
    clock: Clock,
    metrics: Arc<Metrics>,
    gate: Arc<Gate>,
    arriving: Arc<Arriving>,
    server_id: String,
    server_key: ServerKey,
    request_limiter: RequestLimiter,
    upgrade_limiter: RequestLimiter,
    link_limiter: RequestLimiter,
    later: Spread,
    admin_token: AdminToken,
    log_level: LogLevel,
    abuse: AbuseLog,
    blur_addresses: bool,
    /// Messages of signalling handled.
    handled: Counter,
    /// An operator wants the daemon to end.
    drain_asked: Arc<Notify>,
    /// The first message on every socket.
    server_info: Utf8Bytes,
}

/// Whose connection a request came over.
#[derive(Clone, Copy)]
struct Peer(IpAddr);

pub struct Server {
    pub public: Address,
    pub admin: Address,
    app: Arc<App>,
    accepting: Vec<JoinHandle<()>>,
    /// Told when an operator asks for the end.
    pub drain_asked: Arc<Notify>,
    drain: Drain,
}

impl App {
    /// Gives each table of addresses its rate.
    fn limit_rates(&self) {
        let changing = self.changing.load();
        let connections = &changing.connections;
        for (limiter, per_minute, burst) in [
            (
                &self.request_limiter,
                connections.http_requests_per_minute,
                connections.http_requests_per_minute,
            ),
            (&self.upgrade_limiter, connections.upgrades_per_minute, connections.upgrades_per_minute),
            (&self.link_limiter, connections.link_upgrades_per_minute, connections.link_upgrade_burst),
        ] {
            limiter.limit(per_minute, burst);
        }
    }
}

impl Server {
    pub async fn bind(options: Options) -> io::Result<Server> {
        let Inherited { public, admin } = options.inherited;
        let listener = match public {
            Some(handed) => handed.listener()?,
            None => Listener::bind(&options.listen).await?,
        };
        let admin_listener = match admin {
            Some(handed) => handed.listener()?,
            None => Listener::bind(&options.admin_listen).await?,
        };
        let (public, admin) = (listener.address()?, admin_listener.address()?);
        let before = Before { proxy_header: options.proxy_header, tls: options.changing.identity.is_some() };
        let server_id = options.server_key.server_id();
        let info = ServerMessage::ServerInfo {
            server_id: server_id.clone(),
            endpoint: (options.endpoint)(&public),
            region: options.region,
        };
        let connections = &options.changing.connections;
        let [request_limiter, upgrade_limiter, link_limiter] =
            [(); 3].map(|()| RequestLimiter::new(options.clock.clone()));
        let label = DialectLabel { dialect: Dialect::Signalling };
        let handled = options.metrics.handled.get_or_create(&label).clone();
        let drain_asked = Arc::new(Notify::new());
        let app = Arc::new(App {
            gate: Gate::new(connections.max_connections, connections.max_connections_per_address),
            arriving: Arriving::new(connections.arriving_total_bytes, options.metrics.clone()),
            engine: options.engine,
            limits: options.limits,
            clock: options.clock,
            metrics: options.metrics,
            request_limiter,
            upgrade_limiter,
            link_limiter,
            later: Spread::default(),
            changing: ArcSwap::from_pointee(options.changing),
            server_id,
            server_key: options.server_key,
            admin_token: options.admin_token,
            log_level: options.log_level,
            abuse: options.abuse,
            blur_addresses: options.blur_addresses,
            handled,
            drain_asked: drain_asked.clone(),
            server_info: encode(&info).into(),
        });
        app.limit_rates();
        let drain = Drain::new();
        let routes = public::routes(app.clone(), drain.token());
        let accepting = vec![
            tokio::spawn(accept(listener, before, routes, app.clone(), drain.token())),
            tokio::spawn(accept(
                admin_listener,
                Before::default(),
                admin::routes(app.clone(), drain.token()),
                app.clone(),
                drain.token(),
            )),
            tokio::spawn(abuse::sum_up_each_minute(app.clone(), drain.token())),
        ];
        Ok(Server { public, admin, app, accepting, drain_asked, drain })
    }

    /// Exchanges what may change while the daemon runs.
    pub fn reload(&self, changing: Changing) {
        let ConnectionLimits { max_connections, max_connections_per_address, .. } = changing.connections;
        self.app.gate.limit(max_connections, max_connections_per_address);
        self.app.changing.store(Arc::new(changing));
        self.app.limit_rates();
    }

    /// Until a task of its own has ended by itself.
    pub async fn ended(&mut self) {
        let ended = futures_util::future::select_all(&mut self.accepting);
        if let (Err(error), ..) = ended.await {
            tracing::error!(%error, "a listener ended");
        }
    }

    /// Stops accepting, lets sessions answer what is in flight, closes them, and waits; false when some were still
    /// open after `patience`.
    pub async fn shutdown(self, patience: Duration) -> bool {
        self.drain.finish(patience).await
    }
}
