//! Addresses of clients as networks, for who must not see whose they are.
//!
//! Owns how much of an address is left. What peers publish of themselves stays as it is. Must not know the routes.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use crate::wire::admin::{Connection, Lease};

pub fn connection(connection: &mut Connection) {
    connection.address = network(&connection.address);
}

/// A bootstrap peer's record has the address that it registered from.
pub fn lease(lease: &mut Lease) {
    if let Some(Value::String(address)) = lease.record.get_mut("registeredFrom") {
        *address = network(address);
    }
}

/// The /24 of an IPv4 address, the /48 of an IPv6 one. What is no address has none to hide.
fn network(address: &str) -> String {
    let Ok(address) = address.parse::<IpAddr>() else { return address.to_owned() };
    let address = address.to_canonical();
    let bits = if address.is_ipv4() { 24 } else { 48 };
    IpNet::new_assert(address, bits).trunc().to_string()
}

#[cfg(test)]
mod tests {
    use super::network;

    #[test]
    fn networks_are_what_is_left_of_addresses() {
        assert_eq!(network("192.0.2.77"), "192.0.2.0/24");
        assert_eq!(network("::ffff:192.0.2.77"), "192.0.2.0/24");
        assert_eq!(network("2001:db8:1:2:3::4"), "2001:db8:1::/48");
    }
}
