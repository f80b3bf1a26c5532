//! The answer to `GET /peers`, written stretch by stretch as it is taken from the engine, so that neither the writer nor
//! memory pays for a long list (protocol: bootstrap, Peers).
//!
//! Owns the shape of that answer and its cursors. Must not know which peers there are.

use std::borrow::Cow;
use std::io;

use axum::body::{Body, Bytes};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::StreamExt;
use futures_util::stream::{once, try_unfold};

use crate::engine::{Engine, Listed, PeerPage, PeerStretch};
use crate::id::NodeId;
use crate::wire::bootstrap::PeerEntry;
use crate::wire::http::{Problem, timestamp};

/// What of each peer is told that is left out by default.
#[derive(Clone, Copy)]
pub struct Shown {
    pub stores: bool,
    pub capabilities: bool,
}

pub struct PeerWriter {
    engine: Engine,
    page: PeerPage,
    shown: Shown,
    total: Option<usize>,
    listed: usize,
    last: Option<NodeId>,
    ended: bool,
}

impl PeerWriter {
    /// Without a `total` the length of the list is told.
    pub fn new(engine: Engine, page: PeerPage, shown: Shown, total: Option<usize>) -> PeerWriter {
        PeerWriter { engine, page, shown, total, listed: 0, last: None, ended: false }
    }

    /// What can fail fails here, before a status is sent, as far as the first stretch is concerned.
    pub async fn into_body(mut self) -> Result<Body, Problem> {
        let mut begun = br#"{"peers":["#.to_vec();
        self.write_stretch(&mut begun).await?;
        if self.ended {
            return Ok(Body::from(begun));
        }
        let rest = try_unfold(self, |mut writer| async {
            if writer.ended {
                return Ok(None);
            }
            let mut bytes = Vec::new();
            match writer.write_stretch(&mut bytes).await {
                Ok(()) => Ok(Some((Bytes::from(bytes), writer))),
                // The status has been sent: all that is left is to break off.
                Err(problem) => Err(io::Error::other(problem.refusal.message)),
            }
        });
        let begun = once(async { Ok::<_, io::Error>(Bytes::from(begun)) });
        Ok(Body::from_stream(begun.chain(rest)))
    }

    async fn write_stretch(&mut self, bytes: &mut Vec<u8>) -> Result<(), Problem> {
        let left = self.page.limit.map(|limit| limit - self.listed);
        // One more than wanted tells whether there are more.
        let asked = PeerPage { limit: left.map(|left| left.saturating_add(1)), ..self.page.clone() };
        let PeerStretch { peers, now, registered, rest } = self.engine.list_peers(&asked).await?;
        let is_full = left.is_some_and(|left| peers.len() > left);
        for listed in peers.into_iter().take(left.unwrap_or(usize::MAX)) {
            if self.listed > 0 {
                bytes.push(b',');
            }
            serde_json::to_writer(&mut *bytes, &entry(&listed, self.shown))
                .expect("texts and numbers can be written into a Vec");
            self.listed += 1;
            self.last = Some(listed.id);
        }
        self.ended = is_full || rest.is_none();
        self.page.after = rest;
        if self.ended {
            let total = self.total.unwrap_or(self.listed);
            let cursor = self.last.as_ref().filter(|_| is_full);
            let cursor = cursor.map(|id| format!(r#","cursor":"{}""#, URL_SAFE_NO_PAD.encode(id.as_str())));
            let tail = format!(
                r#"],"total":{total},"totalRegistered":{registered},"timestamp":"{}"{}}}"#,
                timestamp(now),
                cursor.unwrap_or_default()
            );
            bytes.extend_from_slice(tail.as_bytes());
        }
        Ok(())
    }
}

/// The peer that a cursor stands behind.
pub fn cursor_of(text: &str) -> Option<NodeId> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    NodeId::parse(std::str::from_utf8(&bytes).ok()?)
}

fn entry(listed: &Listed, shown: Shown) -> PeerEntry<'_> {
    let peer = &*listed.peer;
    PeerEntry {
        peer_id: Cow::Borrowed(listed.id.as_str()),
        addresses: Cow::Borrowed(&peer.addresses),
        crypto_ipv6: Cow::Borrowed(&peer.crypto_ipv6),
        stores: shown.stores.then_some(Cow::Borrowed(&peer.stores)),
        last_seen: listed.last_seen,
        version: Cow::Borrowed(&peer.version),
        turn_capable: peer.turn_capable,
        bootstrap_capable: peer.bootstrap_capable,
        capabilities: shown.capabilities.then_some(Cow::Borrowed(&peer.capabilities)),
        privacy_mode: peer.privacy_mode,
    }
}
