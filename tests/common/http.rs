//! The public address as an HTTP client meets it. Owns one request and the proof that whatever is answered stands in the
//! daemon's own document: path, method, status and the text of every failure. Must not know any single story.
#![allow(dead_code, reason = "each test file uses its share")]

use crate::daemon::{HOUR, TestDaemon};
use std::net::SocketAddr;
use waypost::config::Settings;

use futures_util::{StreamExt, stream};
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

pub const XFF: &str = "x-forwarded-for";

#[derive(Clone)]
pub struct Http {
    base: String,
    client: reqwest::Client,
    pub document: Value,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    /// `Null` where it is no JSON.
    pub body: Value,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The body of a success.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }

    /// A failure, to the letter; the rest of its body is as documented.
    #[track_caller]
    pub fn refused(&self, status: u16, error: &str) {
        assert_eq!((self.status, &self.body["error"]), (status, &Value::from(error)), "{}", self.body);
    }
}

/// What the document says of a method on a path.
enum Documented<'a> {
    Operation(&'a Value),
    OtherMethods,
    Nowhere,
}

impl Http {
    pub async fn at(address: SocketAddr) -> Http {
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(8).build().unwrap();
        let base = format!("http://{address}");
        let document = client.get(format!("{base}/openapi.json")).send().await.unwrap();
        let document = serde_json::from_slice(&document.bytes().await.unwrap()).unwrap();
        Http { base, client, document }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.post_with(path, body, &[]).await
    }

    pub async fn post_with(&self, path: &str, body: Value, headers: &[(&str, &str)]) -> Answer {
        self.send(Method::POST, path, headers, Some(body.to_string().into_bytes())).await
    }

    pub async fn post_raw(&self, path: &str, body: impl Into<Vec<u8>>) -> Answer {
        self.send(Method::POST, path, &[], Some(body.into())).await
    }

    /// Many at once; the answers in the order of the bodies.
    pub async fn post_all(&self, path: &str, bodies: impl IntoIterator<Item = Value>) -> Vec<Answer> {
        let bodies: Vec<Value> = bodies.into_iter().collect();
        stream::iter(bodies).map(|body| self.post(path, body)).buffered(32).collect().await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], None).await
    }

    pub async fn delete_as(&self, path: &str, token: &str) -> Answer {
        self.send(Method::DELETE, path, &[("authorization", &format!("Bearer {token}"))], None).await
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Answer {
        let request = self.client.request(method.clone(), format!("{}{path}", self.base));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = body.into_iter().fold(request, |request, body| request.body(body));
        let answer = request.send().await.unwrap_or_else(|error| panic!("{method} {path}: {error:?}"));
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let bytes = answer.bytes().await.unwrap().to_vec();
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        let answer = Answer { status, headers, body, bytes };
        assert!(!answer.header("x-request-id").is_empty(), "{method} {path}: no request id");
        if method != Method::OPTIONS && method != Method::HEAD {
            self.is_documented(&method, path, &answer);
        }
        answer
    }

    fn is_documented(&self, method: &Method, path: &str, answer: &Answer) {
        let what = format!("{method} {path}: {} {}", answer.status, answer.body);
        let failed = !(200..300).contains(&answer.status);
        if failed {
            assert_eq!(answer.header("content-type"), "application/json", "{what}");
            assert!(answer.body["error"].is_string(), "{what}");
            assert!(!answer.header("x-error-code").is_empty(), "{what}");
        }
        let operation = match self.documented(method, path) {
            Documented::Operation(operation) => operation,
            Documented::OtherMethods => return assert!([405, 429].contains(&answer.status), "{what}"),
            Documented::Nowhere => return assert!([404, 429].contains(&answer.status), "{what}"),
        };
        let response = &operation["responses"][answer.status.to_string()];
        assert!(response.is_object(), "the document has no such status: {what}");
        if !failed {
            return;
        }
        let examples = response["content"]["application/json"]["examples"].as_object();
        let examples = examples.unwrap_or_else(|| panic!("no examples: {what}"));
        let text = answer.body["error"].as_str().unwrap();
        let text = if text.starts_with("Invalid field: ") { "Invalid field: NAME" } else { text };
        let found = examples.iter().find(|(_, example)| example["value"]["error"] == text);
        let (name, example) = found.unwrap_or_else(|| panic!("the document has no such text: {what}"));
        let code = name.trim_end_matches(|c: char| c == '-' || c.is_ascii_digit());
        assert_eq!(code, answer.header("x-error-code"), "{what}");
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&example["value"]), keys(&answer.body), "{what}");
    }

    fn documented(&self, method: &Method, path: &str) -> Documented<'_> {
        let path = path.split('?').next().unwrap();
        let paths = self.document["paths"].as_object().unwrap();
        let fits = |template: &str| match template.split_once('{') {
            None => template == path,
            // A parameter is the rest of a path.
            Some((before, _)) => path.strip_prefix(before).is_some_and(|rest| !rest.is_empty()),
        };
        let fitting: Vec<_> = paths.iter().filter(|(template, _)| fits(template)).collect();
        let method = method.as_str().to_lowercase();
        match fitting.iter().find_map(|(_, item)| item.get(&method)) {
            Some(operation) => Documented::Operation(operation),
            None if fitting.is_empty() => Documented::Nowhere,
            None => Documented::OtherMethods,
        }
    }
}

/// A daemon without a limit on requests, whose bucket time does not fill, and without a backup sweep in between.
pub async fn start_with(adjust: impl FnOnce(&mut Settings)) -> (TestDaemon, Http) {
    let daemon = TestDaemon::start_with(|settings| {
        settings.connections.http_requests_per_minute = 0;
        settings.peers.backup_sweep = 1000 * HOUR;
        adjust(settings);
    })
    .await;
    let port = daemon.addresses().public.port();
    let http = Http::at(([127, 0, 0, 1], port).into()).await;
    (daemon, http)
}

pub async fn start() -> (TestDaemon, Http) {
    start_with(|_| {}).await
}

pub fn peer(id: &str, fields: Value) -> Value {
    let mut peer = json!({"peerId": id, "addresses": ["/ip4/192.0.2.1/tcp/4001"]});
    peer.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    peer
}

pub async fn register(http: &Http, id: &str) -> Value {
    http.post("/register", peer(id, json!({}))).await.ok()
}
