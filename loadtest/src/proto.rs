//! The package `gateway.v1` as `build.rs` makes it of the gateway's proto files, which are its documentation. Owns
//! nothing else. Used by the app server and by the gRPC client.
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::all,
    clippy::too_many_lines,
    clippy::unwrap_used,
    clippy::needless_pass_by_value
)]

tonic::include_proto!("gateway.v1");
