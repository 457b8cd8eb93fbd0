//! Promise: a gateway that was stopped for longer than its own deadlines (a paused machine, a debugger, SIGSTOP) does
//! not take it out on clients that answered meanwhile.
#![allow(clippy::unwrap_used)]

mod harness;

use std::time::Duration;

use harness::{Gateway, PING, PONG, Raw, TEXT, frame};

const BEATING: &str = "
[heartbeat]
interval = '500ms'
pong_deadline = '3s'
";
/// Longer than interval and deadline together. The deadline alone is longer than it takes to ask all clients, also on a
/// busy machine.
const STOP: Duration = Duration::from_millis(3700);
const CLIENTS: usize = 40;

#[test]
fn clients_whose_answers_arrived_during_a_stop_are_all_kept() {
    let gateway = Gateway::start(BEATING);
    let mut clients: Vec<Raw> = (0..CLIENTS).map(|_| gateway.upgraded("/echo")).collect();
    let mut dead = gateway.upgraded("/echo");
    // All have been asked, and nobody has answered yet: their deadlines pass while the gateway cannot look.
    for client in &mut clients {
        assert_eq!(client.frame().0, 0x80 | PING);
        client.send(&frame(0x80 | PONG, b""));
    }
    for client in &mut clients {
        assert_eq!(client.frame().0, 0x80 | PING);
    }
    gateway.freeze();
    for client in &mut clients {
        client.send(&frame(0x80 | PONG, b""));
    }
    assert!(clients[0].is_quiet_for(STOP), "a stopped gateway says nothing");
    gateway.thaw();
    for client in &mut clients {
        client.send(&frame(0x80 | TEXT, b"still here"));
        loop {
            match client.frame() {
                (first, payload) if first == 0x80 | PING => {
                    client.send(&frame(0x80 | PONG, &payload));
                }
                other => break assert_eq!(other, (0x80 | TEXT, b"still here".to_vec())),
            }
        }
    }
    dead.rest();
    let metrics = gateway.until("the dead one was ended", |m| m.ended("pong_timeout") > 0.0);
    assert_eq!(metrics.sum("gateway_connections_ended_total"), 1.0, "{metrics}");
    gateway.stop();
}

#[test]
fn a_stop_in_the_middle_of_a_handshake_loses_nobody() {
    let gateway = Gateway::start("");
    let mut half = gateway.raw();
    half.send(b"GET /echo HTTP/1.1\r\nHost: a\r\n");
    gateway.until("half a head is held", |m| m.value("gateway_handshakes") == 1.0);
    gateway.freeze();
    // The kernel accepts on behalf of the gateway.
    let mut whole = gateway.raw();
    whole.send(harness::upgrade_request("/echo").as_bytes());
    half.send(
        harness::upgrade_request("/echo")
            .split_once("\r\n")
            .unwrap()
            .1
            .replace("Host: gateway.example\r\n", "")
            .as_bytes(),
    );
    assert!(whole.is_quiet_for(Duration::from_millis(300)));
    gateway.thaw();
    for raw in [&mut half, &mut whole] {
        assert!(raw.head().starts_with("HTTP/1.1 101 "));
    }
    gateway.until_only(2);
    gateway.stop();
}
