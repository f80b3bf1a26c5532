//! Owns the daemon's process: its runtime, its log, its signals. Must not know what the daemon consists of, nor how its
//! service manager is spoken to.

use std::io::IsTerminal;
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::{Exit, service};
use crate::config::{Log, LogFormat, Settings, Sources};
use crate::daemon::{Daemon, Reason, Surroundings};
use crate::limits::HTTP_CONNECTIONS;
use crate::logging::LogLevel;

/// Descriptors beside the sockets': listeners, HTTP connections, the store.
const SPARE_DESCRIPTORS: usize = HTTP_CONNECTIONS + 1024;

/// Runs the daemon until a signal or until a part of it ends; `sources` are read again at each SIGHUP.
pub(super) fn run(settings: Settings, sources: &Sources) -> ExitCode {
    let log_level = log_to_stderr(&settings.log);
    // Before there are threads, which may not look at the environment meanwhile.
    let inherited = match service::inherited() {
        Ok(inherited) => inherited,
        Err(error) => {
            error!("{error}");
            return Exit::Usage.into();
        }
    };
    raise_descriptor_limit(&settings);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "cannot start threads");
            return Exit::Failure.into();
        }
    };
    let surroundings = Surroundings { inherited, log_level: log_level.clone(), ..Surroundings::default() };
    let exit = runtime.block_on(async {
        // Before the start, so that a signal in the midst of it ends in an orderly shutdown too.
        match Signals::listen() {
            Ok(signals) => serve(settings, surroundings, sources, &log_level, signals).await,
            Err(error) => {
                error!(%error, "cannot listen for signals");
                Exit::Failure.into()
            }
        }
    });
    // The daemon has ended everything that matters; what still blocks must not hold up the exit.
    runtime.shutdown_background();
    exit
}

async fn serve(
    settings: Settings,
    surroundings: Surroundings,
    sources: &Sources,
    log_level: &LogLevel,
    mut signals: Signals,
) -> ExitCode {
    let mut daemon = match Daemon::bind_in(settings, surroundings).await {
        Ok(daemon) => daemon,
        Err(error) => {
            error!("{error}");
            return ExitCode::from(error.exit_code());
        }
    };
    let addresses = daemon.addresses();
    info!(listen = %addresses.public, admin_listen = %addresses.admin, "listening");
    service::ready(&addresses);
    let mut watchdog = std::pin::pin!(service::watchdog(daemon.engine().clone()));

    let exit = loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::End(signal) => {
                    info!(signal, "shutting down");
                    break Exit::Ok;
                }
                Asked::Reload => {
                    service::reloading();
                    reload(&mut daemon, sources, log_level);
                    service::ready(&addresses);
                }
            },
            reason = daemon.join() => match reason {
                Reason::Asked => {
                    info!("shutting down, as the operator asked");
                    break Exit::Ok;
                }
                Reason::Broken => {
                    error!("a part of the daemon ended by itself; shutting down the rest");
                    break Exit::Failure;
                }
            },
            () = &mut watchdog => {}
        }
    };
    service::stopping();
    daemon.shutdown().await;
    exit.into()
}

/// Reads settings and certificate again; all of it takes effect, or nothing.
fn reload(daemon: &mut Daemon, sources: &Sources, log_level: &LogLevel) {
    let reloaded = Settings::load(sources)
        .map_err(|error| error.to_string().replace('\n', "; "))
        .and_then(|read| daemon.reload(read).map_err(|error| error.to_string()));
    let changes = match reloaded {
        Ok(changes) => changes,
        Err(error) => return error!("nothing has been reloaded: {error}"),
    };
    if changes.applied.iter().any(|name| name == "log.level")
        && let Err(error) = log_level.set(&daemon.settings().log.level)
    {
        error!(%error, "the log's level cannot be set");
    }
    raise_descriptor_limit(daemon.settings());
    info!(changed = changes.applied.join(", "), "reloaded");
    if !changes.need_restart.is_empty() {
        warn!(changed = changes.need_restart.join(", "), "these settings have changed and need a restart");
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal asks for.
enum Asked {
    End(&'static str),
    Reload,
}

impl Signals {
    fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End("SIGTERM"),
            _ = self.interrupt.recv() => Asked::End("SIGINT"),
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}

/// A socket takes a descriptor. What the operating system gives at first is often less than it would give.
fn raise_descriptor_limit(settings: &Settings) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    let wanted = (settings.connections.max_connections + SPARE_DESCRIPTORS) as u64;
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted.min(most));
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            warn!(%error, "cannot raise the limit of open files");
        }
    }
    if most < wanted {
        warn!(
            most,
            wanted, "the limit of open files is below limits.max_connections and what else is needed"
        );
    }
}

fn log_to_stderr(log: &Log) -> LogLevel {
    let (filter, level) = LogLevel::new(&log.level);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let lines = match log.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    level
}
