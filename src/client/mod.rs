//! Typed clients of the daemon: [`Client`] speaks signalling and survives reconnects, [`RawSocket`] says exactly what
//! it is told to, [`BinaryLink`] and [`PhoneLink`] speak link, [`BootstrapClient`] and [`DirectoryClient`] the HTTP
//! dialects, [`Node`] keeps a peer registered, [`AdminClient`] asks the admin endpoint.
//!
//! Owns the clients' one error type and how a WebSocket is dialled. Must not know the daemon: everything here works
//! over the wire alone, against any server that speaks the dialect.

pub mod admin;
pub mod bootstrap;
mod connection;
pub mod directory;
mod http;
#[cfg(test)]
mod http_tests;
pub mod link;
pub mod node;
mod raw;
pub mod signalling;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::Request as Upgrade;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};

pub use admin::AdminClient;
pub use bootstrap::{BootstrapClient, PeerRegistration, PeersQuery, TurnRegistration};
pub use directory::{DirectoryClient, ServerHeartbeat, ServerRegistration};
pub use link::{BinaryLink, FromPhone, PhoneLink};
pub use node::{Node, NodeOptions, NodeState};
pub use raw::RawSocket;
pub(crate) use signalling::Request;
pub use signalling::{Client, ClientBuilder, Push, Register, RegisterCode, Rendezvous};

/// Why a request of a client came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server said no: its text, and its stable code (empty when the server has none).
    #[error("{message}")]
    Refused { message: String, code: String },
    /// The server said no for now: as [`ClientError::Refused`], and how long to wait before asking again.
    #[error("{message}")]
    Busy { message: String, code: String, retry_after: Duration },
    /// The connection ended and is not made again; 1006 when it ended without a close frame.
    #[error("the connection was closed with code {code}: {reason}")]
    Closed { code: u16, reason: String },
    /// No answer within the request timeout.
    #[error("no answer in time")]
    Timeout,
    /// No connection could be made, or the server refused the upgrade.
    #[error("the server cannot be reached")]
    Unreachable(#[source] Box<dyn Error + Send + Sync>),
    /// The server said something that the protocol has no place for.
    #[error("the server does not keep to the protocol: {0}")]
    Protocol(String),
}

impl ClientError {
    /// The stable code of a refusal; none for what is no refusal, empty when the server has none.
    pub fn code(&self) -> Option<&str> {
        match self {
            ClientError::Refused { code, .. } | ClientError::Busy { code, .. } => Some(code),
            _ => None,
        }
    }

    /// How long the server asked to wait before asking again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            ClientError::Busy { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }
}

/// An error, its cause, the cause of that, and so on.
pub(crate) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// An error and all that caused it, in one line.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    causes(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The close code of a connection that ended without a close frame (RFC 6455).
const ABNORMAL: u16 = 1006;

type Socket = WebSocketStream<TcpStream>;

/// Connects to a `ws://` URL, from the given local address if there is one.
async fn dial(url: &str, local: Option<IpAddr>) -> Result<Socket, ClientError> {
    let request = url.into_client_request().map_err(|error| ClientError::Unreachable(error.into()))?;
    dial_with(request, local).await
}

/// As [`dial`], with whatever headers the request has.
async fn dial_with(request: Upgrade<()>, local: Option<IpAddr>) -> Result<Socket, ClientError> {
    let unreachable = |cause: Box<dyn Error + Send + Sync>| ClientError::Unreachable(cause);
    if request.uri().scheme_str() != Some("ws") {
        return Err(unreachable("only ws:// addresses are spoken here".into()));
    }
    let host = request.uri().host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = request.uri().port_u16().unwrap_or(80);
    let stream = connect(&host, port, local).await.map_err(|error| unreachable(error.into()))?;
    let config = WebSocketConfig::default().read_buffer_size(4096);
    let upgrade = tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await;
    upgrade.map(|(socket, _)| socket).map_err(|error| unreachable(error.into()))
}

/// A connection without Nagle's delay, from the given local address if there is one.
pub(crate) async fn connect(host: &str, port: u16, local: Option<IpAddr>) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no fitting address");
    for address in tokio::net::lookup_host((host, port)).await? {
        if local.is_some_and(|local| local.is_ipv4() != address.is_ipv4()) {
            continue;
        }
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(local) = local {
            socket.bind(SocketAddr::new(local, 0))?;
        }
        match socket.connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The code and reason of a close frame.
fn close_of(frame: Option<CloseFrame>) -> (u16, String) {
    match frame {
        Some(frame) => (frame.code.into(), frame.reason.to_string()),
        None => (1005, String::new()),
    }
}

/// An error message as any server of the dialect words it: the code may be missing.
#[derive(Deserialize)]
struct Refused {
    message: String,
    #[serde(default)]
    code: String,
}

impl From<Refused> for ClientError {
    fn from(Refused { message, code }: Refused) -> ClientError {
        ClientError::Refused { message, code }
    }
}
