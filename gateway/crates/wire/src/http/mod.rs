//! HTTP/1.1 as far as a connection needs it before it is a WebSocket.
//!
//! Owns the bounded request head ([`head`]), what it says of who sent it ([`forwarded`]) and the short answers that
//! refuse ([`answer`]). Refuses bodies,
//! keep-alive and routing: whoever needs a web server uses one. Called by the shard while a connection is in
//! its handshake.

pub mod answer;
pub mod forwarded;
pub mod head;

pub use answer::{push_refusal, push_refused};
pub use forwarded::{ForwardedBy, HOPS_MAX};
pub use head::{BadHead, Fields, HEADERS_MAX, Head, is_complete};
