//! Agreement with tungstenite: on valid traffic in full, on broken traffic but for what it is known to let
//! through.

use std::io::{Cursor, Read, Write};

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};
use wire::error::Violation;
use wire::http::{Fields, Head};
use wire::ws::frame::Header;
use wire::ws::handshake::{Request, push_accept};
use wire::ws::{Kind, Limits, Opcode, header, push_close, push_frame};

use crate::client::{Said, WIDE, for_seeds, read, traffic};
use crate::splits::break_it;

/// Gives a stream, swallows answers.
struct Tape(Cursor<Vec<u8>>);

impl Read for Tape {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Tape {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What tungstenite makes of a stream up to its close, and whether it refused it (the end of the stream is no
/// refusal).
fn theirs(stream: &[u8], role: Role, limits: &Limits) -> (Vec<Said>, bool) {
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .max_frame_size(Some(limits.frame_bytes))
        .max_message_size(Some(limits.message_bytes));
    let mut socket = WebSocket::from_raw_socket(Tape(Cursor::new(stream.to_vec())), role, Some(config));
    let mut items = Vec::new();
    loop {
        let said = match socket.read() {
            Ok(Message::Text(text)) => Said::Message(Kind::Text, text.as_bytes().to_vec()),
            Ok(Message::Binary(bytes)) => Said::Message(Kind::Binary, bytes.to_vec()),
            Ok(Message::Ping(bytes)) => Said::Ping(bytes.to_vec()),
            Ok(Message::Pong(bytes)) => Said::Pong(bytes.to_vec()),
            Ok(Message::Close(close)) => {
                items.push(Said::Close(close.map(|close| (close.code.into(), close.reason.to_string()))));
                return (items, false);
            }
            Ok(Message::Frame(_)) => unreachable!("never read"),
            Err(Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)) => {
                return (items, false);
            }
            Err(_) => return (items, true),
        };
        items.push(said);
    }
}

#[test]
fn valid_traffic_reads_alike() {
    for_seeds(100, |rng| {
        let (stream, said) = traffic(rng, 8, 70_000);
        assert_eq!(read(&[&stream], &WIDE).items, said);
        assert_eq!(theirs(&stream, Role::Server, &WIDE), (said, false));
    });
}

#[test]
fn broken_traffic_is_refused_alike() {
    let limits = Limits { message_bytes: 2048, frame_bytes: 1024, fragments: u32::MAX };
    for_seeds(2000, |rng| {
        let (mut stream, _) = traffic(rng, 4, 200);
        for _ in 0..rng.usize(1..4) {
            break_it(rng, &mut stream);
        }
        let ours = read(&[&stream], &limits);
        let Some(violation) = ours.violation else {
            // 1014 was registered after tungstenite's list was made: it answers as if the client had said
            // 1002.
            if !matches!(ours.items.last(), Some(Said::Close(Some((1014, _))))) {
                assert_eq!(theirs(&stream, Role::Server, &limits), (ours.items, false));
            }
            return;
        };
        // We refuse at the first wrong byte, tungstenite at the end of that frame: let it come.
        stream.extend([0; 4096]);
        let (items, is_refused) = theirs(&stream, Role::Server, &limits);
        match violation {
            Violation::NonMinimalLength | Violation::LengthTopBit => assert!(items.starts_with(&ours.items)),
            // It takes a control frame whose few bytes are written as a long length.
            Violation::ControlTooLong if items.len() > ours.items.len() => {
                assert!(items.starts_with(&ours.items));
                if let Said::Ping(bytes) | Said::Pong(bytes) = &items[ours.items.len()] {
                    assert!(bytes.len() <= 125);
                }
            }
            // A code that may not be sent it answers with 1002, unless the reason is wrong as well.
            Violation::CloseCode if !is_refused => {
                let answer = Said::Close(Some((1002, "Protocol violation".to_owned())));
                assert_eq!(items, [&ours.items[..], &[answer]].concat());
            }
            _ => {
                assert_eq!(items, ours.items, "{violation}");
                assert!(is_refused, "{violation}");
            }
        }
    });
}

#[test]
fn headers_read_alike() {
    for_seeds(5000, |rng| {
        let mut bytes: Vec<u8> = (0..rng.usize(..20)).map(|_| rng.u8(..)).collect();
        if let Some(first) = bytes.first_mut() {
            // Without this most are refused for their reserved bits.
            *first &= if rng.u8(..8) > 0 { 0x8b } else { 0xff };
        }
        let mut cursor = Cursor::new(&bytes);
        let parsed = FrameHeader::parse(&mut cursor);
        match Header::parse(&bytes) {
            Ok(Some(header)) => {
                let (theirs, len) = parsed.unwrap().unwrap();
                assert_eq!((theirs.is_final, theirs.mask), (header.is_final, Some(header.mask)));
                assert_eq!(u8::from(theirs.opcode), header.opcode as u8);
                assert_eq!((len, cursor.position()), (header.payload_bytes, header.size as u64));
            }
            Ok(None) => assert!(matches!(parsed, Ok(None))),
            Err(Violation::ReservedOpcode) => assert!(!matches!(parsed, Ok(Some(_)))),
            Err(_) => {}
        }
    });
}

#[test]
fn written_headers_read_alike() {
    for len in (0..300).chain(65_500..65_600).chain([1 << 20, usize::MAX >> 1]) {
        let (bytes, size) = header(Opcode::Binary, len);
        let mut cursor = Cursor::new(&bytes[..size]);
        let (theirs, theirs_len) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
        assert_eq!((theirs_len, cursor.position()), (len as u64, size as u64));
        let mut formatted = Vec::new();
        theirs.format(theirs_len, &mut formatted).unwrap();
        assert_eq!(formatted, bytes[..size]);
    }
}

#[test]
fn what_we_write_its_client_reads() {
    let mut out = Vec::new();
    push_frame(&mut out, Opcode::Text, "žluťoučký".as_bytes());
    push_frame(&mut out, Opcode::Binary, &[7; 70_000]);
    push_frame(&mut out, Opcode::Ping, b"");
    push_frame(&mut out, Opcode::Pong, &[1; 125]);
    push_close(&mut out, 4000, "{\"reason\":\"idle\"}");
    let said = vec![
        Said::Message(Kind::Text, "žluťoučký".as_bytes().to_vec()),
        Said::Message(Kind::Binary, vec![7; 70_000]),
        Said::Ping(Vec::new()),
        Said::Pong(vec![1; 125]),
        Said::Close(Some((4000, "{\"reason\":\"idle\"}".to_owned()))),
    ];
    assert_eq!(theirs(&out, Role::Client, &WIDE), (said, false));
}

/// A server of this crate behind a client's stream: it answers once the whole head was written.
#[derive(Default)]
struct Server {
    request: Vec<u8>,
    answer: Cursor<Vec<u8>>,
}

impl Write for Server {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.request.extend_from_slice(buffer);
        let mut fields = Fields::new();
        if let Some(head) = Head::parse(&self.request, 8192, &mut fields).unwrap() {
            let request = Request::check(head).unwrap();
            push_accept(self.answer.get_mut(), request.key, None, &[("Gateway-Connection", "a-1")]);
            push_frame(self.answer.get_mut(), Opcode::Text, b"welcome");
        }
        Ok(buffer.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Read for Server {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.answer.read(buffer)
    }
}

#[test]
fn its_client_accepts_our_handshake() {
    let (mut socket, response) =
        tungstenite::client("ws://gateway.example/rooms/lobby", Server::default()).unwrap();
    assert_eq!(response.headers()["Gateway-Connection"], "a-1");
    assert_eq!(socket.read().unwrap(), Message::text("welcome"));
}
