//! How a running daemon is asked: the options of every subcommand that does, the client that they make, and why there is no
//! answer. Must not know what is asked, nor where the admin endpoint and its token usually are, which are arguments.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::client::{AdminClient, ClientError, causes, with_causes};

/// How a daemon is asked and how its answer is shown.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// The daemon's admin endpoint, http://ADDRESS:PORT or unix:PATH [server.admin_listen].
    #[arg(long, value_name = "URL")]
    pub(super) admin: Option<String>,
    /// File with the admin token [admin.token in server.data_dir].
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(super) json: bool,
}

impl Options {
    /// The client for these, and the address that it asks; what they do not name is given.
    pub(super) async fn client(
        &self,
        url: &str,
        token_file: &Path,
    ) -> Result<(AdminClient, String), AskError> {
        let url = self.admin.as_deref().unwrap_or(url);
        let token_file = self.token_file.as_deref().unwrap_or(token_file);
        let token = std::fs::read_to_string(token_file)
            .map_err(|source| AskError::Token { path: token_file.to_owned(), source });
        // Without a daemon there may be no token either, and that there is none is the better thing to say.
        let client = AdminClient::new(url, token.as_deref().unwrap_or_default()).map_err(at(url))?;
        if token.is_err() {
            client.live().await.map_err(at(url))?;
        }
        token?;
        Ok((client, url.to_owned()))
    }
}

/// Why there is nothing to show. The text holds the cause, too.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("no daemon answers at {0}")]
    NoDaemon(String),
    #[error("the daemon at {0} takes no writes: its storage is unavailable")]
    NotReady(String),
    #[error("cannot read the admin token {}: {source}; give it with --token-file", path.display())]
    Token { path: PathBuf, source: io::Error },
    /// The daemon said no, or something else than JSON of its kind.
    #[error("{url}: {}", with_causes(source))]
    Client { url: String, source: ClientError },
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

pub(super) fn at(url: &str) -> impl Fn(ClientError) -> AskError {
    move |error| match error {
        ClientError::Unreachable(cause) if is_refused(&*cause) => AskError::NoDaemon(url.to_owned()),
        source => AskError::Client { url: url.to_owned(), source },
    }
}

/// Whether nobody listened, or there was no such socket. What cannot be reached for another reason is told with that reason.
fn is_refused(error: &(dyn Error + 'static)) -> bool {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| matches!(cause.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound))
}

/// The answer as JSON, or as a text for people.
pub(super) fn shown<T: Serialize>(options: &Options, answer: &T, text: impl Fn(&T) -> String) -> String {
    if options.json {
        serde_json::to_string_pretty(answer).expect("it came as JSON") + "\n"
    } else {
        text(answer)
    }
}
