//! The PROXY protocol, version 2: how a proxy that does not speak HTTP tells whose connection it passes on.
//!
//! Owns reading one header. Must not know who may send it; the bytes are decoded by the crate proxy-header.

use std::io;
use std::net::IpAddr;

use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What every header starts with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, the command, the family and the length of the rest.
const FIXED: usize = 16;
/// Bytes of the rest; room for addresses and whatever proxies add to them.
const MAX_REST: usize = 2048;

/// Reads exactly one header: the client's address, or `None` where the proxy speaks for itself.
///
/// # Errors
/// What is no such header, or ended within it.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<IpAddr>> {
    let mut header = vec![0; FIXED];
    stream.read_exact(&mut header).await?;
    let rest = usize::from(u16::from_be_bytes([header[FIXED - 2], header[FIXED - 1]]));
    if !header.starts_with(SIGNATURE) || rest > MAX_REST {
        return Err(malformed());
    }
    header.resize(FIXED + rest, 0);
    stream.read_exact(&mut header[FIXED..]).await?;
    client(&header)
}

/// The client's address of one whole header.
pub fn client(header: &[u8]) -> io::Result<Option<IpAddr>> {
    let config = ParseConfig { include_tlvs: false, allow_v1: false, allow_v2: true };
    match ProxyHeader::parse(header, config) {
        Ok((told, length)) if length == header.len() => match told.proxied_address() {
            None => Ok(None),
            Some(address) => {
                let client = address.source.ip().to_canonical();
                // Nobody has the unspecified address, and here it stands for a peer on a Unix socket.
                let is_one = address.protocol == Protocol::Stream && !client.is_unspecified();
                is_one.then_some(Some(client)).ok_or_else(malformed)
            }
        },
        _ => Err(malformed()),
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no PROXY header of version 2")
}
