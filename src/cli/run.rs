//! Owns the daemon's process: its runtime, its log, its signals. Must not know what the daemon consists of.

use std::io::IsTerminal;
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use super::Exit;
use crate::config::{Log, LogFormat, Settings};
use crate::daemon::{Daemon, Reason};
use crate::limits::HTTP_CONNECTIONS;

/// Descriptors beside the sockets': listeners, HTTP connections, the store.
const SPARE_DESCRIPTORS: usize = HTTP_CONNECTIONS + 1024;

/// Runs the daemon until a signal or until a part of it ends.
pub(super) fn run(settings: Settings) -> ExitCode {
    log_to_stderr(&settings.log);
    raise_descriptor_limit(&settings);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "cannot start threads");
            return Exit::Failure.into();
        }
    };
    let exit = runtime.block_on(serve(settings));
    // The daemon has ended everything that matters; what still blocks must not hold up the exit.
    runtime.shutdown_background();
    exit
}

async fn serve(settings: Settings) -> ExitCode {
    // Before the start, so that a signal in the midst of it ends in an orderly shutdown too.
    let (mut terminate, mut interrupt) =
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            (Err(error), _) | (_, Err(error)) => {
                error!(%error, "cannot listen for signals");
                return Exit::Failure.into();
            }
        };
    let mut daemon = match Daemon::bind(settings).await {
        Ok(daemon) => daemon,
        Err(error) => {
            error!("{error}");
            return ExitCode::from(error.exit_code());
        }
    };
    let addresses = daemon.addresses();
    info!(listen = %addresses.public, admin_listen = %addresses.admin, "listening");

    let exit = tokio::select! {
        name = first(&mut terminate, &mut interrupt) => {
            info!(signal = name, "shutting down");
            Exit::Ok
        }
        reason = daemon.join() => match reason {
            Reason::Asked => {
                info!("shutting down, as the operator asked");
                Exit::Ok
            }
            Reason::Broken => {
                error!("a part of the daemon ended by itself; shutting down the rest");
                Exit::Failure
            }
        }
    };
    daemon.shutdown().await;
    exit.into()
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

async fn first(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

fn log_to_stderr(log: &Log) {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&log.level))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match log.format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().init(),
    }
}
