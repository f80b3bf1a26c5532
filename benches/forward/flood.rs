//! Owns how many frames a second go through a server: as many sockets as wanted, each with a window of frames under way.
//! Must not know how the figures are told.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use waypost::clock::Clock;

use super::servers::cpu_us;
use super::sockets::{Link, Socket, conn_id, enveloped, open, text};

/// Before each measurement.
const WARM_UP: Duration = Duration::from_millis(300);

/// Which way frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Way {
    /// To the echo and back, on as many sockets as there are phones.
    Echo,
    /// The same frames under way on a single socket, as the binary's is.
    EchoOnOne,
    ToBinary,
    ToPhones,
}

impl Way {
    pub const ALL: [Way; 4] = [Way::Echo, Way::EchoOnOne, Way::ToBinary, Way::ToPhones];

    pub fn name(self) -> &'static str {
        match self {
            Way::Echo => "echo",
            Way::EchoOnOne => "echo, one socket",
            Way::ToBinary => "waypost, phones to binary",
            Way::ToPhones => "waypost, binary to phones",
        }
    }
}

/// What is sent, and how much of it at once.
#[derive(Clone, Copy)]
pub struct Load<'a> {
    pub frame: &'a Utf8Bytes,
    pub phones: usize,
    /// Frames of one phone that are under way.
    pub window: usize,
    pub time: Duration,
}

/// What one measurement gave.
#[derive(Clone, Copy)]
pub struct Flow {
    pub per_second: f64,
    /// Per frame.
    pub server_us: f64,
    pub client_us: f64,
    /// Cores that were busy.
    pub server_cores: f64,
    pub client_cores: f64,
}

/// One frame in and one out of the server `pid` is one frame, whichever way.
pub async fn measure(address: SocketAddr, pid: u32, id: &str, way: Way, load: Load<'_>) -> Flow {
    let mut ends = Ends { tasks: JoinSet::new(), arrived: Arc::default(), window: load.window };
    match way {
        Way::Echo => ends.echo(address, load.phones, load.frame).await,
        Way::EchoOnOne => {
            ends.window = load.phones * load.window;
            ends.echo(address, 1, load.frame).await;
        }
        Way::ToBinary => ends.send_to_binary(Link::open(address, id, load.phones).await, load.frame),
        Way::ToPhones => ends.send_to_phones(Link::open(address, id, load.phones).await, load.frame),
    }
    let (clock, arrived) = (Clock::system(), ends.arrived.clone());
    let look = || {
        let (server, client) = (cpu_us(pid), cpu_us(std::process::id()));
        [clock.running().as_micros() as u64, arrived.load(Ordering::Relaxed), server, client]
    };
    ends.flow(&clock, WARM_UP).await;
    let before = look();
    ends.flow(&clock, load.time).await;
    let after = look();
    ends.tasks.shutdown().await;
    let [time, frames, server, client] = std::array::from_fn(|which| (after[which] - before[which]) as f64);
    Flow {
        per_second: frames * 1e6 / time,
        server_us: server / frames,
        client_us: client / frames,
        server_cores: server / time,
        client_cores: client / time,
    }
}

/// The tasks that send and read.
struct Ends {
    tasks: JoinSet<()>,
    arrived: Arc<AtomicU64>,
    window: usize,
}

/// Which of a sender's messages may be sent once more: one for each that has arrived.
type Credit = UnboundedSender<usize>;

impl Ends {
    /// Lets it run.
    async fn flow(&mut self, clock: &Clock, time: Duration) {
        tokio::select! {
            () = clock.sleep(time) => {}
            ended = self.tasks.join_next() => panic!("a socket has ended: {ended:?}"),
        }
    }

    async fn echo(&mut self, address: SocketAddr, sockets: usize, frame: &Utf8Bytes) {
        for _ in 0..sockets {
            let (sink, stream) = open(address, "/", &[]).await.split();
            let credit = self.send(sink, vec![frame.clone()]);
            self.read(stream, frame.len(), move |_| _ = credit.send(0));
        }
    }

    fn send_to_binary(&mut self, Link { binary, phones }: Link, frame: &Utf8Bytes) {
        let mut credits = HashMap::new();
        let bytes = enveloped(&phones[0].1, frame).len();
        for (phone, id) in phones {
            let (sink, stream) = phone.split();
            credits.insert(id, self.send(sink, vec![frame.clone()]));
            self.keep(stream);
        }
        self.read(binary.split().1, bytes, move |envelope| _ = credits[conn_id(envelope)].send(0));
    }

    fn send_to_phones(&mut self, Link { binary, phones }: Link, frame: &Utf8Bytes) {
        let (sink, stream) = binary.split();
        self.keep(stream);
        let messages = phones.iter().map(|(_, id)| enveloped(id, frame)).collect();
        let credit = self.send(sink, messages);
        for (which, (phone, _)) in phones.into_iter().enumerate() {
            let credit = credit.clone();
            self.read(phone.split().1, frame.len(), move |_| _ = credit.send(which));
        }
    }

    /// Sends each of the messages a window's times, and then as credit comes in; all credit that is there shares a flush.
    fn send(&mut self, mut sink: SplitSink<Socket, Message>, messages: Vec<Utf8Bytes>) -> Credit {
        let (credit, mut owed) = unbounded_channel();
        for which in (0..self.window).flat_map(|_| 0..messages.len()) {
            credit.send(which).expect("its receiver is here");
        }
        self.tasks.spawn(async move {
            let mut batch = Vec::new();
            while owed.recv_many(&mut batch, usize::MAX).await > 0 {
                for which in batch.drain(..) {
                    sink.feed(Message::Text(messages[which].clone())).await.expect("the socket takes it");
                }
                sink.flush().await.expect("the socket takes it");
            }
        });
        credit
    }

    /// Counts what arrives, all of it of one length, and has credit given for it; while all is being ended, nobody may be
    /// there to take that.
    fn read(
        &mut self,
        mut stream: SplitStream<Socket>,
        bytes: usize,
        credit: impl Fn(&str) + Send + 'static,
    ) {
        let arrived = self.arrived.clone();
        self.tasks.spawn(async move {
            loop {
                let text = text(&mut stream).await;
                assert_eq!(text.len(), bytes, "nothing else is under way");
                arrived.fetch_add(1, Ordering::Relaxed);
                credit(&text);
            }
        });
    }

    /// Answers the pings of a socket that is only sent on.
    fn keep(&mut self, mut stream: SplitStream<Socket>) {
        self.tasks.spawn(async move {
            let text = text(&mut stream).await;
            panic!("nothing is said this way: {text}");
        });
    }
}
