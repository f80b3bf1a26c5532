//! The HTTP dialects on the public address: what their routes share.
//!
//! Owns how a request is taken apart (who asks, what token it bears, its body within bounds), how a failure is answered,
//! and the document of all routes. Must not know sled or the registries.

pub mod bootstrap;
pub mod directory;
pub mod layers;
pub mod openapi;
mod peer_list;
pub mod turn;

use std::borrow::Cow;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, RETRY_AFTER};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use tokio::sync::Notify;

use super::App;
use super::arriving::{FREE, Share};
use super::later::Fixed;
use crate::engine::Claimant;
use crate::limits::PEER_BODY_BYTES;
use crate::wire::http::{Also, Problem};

/// The stable code of a failure, whose body is fixed by the dialects.
pub const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");

/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a body that is too large is read and thrown away, so that its sender sees the answer.
const THROWN_AWAY: usize = 4 * PEER_BODY_BYTES;

/// A failure on its way out.
#[derive(Debug)]
pub struct Failure(pub Problem);

pub type Answer<T> = Result<Json<T>, Failure>;

impl<P: Into<Problem>> From<P> for Failure {
    fn from(problem: P) -> Failure {
        Failure(problem.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Failure(problem) = self;
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut headers = HeaderMap::new();
        if let Ok(code) = HeaderValue::from_str(&problem.refusal.code) {
            headers.insert(ERROR_CODE, code);
        }
        if let Some(seconds) = problem.retry_after() {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        let body = Json(problem.body());
        let mut response = (status, headers, body).into_response();
        if let Also::UnsuccessfulUntil(_) = problem.also {
            response.extensions_mut().insert(Fixed);
        }
        if let Cow::Borrowed(code) = problem.refusal.code {
            response.extensions_mut().insert(Code(code));
        }
        response
    }
}

/// The code of a failure, on its way to whoever counts.
#[derive(Clone, Copy)]
struct Code(&'static str);

/// The address that a request counts for, or the /64 of that. Put into each request by [`layers::admit`].
#[derive(Clone, Copy, Debug)]
pub struct Network(pub IpAddr);

/// The token of `Authorization: Bearer`.
#[derive(Clone, Debug)]
pub struct Bearer(pub Option<String>);

impl Bearer {
    pub fn of(headers: &HeaderMap) -> Bearer {
        let shown = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let pair = shown.and_then(|value| value.split_once(' '));
        let token = pair.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        Bearer(token.map(|(_, token)| token.trim().to_owned()))
    }
}

impl<S: Sync> FromRequestParts<S> for Bearer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Bearer, Infallible> {
        Ok(Bearer::of(&parts.headers))
    }
}

impl<S: Sync> FromRequestParts<S> for Claimant {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Claimant, Infallible> {
        let Bearer(token) = Bearer::of(&parts.headers);
        let network = parts.extensions.get::<Network>();
        // Every request on a listener has one; one without is nobody's.
        let address = network.map_or(IpAddr::from([0, 0, 0, 0]), |Network(address)| *address);
        Ok(Claimant { address, token })
    }
}

/// A body of at most `MOST` bytes.
pub struct Bounded<const MOST: usize>(pub Vec<u8>);

impl<const MOST: usize> FromRequest<Arc<App>> for Bounded<MOST> {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Bounded<MOST>, Failure> {
        let announced =
            request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if announced.is_some_and(|length: usize| length > MOST.max(THROWN_AWAY)) {
            return Err(Problem::BODY_TOO_LARGE.into());
        }
        let (share, evicted) = (Share::new(app.arriving.clone(), FREE), Arc::new(Notify::new()));
        share.evicted_by({
            let evicted = evicted.clone();
            move || evicted.notify_one()
        });
        let reading = tokio::time::timeout(BODY_TIMEOUT, read(request.into_body(), MOST, &share));
        tokio::select! {
            read = reading => read.unwrap_or(Err(Problem::TOO_SLOW)).map(Bounded).map_err(Failure),
            () = evicted.notified() => Err(Problem::OVERLOADED.into()),
        }
    }
}

async fn read(body: Body, most: usize, share: &Arc<Share>) -> Result<Vec<u8>, Problem> {
    let mut frames = body.into_data_stream();
    let (mut bytes, mut length) = (Vec::new(), 0);
    while let Some(frame) = frames.next().await {
        // Whoever breaks off does not read the answer either.
        let frame = frame.map_err(|_| Problem::INVALID_JSON)?;
        length += frame.len();
        if length <= most {
            share.arrived(frame.len());
            bytes.extend_from_slice(&frame);
        } else if length > most.max(THROWN_AWAY) {
            break;
        }
    }
    if length > most { Err(Problem::BODY_TOO_LARGE) } else { Ok(bytes) }
}
