//! The rules between two keys.
//!
//! Owns which settings contradict each other and how that is told. Must not know how values are read.

use super::{Problem, Reader, Settings, origin};
use crate::limits::Setting;

impl Settings {
    /// Rules between two keys.
    pub(super) fn report_contradictions(&self, reader: &mut Reader) {
        let (liveness, connections) = (&self.liveness, &self.connections);
        reader.expect(
            ("liveness.timeout", &liveness.timeout),
            "longer than",
            ("liveness.ping_interval", &liveness.ping_interval),
            |timeout, interval| timeout > interval,
        );
        reader.expect(
            ("pairing.request_timeout", &self.pairing.request_timeout),
            "longer than",
            ("pairing.warning", &self.pairing.warning),
            |timeout, warning| timeout > warning,
        );
        // Else the longest legal message would cost its receiver the socket.
        reader.expect(
            ("limits.outbox_bytes", &connections.outbox_bytes),
            "at least",
            ("limits.max_message_bytes", &connections.max_message_bytes),
            |outbox, message| outbox >= message,
        );
        for largest in [
            ("limits.max_message_bytes", &connections.max_message_bytes),
            ("link.max_message_bytes", &self.link.max_message_bytes),
        ] {
            reader.expect(
                ("limits.arriving_total_bytes", &connections.arriving_total_bytes),
                "at least",
                largest,
                |total, message| total >= message,
            );
        }
        reader.expect(
            ("limits.outbox_total_bytes", &connections.outbox_total_bytes),
            "at least",
            ("limits.outbox_bytes", &connections.outbox_bytes),
            |total, outbox| total >= outbox,
        );
        reader.expect(
            ("link.phone_queue_bytes", &self.link.phone_queue_bytes),
            "at least",
            ("link.max_message_bytes", &self.link.max_message_bytes),
            |queue, message| queue >= message,
        );
        let server = &self.server;
        let [certificate, key] = [&server.tls_cert, &server.tls_key].map(|path| !path.as_os_str().is_empty());
        // Else nobody could connect.
        let proxies = !server.trusted_proxies.is_empty() || server.listen.tcp().is_none();
        for (name, given, other, beside) in [
            ("server.tls_cert", certificate, "server.tls_key", key),
            ("server.tls_key", key, "server.tls_cert", certificate),
            ("server.proxy_protocol", server.proxy_protocol, "server.trusted_proxies", proxies),
        ] {
            if given && !beside {
                let origin = origin(reader.figment.find_metadata(name));
                let message = format!("expected {other} beside it");
                reader.problems.push(Problem { origin, key: name.to_owned(), message });
            }
        }
    }
}

impl Reader {
    /// Reports a rule between two keys, unless one of the two is already known to be wrong.
    fn expect<T: Setting>(
        &mut self,
        (key, value): (&str, &T),
        relation: &str,
        (other, limit): (&str, &T),
        holds: fn(&T, &T) -> bool,
    ) {
        let reported = self.problems.iter().any(|problem| problem.key == key || problem.key == other);
        if reported || holds(value, limit) {
            return;
        }
        let (limit, value) = (limit.to_toml(), value.to_toml());
        let [origin, beside] = [key, other].map(|key| origin(self.figment.find_metadata(key)));
        let message = format!("expected {relation} {other} = {limit} ({beside}), found {value}");
        self.problems.push(Problem { origin, key: key.to_owned(), message });
    }
}
