//! `waypost status --watch`: the status again and again, with how much happened in between. Owns the rhythm, the rates and
//! the redrawing. Must not know what the table of a status has.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::asking::{AskError, at};
use super::status::status;
use crate::client::AdminClient;
use crate::clock::rest;
use crate::wire::admin::Status;

/// To the first column of the first line; what was there goes.
const HOME_AND_CLEAR: &str = "\x1b[H\x1b[2J";

/// Until Ctrl-C. A daemon that does not answer is waited for: it may be restarting.
pub(super) async fn watch(client: &AdminClient, every: Duration, json: bool) -> Result<(), AskError> {
    let is_terminal = io::stdout().is_terminal();
    let mut before: Option<Status> = None;
    // One for all the time: what comes between two waits counts, too.
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        let asked = tokio::select! {
            asked = client.status() => asked,
            _ = interrupt.recv() => return Ok(()),
        };
        let text = match asked {
            Ok(now) => {
                let text = if json {
                    serde_json::to_string(&now).expect("it came as JSON") + "\n"
                } else {
                    format!(
                        "{}{}\n",
                        status(&now),
                        before.as_ref().map_or(String::new(), |before| rates(before, &now))
                    )
                };
                before = Some(now);
                text
            }
            Err(error) => {
                let error = at(client.base())(error);
                // The token is another one, or this is no admin endpoint: waiting will not help.
                if before.is_none() {
                    return Err(error);
                }
                if json { String::new() } else { format!("{error}\n") }
            }
        };
        let clear = if is_terminal && !json { HOME_AND_CLEAR } else { "" };
        let mut stdout = io::stdout();
        stdout.write_all(format!("{clear}{text}").as_bytes())?;
        stdout.flush()?;
        tokio::select! {
            () = rest(every) => {}
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

/// What happened between two looks, by the daemon's own clock.
fn rates(before: &Status, now: &Status) -> String {
    let seconds = now.now.saturating_sub(before.now) as f64 / 1000.0;
    if seconds <= 0.0 || now.boot != before.boot {
        return String::new();
    }
    let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
    let (engine, was) = (&now.engine, &before.engine);
    let busy = (engine.writer_busy_seconds - was.writer_busy_seconds) / seconds;
    format!(
        " a second         {:.0} requests in {:.0} drains; {:.0} rows; {:.0} swept; {:.0} refused as overload; writer busy {:.0} %\n",
        rate(engine.requests, was.requests),
        rate(engine.drains, was.drains),
        rate(now.store.rows, before.store.rows),
        rate(engine.swept, was.swept),
        rate(engine.overloaded, was.overloaded),
        100.0 * busy,
    )
}
