//! A WebSocket that says exactly what it is told to, for tests and probes of the protocol's letter.
//!
//! Owns nothing but the socket. Must not know the dialect. Pings are answered only while something is being awaited.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::http::Request;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::{ABNORMAL, ClientError, Socket, close_of, dial, dial_with};

/// See the module.
#[derive(Debug)]
pub struct RawSocket {
    socket: Socket,
}

impl RawSocket {
    /// Connects to a `ws://` URL.
    pub async fn connect(url: &str) -> Result<RawSocket, ClientError> {
        dial(url, None).await.map(|socket| RawSocket { socket })
    }

    /// Connects from the given local address.
    pub async fn connect_from(url: &str, local: IpAddr) -> Result<RawSocket, ClientError> {
        dial(url, Some(local)).await.map(|socket| RawSocket { socket })
    }

    /// Makes any upgrade, from the given local address if there is one.
    pub async fn open(request: Request<()>, local: Option<IpAddr>) -> Result<RawSocket, ClientError> {
        dial_with(request, local).await.map(|socket| RawSocket { socket })
    }

    /// Sends a text message as it is.
    pub async fn send_text(&mut self, text: impl Into<Utf8Bytes>) -> Result<(), ClientError> {
        self.send(Message::Text(text.into())).await
    }

    /// Sends a JSON value as text.
    pub async fn send_json(&mut self, value: &Value) -> Result<(), ClientError> {
        self.send_text(value.to_string()).await
    }

    /// Sends a binary message as it is.
    pub async fn send_binary(&mut self, bytes: impl Into<Vec<u8>>) -> Result<(), ClientError> {
        self.send(Message::Binary(bytes.into().into())).await
    }

    /// Sends any frame, such as a ping, a close, or a hand-made one.
    pub async fn send(&mut self, message: Message) -> Result<(), ClientError> {
        self.socket.send(message).await.map_err(broken)
    }

    /// The next text message, decoded; `Timeout` after `within`, `Closed` when the connection ends first.
    pub async fn next_message(&mut self, within: Duration) -> Result<Value, ClientError> {
        let text = self.next_text(within).await?;
        serde_json::from_str(&text).map_err(|error| ClientError::Protocol(error.to_string()))
    }

    /// The next text message to the letter; otherwise like [`RawSocket::next_message`].
    pub async fn next_text(&mut self, within: Duration) -> Result<String, ClientError> {
        timeout(within, self.text()).await.map_err(|_| ClientError::Timeout)?
    }

    /// The code and reason with which the server closes; messages that come before are passed over. 1006 when the
    /// connection ends without a close frame.
    pub async fn closed(&mut self, within: Duration) -> Result<(u16, String), ClientError> {
        let closing = async {
            loop {
                match self.text().await {
                    Ok(_) => {}
                    Err(ClientError::Closed { code, reason }) => return Ok((code, reason)),
                    Err(error) => return Err(error),
                }
            }
        };
        timeout(within, closing).await.map_err(|_| ClientError::Timeout)?
    }

    async fn text(&mut self) -> Result<String, ClientError> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text.as_str().to_owned()),
                Some(Ok(Message::Close(frame))) => {
                    let (code, reason) = close_of(frame);
                    return Err(ClientError::Closed { code, reason });
                }
                Some(Ok(Message::Binary(_))) => {
                    return Err(ClientError::Protocol("a binary message from the server".to_owned()));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(broken(error)),
                None => {
                    let reason = "the connection broke off".to_owned();
                    return Err(ClientError::Closed { code: ABNORMAL, reason });
                }
            }
        }
    }
}

fn broken(error: Error) -> ClientError {
    ClientError::Closed { code: ABNORMAL, reason: error.to_string() }
}
