//! Where the daemon listens: TCP addresses and Unix sockets, opened here or handed over by the service manager.
//!
//! Owns addresses as they are written, the files of Unix sockets, and the bytes of a connection before anything is spoken.
//! Must not know what is spoken, nor who may connect.

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use figment::value::Value;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixSocket, UnixStream};
use tokio_util::either::Either;

use super::gate::UNIX_PEER;
use crate::limits::Setting;

/// What stands before the path of a Unix socket.
const UNIX: &str = "unix:";
/// Who may connect to a Unix socket: its owner and its group.
const SOCKET_MODE: u32 = 0o660;
/// Connections that wait until they are accepted, where the system allows so many: past it clients try again, a second later
/// at first, and all come back at once when the daemon starts.
const BACKLOG: u32 = 4096;
/// Bytes of a Unix socket's path that the system takes.
const MAX_PATH: usize = 107;

/// Where peers or the operator connect to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd)]
pub enum Address {
    Tcp(SocketAddr),
    /// An absolute path.
    Unix(PathBuf),
}

impl Address {
    pub fn is_loopback(&self) -> bool {
        matches!(self, Address::Tcp(address) if address.ip().is_loopback())
    }

    /// `None` for a Unix socket.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }

    /// What the admin client takes.
    pub fn admin_url(&self) -> String {
        match self {
            Address::Tcp(address) => format!("http://{address}"),
            Address::Unix(_) => self.to_string(),
        }
    }
}

impl<I: Into<IpAddr>> From<(I, u16)> for Address {
    fn from(address: (I, u16)) -> Address {
        Address::Tcp(address.into())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// Neither an address and port nor the path of a socket.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("expected {}", Address::EXPECTED)]
pub struct NoAddress;

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Address, NoAddress> {
        match text.strip_prefix(UNIX) {
            Some(path) if path.starts_with('/') && path.len() <= MAX_PATH && !path.contains('\0') => {
                Ok(Address::Unix(path.into()))
            }
            Some(_) => Err(NoAddress),
            None => text.parse().map(Address::Tcp).map_err(|_| NoAddress),
        }
    }
}

impl Setting for Address {
    const EXPECTED: &'static str = r#"an address and port such as "127.0.0.1:9000" or "[::]:9000", or a socket's path such as "unix:/run/waypost/public""#;

    fn from_text(text: &str) -> Option<Self> {
        text.trim().parse().ok()
    }

    fn from_toml(value: &Value) -> Option<Self> {
        Self::from_text(value.as_str()?)
    }

    fn to_toml(&self) -> String {
        self.to_string().to_toml()
    }
}

/// A listener that the service manager has opened.
#[derive(Debug)]
pub enum Handed {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// The listeners that the service manager has opened; each stands in for the address of the settings.
#[derive(Debug, Default)]
pub struct Inherited {
    pub public: Option<Handed>,
    pub admin: Option<Handed>,
}

impl Handed {
    pub fn address(&self) -> io::Result<Address> {
        match self {
            Handed::Tcp(listener) => Ok(Address::Tcp(listener.local_addr()?)),
            Handed::Unix(listener) => path_of(listener.local_addr()?.as_pathname()),
        }
    }

    pub fn listener(self) -> io::Result<Listener> {
        match self {
            Handed::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                Ok(Listener::Tcp(TcpListener::from_std(listener)?))
            }
            // Its file is the service manager's.
            Handed::Unix(listener) => {
                listener.set_nonblocking(true)?;
                Ok(Listener::Unix(UnixListener::from_std(listener)?, None))
            }
        }
    }
}

fn path_of(path: Option<&Path>) -> io::Result<Address> {
    let unnamed = || io::Error::new(io::ErrorKind::InvalidInput, "a Unix socket without a path");
    path.map(|path| Address::Unix(path.to_owned())).ok_or_else(unnamed)
}

/// The bytes of a connection.
pub type Plain = Either<TcpStream, UnixStream>;

pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, Option<SocketFile>),
}

impl Listener {
    /// # Errors
    /// With the address, since which of two it is the system does not say.
    pub async fn bind(address: &Address) -> io::Result<Listener> {
        let bound = match address {
            Address::Tcp(address) => bind_tcp(*address).map(Listener::Tcp),
            Address::Unix(path) => bind_unix(path).await,
        };
        bound.map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
    }

    pub fn address(&self) -> io::Result<Address> {
        match self {
            Listener::Tcp(listener) => Ok(Address::Tcp(listener.local_addr()?)),
            Listener::Unix(listener, _) => path_of(listener.local_addr()?.as_pathname()),
        }
    }

    /// The next connection, and who it comes from.
    pub async fn accept(&self) -> io::Result<(Plain, IpAddr)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Without it an answer may wait for the acknowledgement of the one before.
                let _ = stream.set_nodelay(true);
                Ok((Either::Left(stream), peer.ip()))
            }
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Either::Right(stream), UNIX_PEER))
            }
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // What is left of a former daemon's connections does not hinder.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn bind_unix(path: &Path) -> io::Result<Listener> {
    remove_stale(path).await?;
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    let listener = socket.listen(BACKLOG)?;
    let meta = fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.to_owned(), device: meta.dev(), inode: meta.ino() };
    fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
    Ok(Listener::Unix(listener, Some(file)))
}

/// Removes the socket that a daemon has left which was killed: one that nobody answers.
async fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(meta) = fs::symlink_metadata(path) else { return Ok(()) };
    if !meta.file_type().is_socket() {
        let error = "there is a file of that name, which is no socket";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, error));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
    }
}

/// The file of a Unix socket that was opened here; goes with its listener.
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another one may have taken its place.
        let own = fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == (self.device, self.inode));
        if own && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for text in ["127.0.0.1:9000", "[::]:0", "unix:/run/waypost/public"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        let long = format!("unix:/{}", "x".repeat(MAX_PATH));
        for text in ["", "unix:", "unix:public", "unix:/a\0b", "localhost:9000", "127.0.0.1", "/run/x", &long]
        {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_nobody_answers_is_replaced_and_one_that_is_answered_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let address = Address::Unix(path.clone());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = Listener::bind(&address).await.unwrap();
        assert_eq!(listener.address().unwrap(), address);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        let refused = Listener::bind(&address).await.err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        assert!(refused.to_string().starts_with(&format!("cannot listen on {address}: ")), "{refused}");
        drop(listener);
        assert!(!path.exists());

        fs::write(&path, "a file").unwrap();
        assert_eq!(Listener::bind(&address).await.err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
    }

    #[tokio::test]
    async fn hundreds_who_come_at_once_wait_to_be_accepted_and_none_has_to_try_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let allowed: u32 = fs::read_to_string("/proc/sys/net/core/somaxconn")
            .map_or(128, |text| text.trim().parse().unwrap());
        let crowd = allowed.min(300);
        let listener = Listener::bind(&([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.address().unwrap().tcp().unwrap();
        let _unix = Listener::bind(&Address::Unix(path.clone())).await.unwrap();
        // Nobody accepts.
        let wait = Duration::from_millis(900);
        let (mut tcp, mut unix) = (Vec::new(), Vec::new());
        for _ in 0..crowd {
            tcp.push(std::net::TcpStream::connect_timeout(&address, wait).expect("it does not try again"));
            let connected = tokio::time::timeout(wait, UnixStream::connect(&path)).await;
            unix.push(connected.expect("it does not wait").unwrap());
        }
    }

    #[tokio::test]
    async fn the_end_of_a_listener_does_not_remove_its_successors_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = Listener::bind(&Address::Unix(path.clone())).await.unwrap();
        fs::rename(&path, folder.path().join("former")).unwrap();
        let _successor = Listener::bind(&Address::Unix(path.clone())).await.unwrap();
        drop(listener);
        assert!(path.exists());
    }
}
