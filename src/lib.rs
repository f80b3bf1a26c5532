//! waypost: a self-hosted registry daemon for peer-to-peer programs.
//!
//! Peers announce themselves, find relays, meet at rendezvous points and leave dead drops for peers that are away;
//! devices pair, call each other and pass chunks, phones reach a home machine by its server-id.
//! Everything it knows is a lease: a record that names who holds it and when it ends. Memory answers, sled remembers.
//!
//! The layers, each of which may import only those above it (`tests/layers.rs` holds the code to it):
//!
//! | layer | owns |
//! |---|---|
//! | [`id`] [`clock`] [`limits`] [`metrics`] [`logging`] | validated ids; the only clock; every ceiling with its unit; every metric; names in the log, and its level |
//! | [`wire`] | messages exactly as they travel |
//! | [`store`] | sled: keys, records, atomic changes, the expiry index, migrations, backups, the consistency check |
//! | [`registry`] | the rules: pure and synchronous |
//! | [`live`] | what exists only while sockets do: who holds which id, pairing, the chunk relay, the slots of link, bounded outboxes |
//! | [`engine`] | the writer, group commit, promises, sweeping: where store, registries and live meet |
//! | [`server`] | axum routes and WebSocket sessions, gates, draining |
//! | [`config`] [`daemon`] [`cli`] [`client`] | settings; the daemon as a whole; subcommands; a typed client |
#![forbid(unsafe_code)]

pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod engine;
pub mod id;
pub mod limits;
pub mod live;
pub mod logging;
pub mod metrics;
pub mod registry;
pub mod server;
pub mod store;
pub mod wire;
