//! The admin client.
//!
//! Owns the paths, the bearer token and the reading of refusals. Must not know how answers are shown.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use url::Url;

use super::ClientError;
use super::http::{KEEP_IDLE, unread};
use crate::wire::admin::{
    AdminError, Checked, ClaimPage, Connections, Done, Lease, LeasePage, LogLevel, Status, Swept,
};

/// What stands before the path of a Unix socket in place of an address.
const UNIX: &str = "unix:";
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The same for what reads the whole store.
const WHOLE: Duration = Duration::from_secs(24 * 3600);

/// Asks one daemon's admin endpoint. Cheap to clone.
#[derive(Clone)]
pub struct AdminClient {
    base: String,
    /// What stands before a path.
    url: String,
    token: String,
    http: reqwest::Client,
}

/// A file on its way.
pub struct Pieces(Response);

impl Pieces {
    /// The next piece; `None` at the end of a file that is whole.
    pub async fn next(&mut self) -> Result<Option<impl AsRef<[u8]> + use<>>, ClientError> {
        let piece = tokio::time::timeout(TIMEOUT, self.0.chunk()).await.map_err(|_| ClientError::Timeout)?;
        piece.map_err(|error| unread(&error))
    }
}

/// Which leases to list; the default is all of them.
#[derive(Clone, Debug, Default)]
pub struct LeaseFilter {
    /// The name of one kind.
    pub kind: Option<String>,
    /// How keys begin.
    pub prefix: Option<String>,
    /// Where the page before ended.
    pub cursor: Option<String>,
    /// Leases on the page at most; the daemon has a ceiling of its own.
    pub limit: Option<usize>,
}

impl AdminClient {
    /// `base` is the listener's address, such as `http://127.0.0.1:9001` or `unix:/run/waypost/admin`.
    pub fn new(base: impl Into<String>, token: impl Into<String>) -> Result<AdminClient, ClientError> {
        let base = base.into().trim_end_matches('/').to_owned();
        let token = token.into().trim().to_owned();
        // An admin endpoint is reached directly: a proxy of the environment must not see its token.
        let http = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).pool_idle_timeout(KEEP_IDLE);
        let (http, url) = match base.strip_prefix(UNIX) {
            Some(path) => (http.unix_socket(path), "http://localhost".to_owned()),
            None => (http, base.clone()),
        };
        let http = http.build().map_err(|error| ClientError::Unreachable(error.into()))?;
        Ok(AdminClient { base, url, token, http })
    }

    /// The address it asks.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// How the daemon is.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.json(self.request(Method::GET, "/admin/api/status")).await
    }

    /// One page; go on from its cursor.
    pub async fn leases(&self, filter: &LeaseFilter) -> Result<LeasePage, ClientError> {
        let LeaseFilter { kind, prefix, cursor, limit } = filter;
        let limit = limit.map(|limit| limit.to_string());
        let query: Vec<_> = [("kind", kind), ("prefix", prefix), ("cursor", cursor), ("limit", &limit)]
            .into_iter()
            .filter_map(|(name, value)| value.as_deref().map(|value| (name, value)))
            .collect();
        self.json(self.request(Method::GET, "/admin/api/leases").query(&query)).await
    }

    /// None when there is no such lease.
    pub async fn lease(&self, kind: &str, key: &str) -> Result<Option<Lease>, ClientError> {
        let answer = self.json(self.request_lease(Method::GET, kind, key)?).await;
        match answer {
            Ok(lease) => Ok(Some(lease)),
            Err(ClientError::Refused { code, .. }) if code == "not_found" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One page of link's claims; go on from its cursor.
    pub async fn claims(
        &self,
        prefix: Option<&str>,
        cursor: Option<&str>,
        limit: Option<usize>,
    ) -> Result<ClaimPage, ClientError> {
        let limit = limit.map(|limit| limit.to_string());
        let query = [("prefix", prefix), ("cursor", cursor), ("limit", limit.as_deref())];
        let query: Vec<_> = query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        self.json(self.request(Method::GET, "/admin/api/claims").query(&query)).await
    }

    /// Ends what has ended, now.
    pub async fn sweep(&self) -> Result<Swept, ClientError> {
        self.json(self.request(Method::POST, "/admin/api/sweep")).await
    }

    /// What is wrong in the store. The daemon answers nobody meanwhile.
    pub async fn check(&self) -> Result<Checked, ClientError> {
        self.json(self.request(Method::POST, "/admin/api/check").timeout(WHOLE)).await
    }

    /// Begins a backup; its file is to be taken piece by piece.
    pub async fn backup(&self) -> Result<Pieces, ClientError> {
        let request = self.request(Method::POST, "/admin/api/backup").timeout(WHOLE);
        Ok(Pieces(accepted(self.send(request).await?).await?))
    }

    /// Ends a lease before its time.
    pub async fn end_lease(&self, kind: &str, key: &str) -> Result<Done, ClientError> {
        self.json(self.request_lease(Method::DELETE, kind, key)?).await
    }

    /// Closes a socket, by the number that [`AdminClient::connections`] tells.
    pub async fn close(&self, socket: u64) -> Result<Done, ClientError> {
        self.json(self.request(Method::DELETE, &format!("/admin/api/connections/{socket}"))).await
    }

    /// Has the daemon end as it does on SIGTERM; answered before it does.
    pub async fn drain(&self) -> Result<Done, ClientError> {
        self.json(self.request(Method::POST, "/admin/api/drain")).await
    }

    /// The open sockets.
    pub async fn connections(&self) -> Result<Connections, ClientError> {
        self.json(self.request(Method::GET, "/admin/api/connections")).await
    }

    /// The log's level that is in force.
    pub async fn log_level(&self) -> Result<LogLevel, ClientError> {
        self.json(self.request(Method::GET, "/admin/api/log-level")).await
    }

    /// Sets the log's level, until the daemon ends.
    pub async fn set_log_level(&self, level: &str) -> Result<LogLevel, ClientError> {
        let level = LogLevel { level: level.to_owned() };
        self.json(self.request(Method::PUT, "/admin/api/log-level").json(&level)).await
    }

    /// The metrics in OpenMetrics' text format.
    pub async fn metrics(&self) -> Result<String, ClientError> {
        let answer = self.send(self.request(Method::GET, "/metrics")).await?;
        let answer = accepted(answer).await?;
        answer.text().await.map_err(|error| ClientError::Protocol(error.to_string()))
    }

    /// Whether the daemon runs. Needs no token.
    pub async fn live(&self) -> Result<bool, ClientError> {
        self.send(self.http.get(format!("{}/livez", self.url)))
            .await
            .map(|answer| answer.status().is_success())
    }

    /// Whether the daemon takes writes. Needs no token.
    pub async fn ready(&self) -> Result<bool, ClientError> {
        self.send(self.http.get(format!("{}/readyz", self.url)))
            .await
            .map(|answer| answer.status().is_success())
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    /// Keys of link have any characters.
    fn request_lease(&self, method: Method, kind: &str, key: &str) -> Result<RequestBuilder, ClientError> {
        let mut url = Url::parse(&self.url).map_err(|error| ClientError::Unreachable(Box::new(error)))?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["admin", "api", "leases", kind, key]);
        }
        Ok(self.http.request(method, url).bearer_auth(&self.token))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        request.send().await.map_err(|error| {
            if error.is_timeout() { ClientError::Timeout } else { ClientError::Unreachable(error.into()) }
        })
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let answer = accepted(self.send(request).await?).await?;
        answer.json().await.map_err(|error| ClientError::Protocol(error.to_string()))
    }
}

/// The answer, unless it is a refusal.
async fn accepted(answer: Response) -> Result<Response, ClientError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    match answer.json::<AdminError>().await {
        Ok(AdminError { error, code }) => Err(ClientError::Refused { message: error, code }),
        Err(_) if status == StatusCode::UNAUTHORIZED => Err(ClientError::Refused {
            message: "the token is not accepted".to_owned(),
            code: "unauthorized".to_owned(),
        }),
        Err(_) => Err(ClientError::Protocol(format!("status {status} without a reason"))),
    }
}
