//! Binaries that claim server-ids until they are cut off. Owns which claims have shown that they stand, and looking for them
//! afterwards.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use waypost::client::link::upgrade;
use waypost::client::{ClientError, RawSocket};

use super::admin;
use crate::daemon::{Process, SOON};

/// Binaries at work at once.
pub const BINARIES: usize = 4;

/// Claims one id after the other until it is cut off; those through which a frame has come.
pub async fn claim_until_cut_off(
    address: SocketAddr,
    number: usize,
    round: u64,
    count: Arc<AtomicUsize>,
) -> Vec<String> {
    let mut claimed = Vec::new();
    while let Some(id) = claim_one(address, format!("home {number} {round} {}", claimed.len())).await {
        claimed.push(id);
        count.fetch_add(1, Ordering::Relaxed);
    }
    claimed
}

async fn claim_one(address: SocketAddr, id: String) -> Option<String> {
    let open = async |path: &str| {
        let headers = [("x-pyrycode-server", &*id), ("x-pyrycode-version", "1"), ("user-agent", "test")];
        let headers = headers.map(|(name, value)| (name, value.to_owned())).into();
        RawSocket::open(upgrade(&format!("ws://{address}"), path, &headers).unwrap(), None).await.ok()
    };
    let mut home = open("/v1/server").await?;
    loop {
        let mut phone = open("/v1/client").await?;
        phone.send_text("1").await.ok()?;
        match phone.next_text(Duration::from_millis(1)).await {
            // It may have come before its binary.
            Err(ClientError::Closed { code: 4404, .. }) => {}
            _ => {
                home.next_text(SOON).await.ok()?;
                return Some(id);
            }
        }
    }
}

/// Each of these is remembered, and waits for its binary.
pub async fn compare(claimed: &[String], daemon: &Process, data: &Path) {
    let admin = admin(daemon, data);
    for id in claimed {
        let page = admin.claims(Some(id), None, None).await.unwrap();
        let found = page.claims.iter().find(|claim| claim.server_id == *id);
        let claim = found.unwrap_or_else(|| panic!("{id} is forgotten"));
        assert_eq!((claim.state.as_str(), claim.socket), ("grace", None));
    }
}
