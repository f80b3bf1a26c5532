//! The engine: the only place where the store, the registries and what is live meet.
//!
//! Owns the way of a request: a bounded queue, one writer thread, one flusher thread, the promise that an answer
//! keeps, and effects after the commit. Must not know HTTP or WebSocket.

mod actions;
mod alarm;
pub mod backup;
mod bootstrap;
mod chunks;
mod directory;
mod flusher;
mod inspect;
mod link;
mod loads;
mod pairing;
mod pending;
mod promise;
mod shown;
mod signalling;
mod sweeper;
mod turn;
mod watched;
mod writer;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError, mpsc};
use std::time::Duration;

use rand::rngs::StdRng;
use tokio::sync::{Notify, oneshot, watch};

use crate::clock::{Clock, Millis};
use crate::id::SocketId;
use crate::limits::{ENGINE_QUEUE, Limits};
use crate::live::announcements::Announcements;
use crate::live::chunks::ChunkRelay;
use crate::live::hub::Hub;
use crate::live::link::Links;
use crate::live::outbox::{Budget, Ceiling, Close, Outbox};
use crate::live::pairing::Pairing;
use crate::logging::Blur;
use crate::metrics::Metrics;
use crate::registry::Boot;
use crate::store::{Changes, Faults, OpenError, Pins, Store, StoreError};
use turn::{Core, Effect, Taken, Turn};

pub use crate::registry::peers::{Claimant, Filter, Listed};
pub use bootstrap::{ListedTurn, PeerPage, PeerStretch};
pub use directory::Proof;
pub use inspect::{Checked, LeaseQuery};
pub use link::{ClaimQuery, Held};
pub use promise::{Promise, Unavailable};

/// What the engine is started with.
pub struct Options {
    /// The folder of the store.
    pub store: PathBuf,
    pub limits: Limits,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    /// Seeded from the operating system, or by a test.
    pub rng: StdRng,
    pub faults: Faults,
    /// What this server calls itself to clients.
    pub server_id: String,
    /// How the log names leases.
    pub blur: Blur,
}

/// The handle that sessions and routes hold. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

/// What the handle, the writer, the flusher and the sweeper share.
struct Shared {
    commands: mpsc::Sender<Command>,
    /// Requests sent and not yet taken by the writer.
    waiting: AtomicUsize,
    /// What the writer's turns find and leave. Others may look while it takes none.
    core: Arc<Mutex<Core>>,
    /// `None` while the store is closed after a failure.
    store: RwLock<Option<Store>>,
    /// Whether writes are taken.
    ready: AtomicBool,
    clock: Clock,
    metrics: Arc<Metrics>,
    limits: Limits,
    boot: Boot,
    /// Until then, in running time, nothing is removed: the clock may be wrong.
    spared_until: Duration,
    server_id: String,
    blur: Blur,
    budget: Arc<Budget>,
    /// Whether [`Engine::relieve`] has asked and was not heard yet.
    relieving: AtomicBool,
    sockets: AtomicU64,
    undecodable: AtomicUsize,
    sweeper: sweeper::Signals,
    watched: watched::Watched,
    /// When something that is live ends by itself, in running time.
    next_ring: watch::Sender<Option<Duration>>,
    /// Loads of relays have changed.
    loads: Notify,
    /// The sweeper, the alarm and what writes loads.
    tasks: Mutex<Vec<tokio::task::AbortHandle>>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    /// Rises with each storage failure, while the store is locked for writing: what was committed in an earlier epoch
    /// and not flushed does not count.
    epoch: AtomicU64,
    /// Whether a part of the engine has ended.
    ended: watch::Sender<bool>,
}

/// Tells that a part of the engine has ended, by a panic too: without it the rest is of no use.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ready.store(false, Ordering::Relaxed);
        self.0.ended.send_replace(true);
    }
}

type Answer = Box<dyn FnOnce(Result<(), Unavailable>) + Send>;
type Work = Box<dyn FnOnce(Result<&mut Turn<'_>, Unavailable>) -> Answer + Send>;

/// A request on its way to the writer.
struct Job {
    promise: Promise,
    work: Work,
    /// Whether it counts for the queue's bound.
    bounded: bool,
}

enum Command {
    Run(Job),
    /// The flush of this epoch failed.
    FlushFailed(u64),
    /// The flusher has nothing to do, and the writer wanted to hear of it.
    Flushed,
    Stop,
}

impl Shared {
    /// As [`Engine::run`], past the queue's bound: for what must not be lost and cannot be repeated at will.
    fn submit<A: Send + 'static>(
        &self,
        promise: Promise,
        request: impl FnOnce(&mut Turn<'_>) -> A + Send + 'static,
    ) -> oneshot::Receiver<Result<A, Unavailable>> {
        self.enqueue(promise, request, false)
    }

    fn enqueue<A: Send + 'static>(
        &self,
        promise: Promise,
        request: impl FnOnce(&mut Turn<'_>) -> A + Send + 'static,
        bounded: bool,
    ) -> oneshot::Receiver<Result<A, Unavailable>> {
        let (answer, receiver) = oneshot::channel();
        let work: Work = Box::new(move |turn| match turn {
            Ok(turn) => {
                let result = request(turn);
                // An asker that has gone away does not need its answer.
                Box::new(move |kept: Result<(), Unavailable>| drop(answer.send(kept.map(|()| result))))
            }
            Err(why) => Box::new(move |_| drop(answer.send(Err(why)))),
        });
        self.waiting.fetch_add(usize::from(bounded), Ordering::Relaxed);
        // Without a writer the work is dropped, and with it the sender: the receiver fails.
        let _ = self.commands.send(Command::Run(Job { promise, work, bounded }));
        receiver
    }
}

impl Engine {
    /// Opens the store, folds it, and starts the threads and the sweeper. Needs a tokio runtime.
    pub fn start(options: Options) -> Result<Engine, OpenError> {
        let Options { store: path, limits, clock, metrics, rng, faults, server_id, blur } = options;
        let store = Store::open(&path, faults.clone())?;
        let grace = limits.relays.restart_grace.as_millis() as Millis;
        let damaged =
            |error: StoreError| OpenError::Damaged { path: path.clone(), reason: error.to_string() };
        let live_since = store.live_since().map_err(damaged)?;
        let mut boot = Boot { number: store.boot(), live_since, grace_end: Millis::MAX };
        let (mut registries, folded) =
            writer::fold(&store, boot, &limits, &blur, clock.now()).map_err(damaged)?;
        let spared_until = sweeper::spare(&clock, folded.newest, limits.relays.restart_grace);
        // The graces begin when somebody could come back.
        boot.grace_end = clock.now() + grace;
        registries.begin(boot);
        let mut changes = Changes::default();
        registries.claims.restart(clock.now(), &mut changes);
        if !changes.is_empty() {
            let written = store.commit(&changes).and_then(|()| store.flush());
            written.map_err(|error| OpenError::of(&path, error))?;
        }
        let undecodable = folded.undecodable.len();
        metrics.undecodable.set(undecodable as i64);
        let (commands, inbox) = mpsc::channel();
        let budget = Budget::new(limits.connections.outbox_total_bytes, metrics.clone());
        let links = Links::new(&limits.link, budget.clone(), metrics.clone());
        let (pairing, chunks) =
            (Pairing::new(limits.pairing.clone()), ChunkRelay::new(limits.chunks.pull_timeout));
        let core = Core {
            registries,
            hub: Hub::default(),
            links,
            pairing,
            chunks,
            announcements: Announcements::default(),
            rng,
            pins: Pins::default(),
            draining: false,
        };
        let shared = Arc::new(Shared {
            commands,
            core: Arc::new(Mutex::new(core)),
            waiting: AtomicUsize::new(0),
            store: RwLock::new(Some(store)),
            ready: AtomicBool::new(true),
            clock,
            metrics,
            limits,
            boot,
            spared_until,
            server_id,
            blur,
            budget,
            relieving: AtomicBool::new(false),
            sockets: AtomicU64::new(0),
            undecodable: AtomicUsize::new(undecodable),
            sweeper: sweeper::Signals::default(),
            watched: watched::Watched::default(),
            next_ring: watch::Sender::new(None),
            loads: Notify::new(),
            tasks: Mutex::default(),
            threads: Mutex::default(),
            epoch: AtomicU64::new(1),
            ended: watch::Sender::new(false),
        });
        let threads = writer::start(shared.clone(), inbox, path, faults);
        *shared.threads.lock().unwrap_or_else(PoisonError::into_inner) = threads;
        let engine = Engine(shared);
        let sweeper = tokio::spawn(sweeper::run(engine.clone()));
        let alarm = tokio::spawn(alarm::run(engine.clone()));
        let loads = tokio::spawn(loads::run(engine.clone()));
        *engine.0.tasks.lock().unwrap_or_else(PoisonError::into_inner) =
            vec![sweeper.abort_handle(), alarm.abort_handle(), loads.abort_handle()];
        Ok(engine)
    }

    /// Runs a request in the writer thread; the answer arrives when its promise is kept.
    async fn run<A: Send + 'static>(
        &self,
        promise: Promise,
        request: impl FnOnce(&mut Turn<'_>) -> A + Send + 'static,
    ) -> Result<A, Unavailable> {
        if self.0.waiting.load(Ordering::Relaxed) >= ENGINE_QUEUE {
            self.0.metrics.overloaded.inc();
            return Err(Unavailable::Overloaded);
        }
        self.0.enqueue(promise, request, true).await.unwrap_or(Err(Unavailable::Stopped))
    }

    /// Runs a request that writes no rows and tells nobody else: where the asker is and at once, unless the writer is taking
    /// its turns just now.
    async fn look<A: Send + 'static>(
        &self,
        request: impl FnOnce(&mut Turn<'_>) -> A + Send + 'static,
    ) -> Result<A, Unavailable> {
        let found = match self.0.core.try_lock() {
            Ok(mut core) => Ok(self.look_at(&mut core, request)),
            Err(TryLockError::Poisoned(_)) => return Err(Unavailable::Stopped),
            Err(TryLockError::WouldBlock) => Err(request),
        };
        match found {
            Ok(answer) => Ok(answer),
            Err(request) => self.run(Promise::None, request).await,
        }
    }

    fn look_at<A>(&self, core: &mut Core, request: impl FnOnce(&mut Turn<'_>) -> A) -> A {
        let (mut changes, mut to_clean) = (Changes::default(), 0);
        let shared = &self.0;
        shared.metrics.requests.inc();
        let mut turn = Turn {
            core,
            now: shared.clock.now(),
            running: shared.clock.running(),
            changes: &mut changes,
            to_clean: &mut to_clean,
            effects: Vec::new(),
            taken: None,
            metrics: &shared.metrics,
        };
        let answer = request(&mut turn);
        debug_assert!(turn.effects.is_empty() && turn.changes.is_empty(), "a look leaves nothing to be done");
        answer
    }

    /// A new socket: it is in the hub until the guard is dropped, and then leaves once, whatever ended it.
    pub fn join(&self, address: IpAddr) -> Joined {
        let bytes = self.0.limits.connections.outbox_bytes;
        self.join_with(address, Ceiling { bytes, full: Close::SLOW_CONSUMER })
    }

    /// As [`Engine::join`], for a phone of link.
    pub fn join_phone(&self, address: IpAddr) -> Joined {
        let bytes = self.0.limits.link.phone_queue_bytes;
        self.join_with(address, Ceiling { bytes, full: Close::BACKLOG_FULL })
    }

    fn join_with(&self, address: IpAddr, ceiling: Ceiling) -> Joined {
        let socket = SocketId(self.0.sockets.fetch_add(1, Ordering::Relaxed) + 1);
        let outbox = Outbox::new(socket, address, self.0.clock.running(), ceiling, self.0.budget.clone());
        let entry = outbox.clone();
        self.0.submit(Promise::None, move |turn| turn.core.hub.join(entry));
        Joined { engine: self.clone(), outbox }
    }

    /// Whether writes are taken.
    pub fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Relaxed)
    }

    /// Until a part of the engine has ended, by [`Engine::stop`] or by a bug.
    pub async fn ended(&self) {
        // The sender lives as long as this handle.
        let _ = self.0.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Answers what is queued, flushes, closes the store.
    pub async fn stop(&self) {
        // Between two batches or waiting for one: each is whole by itself.
        let tasks = std::mem::take(&mut *self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.into_iter().for_each(|task| task.abort());
        let _ = self.0.commands.send(Command::Stop);
        let threads = std::mem::take(&mut *self.0.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a thread of the engine panicked");
                }
            }
        });
        let _ = joined.await;
        *self.0.store.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A socket's place in the hub. Dropping it is leaving.
pub struct Joined {
    engine: Engine,
    pub outbox: Arc<Outbox>,
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.outbox.end();
        let socket = self.outbox.socket;
        self.engine.0.submit(Promise::None, move |turn| turn.leave(socket));
    }
}
