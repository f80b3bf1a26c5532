//! From an HTTP request to a WebSocket.
//!
//! Owns the handshake, made by tungstenite itself rather than through axum's extractor: a session must be able to read
//! and throw away what is still arriving before it closes, and for that it needs the stream (docs/architecture.md).
//! Must not know who may connect or what is spoken.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::{CONNECTION, UPGRADE};
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

use super::arriving::{Arriving, Share};
use super::socket::Socket;

/// Whether a request wants to become a WebSocket.
pub fn is_asked(headers: &HeaderMap) -> bool {
    let names = |name, wanted: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|line| line.split(',')).any(|word| word.trim().eq_ignore_ascii_case(wanted))
    };
    names(CONNECTION, "upgrade") && names(UPGRADE, "websocket")
}

/// A socket whose handshake has been answered.
pub struct Opening {
    upgrading: OnUpgrade,
    read_buffer_bytes: usize,
    max_message_bytes: usize,
}

impl Opening {
    /// The socket, once the answer has gone out; so many of its bytes do not count while they arrive.
    pub async fn socket(self, arriving: &Arc<Arriving>, free: usize) -> Option<Box<Socket>> {
        match self.upgrading.await {
            Ok(stream) => {
                let (stream, share) = (TokioIo::new(stream), Share::new(arriving.clone(), free));
                let socket = Socket::new(stream, share, self.read_buffer_bytes, self.max_message_bytes);
                Some(Box::new(socket.await))
            }
            Err(error) => {
                tracing::debug!(%error, "an upgrade did not happen");
                None
            }
        }
    }
}

/// Answers the handshake and runs `serve` in a task of its own, which is no larger than that; a malformed handshake is told
/// why.
pub fn accept<F: Future<Output = ()> + Send + 'static>(
    mut request: Request,
    read_buffer_bytes: usize,
    max_message_bytes: usize,
    serve: impl FnOnce(Opening) -> F,
) -> Result<Response, String> {
    let response = create_response_with_body(&request, Body::empty).map_err(|error| error.to_string())?;
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(serve(Opening { upgrading, read_buffer_bytes, max_message_bytes }));
    Ok(response)
}
