//! What every HTTP request on the public address passes through.
//!
//! Owns the order: a request id, the log's span, counting, the request limit of an address, `nosniff`, CORS. Must not know
//! any single route.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{HeaderName, HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tower_http::request_id::{MakeRequestId, RequestId};
use tower_http::set_header::SetResponseHeaderLayer;

use super::super::abuse::Event;
use super::super::gate::{client_address, network_of};
use super::super::{App, Peer};
use super::{Code, ERROR_CODE, Failure, Network};
use crate::metrics::{Dialect, DialectLabel, ErrorLabel, HttpLabel};
use crate::wire::http::{Also, Problem};

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The signature of a directory listing.
pub const SIGNATURE: HeaderName = HeaderName::from_static("x-bootstrap-signature");

/// How long a browser may remember a preflight.
const PREFLIGHT: Duration = Duration::from_secs(3600);

/// Numbers the requests of one start.
#[derive(Clone)]
pub struct Numbering {
    start: u64,
    last: Arc<AtomicU64>,
}

impl Numbering {
    pub fn new(start: u64) -> Numbering {
        Numbering { start, last: Arc::default() }
    }
}

impl MakeRequestId for Numbering {
    fn make_request_id<B>(&mut self, _: &axum::http::Request<B>) -> Option<RequestId> {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        HeaderValue::from_str(&format!("{:x}-{number:x}", self.start)).ok().map(RequestId::new)
    }
}

/// The span of a request in the log: by its route, since a path may name a peer.
pub fn span<B>(request: &axum::http::Request<B>) -> tracing::Span {
    let id = request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok());
    tracing::info_span!("request", id, method = %request.method(), route = route(request))
}

fn route<B>(request: &axum::http::Request<B>) -> &str {
    request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str)
}

/// Whose route it is; of the documents and what tells of health nobody's.
fn dialect_of(route: &str) -> Option<Dialect> {
    match route {
        "/" | "/health" | "/healthz" | "/openapi.json" | "/asyncapi.json" | "other" => None,
        _ if route.starts_with("/servers") => Some(Dialect::Directory),
        _ => Some(Dialect::Bootstrap),
    }
}

/// Request ids are ours: one that was sent along is not taken over.
pub async fn own_request_id(mut request: Request, next: Next) -> Response {
    request.headers_mut().remove(REQUEST_ID);
    next.run(request).await
}

/// Counts a request, and refuses it where its address has asked too often.
pub async fn admit(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let route = route(&request).to_owned();
    let peer = request.extensions().get::<Peer>();
    let address =
        peer.map(|Peer(peer)| client_address(*peer, request.headers(), &app.changing.load().trusted_proxies));
    let network = address.map(network_of);
    let admitted = network.map_or(Ok(()), |network| app.request_limiter.check(network));
    let response = match admitted {
        Ok(()) => {
            if let Some(network) = network {
                request.extensions_mut().insert(Network(network));
            }
            next.run(request).await
        }
        Err(seconds) => {
            if let Some(address) = address {
                app.abuse.note(Event::Request, address);
            }
            let also = Also::Later(seconds);
            Failure(Problem { also, ..Problem::TOO_MANY_REQUESTS }).into_response()
        }
    };
    if let Some(dialect) = dialect_of(&route) {
        app.metrics.handled.get_or_create(&DialectLabel { dialect }).inc();
    }
    let status = response.status().as_u16();
    app.metrics.http.get_or_create(&HttpLabel { route, status }).inc();
    if let Some(Code(code)) = response.extensions().get().copied() {
        tracing::debug!(status, code, "refused");
        app.metrics.errors.get_or_create(&ErrorLabel { code }).inc();
    }
    response
}

pub fn nosniff() -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::overriding(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))
}

/// Pages of these origins may ask; "*" is any.
pub fn cors(origins: &[String]) -> CorsLayer {
    let origins = match origins {
        [any] if any == "*" => AllowOrigin::any(),
        origins => AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok())),
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::DELETE, Method::OPTIONS])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([SIGNATURE, REQUEST_ID, ERROR_CODE, RETRY_AFTER, header::DATE])
        .max_age(PREFLIGHT)
}
