//! Owns `waypost admin url`: a link to the admin page that logs in. Must not know where the endpoint and its token usually
//! are: both are arguments.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use url::form_urlencoded;

use super::Exit;
use super::asking::AskError;
use crate::server::listen::Address;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Print a link that opens the page and logs in. It has the admin token in it: keep it to yourself.
    Url {
        /// The daemon's admin endpoint [http:// and server.admin_listen].
        #[arg(long, value_name = "URL")]
        admin: Option<String>,
        /// File with the admin token [admin.token in server.data_dir].
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
}

impl Command {
    pub(super) fn run(&self, listen: &Address, token_file: &Path) -> Result<Exit, Exit> {
        let Command::Url { admin, token_file: other } = self;
        let token_file = other.as_deref().unwrap_or(token_file);
        let failed = |error: String| {
            eprintln!("{error}");
            Exit::Failure
        };
        let base = match (admin, listen) {
            (Some(url), _) => url.trim_end_matches('/').to_owned(),
            (None, Address::Tcp(listen)) if listen.port() == 0 => {
                let error = "server.admin_listen has port 0, any free one: name the address with --admin";
                return Err(failed(error.to_owned()));
            }
            (None, Address::Tcp(listen)) => format!("http://{}", reachable(*listen)),
            (None, Address::Unix(path)) => {
                return Err(failed(format!(
                    "no browser opens a Unix socket: forward it with ssh -N -L 127.0.0.1:9001:{} HOST, and give --admin \
                     http://127.0.0.1:9001",
                    path.display()
                )));
            }
        };
        let token = std::fs::read_to_string(token_file).map_err(|error| {
            failed(AskError::Token { path: token_file.to_owned(), source: error }.to_string())
        })?;
        // Behind the #, so that no server and no proxy is ever sent it.
        let token =
            form_urlencoded::Serializer::new(String::new()).append_pair("token", token.trim()).finish();
        let line = format!("{base}/admin/#{token}\n");
        // As `print!`, which would panic when stdout is a closed pipe.
        std::io::stdout().write_all(line.as_bytes()).map_err(|_| Exit::Failure)?;
        Ok(Exit::Ok)
    }
}

/// Where a browser on this machine finds who listens on all addresses.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
