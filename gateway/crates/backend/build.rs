//! Compiles the protos under `proto/` to Rust, with a compiler that is itself a Rust crate: nobody who builds the gateway
//! needs `protoc`. Writes the descriptor set beside it, for reflection and for the test against breaking changes.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Every file of the package `gateway.v1`.
const PROTOS: [&str; 4] = [
    "gateway/v1/backend.proto",
    "gateway/v1/bus.proto",
    "gateway/v1/gateway.proto",
    "gateway/v1/message.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("proto");
    for proto in PROTOS {
        println!("cargo:rerun-if-changed={}", root.join(proto).display());
    }
    let mut descriptors = protox::compile(PROTOS, [&root])?;
    tonic_prost_build::configure()
        .build_transport(false)
        // Payloads are slices of what was received, not copies.
        .bytes(".gateway.v1")
        .compile_fds(descriptors.clone())?;
    // Comments are for the code that is made of them; whoever reflects gets the shapes.
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    let written = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    Ok(fs::write(written, prost::Message::encode_to_vec(&descriptors))?)
}
