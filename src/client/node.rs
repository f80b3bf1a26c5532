//! A node: a peer that registers itself and stays registered.
//!
//! Owns when to register, when the next heartbeat is due, and the pauses after failures. Must not know how requests
//! travel: that is `bootstrap.rs`.
#![allow(clippy::disallowed_methods, reason = "a client is an edge: it waits in real time")]

use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::bootstrap::{BootstrapClient, PeerRegistration};
use super::{ClientError, with_causes};

/// Longer than any registry should ask a node to stay away.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// How a node behaves; the default suits most.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The registrationToken of an earlier run.
    pub token: Option<String>,
    /// The pause after the first failure, 1 s; it doubles from one to the next.
    pub first_pause: Duration,
    /// What it grows to, 60 s: less than a peer's TTL, so that an outage of the network alone expires nobody.
    pub longest_pause: Duration,
    /// Heartbeats are not sent more often than this, 1 s, whatever the registry advises.
    pub shortest_period: Duration,
}

impl Default for NodeOptions {
    fn default() -> NodeOptions {
        NodeOptions {
            token: None,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
            shortest_period: Duration::from_secs(1),
        }
    }
}

impl NodeOptions {
    /// How long to wait after so many failures in a row, the last of which is `error`. `jitter` is 0 to 1. Whoever is
    /// told to wait waits that long first (an hour at most), so that those who were told the same do not come together.
    pub(super) fn pause(&self, failures: u32, error: &ClientError, jitter: f64) -> Duration {
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1));
        let pause = self.first_pause.saturating_mul(doubled).min(self.longest_pause);
        let told = error.retry_after().unwrap_or_default().min(LONGEST_RETRY_AFTER);
        told + pause.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
    }
}

/// How a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// The first request is under way.
    Starting,
    /// The registry has answered: the registration, and since then so many heartbeats.
    Registered { heartbeats: u64 },
    /// So many requests in a row have failed, the last one for this reason; the next one is made after the pause. The
    /// peer may be registered still.
    Retrying { failures: u32, reason: String, pause: Duration },
    /// It asks nothing any more.
    Stopped,
}

/// A peer that registers, sends heartbeats in the period that the registry advises, registers again when the registry
/// does not know it (any more), and tries again after a growing pause when a request fails. Dropping it ends that, and
/// the peer expires in time; [`Node::stop`] removes it at once.
#[derive(Debug)]
pub struct Node {
    client: BootstrapClient,
    peer_id: String,
    state: watch::Receiver<NodeState>,
    token: watch::Receiver<Option<String>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Node {
    /// Starts a task on the current runtime, and panics where there is none. It returns at once: [`Node::state`] tells
    /// how it goes.
    pub fn start(client: BootstrapClient, registration: PeerRegistration) -> Node {
        Node::start_with(client, registration, NodeOptions::default())
    }

    /// [`Node::start`] with other options.
    pub fn start_with(client: BootstrapClient, registration: PeerRegistration, options: NodeOptions) -> Node {
        let (state, watched) = watch::channel(NodeState::Starting);
        let (token, kept) = watch::channel(options.token.clone());
        let (stop, stopped) = oneshot::channel();
        let peer_id = registration.peer_id.clone();
        let keeper = Keeper { client: client.clone(), registration, options, state, token };
        let task = tokio::spawn(keeper.run(stopped));
        Node { client, peer_id, state: watched, token: kept, stop, task }
    }

    /// Its state, as it changes.
    pub fn state(&self) -> watch::Receiver<NodeState> {
        self.state.clone()
    }

    /// Proves that the peerId is its own. A node that keeps it over its own restart can show it then.
    pub fn registration_token(&self) -> Option<String> {
        self.token.borrow().clone()
    }

    /// Waits for the request under way, if there is one, and then leaves the registry if the node has a token. Returns
    /// whether it left: without a token, the peer expires in time. Fails as [`BootstrapClient::leave`] does, but not
    /// for a peer that is unknown already; the node has stopped in any case.
    pub async fn stop(self) -> Result<bool, ClientError> {
        // The task may have ended with its runtime.
        let _ = self.stop.send(());
        let _ = self.task.await;
        let token = self.token.borrow().clone();
        match token {
            Some(token) => self.client.gone(&self.peer_id, &token).await.map(|()| true),
            None => Ok(false),
        }
    }
}

/// The node's task.
struct Keeper {
    client: BootstrapClient,
    registration: PeerRegistration,
    options: NodeOptions,
    state: watch::Sender<NodeState>,
    token: watch::Sender<Option<String>>,
}

impl Keeper {
    /// Until it is told to stop, or the node is dropped.
    async fn run(self, mut stop: oneshot::Receiver<()>) {
        // None: the registry does not know this peer.
        let mut period = None;
        let (mut heartbeats, mut failures) = (0, 0);
        loop {
            // Once begun a request is waited for: its answer may be the only one with a token.
            let pause = match self.ask(period).await {
                Ok(Some(advised)) => {
                    heartbeats = if period.is_some() { heartbeats + 1 } else { 0 };
                    failures = 0;
                    period = Some(advised);
                    self.state.send_replace(NodeState::Registered { heartbeats });
                    advised
                }
                Ok(None) => {
                    tracing::debug!(
                        peer = self.registration.peer_id,
                        "unknown to the registry: registering again"
                    );
                    period = None;
                    Duration::ZERO
                }
                Err(error) => {
                    failures += 1;
                    let pause = self.options.pause(failures, &error, rand::random_range(0.0..=1.0));
                    let reason = with_causes(&error);
                    tracing::debug!(peer = self.registration.peer_id, reason, ?pause, "trying again later");
                    self.state.send_replace(NodeState::Retrying { failures, reason, pause });
                    pause
                }
            };
            tokio::select! {
                // An error is a node that was dropped.
                _ = &mut stop => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.state.send_replace(NodeState::Stopped);
    }

    /// Registers, or sends a heartbeat where there is a period already. Returns the period; none where the registry
    /// does not know the peer.
    async fn ask(&self, period: Option<Duration>) -> Result<Option<Duration>, ClientError> {
        if period.is_some() {
            return Ok(self.client.heard(&self.registration.peer_id).await?.and(period));
        }
        let token = self.token.borrow().clone();
        let registered = self.client.register(&self.registration, token.as_deref()).await?;
        if let Some(fresh) = registered.registration_token {
            self.token.send_replace(Some(fresh));
        }
        let advised = Duration::from_millis(registered.heartbeat_interval_ms);
        Ok(Some(advised.max(self.options.shortest_period)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_with_jitter_up_to_a_ceiling_and_are_added_to_what_the_server_asks() {
        let options = NodeOptions::default();
        let pause = |failures, error: &ClientError, jitter| options.pause(failures, error, jitter);
        let seconds = Duration::from_secs_f64;
        let plain = ClientError::Timeout;
        assert_eq!(pause(1, &plain, 0.0), seconds(0.5));
        assert_eq!(pause(1, &plain, 1.0), seconds(1.0));
        assert_eq!(pause(4, &plain, 1.0), seconds(8.0));
        assert_eq!(pause(4, &plain, 0.5), seconds(6.0));
        assert_eq!(pause(7, &plain, 1.0), seconds(60.0));
        assert_eq!(pause(u32::MAX, &plain, 0.0), seconds(30.0));
        let busy =
            |retry_after| ClientError::Busy { message: String::new(), code: String::new(), retry_after };
        assert_eq!(pause(1, &busy(seconds(5.0)), 0.0), seconds(5.5));
        assert_eq!(pause(3, &busy(seconds(5.0)), 1.0), seconds(9.0));
        assert_eq!(pause(1, &busy(Duration::MAX), 1.0), seconds(3601.0));
    }
}
