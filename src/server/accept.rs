//! From a listener's connections to their requests.
//!
//! Owns the accept loop, what comes before HTTP (the PROXY header and the handshake of TLS), and the serving of one
//! connection. Must not know any route.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::{CONNECTION, TRANSFER_ENCODING};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::time::timeout;
use tokio_util::either::Either;

use super::abuse::Event;
use super::answering::{Answering, Stream};
use super::drain::Token;
use super::gate::{Gate, Permit, is_trusted};
use super::listen::{Listener, Plain};
use super::{App, Peer, proxy};
use crate::clock::rest;
use crate::limits::{
    CONNECTION_START_TIMEOUT, HTTP_CONNECTIONS, HTTP_CONNECTIONS_PER_ADDRESS, REQUEST_HEAD_BYTES,
    REQUEST_HEAD_TIMEOUT,
};
use crate::metrics::{Refusal, RefusalLabel};

/// How long an HTTP request may still take once the daemon ends.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// What comes before HTTP on a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// A PROXY header from the trusted proxies, who alone may connect.
    pub proxy_header: bool,
    pub tls: bool,
}

/// One listener with all that its connections share.
struct Entrance {
    before: Before,
    routes: TowerToHyperService<Router>,
    app: Arc<App>,
    /// HTTP connections, until they become sockets. Trusted proxies have as many as they like.
    pending: Arc<Gate>,
}

/// Accepts until told to stop. Each connection is served by a task of its own; one too many is dropped.
pub async fn accept(listener: Listener, before: Before, routes: Router, app: Arc<App>, mut token: Token) {
    let pending = Gate::new(HTTP_CONNECTIONS, HTTP_CONNECTIONS_PER_ADDRESS);
    let routes = TowerToHyperService::new(routes);
    let entrance = Arc::new(Entrance { before, routes, app, pending });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = token.stopped() => return,
        };
        match accepted {
            Ok((stream, peer)) => entrance.take(stream, peer, &token),
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

impl Entrance {
    fn take(self: &Arc<Entrance>, stream: Plain, peer: IpAddr, token: &Token) {
        let trusted = is_trusted(peer, &self.app.changing.load().trusted_proxies);
        if self.before.proxy_header && !trusted {
            return self.refused(Refusal::BadProxyHeader, peer);
        }
        match self.admit(peer, trusted) {
            Ok(permit) => {
                let (entrance, token) = (self.clone(), token.clone());
                tokio::spawn(async move { entrance.run(stream, peer, permit, token).await });
            }
            Err(reason) => self.refused(reason, peer),
        }
    }

    fn admit(&self, peer: IpAddr, trusted: bool) -> Result<Option<Permit>, Refusal> {
        (!trusted).then(|| self.pending.admit(peer)).transpose()
    }

    fn refused(&self, reason: Refusal, peer: IpAddr) {
        self.app.metrics.refused.get_or_create(&RefusalLabel { reason }).inc();
        self.app.abuse.note(Event::Connection(reason), peer);
    }

    async fn run(&self, stream: Plain, peer: IpAddr, permit: Option<Permit>, mut token: Token) {
        if self.before == Before::default() {
            serve(Either::Left(stream), peer, self.routes.clone(), &self.app, token).await;
            return drop(permit);
        }
        // Whoever has not begun when the daemon ends is not waited for.
        let begun = tokio::select! {
            begun = Box::pin(self.begin(stream, peer, permit)) => begun,
            () = token.stopped() => return,
        };
        match begun {
            Ok((stream, peer, permit)) => {
                serve(stream, peer, self.routes.clone(), &self.app, token).await;
                drop(permit);
            }
            Err((reason, peer)) => self.refused(reason, peer),
        }
    }

    /// What comes before HTTP, and whose connection it is then, or would have been.
    async fn begin(
        &self,
        mut stream: Plain,
        mut peer: IpAddr,
        mut permit: Option<Permit>,
    ) -> Result<(Stream, IpAddr, Option<Permit>), (Refusal, IpAddr)> {
        if self.before.proxy_header {
            let told = self.in_time(proxy::read(&mut stream)).await;
            if let Some(client) = told.map_err(|_| (Refusal::BadProxyHeader, peer))? {
                peer = client;
                let trusted = is_trusted(peer, &self.app.changing.load().trusted_proxies);
                permit = self.admit(peer, trusted).map_err(|reason| (reason, peer))?;
            }
        }
        if !self.before.tls {
            return Ok((Either::Left(stream), peer, permit));
        }
        let acceptor = self.app.changing.load().identity.as_ref().map(|identity| identity.acceptor.clone());
        let acceptor = acceptor.ok_or((Refusal::BadTls, peer))?;
        let stream = self.in_time(acceptor.accept(stream)).await.map_err(|error| {
            tracing::debug!(%error, "no handshake of TLS");
            (Refusal::BadTls, peer)
        })?;
        Ok((Either::Right(Box::new(stream)), peer, permit))
    }

    async fn in_time<T>(&self, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        tokio::select! {
            done = step => done,
            () = self.app.clock.sleep(CONNECTION_START_TIMEOUT) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// One connection, request by request. One whose length may be read in two ways, by Content-Length and by Transfer-Encoding,
/// is its connection's last: a proxy that reads it the other way can have nothing of it taken for a request of somebody
/// else.
async fn serve(
    stream: Stream,
    peer: IpAddr,
    routes: TowerToHyperService<Router>,
    app: &App,
    mut token: Token,
) {
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
    let (stream, upgraded) = Answering::new(stream, app.clock.clone());
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
            match timeout(LAST_ANSWERS, connection).await {
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
