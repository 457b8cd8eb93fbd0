//! Protocols as functions over bytes: WebSocket frames, message assembly, the opening handshake, HTTP/1.1
//! request heads, the PROXY protocol.
//!
//! Owns what the bytes mean. Refuses to know where they come from: no sockets, no clocks, no threads, no I/O,
//! so every rule here can be tested, fuzzed and replayed alone. Nothing in here panics on bytes from outside,
//! and nothing grows past a bound that the caller names. Called by `shard`, which decides, and by `bridge`,
//! which encodes messages once.
//!
//! In the order in which a connection meets them:
//!
//! 1. [`proxy::ProxyHeader::parse`] says whom it comes from, when a proxy is in front that tells,
//! 2. [`http::Head::parse`] cuts the request head out of the first bytes, and [`http::ForwardedBy`] finds in it whom it
//!    comes from, when a proxy in front writes that there,
//! 3. [`ws::handshake::Request::check`] says whether it is a WebSocket upgrade, else gives a
//!    [`error::Refusal`],
//! 4. [`ws::handshake::push_accept`] or [`http::push_refusal`] writes the answer,
//! 5. [`ws::Assembly::next`] turns what follows into messages, pings, pongs and the close, else a
//!    [`error::Violation`],
//! 6. [`ws::push_frame`] and [`ws::push_close`] write frames back.
#![forbid(unsafe_code)]

pub mod error;
pub mod http;
pub mod proxy;
pub mod ws;
