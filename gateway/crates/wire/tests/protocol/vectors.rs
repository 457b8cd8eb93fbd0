//! The examples that RFC 6455 prints, byte for byte.

use wire::error::Violation;
use wire::http::{Fields, Head};
use wire::ws::handshake::{Request, choose_protocol, push_accept};
use wire::ws::{Assembly, Kind, Opcode, header, push_close, push_frame};

use crate::client::{Said, WIDE, read};

#[test]
fn the_handshake_of_section_1_3() {
    let request =
        b"GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://example.com\r\n\
        Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let mut fields = Fields::new();
    let head = Head::parse(request, 8192, &mut fields).unwrap().unwrap();
    assert_eq!(head.length, request.len());
    let request = Request::check(head).unwrap();
    assert_eq!(
        (request.path, request.host, request.origin),
        ("/chat", "server.example.com", Some("http://example.com"))
    );
    assert_eq!(request.protocols().collect::<Vec<_>>(), ["chat", "superchat"]);
    let supported = [Box::from("superchat"), Box::from("chat")];
    let mut out = Vec::new();
    push_accept(&mut out, request.key, choose_protocol(request.protocols(), &supported), &[]);
    assert_eq!(
        str::from_utf8(&out).unwrap(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    );
}

#[test]
fn a_masked_text_of_section_5_7_reads_hello() {
    let heard = read(&[&[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]], &WIDE);
    assert_eq!((heard.items, heard.violation), (vec![Said::Message(Kind::Text, b"Hello".to_vec())], None));
}

#[test]
fn a_masked_pong_of_section_5_7_reads_hello() {
    let heard = read(&[&[0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]], &WIDE);
    assert_eq!((heard.items, heard.violation), (vec![Said::Pong(b"Hello".to_vec())], None));
}

#[test]
fn unmasked_frames_of_section_5_7_are_written_and_refused() {
    let mut out = Vec::new();
    push_frame(&mut out, Opcode::Text, b"Hello");
    assert_eq!(out, [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
    assert_eq!(read(&[&out], &WIDE).violation, Some(Violation::Unmasked));
    out.clear();
    push_frame(&mut out, Opcode::Ping, b"Hello");
    assert_eq!(out, [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
}

#[test]
fn long_frames_of_section_5_7_have_long_headers() {
    let short = header(Opcode::Binary, 256);
    assert_eq!(short.0[..short.1], [0x82, 0x7e, 0x01, 0x00]);
    let long = header(Opcode::Binary, 65536);
    assert_eq!(long.0[..long.1], [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]);
}

#[test]
fn a_long_close_reason_is_cut_at_a_character() {
    let mut out = Vec::new();
    push_close(&mut out, 1008, &"é".repeat(100));
    assert_eq!(out[..4], [0x88, 2 + 122, 0x03, 0xf0]);
    assert_eq!(str::from_utf8(&out[4..]).unwrap(), "é".repeat(61));
    out.clear();
    push_close(&mut out, 1000, "");
    assert_eq!(out, [0x88, 2, 0x03, 0xe8]);
}

#[test]
fn the_assembly_fits_a_cold_entry() {
    assert!(size_of::<Assembly>() <= 96, "{} bytes", size_of::<Assembly>());
}
