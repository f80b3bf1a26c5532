//! `GET /admin/api/events`: how the daemon is, second by second, as server-sent events.
//!
//! Owns the one gatherer for all streams, which rests while there is none, and their bound. Must not know what is done with
//! the events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::sync::{broadcast, watch};

use super::{App, Failure};
use crate::limits::EVENT_STREAMS;
use crate::server::drain::Token;

/// Time between two looks at the daemon.
const EVERY: Duration = Duration::from_secs(1);
/// Silence, as while the writer hangs on its disk, after which a comment tells that the stream stands.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Events that a slow reader may be behind by; past it the oldest are left out.
const KEPT: usize = 64;

/// What streams and their gatherer share.
#[derive(Clone)]
pub struct Events {
    streams: watch::Sender<usize>,
    said: broadcast::Sender<Event>,
    token: Token,
}

/// A stream's place; dropping it gives the place back.
struct Place(watch::Sender<usize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.send_modify(|streams| *streams -= 1);
    }
}

impl Events {
    fn place(&self) -> Option<Place> {
        let taken = self.streams.send_if_modified(|streams| {
            let is_free = *streams < EVENT_STREAMS;
            *streams += usize::from(is_free);
            is_free
        });
        taken.then(|| Place(self.streams.clone()))
    }

    fn say(&self, name: &str, data: &impl Serialize) {
        match Event::default().event(name).json_data(data) {
            // The last reader may just have gone.
            Ok(event) => drop(self.said.send(event)),
            Err(error) => tracing::error!(%error, name, "an event is no JSON"),
        }
    }
}

/// Starts the gatherer, which ends at the drain.
pub fn start(app: Arc<App>, token: Token) -> Events {
    let events = Events { streams: watch::Sender::new(0), said: broadcast::Sender::new(KEPT), token };
    tokio::spawn(gather(app, events.clone()));
    events
}

async fn gather(app: Arc<App>, events: Events) {
    let mut token = events.token.clone();
    let mut streams = events.streams.subscribe();
    loop {
        tokio::select! {
            // The sender lives in the events beside it.
            _ = streams.wait_for(|streams| *streams > 0) => {}
            () = token.stopped() => return,
        }
        tokio::select! {
            () = watch(&app, &events) => {}
            _ = streams.wait_for(|streams| *streams == 0) => {}
            () = token.stopped() => return,
        }
    }
}

/// Goes on for as long as anybody reads.
async fn watch(app: &App, events: &Events) {
    let mut sweeps = app.engine.sweeps();
    // What was before nobody has waited for.
    app.engine.watch_store().await;
    loop {
        let next = app.clock.running() + EVERY;
        let (_, addresses) = app.gate.counts();
        if let Ok(status) = app.engine.status(addresses).await {
            events.say("status", &status);
        }
        events.say("store", &app.engine.watch_store().await);
        loop {
            let swept = tokio::select! {
                swept = sweeps.recv() => swept,
                () = app.clock.sleep_until(next) => break,
            };
            // Of more sweeps than are kept the oldest are left out.
            if let Ok(swept) = swept {
                events.say("swept", &swept);
            }
        }
    }
}

/// A stream of events, until the drain.
pub async fn stream(
    State(events): State<Events>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    // Before the place is taken: whoever takes the first one hears the first event.
    let said = events.said.subscribe();
    let place = events.place().ok_or_else(|| {
        let error = format!("There are {EVENT_STREAMS} streams already");
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", &error)
    })?;
    let mut token = events.token.clone();
    let told = stream::unfold((said, place), |(mut said, place)| async move {
        loop {
            match said.recv().await {
                Ok(event) => return Some((Ok(event), (said, place))),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    });
    let until = async move { token.stopped().await };
    Ok(Sse::new(told.take_until(Box::pin(until))).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}
