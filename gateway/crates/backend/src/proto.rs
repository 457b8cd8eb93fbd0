//! The package `gateway.v1`: what `build.rs` makes of the files under `proto/`, which are its documentation. Owns nothing
//! else; the services are implemented by `gateway`, their clients are used by the backends.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::too_many_lines,
    clippy::unwrap_used,
    clippy::needless_pass_by_value
)]

tonic::include_proto!("gateway.v1");

/// The files of the package as a `google.protobuf.FileDescriptorSet`, imports first, without comments.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
