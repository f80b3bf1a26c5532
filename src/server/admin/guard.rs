//! Who may ask the admin listener anything: the bearer of the token, under a name that no web page can borrow.
//!
//! Owns the token check and the defence against DNS rebinding and cross-origin requests. Must not know the routes.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::{App, Failure};
use crate::server::Peer;
use crate::server::abuse::Event;
use crate::server::gate::client_address;
use crate::server::http::Bearer;

/// Refuses whoever does not bear the token, on loopback too.
pub async fn token(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let Bearer(shown) = Bearer::of(request.headers());
    if shown.as_ref().is_some_and(|token| app.admin_token.matches(token)) {
        return next.run(request).await;
    }
    // Who shows none is no guesser.
    if shown.is_some()
        && let Some(Peer(peer)) = request.extensions().get().copied()
    {
        app.abuse.note(
            Event::Token,
            client_address(peer, request.headers(), &app.changing.load().trusted_proxies),
        );
    }
    let failure = Failure::new(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "This needs the token in the data directory's admin.token, as Authorization: Bearer",
    );
    ([(WWW_AUTHENTICATE, "Bearer")], failure).into_response()
}

/// A page that resolves its own name to this address still sends that name as Host; a page of another origin sends
/// that as Origin. Only addresses and localhost are answered, and only their own pages.
pub async fn host_and_origin(request: Request, next: Next) -> Response {
    let host = text(request.headers(), HOST.as_str());
    if is_doubled(request.headers(), HOST.as_str()) || !host.as_deref().is_some_and(is_unborrowable) {
        let error = "Host must be an IP address or localhost";
        return Failure::new(StatusCode::FORBIDDEN, "bad_host", error).into_response();
    }
    if let Some(origin) = text(request.headers(), ORIGIN.as_str())
        && (is_doubled(request.headers(), ORIGIN.as_str())
            || origin.split_once("://").map(|(_, host)| host) != host.as_deref())
    {
        return Failure::new(StatusCode::FORBIDDEN, "bad_origin", "Origin must be this address")
            .into_response();
    }
    next.run(request).await
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Of two that differ a proxy may have looked at the other one.
fn is_doubled(headers: &HeaderMap, name: &str) -> bool {
    headers.get_all(name).iter().nth(1).is_some()
}

/// `host` or `host:port` that no DNS name can stand for.
fn is_unborrowable(host: &str) -> bool {
    let bare = match host.rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !bare.is_empty() => bare,
        _ => host,
    };
    let address = bare.strip_prefix('[').and_then(|bare| bare.strip_suffix(']')).unwrap_or(bare);
    bare.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::is_unborrowable;

    #[test]
    fn only_addresses_and_localhost_cannot_be_rebound() {
        for host in ["127.0.0.1:9001", "localhost:9001", "LOCALHOST", "[::1]:9001", "[::1]", "192.168.1.5"] {
            assert!(is_unborrowable(host), "{host}");
        }
        for host in
            ["evil.example", "evil.example:9001", "localhost.evil.example", "", ":9001", "127.0.0.1.nip.io"]
        {
            assert!(!is_unborrowable(host), "{host}");
        }
    }
}
