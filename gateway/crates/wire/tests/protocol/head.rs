//! Where a head ends, however slowly it comes, and how large it may be.

use wire::http::{BadHead, Fields, HEADERS_MAX, Head, is_complete};

use crate::client::{cut, for_seeds};

const HEAD: &[u8] = b"GET /a?b HTTP/1.1\r\nHost: h\r\nX-One: 1\r\nx-one: 2\r\n\r\n";

fn length(bytes: &[u8], head_bytes: usize) -> Result<Option<usize>, BadHead> {
    let mut fields = Fields::new();
    Head::parse(bytes, head_bytes, &mut fields).map(|head| head.map(|head| head.length))
}

#[test]
fn a_head_is_whole_at_its_blank_line_and_not_before() {
    for len in 0..HEAD.len() {
        assert_eq!(length(&HEAD[..len], 8192), Ok(None), "{len}");
        assert_eq!(is_complete(&HEAD[..len], 0), None, "{len}");
    }
    assert_eq!(length(HEAD, 8192), Ok(Some(HEAD.len())));
    assert_eq!(is_complete(HEAD, 0), Some(HEAD.len()));
}

#[test]
fn frames_sent_early_stay_behind_the_head() {
    let eager = [HEAD, b"\x81\x80\n\n\r\n\r\n"].concat();
    assert_eq!(length(&eager, 8192), Ok(Some(HEAD.len())));
    assert_eq!(length(&eager, HEAD.len()), Ok(Some(HEAD.len())));
    assert_eq!(is_complete(&eager, 0), Some(HEAD.len()));
}

#[test]
fn the_limit_counts_the_head_alone() {
    assert_eq!(length(HEAD, HEAD.len() - 1), Err(BadHead::TooLarge));
    assert_eq!(length(&HEAD[..10], 10), Err(BadHead::TooLarge));
    assert_eq!(length(&HEAD[..10], 11), Ok(None));
    assert_eq!(length(b"", 8192), Ok(None));
}

#[test]
fn sixty_four_fields_pass_and_one_more_does_not() {
    let with = |fields: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(fields));
    assert!(length(with(HEADERS_MAX).as_bytes(), 8192).unwrap().is_some());
    assert_eq!(length(with(HEADERS_MAX + 1).as_bytes(), 8192), Err(BadHead::TooManyFields));
}

#[test]
fn garbage_is_told_before_its_end() {
    for bytes in [
        &b"\x16\x03\x01\x02\x00"[..],
        b"\r\n\r\n",
        b"\n\n",
        b"\r\rGET",
        b"GET / HTTP/1.1\r\n: v",
        b"SSH-2.0-x\r\n",
    ] {
        assert_eq!(length(bytes, 8192), Err(BadHead::Malformed), "{bytes:?}");
    }
    assert_eq!(length(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 8192), Err(BadHead::Version));
}

#[test]
fn fields_are_found_whatever_their_case() {
    let mut fields = Fields::new();
    let head = Head::parse(HEAD, 8192, &mut fields).unwrap().unwrap();
    assert_eq!((head.method, head.path, head.query, head.authority), ("GET", "/a", Some("b"), None));
    assert_eq!(head.header("x-ONE"), Some(&b"1"[..]));
    assert_eq!(head.values("X-One").collect::<Vec<_>>(), [b"1", b"2"]);
    assert_eq!(head.header("x-two"), None);
    assert_eq!(head.fields().count(), 3);
}

#[test]
fn a_slow_head_is_found_wherever_it_is_cut() {
    for_seeds(300, |rng| {
        let line_end = if rng.bool() { "\r\n" } else { "\n" };
        let mut text = if rng.bool() { String::new() } else { line_end.to_owned() };
        text += &["GET / HTTP/1.1", "Host: h", "A: b"].join(line_end);
        for _ in 0..2 {
            text += if rng.bool() { "\r\n" } else { "\n" };
        }
        let whole = text.len();
        text += "\r\n\n\r\nrest";
        let (mut arrived, mut found) = (0, None);
        for piece in cut(rng, text.as_bytes()) {
            let searched = arrived;
            arrived += piece.len();
            found = is_complete(&text.as_bytes()[..arrived], searched);
            assert_eq!(found, length(&text.as_bytes()[..arrived], 8192).unwrap());
            if found.is_some() {
                break;
            }
        }
        assert_eq!(found, Some(whole));
    });
}
