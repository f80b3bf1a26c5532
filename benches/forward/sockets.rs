//! Owns the sockets of the load: how they are opened, and the messages on them, which are made before anything is measured.
//! Must not know what is measured.

use std::net::SocketAddr;

use futures_util::{SinkExt, Stream, StreamExt};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

pub type Socket = WebSocketStream<TcpStream>;

/// What the relay says on the binary's leg, beside what is read without a parser.
#[derive(Deserialize)]
struct Envelope {
    close_code: Option<u16>,
}

/// A binary and its phones, each with its conn_id.
pub struct Link {
    pub binary: Socket,
    pub phones: Vec<(Socket, String)>,
}

impl Link {
    /// The binary and so many phones of one server-id.
    pub async fn open(address: SocketAddr, id: &str, phones: usize) -> Link {
        let headers = [("x-pyrycode-server", id), ("x-pyrycode-version", "1"), ("user-agent", "bench")];
        let mut link = Link { binary: open(address, "/v1/server", &headers).await, phones: Vec::new() };
        for _ in 0..phones {
            link.phones.push(attach(address, id, &mut link.binary).await);
        }
        link
    }
}

/// One more phone of the binary, and its conn_id. The binary hears nothing else meanwhile.
pub async fn attach(address: SocketAddr, id: &str, binary: &mut Socket) -> (Socket, String) {
    loop {
        let mut phone = greet(address, id).await;
        tokio::select! {
            message = binary.next() => {
                let Some(Ok(Message::Text(text))) = message else { panic!("the binary hears {message:?}") };
                return (phone, conn_id(&text).to_owned());
            }
            message = phone.next() => match message {
                // The binary's claim is still on its way to the disk.
                Some(Ok(Message::Close(Some(close)))) if u16::from(close.code) == 4404 => {}
                other => panic!("a phone hears {other:?}"),
            },
        }
    }
}

/// A phone that has said a word, by which the binary learns its conn_id.
pub async fn greet(address: SocketAddr, id: &str) -> Socket {
    let headers = [("x-pyrycode-server", id), ("user-agent", "bench")];
    let mut phone = open(address, "/v1/client", &headers).await;
    phone.send(Message::text("\"hello\"")).await.expect("a phone speaks");
    phone
}

pub async fn open(address: SocketAddr, path: &str, headers: &[(&'static str, &str)]) -> Socket {
    let mut request = format!("ws://{address}{path}").into_client_request().expect("a request");
    for &(name, value) in headers {
        request.headers_mut().insert(name, HeaderValue::from_str(value).expect("a header"));
    }
    let stream = TcpStream::connect(address).await.expect("a connection");
    stream.set_nodelay(true).expect("a socket without delay");
    tokio_tungstenite::client_async(request, stream).await.expect("an upgrade").0
}

/// The next text; whatever else comes is passed over, and an end is a fault.
pub async fn text(socket: &mut (impl Stream<Item = Heard> + Unpin)) -> Utf8Bytes {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return text,
            Some(Ok(Message::Ping(_))) => {}
            other => panic!("a socket hears {other:?}"),
        }
    }
}

pub type Heard = Result<Message, tokio_tungstenite::tungstenite::Error>;

const BEFORE_CONN_ID: &str = r#"{"conn_id":""#;
const BEFORE_FRAME: &str = r#"","frame":"#;

/// Whose envelope this is. Not by a JSON parser: it is asked for every frame.
pub fn conn_id(envelope: &str) -> &str {
    let rest = envelope.strip_prefix(BEFORE_CONN_ID).expect("an envelope");
    rest.split_once('"').expect("a conn_id").0
}

/// The close code in an envelope that tells that a phone has left.
pub fn left(envelope: &str) -> Option<u16> {
    let Envelope { close_code } = serde_json::from_str(envelope).expect("an envelope");
    close_code
}

/// A frame in its envelope.
pub fn enveloped(conn_id: &str, frame: &str) -> Utf8Bytes {
    format!("{BEFORE_CONN_ID}{conn_id}{BEFORE_FRAME}{frame}}}").into()
}

/// JSON of so many bytes: a list of small objects, as programs send it.
pub fn frame(bytes: usize) -> Utf8Bytes {
    const END: &str = r#""]}"#;
    let mut text = String::from(r#"{"type":"batch","items":["#);
    for number in 0.. {
        let item = format!(
            r#"{{"id":{number},"at":1800000000.25,"role":"user","read":true,"text":"Line {number}: the quick brown fox said \"jump\" and the lazy dog did not."}},"#
        );
        if text.len() + item.len() + END.len() >= bytes {
            break;
        }
        text.push_str(&item);
    }
    text.push('"');
    text.extend(std::iter::repeat_n('x', bytes - text.len() - END.len()));
    text.push_str(END);
    text.into()
}
