//! The front end: listeners, routes and sessions.
//!
//! Owns both listeners, the accept loops and the order of ending. Must not know sled or the registries: whatever it
//! needs it asks the engine.

mod admin;
mod answering;
pub mod asyncapi;
mod drain;
mod gate;
mod http;
mod limiter;
mod link;
mod public;
pub mod secrets;
mod session;
mod signalling;
mod upgrade;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::{CONNECTION, TRANSFER_ENCODING};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::clock::{Clock, rest};
use crate::engine::Engine;
use crate::limits::{
    HTTP_CONNECTIONS, HTTP_CONNECTIONS_PER_ADDRESS, Limits, REQUEST_HEAD_BYTES, REQUEST_HEAD_TIMEOUT,
};
use crate::metrics::{Metrics, RefusalLabel};
use crate::wire::signalling::{ServerMessage, encode};
use answering::Answering;
use drain::{Drain, Token};
use gate::Gate;
use limiter::RequestLimiter;
use secrets::{AdminToken, ServerKey};

// What is read of a request before anything else is done with it, for `fuzz/` too.
pub use gate::{client_address, network_of};
pub use http::Bearer;
pub use http::bootstrap::page as peer_page;
pub use limiter::{Limiter, Verdict};
pub use link::header_gate;

/// How long an HTTP request may still take once the daemon ends.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// What the front end is started with.
pub struct Options {
    pub listen: SocketAddr,
    pub admin_listen: SocketAddr,
    /// What `server_info` tells, given the address that was bound.
    pub endpoint: Box<dyn FnOnce(SocketAddr) -> String + Send>,
    pub region: Option<String>,
    pub trusted_proxies: Vec<IpNet>,
    pub limits: Limits,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub server_key: ServerKey,
    pub admin_token: AdminToken,
    pub engine: Engine,
}

/// What routes and sessions share.
struct App {
    engine: Engine,
    limits: Limits,
    clock: Clock,
    metrics: Arc<Metrics>,
    gate: Arc<Gate>,
    trusted_proxies: Vec<IpNet>,
    server_id: String,
    server_key: ServerKey,
    request_limiter: RequestLimiter,
    upgrade_limiter: RequestLimiter,
    link_limiter: RequestLimiter,
    admin_token: AdminToken,
    /// An operator wants the daemon to end.
    drain_asked: Arc<Notify>,
    /// The first message on every socket.
    server_info: Utf8Bytes,
}

/// The TCP peer of a request.
#[derive(Clone, Copy)]
struct Peer(IpAddr);

pub struct Server {
    pub public: SocketAddr,
    pub admin: SocketAddr,
    accepting: Vec<JoinHandle<()>>,
    /// Told when an operator asks for the end.
    pub drain_asked: Arc<Notify>,
    drain: Drain,
}

impl Server {
    pub async fn bind(options: Options) -> io::Result<Server> {
        let bind = async |address: SocketAddr| {
            let told = |error: io::Error| {
                io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
            };
            TcpListener::bind(address).await.map_err(told)
        };
        let listener = bind(options.listen).await?;
        let admin_listener = bind(options.admin_listen).await?;
        let (public, admin) = (listener.local_addr()?, admin_listener.local_addr()?);
        let server_id = options.server_key.server_id();
        let info = ServerMessage::ServerInfo {
            server_id: server_id.clone(),
            endpoint: (options.endpoint)(public),
            region: options.region,
        };
        let connections = &options.limits.connections;
        let limiter = |per_minute| RequestLimiter::new(per_minute, per_minute, options.clock.clone());
        let request_limiter = limiter(connections.http_requests_per_minute);
        let upgrade_limiter = limiter(connections.upgrades_per_minute);
        let link_limiter = RequestLimiter::new(
            connections.link_upgrades_per_minute,
            connections.link_upgrade_burst,
            options.clock.clone(),
        );
        let drain_asked = Arc::new(Notify::new());
        let app = Arc::new(App {
            gate: Gate::new(connections.max_connections, connections.max_connections_per_address),
            engine: options.engine,
            limits: options.limits,
            clock: options.clock,
            metrics: options.metrics,
            trusted_proxies: options.trusted_proxies,
            server_id,
            server_key: options.server_key,
            request_limiter,
            upgrade_limiter,
            link_limiter,
            admin_token: options.admin_token,
            drain_asked: drain_asked.clone(),
            server_info: encode(&info).into(),
        });
        let drain = Drain::new();
        let accepting = vec![
            tokio::spawn(accept(
                listener,
                public::routes(app.clone(), drain.token()),
                app.clone(),
                drain.token(),
            )),
            tokio::spawn(accept(admin_listener, admin::routes(app.clone()), app, drain.token())),
        ];
        Ok(Server { public, admin, accepting, drain_asked, drain })
    }

    /// Until a listener has ended by itself.
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

/// Accepts until told to stop. Each connection is served by a task of its own; one too many is dropped.
async fn accept(listener: TcpListener, routes: Router, app: Arc<App>, mut token: Token) {
    // HTTP connections, until they become sockets. Trusted proxies have as many as they like.
    let pending = Gate::new(HTTP_CONNECTIONS, HTTP_CONNECTIONS_PER_ADDRESS);
    let service = TowerToHyperService::new(routes);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = token.stopped() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let peer = peer.ip();
                let trusted = gate::is_trusted(peer, &app.trusted_proxies);
                match (!trusted).then(|| pending.admit(peer)).transpose() {
                    Ok(permit) => {
                        let served = serve(stream, peer, service.clone(), app.clock.clone(), token.clone());
                        tokio::spawn(async move {
                            served.await;
                            drop(permit);
                        });
                    }
                    Err(reason) => {
                        app.metrics.refused.get_or_create(&RefusalLabel { reason }).inc();
                    }
                }
            }
            Err(error) => {
                // Out of descriptors, mostly: what is open goes on, and closing gives some back.
                tracing::warn!(%error, "cannot accept");
                tokio::select! {
                    () = rest(Duration::from_millis(100)) => {}
                    () = token.stopped() => return,
                }
            }
        }
    }
}

/// One connection, request by request. One whose length may be read in two ways, by Content-Length and by Transfer-Encoding,
/// is its connection's last: a proxy that reads it the other way can have nothing of it taken for a request of somebody
/// else.
async fn serve(
    stream: TcpStream,
    peer: IpAddr,
    routes: TowerToHyperService<Router>,
    clock: Clock,
    mut token: Token,
) {
    // Without it an answer may wait for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        let is_last = request.headers().contains_key(TRANSFER_ENCODING);
        let answering = hyper::service::Service::call(&routes, request);
        async move {
            let mut answer = answering.await?;
            if is_last {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let (stream, upgraded) = Answering::new(stream, clock);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_HEAD_TIMEOUT)
        .max_buf_size(REQUEST_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = token.stopped() => {
            connection.as_mut().graceful_shutdown();
            // Whoever has not finished asking by then is not waited for.
            match tokio::time::timeout(LAST_ANSWERS, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    upgraded.tell();
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended");
    }
}
