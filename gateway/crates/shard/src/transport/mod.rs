//! What carries messages: one file per transport, chosen by one byte of the record.

mod ws;

use store::{Key, Transport};

use crate::net::Net;
use crate::turn::Shard;

impl<N: Net> Shard<N> {
    /// Bytes of an open connection.
    pub(crate) fn transport_received(&mut self, key: Key, bytes: &mut [u8]) {
        let Some(conn) = self.conns.get(key) else { return };
        match conn.transport {
            Transport::WebSocket => self.frames(key, bytes),
        }
    }
}
