//! Owns the settings: which sections there are, where their values come from and which source beats which, and how
//! they are printed. Must not know what anybody does with them.

mod contradictions;
mod print;
mod reload;

use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};
use ipnet::IpNet;

use crate::limits::{
    ChunkRules, ConnectionLimits, DirectoryRules, Drain, Key, Limits, LinkRules, Liveness, PairingRules,
    PeerRules, RelayRules, RendezvousRules, Rule, Setting, Sweep, TurnRules, Visitor, section, words,
};
use crate::logging::{LEVEL, is_level};
use crate::server::listen::Address;
use print::Printer;
pub use reload::{Changes, RELOADED};

section! {
    /// Addresses, data and identity of the daemon.
    server: Server {
        /// Address that peers connect to, or "unix:" and the path of a socket; port 0 = any free port.
        listen: Address = Address::from(([127, 0, 0, 1], 9000));
        /// Address of the admin endpoint, which needs the token in data_dir/admin.token but speaks plain HTTP: keep it on loopback, or on a socket as "unix:" and its path.
        admin_listen: Address = Address::from(([127, 0, 0, 1], 9001));
        /// Whether the admin endpoint shows addresses of clients as networks alone: /24 of IPv4, /48 of IPv6.
        admin_blur_addresses: bool = false;
        /// Directory of the store and of the server's key.
        data_dir: PathBuf = PathBuf::from("data"), Rule::That("a path that is not empty", |path| path != Path::new(""));
        /// File with the certificate for listen and those above it, as PEM; empty = no TLS.
        tls_cert: PathBuf = PathBuf::new();
        /// File with that certificate's private key, as PEM.
        tls_key: PathBuf = PathBuf::new();
        /// URL that peers are told in server_info; empty = "ws://", with TLS "wss://", and the listen address.
        public_endpoint: String = String::new();
        /// Region that peers are told in server_info; empty = none.
        region: String = String::new();
        /// Networks of the proxies whose X-Forwarded-For and Forwarded headers are believed.
        trusted_proxies: Vec<IpNet> = Vec::new();
        /// Whether those proxies, and nobody else, connect to listen, with a PROXY header (version 2) in front of each connection; not without such proxies, unless listen is a socket.
        proxy_protocol: bool = false;
    }
}

section! {
    /// Logging, to stderr.
    log: Log {
        /// "text" for people, "json" for machines.
        format: LogFormat = LogFormat::Text;
        /// Least level that is logged: off, error, warn, info, debug or trace; may be given by module, as in "info,waypost::store=debug".
        level: String = "info".to_owned(), Rule::That(LEVEL, |level| is_level(level));
        /// Whether the log names clients by their addresses and ids; else by a keyed hash that is another one each day.
        identities: bool = false;
        /// Whether lines of abuse have the address as it is, for fail2ban, also without log.identities.
        abuse_addresses: bool = false;
    }
}

impl Server {
    /// What server_info tells as `endpoint` (signalling, section 1) when the daemon listens on `address`.
    pub fn endpoint(&self, address: &Address) -> String {
        let scheme = if self.tls().is_some() { "wss" } else { "ws" };
        match address {
            _ if !self.public_endpoint.is_empty() => self.public_endpoint.clone(),
            Address::Tcp(address) => format!("{scheme}://{address}"),
            Address::Unix(_) => format!("{scheme}+{address}"),
        }
    }

    /// The certificate and its key, where TLS is spoken.
    pub fn tls(&self) -> Option<(&Path, &Path)> {
        (!self.tls_cert.as_os_str().is_empty()).then_some((&self.tls_cert, &self.tls_key))
    }

    /// What server_info tells as `region` (signalling, section 1).
    pub fn region(&self) -> Option<&str> {
        (!self.region.is_empty()).then_some(&self.region)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum LogFormat {
    Text,
    Json,
}

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub server: Server,
    pub log: Log,
    /// The section `limits`.
    pub connections: ConnectionLimits,
    pub liveness: Liveness,
    pub relays: RelayRules,
    pub rendezvous: RendezvousRules,
    pub pairing: PairingRules,
    pub chunks: ChunkRules,
    pub peers: PeerRules,
    pub turn: TurnRules,
    pub directory: DirectoryRules,
    pub link: LinkRules,
    pub sweep: Sweep,
    pub drain: Drain,
}

impl Settings {
    /// Reads settings: defaults, beaten by the file, beaten by the environment, beaten by flags.
    ///
    /// # Errors
    /// Every fault of every value that would take effect, and every key and section that does not exist.
    pub fn load(sources: &Sources) -> Result<Self, SettingsError> {
        let mut problems = sources.unreadable.clone();
        let mut figment = Figment::new();
        if let Some(path) = &sources.file {
            let file = Toml::file_exact(path);
            match file.data() {
                Ok(_) => figment = figment.merge(file),
                Err(error) => problems.push(Problem {
                    key: String::new(),
                    origin: path.display().to_string(),
                    message: in_one_line(&error.to_string()),
                }),
            }
        }
        for given in sources.environment.iter().chain(&sources.flags) {
            figment = figment.merge(given);
        }
        let given = figment.find_value("").ok().and_then(Value::into_dict).unwrap_or_default();

        let mut settings = Self::default();
        let mut reader = Reader { figment, given, known: Map::new(), problems };
        settings.visit(&mut reader);
        reader.report_left_over();
        settings.report_contradictions(&mut reader);
        let problems = reader.problems;
        if problems.is_empty() { Ok(settings) } else { Err(SettingsError { problems }) }
    }

    /// What the lower layers are handed.
    pub fn limits(&self) -> Limits {
        let Self {
            connections,
            liveness,
            relays,
            rendezvous,
            pairing,
            chunks,
            peers,
            turn,
            mut directory,
            link,
            sweep,
            drain,
            ..
        } = self.clone();
        directory.allow_private |= self.server.listen.is_loopback();
        Limits {
            connections,
            liveness,
            relays,
            rendezvous,
            pairing,
            chunks,
            peers,
            turn,
            directory,
            link,
            sweep,
            drain,
        }
    }

    /// Every section and key with its doc comment, as a TOML file that reads back as these settings.
    pub fn to_toml_with_comments(&self) -> String {
        let mut printer = Printer::default();
        self.clone().visit(&mut printer);
        printer.toml
    }

    fn visit(&mut self, visitor: &mut impl Visitor) {
        self.server.visit(visitor);
        self.log.visit(visitor);
        self.connections.visit(visitor);
        self.liveness.visit(visitor);
        self.relays.visit(visitor);
        self.rendezvous.visit(visitor);
        self.pairing.visit(visitor);
        self.chunks.visit(visitor);
        self.peers.visit(visitor);
        self.turn.visit(visitor);
        self.directory.visit(visitor);
        self.link.visit(visitor);
        self.sweep.visit(visitor);
        self.drain.visit(visitor);
    }
}

/// Where settings are read from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    file: Option<PathBuf>,
    environment: Vec<Given>,
    flags: Vec<Given>,
    unreadable: Vec<Problem>,
}

impl Sources {
    /// The TOML file to read.
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// The environment to read: `WAYPOST_<SECTION>__<KEY>`. Others are ignored, also such as the `WAYPOST_PORT` that
    /// Kubernetes sets for a service named waypost.
    pub fn environment<N: Into<OsString>, V: Into<OsString>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        for (name, text) in variables {
            let Ok(name) = name.into().into_string() else { continue };
            let path = name.strip_prefix("WAYPOST_").and_then(|rest| rest.split_once("__"));
            let Some((section, key)) = path else { continue };
            let (section, key) = (section.to_lowercase(), key.to_lowercase());
            let origin = format!("environment variable {name}");
            match text.into().into_string() {
                Ok(text) => self.environment.push(Given { origin, section, key, text }),
                Err(_) => {
                    let (key, message) = (format!("{section}.{key}"), "expected UTF-8".to_owned());
                    self.unreadable.push(Problem { key, origin, message });
                }
            }
        }
        self
    }

    /// A flag of the command line that sets `key` of `section`; of two with the same key the later one wins.
    pub fn flag(mut self, flag: &str, section: &str, key: &str, text: &str) -> Self {
        let [section, key, text] = [section, key, text].map(str::to_owned);
        self.flags.push(Given { origin: format!("flag {flag}"), section, key, text });
        self
    }
}

/// All that is wrong with the settings, a line each.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct SettingsError {
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, environment variable or flag, or "default".
    pub origin: String,
    /// `section.key`, `section`, or empty when it is the whole file.
    pub key: String,
    /// What was expected, and what was found.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, key, message } = self;
        let colon = if key.is_empty() { "" } else { ": " };
        // TOML has keys of several lines, and a variable any name.
        format!("{origin}: {key}{colon}{message}").chars().try_for_each(|char| match char {
            char if char.is_control() => write!(f, "{}", char.escape_default()),
            char => f.write_char(char),
        })
    }
}

/// One value as an environment variable or a flag gives it: text, whatever the kind of its key.
#[derive(Clone, Debug)]
struct Given {
    origin: String,
    section: String,
    key: String,
    text: String,
}

impl Provider for &Given {
    fn metadata(&self) -> Metadata {
        Metadata::from("text", self.origin.as_str())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let key = Dict::from([(self.key.clone(), Value::from(self.text.as_str()))]);
        Ok(Profile::Default.collect(Dict::from([(self.section.clone(), Value::from(key))])))
    }
}

/// Takes each declared key out of what was given; what is left then is unknown.
struct Reader {
    figment: Figment,
    given: Dict,
    known: Map<&'static str, Vec<&'static str>>,
    problems: Vec<Problem>,
}

impl Visitor for Reader {
    fn section(&mut self, name: &'static str, _doc: &'static [&'static str]) {
        self.known.insert(name, Vec::new());
    }

    fn key<T: Setting>(&mut self, key: Key<T>, value: &mut T) {
        self.known.entry(key.section).or_default().push(key.name);
        let Some(Value::Dict(_, section)) = self.given.get_mut(key.section) else { return };
        let Some(given) = section.remove(key.name) else { return };
        let metadata = self.figment.get_metadata(given.tag());
        let from_file = matches!(metadata.and_then(|it| it.source.as_ref()), Some(Source::File(_)));
        let read = match &given {
            Value::String(_, text) if !from_file => T::from_text(text),
            _ => T::from_toml(&given),
        };
        match read.ok_or_else(|| T::EXPECTED.to_owned()).and_then(|read| key.rule.check(read)) {
            Ok(read) => *value = read,
            Err(expected) => {
                let message = format!("expected {expected}, found {}", given.to_actual());
                self.report(format!("{}.{}", key.section, key.name), &given, message);
            }
        }
    }
}

impl Reader {
    fn report_left_over(&mut self) {
        let sections = self.known.keys().copied().collect::<Vec<_>>().join(", ");
        for (section, value) in std::mem::take(&mut self.given) {
            let keys = self.known.get(section.as_str()).map(|keys| keys.join(", "));
            match (keys, &value) {
                (None, _) => {
                    self.report(section, &value, format!("unknown section, expected one of {sections}"));
                }
                (Some(keys), Value::Dict(_, unknown)) => {
                    for (key, value) in unknown {
                        let message = format!("unknown key, expected one of {keys}");
                        self.report(format!("{section}.{key}"), value, message);
                    }
                }
                (Some(_), _) => {
                    let message = format!("expected a section, found {}", value.to_actual());
                    self.report(section, &value, message);
                }
            }
        }
    }

    fn report(&mut self, key: String, value: &Value, message: String) {
        let origin = origin(self.figment.get_metadata(value.tag()));
        self.problems.push(Problem { origin, key, message });
    }
}

fn origin(metadata: Option<&Metadata>) -> String {
    match metadata.and_then(|it| it.source.as_ref()) {
        Some(Source::File(path)) => path.display().to_string(),
        Some(source) => source.to_string(),
        None => "default".to_owned(),
    }
}

/// The place and the reason out of what the TOML parser says over several lines, with a drawing.
fn in_one_line(message: &str) -> String {
    let is_drawn =
        |line: &str| line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit()).starts_with('|');
    message.lines().filter(|line| !is_drawn(line)).collect::<Vec<_>>().join(": ")
}

words!(LogFormat, r#""text" or "json""#: Text = "text", Json = "json");
