//! Link as a home machine's binary and as a phone speak it (protocol: link).
//!
//! Owns the headers of the upgrade and the binary's envelopes. Must not know when to reconnect: whoever holds a
//! [`BinaryLink`] decides.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue, Request};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::{ClientError, RawSocket};

const USER_AGENT: &str = concat!("waypost-client/", env!("CARGO_PKG_VERSION"));

/// What a binary hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromPhone {
    /// A phone's message, byte for byte.
    Frame { conn_id: String, frame: String },
    /// The phone has left, with this close code.
    Left { conn_id: String, code: u16 },
}

/// A binary's connection: it holds its server-id until this is closed or dropped, and for a grace after that.
#[derive(Debug)]
pub struct BinaryLink(RawSocket);

/// A phone's connection.
#[derive(Debug)]
pub struct PhoneLink(RawSocket);

/// One envelope, in either direction.
#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    conn_id: String,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    frame: Option<&'a RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    close_code: Option<u16>,
}

/// The upgrade of either leg: `url` is the server's, such as `ws://127.0.0.1:9000`.
pub fn upgrade(
    url: &str,
    path: &str,
    headers: &HashMap<&'static str, String>,
) -> Result<Request<()>, ClientError> {
    let unreachable = |cause: Box<dyn std::error::Error + Send + Sync>| ClientError::Unreachable(cause);
    let url = format!("{}{path}", url.trim_end_matches('/'));
    let mut request = url.into_client_request().map_err(|error| unreachable(error.into()))?;
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).map_err(|error| unreachable(error.into()))?;
        request.headers_mut().insert(HeaderName::from_static(name), value);
    }
    Ok(request)
}

impl BinaryLink {
    /// Claims `server_id` at the server, such as `ws://127.0.0.1:9000`. A refusal arrives as the end of
    /// [`BinaryLink::next`]: 4409 where another binary holds it.
    pub async fn connect(url: &str, server_id: &str) -> Result<BinaryLink, ClientError> {
        let headers = HashMap::from([
            ("x-pyrycode-server", server_id.to_owned()),
            ("x-pyrycode-version", env!("CARGO_PKG_VERSION").to_owned()),
            ("user-agent", USER_AGENT.to_owned()),
        ]);
        Ok(BinaryLink(RawSocket::open(upgrade(url, "/v1/server", &headers)?, None).await?))
    }

    /// What comes next from any phone; `Timeout` after `within`, `Closed` when the connection ends first.
    pub async fn next(&mut self, within: Duration) -> Result<FromPhone, ClientError> {
        let text = self.0.next_text(within).await?;
        let envelope: Envelope<'_> =
            serde_json::from_str(&text).map_err(|error| ClientError::Protocol(error.to_string()))?;
        let conn_id = envelope.conn_id;
        match (envelope.frame, envelope.close_code) {
            (_, Some(code)) => Ok(FromPhone::Left { conn_id, code }),
            // A phone may say null.
            (frame, None) => {
                let frame = frame.map_or("null", RawValue::get).to_owned();
                Ok(FromPhone::Frame { conn_id, frame })
            }
        }
    }

    /// Sends JSON to one phone.
    pub async fn send(&mut self, conn_id: &str, frame: &str) -> Result<(), ClientError> {
        self.envelope(conn_id, Some(frame), None).await
    }

    /// Has one phone closed, after a last frame if there is one.
    pub async fn close_phone(
        &mut self,
        conn_id: &str,
        frame: Option<&str>,
        code: u16,
    ) -> Result<(), ClientError> {
        self.envelope(conn_id, frame, Some(code)).await
    }

    async fn envelope(
        &mut self,
        conn_id: &str,
        frame: Option<&str>,
        close_code: Option<u16>,
    ) -> Result<(), ClientError> {
        let not_json = |error: serde_json::Error| ClientError::Protocol(error.to_string());
        let frame: Option<&RawValue> = frame.map(serde_json::from_str).transpose().map_err(not_json)?;
        let envelope = Envelope { conn_id: conn_id.to_owned(), frame, close_code };
        self.0.send_text(serde_json::to_string(&envelope).map_err(not_json)?).await
    }

    /// Closes with a code; the server keeps the claim for the grace.
    pub async fn close(mut self, code: u16) -> Result<(), ClientError> {
        close(&mut self.0, code).await
    }
}

impl PhoneLink {
    /// Attaches to `server_id` at the server, such as `ws://127.0.0.1:9000`. A refusal arrives as the end of
    /// [`PhoneLink::next`]: 4404 where nobody holds it.
    pub async fn connect(url: &str, server_id: &str) -> Result<PhoneLink, ClientError> {
        let headers = HashMap::from([
            ("x-pyrycode-server", server_id.to_owned()),
            ("user-agent", USER_AGENT.to_owned()),
        ]);
        Ok(PhoneLink(RawSocket::open(upgrade(url, "/v1/client", &headers)?, None).await?))
    }

    /// The binary's next frame, byte for byte; `Timeout` after `within`, `Closed` when the connection ends first.
    pub async fn next(&mut self, within: Duration) -> Result<String, ClientError> {
        self.0.next_text(within).await
    }

    /// Sends JSON to the binary.
    pub async fn send(&mut self, frame: &str) -> Result<(), ClientError> {
        self.0.send_text(frame).await
    }

    /// Closes with a code, which the binary is told.
    pub async fn close(mut self, code: u16) -> Result<(), ClientError> {
        close(&mut self.0, code).await
    }
}

async fn close(socket: &mut RawSocket, code: u16) -> Result<(), ClientError> {
    socket.send(Message::Close(Some(CloseFrame { code: code.into(), reason: "".into() }))).await
}
