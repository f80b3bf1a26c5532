//! Link's upgrades (protocol: link, section 1).
//!
//! Owns the gates before the upgrade, in their order, and the health of the dialect. Must not know claims or frames: the
//! sessions beside it ask the engine.

mod session;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONNECTION, RETRY_AFTER, UPGRADE, USER_AGENT};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};

use super::abuse::Event;
use super::arriving::FREE;
use super::drain::Token;
use super::gate::{Permit, client_address, network_of};
use super::http::openapi;
use super::{App, Peer, upgrade};
use crate::id::LinkId;
use crate::limits::LINK_READ_BUFFER_BYTES;
use crate::metrics::{Endpoint, Refusal, RefusalLabel, Upgrade, UpgradeLabel};
use crate::wire::link::Healthz;

const SERVER_ID: &str = "x-pyrycode-server";
const VERSION: &str = "x-pyrycode-version";
const MAX_USER_AGENT: usize = 512;
const MAX_VERSION: usize = 256;

/// Which endpoint of link a request asks for.
pub fn endpoint(request: &Request) -> Option<Endpoint> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/v1/server") => Some(Endpoint::Server),
        (&Method::GET, "/v1/client") => Some(Endpoint::Client),
        _ => None,
    }
}

/// Why there is no upgrade. Bodies are empty.
enum Refused {
    /// With the seconds after which to try again.
    Full(Refusal, u64),
    Header,
    Handshake,
}

pub fn open(app: Arc<App>, token: Token, endpoint: Endpoint, request: Request) -> Response {
    let metrics = app.metrics.clone();
    let count = |outcome| metrics.upgrades.get_or_create(&UpgradeLabel { endpoint, outcome }).inc();
    let client = client_address_of(&app, &request);
    match try_open(app.clone(), token, endpoint, client, request) {
        Ok(response) => {
            count(Upgrade::Opened);
            response
        }
        Err(refused) => {
            let (reason, outcome) = match refused {
                Refused::Full(Refusal::Rate, _) => (Refusal::Rate, Upgrade::Rate),
                Refused::Full(Refusal::Address, _) => (Refusal::Address, Upgrade::Address),
                Refused::Full(..) => (Refusal::Total, Upgrade::Total),
                Refused::Header => (Refusal::BadHeader, Upgrade::BadHeader),
                Refused::Handshake => (Refusal::BadUpgrade, Upgrade::BadUpgrade),
            };
            count(outcome);
            metrics.refused.get_or_create(&RefusalLabel { reason }).inc();
            if let Some(address) = client {
                app.abuse.note(Event::Upgrade(reason), address);
            }
            refused.into_response()
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Refused::Full(reason, seconds) => {
                let status = match reason {
                    Refusal::Total => StatusCode::SERVICE_UNAVAILABLE,
                    _ => StatusCode::TOO_MANY_REQUESTS,
                };
                (status, [(RETRY_AFTER, HeaderValue::from(seconds))]).into_response()
            }
            Refused::Header => StatusCode::BAD_REQUEST.into_response(),
            Refused::Handshake => {
                let how = [(CONNECTION, "upgrade"), (UPGRADE, "websocket")];
                (StatusCode::UPGRADE_REQUIRED, how).into_response()
            }
        }
    }
}

/// The accept loop puts the TCP peer there.
fn client_address_of(app: &App, request: &Request) -> Option<IpAddr> {
    let Peer(peer) = request.extensions().get::<Peer>().copied()?;
    Some(client_address(peer, request.headers(), &app.changing.load().trusted_proxies))
}

fn try_open(
    app: Arc<App>,
    token: Token,
    endpoint: Endpoint,
    client: Option<IpAddr>,
    request: Request,
) -> Result<Response, Refused> {
    // Without one all would share a bucket.
    let address = client.ok_or(Refused::Handshake)?;
    let permit = admit(&app, &token, address)?;
    let id = header_gate(endpoint, request.headers()).ok_or(Refused::Header)?;
    let largest = app.limits.link.max_message_bytes;
    let opened = upgrade::accept(request, LINK_READ_BUFFER_BYTES, largest, move |opening| async move {
        let Some(socket) = opening.socket(&app.arriving, FREE + LINK_READ_BUFFER_BYTES).await else { return };
        match endpoint {
            Endpoint::Server => session::serve_binary(socket, &app, address, id, token).await,
            Endpoint::Client => session::serve_phone(socket, &app, address, id, token).await,
        }
        drop(permit);
    });
    opened.map_err(|_| Refused::Handshake)
}

/// How often an address may upgrade, how many sockets it may have, how many there may be in all.
fn admit(app: &App, token: &Token, address: IpAddr) -> Result<Permit, Refused> {
    let limited = app.link_limiter.check(network_of(address));
    limited.map_err(|seconds| Refused::Full(Refusal::Rate, seconds))?;
    let permit = app.gate.admit(address).map_err(|reason| match reason {
        Refusal::Address => Refused::Full(reason, 10),
        _ => Refused::Full(reason, 5),
    })?;
    if token.is_stopped() { Err(Refused::Full(Refusal::Total, 5)) } else { Ok(permit) }
}

/// The server-id, where every header that the endpoint requires is as it must be (link, section 1).
pub fn header_gate(endpoint: Endpoint, headers: &HeaderMap) -> Option<LinkId> {
    let trimmed = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let printable = |text: &str, most: usize| {
        (1..=most).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
    };
    let id = LinkId::parse(trimmed(SERVER_ID)?)?;
    let version_fits = endpoint == Endpoint::Client || printable(trimmed(VERSION)?, MAX_VERSION);
    let fits = version_fits && printable(trimmed(USER_AGENT.as_str())?, MAX_USER_AGENT);
    fits.then_some(id)
}

/// Whether the daemon runs, and who is connected to it over link (link, section 5).
#[utoipa::path(get, path = "/healthz", responses((status = 200, body = Healthz), openapi::AnyFailure))]
pub async fn healthz(State(app): State<Arc<App>>) -> Response {
    let health = Healthz {
        status: "ok".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        connected_binaries: app.metrics.binaries.get() as u64,
        connected_phones: app.metrics.phones.get() as u64,
        uptime_seconds: app.clock.running().as_secs(),
    };
    ([(CACHE_CONTROL, "no-store")], Json(health)).into_response()
}
