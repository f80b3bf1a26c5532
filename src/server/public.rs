//! The public address: WebSocket upgrades on every path, and the routes of the HTTP dialects.
//!
//! Owns the order of the gates before an upgrade, and what stands at `/` and `/health`. Must not know what is spoken on
//! a socket, nor any single route of a dialect.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tower_http::request_id::{PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::trace::{DefaultOnFailure, TraceLayer};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::abuse::Event;
use super::drain::Token;
use super::gate::{client_address, network_of};
use super::http::layers::{self, Numbering, REQUEST_ID};
use super::http::{self, Failure, openapi};
use super::{App, Peer, asyncapi, link, pace, signalling, upgrade};
use crate::limits::READ_BUFFER_BYTES;
use crate::metrics::{Refusal, RefusalLabel};
use crate::wire::directory::Health;
use crate::wire::http::{ErrorBody, Problem, timestamp};

#[derive(Clone)]
struct Upgrades {
    app: Arc<App>,
    token: Token,
}

pub fn routes(app: Arc<App>, token: Token) -> Router {
    let (bootstrap, mut document) = OpenApiRouter::with_openapi(openapi::head())
        .routes(routes!(document))
        .routes(routes!(messages))
        .merge(http::bootstrap::routes())
        .merge(http::turn::routes())
        .split_for_parts();
    let directory = http::directory::routes()
        .routes(routes!(root))
        .routes(routes!(health))
        .routes(routes!(link::healthz));
    let (directory, its_document) = directory.split_for_parts();
    document.merge(its_document);
    // Within CORS: whoever asks too often may read that it does, and preflights are no requests.
    let admit = middleware::from_fn_with_state(app.clone(), layers::admit);
    let directory = directory
        .route("/servers/key", http::directory::leave_by_name())
        .route("/servers/heartbeat", http::directory::leave_by_name())
        .method_not_allowed_fallback(async || Failure(Problem::METHOD_NOT_ALLOWED))
        .layer(admit.clone())
        .layer(layers::cors(&["*".to_owned()]));
    bootstrap
        .fallback(async || Failure(Problem::NOT_FOUND))
        .method_not_allowed_fallback(async || Failure(Problem::METHOD_NOT_ALLOWED))
        .layer(Extension(Document(openapi::finish(document).into())))
        .layer(Extension(Messages(asyncapi::document(&app.limits.rendezvous).to_string().into())))
        .layer(admit)
        .layer(layers::cors(&app.limits.peers.cors_origins))
        .merge(directory)
        .layer(layers::nosniff())
        .layer(PropagateRequestIdLayer::new(REQUEST_ID))
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(layers::span)
                .on_request(())
                .on_response(())
                // 503 is what floods are answered with; why the storage fails is told once, elsewhere.
                .on_failure(DefaultOnFailure::new().level(tracing::Level::DEBUG)),
        )
        .layer(SetRequestIdLayer::new(REQUEST_ID, Numbering::new(app.clock.now())))
        .layer(middleware::from_fn(layers::own_request_id))
        .layer(middleware::from_fn_with_state(Upgrades { app: app.clone(), token }, upgrades))
        .with_state(app)
}

/// Link has paths of its own; for signalling existing clients use any other.
async fn upgrades(State(Upgrades { app, token }): State<Upgrades>, request: Request, next: Next) -> Response {
    let mut response = if let Some(endpoint) = link::endpoint(&request) {
        link::open(app.clone(), token, endpoint, request)
    } else if upgrade::is_asked(request.headers()) {
        open_socket(app.clone(), token, request).await
    } else {
        next.run(request).await
    };
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        pace::past_rate(0).await;
    }
    app.later.over(&mut response);
    response
}

/// Whether the daemon runs, and which it is (directory, last section).
#[utoipa::path(get, path = "/health", responses((status = 200, body = Health), openapi::AnyFailure))]
async fn health(State(app): State<Arc<App>>) -> Json<Health> {
    Json(Health {
        status: "healthy".into(),
        service: "waypost".into(),
        server_id: app.server_id.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        uptime: app.clock.running().as_secs_f64(),
        timestamp: timestamp(app.clock.now()),
    })
}

/// The server's name and version, for people.
#[utoipa::path(get, path = "/", responses((status = 200, body = String), openapi::AnyFailure))]
async fn root(State(app): State<Arc<App>>) -> String {
    format!("waypost {}\n{}\n", env!("CARGO_PKG_VERSION"), app.server_id)
}

#[derive(Clone)]
struct Document(Arc<str>);

/// This document.
#[utoipa::path(get, path = "/openapi.json", responses((status = 200, body = Object), openapi::AnyFailure))]
async fn document(Extension(Document(text)): Extension<Document>) -> Response {
    ([(CONTENT_TYPE, "application/json")], text.to_string()).into_response()
}

#[derive(Clone)]
struct Messages(Arc<str>);

/// The AsyncAPI document of what is spoken over WebSocket.
#[utoipa::path(get, path = "/asyncapi.json", responses((status = 200, body = Object), openapi::AnyFailure))]
async fn messages(Extension(Messages(text)): Extension<Messages>) -> Response {
    ([(CONTENT_TYPE, "application/json")], text.to_string()).into_response()
}

async fn open_socket(app: Arc<App>, token: Token, request: Request) -> Response {
    let Some(Peer(peer)) = request.extensions().get::<Peer>().copied() else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let address = client_address(peer, request.headers(), &app.changing.load().trusted_proxies);
    if let Err(seconds) = app.upgrade_limiter.check(network_of(address)) {
        return refuse(&app, address, Refusal::Rate, seconds);
    }
    let permit = match app.gate.admit(address) {
        Ok(_) if token.is_stopped() => return refuse(&app, address, Refusal::Total, 5),
        Ok(permit) => permit,
        Err(reason @ Refusal::Address) => return refuse(&app, address, reason, 10),
        Err(reason) => return refuse(&app, address, reason, 5),
    };
    let largest = app.limits.connections.max_message_bytes;
    let session_app = app.clone();
    let opened = upgrade::accept(request, READ_BUFFER_BYTES, largest, move |opening| {
        signalling::serve(opening, session_app, address, token, permit)
    });
    opened.unwrap_or_else(|error| {
        app.metrics.refused.get_or_create(&RefusalLabel { reason: Refusal::BadUpgrade }).inc();
        app.abuse.note(Event::Upgrade(Refusal::BadUpgrade), address);
        (StatusCode::BAD_REQUEST, Json(ErrorBody { error, ..ErrorBody::default() })).into_response()
    })
}

/// No upgrade, and after how many seconds to try again at the earliest.
fn refuse(app: &App, address: IpAddr, reason: Refusal, seconds: u64) -> Response {
    app.metrics.refused.get_or_create(&RefusalLabel { reason }).inc();
    app.abuse.note(Event::Upgrade(reason), address);
    let (status, text) = match reason {
        Refusal::Rate => (StatusCode::TOO_MANY_REQUESTS, "Too many upgrades from this address"),
        Refusal::Address => (StatusCode::TOO_MANY_REQUESTS, "Too many connections from this address"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "Too many connections"),
    };
    let body = ErrorBody { error: text.into(), ..ErrorBody::default() };
    (status, [(RETRY_AFTER, HeaderValue::from(seconds))], Json(body)).into_response()
}
