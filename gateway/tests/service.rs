//! Promise: a service manager that asks to be told learns when the gateway is ready, when it reloads, and when it stops.
#![allow(clippy::unwrap_used)]

mod harness;

use std::os::unix::net::UnixDatagram;

use harness::{Gateway, PATIENCE};
use nix::sys::signal::Signal;

/// What the service manager hears next.
#[track_caller]
fn heard(manager: &UnixDatagram) -> String {
    let mut text = [0; 256];
    let length = manager.recv(&mut text).unwrap();
    String::from_utf8(text[..length].to_vec()).unwrap()
}

#[test]
fn the_service_manager_is_told_of_the_start_of_a_reload_and_of_the_stop() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let gateway = Gateway::start_as_service("", &socket);
    assert_eq!(heard(&manager), "READY=1");
    let _stays = gateway.client("/rooms/lobby");
    gateway.signal(Signal::SIGHUP);
    let reloading = heard(&manager);
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(heard(&manager), "READY=1");
    gateway.signal(Signal::SIGTERM);
    assert_eq!(heard(&manager), "STOPPING=1");
    assert_eq!(gateway.wait().0, Some(0));
}
