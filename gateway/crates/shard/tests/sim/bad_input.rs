//! Single cases of bad input: each gets its status or close code, frees what it held, and disturbs nobody else.

use bridge::EndReason;
use shard::net::Hangup;

use crate::client::{Stage, request};
use crate::frames::{self, BINARY, CONTINUATION, TEXT};
use crate::weather::{LIFE, ROOM_MESSAGE_BYTES, Weather};
use crate::world::World;

fn world() -> World {
    World::new(Weather::fair(), 1)
}

/// Nothing of anybody but so many connections is left on the first shard.
fn check_rest(world: &World, connections: u32) {
    let stats = &world.nodes[0].stats;
    assert_eq!(world.nodes[0].shard.connections(), connections);
    assert_eq!((stats.cold.value(), stats.assembly_bytes.value(), stats.backlog_bytes.value()), (0, 0, 0));
    assert_eq!(world.gate.connections(), connections);
    world.audit_shared();
}

#[test]
fn a_slow_head_is_refused_at_its_deadline() {
    let mut world = world();
    let head = request("/room/a");
    let number = world.come(0, "/room/a", &head.as_bytes()[..40], 1 << 20);
    world.clients[number].facts.refusals = vec![408];
    world.live(world.weather.rules.handshake_ticks - 1);
    assert_eq!(world.clients[number].stage, Stage::Greeting, "it has its time");
    assert!(world.nodes[0].stats.assembly_bytes.value() > 0);
    world.live(2);
    assert_eq!(world.clients[number].stage, Stage::Refused(408));
    assert_eq!(world.clients[number].tcp.closed(), Some(Hangup::Gentle), "it has hung up, so have we");
    check_rest(&world, 0);
}

#[test]
fn a_malformed_an_oversized_and_a_strange_request_get_their_statuses() {
    let mut world = world();
    let other = world.open(0, "/room/a");
    let oversized = format!("GET /room/a HTTP/1.1\r\nCookie: {}", "x".repeat(2000));
    let post = request("/room/a").replace("GET", "POST");
    let cases = [
        (b"\x16\x03\x01 nonsense\r\n\r\n".to_vec(), 400),
        (oversized.into_bytes(), 431),
        (request("/nowhere").into_bytes(), 404),
        (request("/room/*").into_bytes(), 404),
        (post.into_bytes(), 405),
        (b"GET /room/a HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), 426),
    ];
    for (bytes, status) in cases {
        for pace in [usize::MAX, 1] {
            let number = world.come(0, "/room/a", &bytes, 1 << 20);
            let client = &mut world.clients[number];
            (client.facts.refusals, client.pace) = (vec![status], pace);
            world.rest();
            assert_eq!(world.clients[number].stage, Stage::Refused(status));
        }
    }
    world.say(other, 10);
    world.rest();
    world.check_complete(&[other]);
    check_rest(&world, 1);
}

#[test]
fn half_a_frame_then_silence_ends_at_the_pong_deadline_and_frees_what_it_held() {
    let mut world = world();
    let number = world.open(0, "/room/a");
    let frame = frames::whole(BINARY, &[7; 200]);
    world.clients[number].say(&frame[..100]);
    world.clients[number].go_mute();
    world.rest();
    assert!(world.nodes[0].stats.assembly_bytes.value() >= 90, "half a frame is held");
    world.live(LIFE.ping_ticks + LIFE.ping_ticks + LIFE.pong_ticks + 3);
    assert_eq!(world.ending(number).unwrap().reason, EndReason::PongTimeout);
    check_rest(&world, 0);
}

#[test]
fn a_breach_is_closed_with_its_code_and_whoever_made_it_can_read_that() {
    let longest = ROOM_MESSAGE_BYTES / 2;
    let long = (longest as u16 + 1).to_be_bytes();
    let cases: [(&str, Vec<u8>, u16); 8] = [
        ("garbage after the handshake", b"\xffGET / HTTP/1.1\r\n\r\n".to_vec(), 1002),
        ("an unmasked frame", b"\x82\x01x".to_vec(), 1002),
        ("a continuation of nothing", frames::whole(CONTINUATION, b"x"), 1002),
        (
            "an oversized frame before its payload arrives",
            vec![0x82, 0xfe, long[0], long[1], 1, 2, 3, 4],
            1009,
        ),
        ("text that is none", frames::whole(TEXT, b"\xc0\x80"), 1007),
        ("half a character at the end of a text", frames::whole(TEXT, b"\xe2\x82"), 1007),
        ("a close code that nobody may send", frames::whole(frames::CLOSE, &1005u16.to_be_bytes()), 1002),
        ("fragments beyond the bound", frames::frame(BINARY, b"x").repeat(1), 1009),
    ];
    for (what, mut bytes, code) in cases {
        if what.starts_with("fragments") {
            bytes.extend(frames::frame(CONTINUATION, b"x").repeat(6));
        }
        let mut world = world();
        let other = world.open(0, "/room/a");
        let number = world.open(0, "/room/a");
        world.clients[number].violate(&bytes, code);
        world.rest();
        assert_eq!(world.clients[number].close, Some(Some(code)), "{what}");
        world.live(2);
        assert_eq!(world.ending(number).map(|ending| ending.sent_code), Some(Some(code)), "{what}");
        world.say(other, 10);
        world.rest();
        world.check_complete(&[other]);
        check_rest(&world, 1);
    }
}

#[test]
fn what_follows_a_breach_is_not_read_as_frames() {
    let mut world = world();
    let number = world.open(0, "/echo");
    world.clients[number].stop_reading();
    world.clients[number].tcp.resize(20);
    world.say(number, 100);
    world.rest();
    // The close frame waits behind the echo, and more garbage comes meanwhile.
    world.clients[number].violate(b"\xff\xff\xff\xff", 1002);
    world.rest();
    world.clients[number].tcp.send(b"\xff\xff\xff\xff");
    world.rest();
    world.clients[number].reading = true;
    world.rest();
    assert_eq!(world.clients[number].close, Some(Some(1002)));
    world.live(2);
    check_rest(&world, 0);
}

#[test]
fn a_reset_in_the_middle_of_a_write_frees_everything() {
    let mut world = world();
    let number = world.open(0, "/echo");
    world.clients[number].stop_reading();
    world.clients[number].tcp.resize(100);
    world.say(number, 50_000);
    world.rest();
    assert!(world.nodes[0].stats.backlog_bytes.value() > 49_000, "most of it waits");
    world.clients[number].reset(true);
    world.live(2);
    assert_eq!(world.ending(number).unwrap().reason, EndReason::Reset);
    check_rest(&world, 0);
}

#[test]
fn who_breaks_a_rule_and_never_hangs_up_is_let_go_after_the_linger() {
    let mut world = world();
    let number = world.open(0, "/echo");
    world.clients[number].stop_reading();
    world.clients[number].violate(b"\xff", 1002);
    world.rest();
    assert_eq!(world.clients[number].tcp.closed(), None, "it may still read the close frame");
    world.live(world.weather.rules.linger_ticks + 2);
    assert_eq!(world.clients[number].tcp.closed(), Some(Hangup::Gentle));
    assert_eq!(world.ending(number).unwrap().reason, EndReason::ProtocolError);
    check_rest(&world, 0);
}
