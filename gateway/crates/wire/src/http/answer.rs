//! Short answers to requests that do not become a connection.
//!
//! Owns their bytes: status line, the fields each status asks for, a problem document (RFC 9457). Refuses to
//! keep the socket open: each says `Connection: close`. Called by the shard before it closes.

use crate::error::Refusal;

/// Appends the whole answer, at most about 600 bytes.
pub fn push_refusal(out: &mut Vec<u8>, refusal: &Refusal) {
    let status = refusal.status();
    let title = title(status);
    let (label, detail) = (refusal.label(), refusal.detail());
    let body = format!(r#"{{"title":"{title}","status":{status},"detail":"{detail}","reason":"{label}"}}"#);
    let head = format!(
        "HTTP/1.1 {status} {title}\r\nContent-Type: application/problem+json\r\nContent-Length: {}\r\n",
        body.len()
    );
    out.extend_from_slice(head.as_bytes());
    match refusal {
        Refusal::Method => out.extend_from_slice(b"Allow: GET\r\n"),
        Refusal::NotUpgrade | Refusal::Version => {
            out.extend_from_slice(b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
        }
        _ => {}
    }
    if let Some(seconds) = refusal.retry_after_s() {
        out.extend_from_slice(format!("Retry-After: {seconds}\r\n").as_bytes());
    }
    // Whoever sends `Upgrade` names it in `Connection` (RFC 9110 section 7.8).
    let connection: &[u8] =
        if status == 426 { b"Connection: upgrade, close\r\n\r\n" } else { b"Connection: close\r\n\r\n" };
    out.extend_from_slice(connection);
    out.extend_from_slice(body.as_bytes());
}

/// Appends the answer of an app server that does not let a request in: its status, its reason as text, and when to come
/// again. `reason` holds printable ASCII.
pub fn push_refused(out: &mut Vec<u8>, status: u16, retry_after_s: Option<u32>, reason: &str) {
    debug_assert!((400..600).contains(&status) && reason.is_ascii(), "{status} {reason}");
    let title = title(status);
    let length = reason.len();
    let head =
        format!("HTTP/1.1 {status} {title}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n");
    out.extend_from_slice(head.as_bytes());
    if let Some(seconds) = retry_after_s {
        out.extend_from_slice(format!("Retry-After: {seconds}\r\n").as_bytes());
    }
    out.extend_from_slice(b"Connection: close\r\n\r\n");
    out.extend_from_slice(reason.as_bytes());
}

/// The phrase of a status (RFC 9110 section 15, RFC 6585).
const fn title(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        505 => "HTTP Version Not Supported",
        402..500 => "Refused",
        _ => "Service Unavailable",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_words_of_an_app_server_are_the_body() {
        let mut out = Vec::new();
        push_refused(&mut out, 418, Some(7), "no tea");
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, "no tea");
        assert!(
            head.starts_with("HTTP/1.1 418 Refused\r\n") && head.contains("\r\nContent-Length: 6\r\n"),
            "{head}"
        );
        assert!(head.contains("\r\nRetry-After: 7\r\n") && head.ends_with("Connection: close"), "{head}");
    }

    #[test]
    fn every_refusal_is_a_whole_response_of_its_status() {
        for refusal in Refusal::ALL {
            let mut out = Vec::new();
            push_refusal(&mut out, &refusal);
            let mut fields = [httparse::EMPTY_HEADER; 16];
            let mut response = httparse::Response::new(&mut fields);
            let httparse::Status::Complete(end) = response.parse(&out).unwrap() else {
                panic!("{refusal:?}")
            };
            assert_eq!(response.code, Some(refusal.status()));
            let value = |name: &str| {
                let field = response.headers.iter().find(|field| field.name == name);
                field.map(|field| str::from_utf8(field.value).unwrap())
            };
            assert_eq!(value("Content-Length"), Some((out.len() - end).to_string().as_str()));
            assert!(value("Connection").unwrap().ends_with("close"));
            assert_eq!(value("Retry-After").is_some(), refusal.retry_after_s().is_some());
            assert_eq!(value("Allow").is_some(), refusal.status() == 405);
            assert_eq!(value("Sec-WebSocket-Version").is_some(), refusal.status() == 426);
            assert!(str::from_utf8(&out[end..]).unwrap().contains(refusal.label()));
            assert!(out.len() <= 600);
        }
    }
}
