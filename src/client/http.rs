//! What the clients of the HTTP dialects share: where a server is, how a request is sent, how its answer is read.
//!
//! Owns the base address, the request timeout, and the reading of refusals with their code and Retry-After. Must not
//! know any single request.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;

use super::ClientError;
use crate::limits::REQUEST_HEAD_TIMEOUT;
use crate::wire::http::ErrorBody;

/// How long one request may take, its answer included, unless told otherwise.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// The stable code of a refusal.
const ERROR_CODE: &str = "x-error-code";

/// One server's public address. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Http {
    base: Url,
    http: reqwest::Client,
}

/// How long a connection is kept for the next request: the daemon ends an idle one, and a request that crosses that end would
/// fail without having been heard.
pub(super) const KEEP_IDLE: Duration = Duration::from_secs(5);
const _: () = assert!(KEEP_IDLE.as_millis() < REQUEST_HEAD_TIMEOUT.as_millis());

impl Http {
    /// `base` is an `http://` URL; anything else is [`ClientError::Unreachable`].
    pub fn new(base: &str, timeout: Duration) -> Result<Http, ClientError> {
        let base = Url::parse(base).map_err(|error| ClientError::Unreachable(error.into()))?;
        if base.scheme() != "http" {
            return Err(ClientError::Unreachable("only http:// addresses are spoken here".into()));
        }
        // A registry is reached directly: a proxy of the environment must not see its tokens.
        let http =
            reqwest::Client::builder().no_proxy().timeout(timeout).pool_idle_timeout(KEEP_IDLE).build();
        Ok(Http { base, http: http.map_err(|error| ClientError::Unreachable(error.into()))? })
    }

    /// The address it asks.
    pub fn base(&self) -> &str {
        self.base.as_str()
    }

    /// A request to the path of these segments, each of which is percent-encoded whole.
    pub fn request(&self, method: Method, path: &[&str], bearer: Option<&str>) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let request = self.http.request(method, url);
        match bearer {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// The answer, whatever its status.
    pub async fn send(request: RequestBuilder) -> Result<Response, ClientError> {
        request.send().await.map_err(|error| {
            if error.is_timeout() { ClientError::Timeout } else { ClientError::Unreachable(error.into()) }
        })
    }

    /// Sends a request and reads its answer, unless that is a refusal.
    pub async fn ask<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, ClientError> {
        Http::read(Http::send(request).await?).await
    }

    /// [`Http::ask`]; none where the answer is 404.
    pub async fn find<T: DeserializeOwned>(request: RequestBuilder) -> Result<Option<T>, ClientError> {
        let answer = Http::send(request).await?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(None),
            _ => Http::read(answer).await.map(Some),
        }
    }

    async fn read<T: DeserializeOwned>(answer: Response) -> Result<T, ClientError> {
        accepted(answer).await?.json().await.map_err(|error| unread(&error))
    }
}

/// Why an answer could not be read.
pub(super) fn unread(error: &reqwest::Error) -> ClientError {
    if error.is_timeout() { ClientError::Timeout } else { ClientError::Protocol(super::with_causes(error)) }
}

/// The answer, unless it is a refusal.
pub(super) async fn accepted(answer: Response) -> Result<Response, ClientError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let code = answer.headers().get(ERROR_CODE).and_then(|code| code.to_str().ok());
    let code = code.unwrap_or_default().to_owned();
    let told = retry_after(answer.headers());
    let body = answer.json::<ErrorBody>().await.ok();
    let told = told.or_else(|| body.as_ref()?.retry_after.map(Duration::from_secs));
    match (body, told) {
        (body, Some(retry_after)) => {
            // What stands in between, such as a proxy, words its refusals in its own way.
            let message = body.map_or_else(|| format!("status {status}"), |body| body.error);
            Err(ClientError::Busy { message, code, retry_after })
        }
        (Some(body), None) => Err(ClientError::Refused { message: body.error, code }),
        (None, None) => Err(ClientError::Protocol(format!("status {status} without a reason"))),
    }
}

/// The header's seconds. Its other form, a date, is not read: the clocks of two machines need not agree.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// An id as a path's segment: the two that every URL swallows cannot be named in one.
pub(super) fn segment(id: &str) -> Result<&str, ClientError> {
    match id {
        "." | ".." => Err(ClientError::Unreachable(format!("no URL can name {id:?}").into())),
        _ => Ok(id),
    }
}
