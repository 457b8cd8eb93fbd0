//! Telling the service manager how far we are (`sd_notify(3)`): ready, reloading, stopping. Without `NOTIFY_SOCKET` in
//! the environment nobody asked, and nothing is told. Called by the program's start and by its lifecycle.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Whoever started us, if it wants to know.
pub(crate) struct Supervisor(Option<(UnixDatagram, SocketAddr)>);

impl Supervisor {
    /// Finds it. To be called when descriptor tables have been taken: it opens a socket.
    pub(crate) fn find() -> Self {
        Self(std::env::var_os("NOTIFY_SOCKET").and_then(|name| {
            // A name that begins with @ is not in the file system.
            let address = match name.as_bytes().strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name),
                None => SocketAddr::from_pathname(&name),
            };
            Some((UnixDatagram::unbound().ok()?, address.ok()?))
        }))
    }

    /// The node takes connections.
    pub(crate) fn ready(&self) {
        self.tell("READY=1");
    }

    /// The configuration is read again; [`Supervisor::ready`] follows, whatever comes of it.
    pub(crate) fn reloading(&self) {
        // The time tells this reload from an earlier one.
        let Ok(now) = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC) else { return };
        let micros = now.tv_sec() * 1_000_000 + now.tv_nsec() / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// The node drains.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    fn tell(&self, state: &str) {
        if let Some((socket, address)) = &self.0
            && let Err(error) = socket.send_to_addr(state.as_bytes(), address)
        {
            tracing::warn!(%error, "the service manager does not listen");
        }
    }
}
