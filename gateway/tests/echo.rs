//! Promise: what a client sends to an echo route comes back as it was, in order, whatever its size and its frames.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::{BINARY, CLOSE, Gateway, PING, PONG, TEXT, frame};
use tungstenite::Message;

#[test]
fn messages_of_every_size_come_back_as_they_were() {
    let gateway = Gateway::start("");
    let mut client = gateway.client("/echo");
    for size in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
        let text: String = ('a'..='z').cycle().take(size).collect();
        client.echoes(&text);
        let bytes: Vec<u8> = (0..size).map(|place| (place % 251) as u8).collect();
        client.say_bytes(&bytes);
        let heard = client.hear();
        assert!(matches!(&heard, Message::Binary(heard) if heard[..] == bytes[..]), "{size} bytes differ");
    }
    client.leave();
    gateway.until_only(0);
    gateway.stop();
}

#[test]
fn a_burst_comes_back_in_the_order_it_was_sent() {
    let gateway = Gateway::start("");
    let mut raw = gateway.upgraded("/echo");
    let burst: Vec<u8> = (0..2000).flat_map(|n: u32| frame(0x80 | BINARY, &n.to_be_bytes())).collect();
    raw.send(&burst);
    for n in 0..2000_u32 {
        assert_eq!(raw.frame(), (0x80 | BINARY, n.to_be_bytes().to_vec()));
    }
    gateway.stop();
}

#[test]
fn fragments_come_back_as_one_message_and_a_ping_between_them_is_answered_first() {
    let gateway = Gateway::start("");
    let mut raw = gateway.upgraded("/echo");
    raw.send(&frame(TEXT, b"in "));
    raw.send(&frame(0x80 | PING, b"still there?"));
    assert_eq!(raw.frame(), (0x80 | PONG, b"still there?".to_vec()));
    gateway.until("half a message is held", |m| m.value("gateway_assembly_bytes") > 0.0);
    raw.send(&frame(0, b"three "));
    raw.send(&frame(0x80, b"pieces"));
    assert_eq!(raw.frame(), (0x80 | TEXT, b"in three pieces".to_vec()));
    gateway.until_only(1);
    gateway.stop();
}

#[test]
fn a_goodbye_is_answered_with_its_own_code_and_then_the_gateway_hangs_up() {
    let gateway = Gateway::start("");
    let mut raw = gateway.upgraded("/echo");
    raw.send(&frame(0x80 | CLOSE, &[&4001_u16.to_be_bytes()[..], b"enough"].concat()));
    assert_eq!(raw.goodbye().0, 4001);
    assert_eq!(raw.rest(), b"");
    let metrics = gateway.until_only(0);
    assert_eq!(metrics.ended("client_close"), 1.0);
    let line = gateway.logged(&["connection ended", "client_close"]);
    assert!(line.contains("\"received_code\":4001") && line.contains("\"route\":\"echo\""), "{line}");
    gateway.stop();
}

#[test]
fn a_client_that_leaves_without_a_goodbye_is_counted_and_forgotten() {
    let gateway = Gateway::start("");
    drop(gateway.upgraded("/echo"));
    gateway.upgraded("/echo").reset();
    let metrics = gateway.until("both are gone", |m| m.sum("gateway_connections_ended_total") == 2.0);
    assert_eq!((metrics.ended("client_gone"), metrics.ended("reset")), (1.0, 1.0), "{metrics}");
    gateway.until_only(0);
    gateway.stop();
}
