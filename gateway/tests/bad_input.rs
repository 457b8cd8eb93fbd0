//! Promise: nothing that arrives on a socket hurts anybody but its sender. Each kind of bad input gets its status or
//! close code, is counted by its reason, leaves nothing behind, and disturbs no other connection.
#![allow(clippy::unwrap_used)]

mod harness;

use std::time::Duration;

use harness::{BINARY, Bystander, CLOSE, Gateway, Metrics, Raw, TEXT, frame, upgrade_request};

/// Small bounds, so that they are soon reached.
const SMALL: &str = "
[limits]
head_bytes = '512'

[websocket]
message_bytes = '1KiB'
frame_bytes = '1KiB'
fragments = 8

[timeouts]
close = '300ms'
linger = '300ms'
";

/// Beats fast: a bystander that is quiet for this long is pinged, and answers when it reads next.
const BEATING: &str = "
[heartbeat]
interval = '300ms'
pong_deadline = '600ms'

[timeouts]
close = '300ms'
linger = '300ms'
";

/// Runs mischief beside a bystander; afterwards this must hold, and nothing may be left.
#[track_caller]
fn survives(text: &str, mischief: impl FnOnce(&Gateway), holds: impl Fn(&Metrics) -> bool) {
    let gateway = Gateway::start(text);
    let bystander = Bystander::beside(&gateway);
    mischief(&gateway);
    gateway.until("the mischief was counted by its reason", holds);
    gateway.until_only(1);
    bystander.was_not_disturbed();
    gateway.until_only(0);
    gateway.stop();
}

/// Says this after the handshake, and expects to be closed with this code and reason.
#[track_caller]
fn closes(gateway: &Gateway, bytes: &[u8], code: u16, reason: &str) {
    let mut raw = gateway.upgraded("/echo");
    raw.send(bytes);
    assert_eq!(raw.goodbye(), (code, format!("{{\"reason\":\"{reason}\"}}")));
    assert_eq!(raw.rest(), b"", "nothing follows a goodbye");
}

#[test]
fn a_malformed_head_is_answered_400() {
    let mischief = |gateway: &Gateway| {
        for bad in ["\0\u{1}\u{2}\u{3}\r\n\r\n", "GET\r\n\r\n", "GET /\r\n\r\n", "\u{16}\u{3}\u{1}\0"] {
            let mut raw = gateway.raw();
            raw.send(bad.as_bytes());
            assert_eq!(raw.refusal().0, 400, "{bad:?}");
        }
    };
    survives(SMALL, mischief, |m| m.refused("bad_head") == 4.0);
}

#[test]
fn an_oversized_head_is_answered_431_however_it_comes() {
    let mischief = |gateway: &Gateway| {
        let head = upgrade_request("/echo").replace("Host", &format!("X: {}\r\nHost", "x".repeat(4096)));
        let mut raw = gateway.raw();
        raw.send(head.as_bytes());
        assert_eq!(raw.refusal().0, 431);
        // In two pieces, neither of which is too large.
        let mut raw = gateway.raw();
        raw.send(&head.as_bytes()[..400]);
        gateway.until("the first piece has been read", |m| m.value("gateway_assembly_bytes") > 0.0);
        raw.send(&head.as_bytes()[400..800]);
        assert_eq!(raw.refusal().0, 431);
    };
    survives(SMALL, mischief, |m| m.refused("head_too_large") == 2.0);
}

#[test]
fn a_slow_head_is_answered_408_at_its_deadline() {
    let mischief = |gateway: &Gateway| {
        let mut silent = gateway.raw();
        let mut slow = gateway.raw();
        slow.send(b"GET /echo HTTP/1.1\r\nHost: a");
        for raw in [&mut silent, &mut slow] {
            assert_eq!(raw.refusal().0, 408);
        }
    };
    // Of this test alone: whoever is quick elsewhere may have to wait for a busy machine.
    survives(&format!("{SMALL}handshake = '1s'"), mischief, |m| m.refused("timeout") == 2.0);
}

#[test]
fn a_client_that_leaves_in_its_handshake_is_counted_as_such() {
    let mischief = |gateway: &Gateway| {
        drop(gateway.raw());
        let mut raw = gateway.raw();
        raw.send(b"GET /echo HT");
        gateway.until("half a head is held", |m| m.value("gateway_assembly_bytes") > 0.0);
        raw.reset();
    };
    survives("", mischief, |m| m.turned("left") == 2.0);
}

#[test]
fn garbage_after_the_handshake_is_closed_1002() {
    let mischief = |gateway: &Gateway| {
        closes(gateway, b"\xff\xff\xff\xff\xff\xff\xff\xff", 1002, "reserved_bits");
        closes(gateway, b"GET / HTTP/1.1\r\n\r\n", 1002, "reserved_bits");
        closes(gateway, &[0x80 | TEXT, 2, b'h', b'i'], 1002, "unmasked");
        closes(gateway, &frame(0x83, b"?"), 1002, "reserved_opcode");
        closes(gateway, &frame(0x80, b"of what?"), 1002, "unexpected_continuation");
        closes(gateway, &frame(0x80 | CLOSE, &1005_u16.to_be_bytes()), 1002, "close_code");
        let twice = [frame(TEXT, b"one "), frame(0x80 | TEXT, b"another")].concat();
        closes(gateway, &twice, 1002, "expected_continuation");
    };
    survives(SMALL, mischief, |m| m.ended("protocol_error") == 7.0);
}

#[test]
fn text_that_is_not_utf_8_is_closed_1007_before_its_frame_is_whole() {
    let mischief = |gateway: &Gateway| {
        closes(gateway, &frame(0x80 | TEXT, &[0xc0, 0x80]), 1007, "invalid_utf8");
        let begun = frame(0x80 | TEXT, &[b'a', 0xff, b'b', b'c', b'd', b'e']);
        closes(gateway, &begun[..begun.len() - 3], 1007, "invalid_utf8");
    };
    survives(SMALL, mischief, |m| m.ended("invalid_utf8") == 2.0);
}

#[test]
fn too_much_is_closed_1009_as_soon_as_it_shows() {
    let mischief = |gateway: &Gateway| {
        // The header alone says so.
        closes(gateway, &frame(0x80 | BINARY, &[0; 1025])[..8], 1009, "frame_too_big");
        let mut huge = vec![0x80 | BINARY, 0x80 | 127];
        huge.extend((i64::MAX as u64).to_be_bytes());
        huge.extend([1, 2, 3, 4]);
        closes(gateway, &huge, 1009, "frame_too_big");
        let pieces = [frame(BINARY, &[0; 700]), frame(0, &[0; 700])].concat();
        closes(gateway, &pieces, 1009, "message_too_big");
        let crumbs = [frame(BINARY, b""), frame(0, b"").repeat(8)].concat();
        closes(gateway, &crumbs, 1009, "too_many_fragments");
    };
    survives(SMALL, mischief, |m| m.ended("message_too_big") == 4.0);
}

#[test]
fn half_a_frame_and_then_silence_ends_at_the_pong_deadline() {
    let mischief = |gateway: &Gateway| {
        let mut raw = gateway.upgraded("/echo");
        let whole = frame(0x80 | TEXT, &[b'x'; 1000]);
        raw.send(&whole[..500]);
        gateway.until("half a frame is held", |m| m.value("gateway_assembly_bytes") >= 400.0);
        assert_eq!(raw.frame().0 & 0x0f, harness::PING);
        assert_eq!(raw.rest(), b"");
    };
    survives(BEATING, mischief, |m| m.ended("pong_timeout") == 1.0);
}

#[test]
fn a_reset_in_the_middle_of_a_write_gives_everything_back() {
    let mischief = |gateway: &Gateway| {
        let raw = stuck(gateway);
        raw.reset();
    };
    survives("", mischief, |m| m.ended("reset") == 1.0);
}

#[test]
fn who_asks_and_does_not_listen_is_no_longer_read_and_ends_as_a_slow_consumer() {
    let mischief = |gateway: &Gateway| {
        let raw = stuck(gateway);
        gateway.until("it was ended", |m| m.ended("slow_consumer") == 1.0);
        drop(raw);
    };
    let patient = BEATING.replace("pong_deadline = '600ms'", "pong_deadline = '1s'");
    survives(&patient, mischief, |m| m.ended("slow_consumer") == 1.0);
}

/// A client that asked for echoes until it was paused, and has heard none.
#[track_caller]
fn stuck(gateway: &Gateway) -> Raw {
    let mut raw = gateway.raw();
    raw.take_little();
    raw.upgrade("/echo");
    let (bytes, mut taken) = (frame(0x80 | BINARY, &[7; 100_000]), 0);
    gateway.until("it is paused, and its echo waits", |m| {
        // A busy machine may take its time between two reads: only the gateway knows when it has stopped.
        taken = raw.send_until_stuck(&bytes, taken, Duration::from_millis(100));
        m.value("gateway_connections_paused") == 1.0 && m.value("gateway_backlog_bytes") > 0.0
    });
    assert!(taken > 200_000, "{taken}");
    raw
}
