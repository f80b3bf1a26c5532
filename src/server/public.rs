//! The public routes: health for people and balancers, and WebSocket upgrades on every path that no route owns.
//!
//! Owns the order of the gates before an upgrade. Must not know what is spoken after it.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

use super::drain::Token;
use super::gate::client_address;
use super::{App, Peer, signalling, upgrade};
use crate::metrics::{Refusal, RefusalLabel};

#[derive(Clone)]
struct Public {
    app: Arc<App>,
    token: Token,
}

pub fn routes(app: Arc<App>, token: Token) -> Router {
    Router::new().route("/health", get(health)).fallback(any).with_state(Public { app, token })
}

/// `GET /health` (directory, last section).
async fn health(State(Public { app, token }): State<Public>, request: Request) -> Response {
    // Existing clients use any path for their socket.
    if upgrade::is_asked(request.headers()) {
        return open_socket(app, token, request).await;
    }
    let status = json!({
        "status": "healthy",
        "service": "waypost",
        "serverId": app.server_id,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime": app.clock.running().as_secs_f64(),
        "timestamp": humantime::format_rfc3339_millis(
            std::time::UNIX_EPOCH + std::time::Duration::from_millis(app.clock.now()),
        ).to_string(),
    });
    Json(status).into_response()
}

async fn any(State(Public { app, token }): State<Public>, request: Request) -> Response {
    if upgrade::is_asked(request.headers()) {
        return open_socket(app, token, request).await;
    }
    match (request.method().as_str(), request.uri().path()) {
        ("GET" | "HEAD", "/") => {
            let text = format!("waypost {}\n{}\n", env!("CARGO_PKG_VERSION"), app.server_id);
            text.into_response()
        }
        _ => (StatusCode::NOT_FOUND, Json(json!({ "error": "Not found" }))).into_response(),
    }
}

async fn open_socket(app: Arc<App>, token: Token, request: Request) -> Response {
    let Some(Peer(peer)) = request.extensions().get::<Peer>().copied() else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let address = client_address(peer, request.headers(), &app.trusted_proxies);
    if token.is_stopped() {
        return refuse(&app, Refusal::Total);
    }
    let permit = match app.gate.admit(address) {
        Ok(permit) => permit,
        Err(reason) => return refuse(&app, reason),
    };
    let config = signalling::config(&app.limits);
    let session_app = app.clone();
    let opened = upgrade::accept(request, config, move |socket| async move {
        signalling::serve(socket, session_app, address, token).await;
        drop(permit);
    });
    opened.unwrap_or_else(|error| {
        app.metrics.refused.get_or_create(&RefusalLabel { reason: Refusal::BadUpgrade }).inc();
        (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response()
    })
}

fn refuse(app: &App, reason: Refusal) -> Response {
    app.metrics.refused.get_or_create(&RefusalLabel { reason }).inc();
    let (status, seconds, text) = match reason {
        Refusal::Address => (StatusCode::TOO_MANY_REQUESTS, "10", "Too many connections from this address"),
        Refusal::Total | Refusal::BadUpgrade => {
            (StatusCode::SERVICE_UNAVAILABLE, "5", "Too many connections")
        }
    };
    let mut headers = HeaderMap::new();
    headers.insert(RETRY_AFTER, HeaderValue::from_static(seconds));
    (status, headers, Json(json!({ "error": text }))).into_response()
}
