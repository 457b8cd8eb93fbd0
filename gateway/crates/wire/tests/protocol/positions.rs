//! When things are said and refused: text at its first wrong byte, limits at the header, control frames at
//! once; and what is held meanwhile.

use wire::error::Violation;
use wire::ws::{Assembly, Item, Kind, Limits};

use crate::client::{BINARY, CLOSE, CONTINUATION, PING, Said, TEXT, WIDE, frame, part, read, whole};

/// How many bytes of a stream that comes byte by byte are taken before it is refused, and why.
fn refused_after(stream: &[u8], limits: &Limits) -> Option<(usize, Violation)> {
    let mut assembly = Assembly::new();
    stream.iter().enumerate().find_map(|(i, byte)| {
        let fault = assembly.next(&mut [*byte], &mut 0, limits).err()?;
        Some((i + 1, fault))
    })
}

#[test]
fn wrong_text_is_refused_at_its_first_wrong_byte() {
    // (text, index of the first byte after which nothing can make it right)
    let cases: [(&[u8], usize); 7] = [
        (b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited", 12),
        (b"abc\xffdef", 3),
        (b"\xc0\xaf", 0),
        (b"\xe0\x9f\xbf", 1),
        (b"\xed\xa0\x80", 1),
        (b"\xf0\x8f\xbf\xbf", 1),
        (b"ok \xe2\x82x", 5),
    ];
    for (text, wrong) in cases {
        let stream = whole(TEXT, text);
        let header = stream.len() - text.len();
        let expected = Some((header + wrong + 1, Violation::InvalidUtf8));
        assert_eq!(refused_after(&stream, &WIDE), expected, "one frame, {text:x?}");
        for cut in 0..=text.len() {
            let stream = [part(TEXT, &text[..cut]), part(CONTINUATION, &text[cut..])].concat();
            let headers = if cut <= wrong { 12 } else { 6 };
            let expected = Some((headers + wrong + 1, Violation::InvalidUtf8));
            assert_eq!(refused_after(&stream, &WIDE), expected, "cut at {cut}, {text:x?}");
        }
    }
}

#[test]
fn text_that_ends_inside_a_character_is_refused_with_its_last_byte() {
    let stream = [part(TEXT, b"\xe2"), frame(0x80, [9; 4], b"\x82")].concat();
    assert_eq!(refused_after(&stream, &WIDE), Some((stream.len(), Violation::InvalidUtf8)));
    assert_eq!(read(&[&whole(TEXT, b"\xe2\x82")], &WIDE).violation, Some(Violation::InvalidUtf8));
}

#[test]
fn binary_is_not_checked_as_text() {
    let payload = b"\xff\xfe\xf4\x90".to_vec();
    let stream = [part(BINARY, &payload), frame(0x80, [0; 4], b"")].concat();
    assert_eq!(read(&[&stream[..9], &stream[9..]], &WIDE).items, [Said::Message(Kind::Binary, payload)]);
}

#[test]
fn limits_are_checked_before_the_payload() {
    let limits = Limits { message_bytes: 1000, frame_bytes: 600, fragments: 3 };
    let too_long = whole(BINARY, &[0; 601]);
    assert_eq!(refused_after(&too_long, &limits), Some((8, Violation::FrameTooBig)));
    let first = part(BINARY, &[0; 600]);
    let stream = [&first[..], &part(CONTINUATION, &[0; 401])].concat();
    assert_eq!(refused_after(&stream, &limits), Some((first.len() + 8, Violation::MessageTooBig)));
    let fragments = [part(TEXT, b""), part(CONTINUATION, b""), part(CONTINUATION, b"")].concat();
    let stream = [&fragments[..], &whole(CONTINUATION, b"")].concat();
    assert_eq!(refused_after(&stream, &limits), Some((fragments.len() + 6, Violation::TooManyFragments)));
    let announced = [0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    assert_eq!(refused_after(&announced, &limits), Some((14, Violation::FrameTooBig)));
}

#[test]
fn what_just_fits_passes() {
    let limits = Limits { message_bytes: 1000, frame_bytes: 600, fragments: 2 };
    let stream = [part(BINARY, &[7; 600]), whole(CONTINUATION, &[7; 400]), whole(BINARY, &[7; 600])].concat();
    let heard = read(&[&stream], &limits);
    assert_eq!(heard.violation, None);
    assert_eq!(
        heard.items,
        [vec![7; 1000], vec![7; 600]].map(|payload| Said::Message(Kind::Binary, payload))
    );
    let nothing = Limits { message_bytes: 0, frame_bytes: 0, fragments: 0 };
    assert_eq!(read(&[&whole(TEXT, b"")], &nothing).items, [Said::Message(Kind::Text, Vec::new())]);
}

#[test]
fn each_malformed_header_has_its_violation_at_the_earliest_byte() {
    let cases: [(&[u8], usize, Violation); 13] = [
        (&[0xc1], 1, Violation::ReservedBits),
        (&[0xa1], 1, Violation::ReservedBits),
        (&[0x91], 1, Violation::ReservedBits),
        (&[0x83], 1, Violation::ReservedOpcode),
        (&[0x8b], 1, Violation::ReservedOpcode),
        (&[0x09], 1, Violation::ControlFragmented),
        (&[0x81, 0x05], 2, Violation::Unmasked),
        (&[0x89, 0xfe], 2, Violation::ControlTooLong),
        (&[0x82, 0xfe, 0x00, 0x7d], 4, Violation::NonMinimalLength),
        (&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], 10, Violation::NonMinimalLength),
        (&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], 10, Violation::LengthTopBit),
        (&[0x80, 0x80, 0, 0, 0, 0], 6, Violation::UnexpectedContinuation),
        (&[0x01, 0x80, 0, 0, 0, 0, 0x82, 0x80, 0, 0, 0, 0], 12, Violation::ExpectedContinuation),
    ];
    for (stream, after, violation) in cases {
        assert_eq!(refused_after(stream, &WIDE), Some((after, violation)), "{stream:x?}");
        assert_eq!(read(&[stream], &WIDE).violation, Some(violation), "{stream:x?}");
    }
}

#[test]
fn a_malformed_close_is_refused() {
    for (payload, violation) in [
        (&b"\x03"[..], Violation::CloseTooShort),
        (b"\x03\xed", Violation::CloseCode),
        (b"\x00\x00", Violation::CloseCode),
        (b"\x03\xe8\xce\xba\xff", Violation::CloseReasonUtf8),
    ] {
        let stream = whole(CLOSE, payload);
        assert_eq!(read(&[&stream], &WIDE).violation, Some(violation));
        assert_eq!(refused_after(&stream, &WIDE), Some((stream.len(), violation)));
    }
}

#[test]
fn control_frames_come_out_between_fragments_at_once() {
    let stream = [part(TEXT, b"on"), whole(PING, b"are you there?"), whole(CONTINUATION, b"ce")].concat();
    let said = [Said::Ping(b"are you there?".to_vec()), Said::Message(Kind::Text, b"once".to_vec())];
    assert_eq!(read(&[&stream], &WIDE).items, said);
    for cut in 0..stream.len() {
        assert_eq!(read(&[&stream[..cut], &stream[cut..]], &WIDE).items, said, "cut at {cut}");
    }
}

#[test]
fn a_whole_frame_is_lent_from_the_input() {
    let mut input = whole(BINARY, b"no copy");
    let place = input.as_ptr_range();
    let mut assembly = Assembly::new();
    let Some(Item::Message { payload, .. }) = assembly.next(&mut input, &mut 0, &WIDE).unwrap() else {
        panic!()
    };
    assert_eq!(payload, b"no copy");
    assert!(place.contains(&payload.as_ptr()));
    assert!(assembly.is_idle() && assembly.held_bytes() == 0);
}

#[test]
fn an_announced_length_allocates_nothing() {
    let mut stream = whole(BINARY, &vec![0; 1 << 20]);
    let mut assembly = Assembly::new();
    assert_eq!(assembly.next(&mut stream[..14], &mut 0, &WIDE), Ok(None));
    assert!(!assembly.is_idle());
    assert_eq!(assembly.held_bytes(), 0);
    assert_eq!(assembly.next(&mut stream[14..24], &mut 0, &WIDE), Ok(None));
    assert!(assembly.held_bytes() <= 128);
}

#[test]
fn a_delivered_message_is_released() {
    let mut stream = whole(BINARY, &[1; 5000]);
    let mut assembly = Assembly::new();
    let (start, end) = stream.split_at_mut(2000);
    assert_eq!(assembly.next(start, &mut 0, &WIDE), Ok(None));
    assert!(!assembly.is_idle() && assembly.held_bytes() >= 1992);
    let mut at = 0;
    assert!(
        matches!(assembly.next(end, &mut at, &WIDE), Ok(Some(Item::Message { payload, .. })) if payload == [1; 5000])
    );
    assert!(assembly.is_idle(), "it may be dropped with its buffer");
    assert_eq!(assembly.next(end, &mut at, &WIDE), Ok(None));
    assert!(assembly.is_idle() && assembly.held_bytes() == 0);
}

#[test]
fn a_control_frame_behind_a_long_message_grows_the_buffer_within_the_limit() {
    let limits = Limits { message_bytes: 600, ..WIDE };
    let ping = whole(PING, b"still there?");
    let (start, end) = ping.split_at(10);
    let mut assembly = Assembly::new();
    assert_eq!(assembly.next(&mut part(BINARY, &[1; 500]), &mut 0, &limits), Ok(None));
    assert_eq!(assembly.next(&mut start.to_vec(), &mut 0, &limits), Ok(None));
    assert!(assembly.held_bytes() <= 600 + 125);
    let mut end = end.to_vec();
    assert_eq!(assembly.next(&mut end, &mut 0, &limits), Ok(Some(Item::Ping(b"still there?"))));
}

#[test]
fn a_partial_control_frame_leaves_the_open_message_whole() {
    let ping = whole(PING, &[b'p'; 125]);
    let stream = [
        part(BINARY, &[1; 300]),
        ping.clone(),
        ping,
        part(CONTINUATION, &[2; 300]),
        whole(CONTINUATION, b""),
    ];
    let pieces = stream.concat();
    let pieces: Vec<&[u8]> = pieces.chunks(50).collect();
    let limits = Limits { message_bytes: 600, ..WIDE };
    let message = [[1; 300], [2; 300]].concat();
    let said =
        [Said::Ping(vec![b'p'; 125]), Said::Ping(vec![b'p'; 125]), Said::Message(Kind::Binary, message)];
    assert_eq!(read(&pieces, &limits).items, said);
}
