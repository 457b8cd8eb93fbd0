//! Owns the page at `/`: one file without any outside resource, for trying the gateway out. What it may load and
//! reach is stated in its `Content-Security-Policy`; it gets its data from `/v1/node` like anybody else.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};

use super::Admin;
use super::call::text;

const PAGE: &str = include_str!("page.html");

/// `GET /`.
pub(super) fn page(admin: &Admin) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    let port = admin.websocket_address.port();
    // The page has no text of others in its markup, so its own inline style and script are all there can be.
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
         connect-src 'self' ws://*:{port} wss://*:{port}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    if let Ok(policy) = HeaderValue::try_from(policy) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

#[cfg(test)]
mod tests {
    use super::PAGE;

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        for outside in ["src=", "<link", "@import", "url(", "//cdn", "innerHTML"] {
            assert!(!PAGE.contains(outside), "{outside}");
        }
        for id in ["connections", "room", "join", "text", "send", "messages"] {
            assert!(PAGE.contains(&format!("id=\"{id}\"")), "{id}");
        }
    }
}
