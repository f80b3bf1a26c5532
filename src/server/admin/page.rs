//! The admin page: files that are part of the binary, without a secret or data in them.
//!
//! Owns their paths and the headers that keep the page to itself: it runs its own scripts, asks its own address, and stands
//! in no frame. Must not know what the page shows: it asks the API like anybody else.

use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::Redirect;
use axum::routing::get;
use tower_http::set_header::SetResponseHeaderLayer;

use super::App;

/// Strings become text on the page and never markup: no script may turn one into HTML (trusted types without a policy).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! files {
    ($($path:literal: $kind:ident = $file:literal,)+) => {
        [$(($path, $kind, include_str!(concat!("page/", $file))),)+]
    };
}

const FILES: [(&str, &str, &str); 13] = files! {
    "/admin/": HTML = "index.html",
    "/admin/page.css": CSS = "page.css",
    "/admin/icon.svg": SVG = "icon.svg",
    "/admin/main.js": JS = "main.js",
    "/admin/api.js": JS = "api.js",
    "/admin/dom.js": JS = "dom.js",
    "/admin/dialogs.js": JS = "dialogs.js",
    "/admin/charts.js": JS = "charts.js",
    "/admin/pages.js": JS = "pages.js",
    "/admin/overview.js": JS = "overview.js",
    "/admin/leases.js": JS = "leases.js",
    "/admin/connections.js": JS = "connections.js",
    "/admin/claims.js": JS = "claims.js",
};

/// Without the token: there is nothing in them that is not in the sources.
pub fn routes() -> Router<std::sync::Arc<App>> {
    let mut routes = Router::new().route("/admin", get(async || Redirect::permanent("/admin/")));
    for (path, kind, text) in FILES {
        routes = routes.route(path, get(async move || ([(CONTENT_TYPE, kind)], text)));
    }
    let header =
        |name: HeaderName, value| SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value));
    routes
        .layer(header(CONTENT_SECURITY_POLICY, POLICY))
        .layer(header(REFERRER_POLICY, "no-referrer"))
        .layer(header(X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(header(CACHE_CONTROL, "no-store"))
}
