//! What stands before the upgrade: whose address it is, and how many sockets it and all others may have (protocol:
//! signalling, section 8).
//!
//! Owns the table of addresses, whose entries last exactly as long as their sockets. Must not know what is spoken
//! after the upgrade.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::HeaderMap;
use axum::http::header::FORWARDED;
use ipnet::IpNet;

use crate::limits::ADDRESSES_PER_SITE;
use crate::metrics::Refusal;

/// Stands for whoever connects to a Unix socket, which only a proxy on this machine does: it is trusted, and limits of an
/// address are not for it. No address of a client is this one.
pub const UNIX_PEER: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

pub struct Gate {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    most: usize,
    most_per_address: usize,
    total: usize,
    /// By IPv4 address or IPv6 /64.
    by_address: HashMap<IpAddr, usize>,
    /// By IPv6 /48.
    by_site: HashMap<IpAddr, usize>,
}

/// A socket's place; dropping it gives the place back.
pub struct Permit {
    gate: Arc<Gate>,
    address: IpAddr,
}

impl Gate {
    pub fn new(most: usize, most_per_address: usize) -> Arc<Gate> {
        Arc::new(Gate { table: Mutex::new(Table { most, most_per_address, ..Table::default() }) })
    }

    /// Other ceilings. Who is in stays in.
    pub fn limit(&self, most: usize, most_per_address: usize) {
        let mut table = self.lock();
        (table.most, table.most_per_address) = (most, most_per_address);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn admit(self: &Arc<Gate>, address: IpAddr) -> Result<Permit, Refusal> {
        let (address, site) = (network_of(address), site_of(address));
        let mut table = self.lock();
        let from_here = table.by_address.get(&address).copied().unwrap_or(0);
        let from_site = site.and_then(|site| table.by_site.get(&site)).copied().unwrap_or(0);
        let most_per_site = table.most_per_address.saturating_mul(ADDRESSES_PER_SITE);
        let too_many = from_here >= table.most_per_address || from_site >= most_per_site;
        if too_many && address != UNIX_PEER {
            return Err(Refusal::Address);
        }
        if table.total >= table.most {
            return Err(Refusal::Total);
        }
        table.total += 1;
        table.by_address.insert(address, from_here + 1);
        if let Some(site) = site {
            table.by_site.insert(site, from_site + 1);
        }
        Ok(Permit { gate: self.clone(), address })
    }

    /// How many sockets there are, and from how many addresses.
    pub fn counts(&self) -> (usize, usize) {
        let table = self.lock();
        (table.total, table.by_address.len())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut table = self.gate.lock();
        table.total -= 1;
        one_less(&mut table.by_address, self.address);
        if let Some(site) = site_of(self.address) {
            one_less(&mut table.by_site, site);
        }
    }
}

fn one_less(counts: &mut HashMap<IpAddr, usize>, address: IpAddr) {
    if let Some(count) = counts.get_mut(&address) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&address);
        }
    }
}

/// Limits count an IPv4 address, or an IPv6 /64.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => prefix_of(address, 64),
        address => address,
    }
}

/// The IPv6 /48 of an address, which is what one site has: whoever has it has 65,536 /64s.
pub fn site_of(address: IpAddr) -> Option<IpAddr> {
    match address.to_canonical() {
        IpAddr::V6(address) => Some(prefix_of(address, 48)),
        IpAddr::V4(_) => None,
    }
}

fn prefix_of(address: Ipv6Addr, bits: u32) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(u128::from(address) & !(u128::MAX >> bits)))
}

/// The address that a connection counts for: its peer's or, behind trusted proxies, the right-most untrusted entry
/// of X-Forwarded-For, else of Forwarded. An entry that is no address counts for the proxy that passed it on.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let peer = peer.to_canonical();
    if !is_trusted(peer, trusted) {
        return peer;
    }
    let lines = |name: &str| -> Vec<String> {
        // A line that is no text counts, too: what a proxy has put behind it is true.
        let lines = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        lines
            .flat_map(|line| line.split(',').map(|entry| entry.trim().to_owned()).collect::<Vec<_>>())
            .collect()
    };
    let mut entries = lines("x-forwarded-for");
    if entries.is_empty() {
        entries = lines(FORWARDED.as_str()).iter().map(|element| forwarded_for(element)).collect();
    }
    let mut nearest = peer;
    for entry in entries.iter().rev() {
        let Some(address) = parse_address(entry) else { return nearest };
        if !is_trusted(address, trusted) {
            return address;
        }
        nearest = address;
    }
    nearest
}

pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    address == UNIX_PEER || trusted.iter().any(|network| network.contains(&address.to_canonical()))
}

/// The `for` of one element of Forwarded (RFC 7239).
fn forwarded_for(element: &str) -> String {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let mut found = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
    found.next().map(|(_, value)| value.trim().trim_matches('"').to_owned()).unwrap_or_default()
}

/// An address as proxies write it: bare, with a port, or in brackets.
fn parse_address(entry: &str) -> Option<IpAddr> {
    let bare = entry.parse::<IpAddr>().ok();
    let with_port = || entry.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let address = bare.or_else(with_port).or_else(in_brackets).map(|address: IpAddr| address.to_canonical());
    address.filter(|address| *address != UNIX_PEER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ceilings_hold_per_address_and_in_all_and_places_come_back() {
        let gate = Gate::new(3, 2);
        let first = gate.admit(ip("10.0.0.1")).unwrap();
        let _second = gate.admit(ip("::ffff:10.0.0.1")).unwrap();
        assert_eq!(gate.admit(ip("10.0.0.1")).err(), Some(Refusal::Address));
        let _third = gate.admit(ip("10.0.0.2")).unwrap();
        assert_eq!(gate.admit(ip("10.0.0.3")).err(), Some(Refusal::Total));
        assert_eq!(gate.counts(), (3, 2));
        drop(first);
        assert!(gate.admit(ip("10.0.0.1")).is_ok());
    }

    #[test]
    fn ipv6_counts_by_its_64() {
        let gate = Gate::new(9, 1);
        let _one = gate.admit(ip("2001:db8::1")).unwrap();
        assert_eq!(gate.admit(ip("2001:db8::ffff:1:2:3")).err(), Some(Refusal::Address));
        assert!(gate.admit(ip("2001:db8:0:1::1")).is_ok());
    }

    #[test]
    fn going_through_the_64s_of_a_48_gains_no_more_than_16_addresses() {
        let gate = Gate::new(99, 2);
        let admit =
            |site: usize, network: usize| gate.admit(ip(&format!("2001:db8:{site:x}:{network:x}::1")));
        let mut permits: Vec<_> = (0..32).map(|network| admit(1, network).unwrap()).collect();
        assert_eq!(admit(1, 32).err(), Some(Refusal::Address));
        let _neighbour = admit(2, 0).unwrap();
        permits.pop();
        permits.push(admit(1, 33).unwrap());
        assert_eq!(admit(1, 34).err(), Some(Refusal::Address));
        drop(permits);
        assert_eq!(gate.counts(), (1, 1));
        assert_eq!(gate.lock().by_site.len(), 1);
    }

    #[test]
    fn forwarded_addresses_are_believed_only_from_trusted_proxies() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        let address = |peer: &str, name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            client_address(ip(peer), &headers, &trusted).to_string()
        };
        assert_eq!(address("192.0.2.1", "x-forwarded-for", "1.2.3.4"), "192.0.2.1");
        assert_eq!(address("10.0.0.1", "x-forwarded-for", "1.2.3.4, 5.6.7.8, 10.1.1.1"), "5.6.7.8");
        assert_eq!(address("10.0.0.1", "x-forwarded-for", "1.2.3.4, unknown"), "10.0.0.1");
        assert_eq!(address("10.0.0.1", "x-forwarded-for", "10.9.9.9"), "10.9.9.9");
        assert_eq!(
            address("::1", "forwarded", "for=1.1.1.1, FOR=\"[2001:db8::7]:99\";proto=https"),
            "2001:db8::7"
        );
        assert_eq!(client_address(ip("10.0.0.1"), &HeaderMap::new(), &trusted), ip("10.0.0.1"));
    }

    #[test]
    fn bytes_that_are_no_text_do_not_hide_what_the_proxy_has_put_behind_them() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        headers.insert(FORWARDED, "for=9.9.9.9".parse().unwrap());
        let line = axum::http::HeaderValue::from_bytes(b"\xff, 203.0.113.7").unwrap();
        headers.insert("x-forwarded-for", line);
        assert_eq!(client_address(ip("10.0.0.1"), &headers, &trusted), ip("203.0.113.7"));
    }
}
