//! Compiles the protos of the gateway for the harness's own app server and client: what it measures must not be made of
//! the code that it measures.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../gateway/crates/backend/proto");
    let protos = ["gateway/v1/backend.proto", "gateway/v1/message.proto"];
    for proto in protos {
        println!("cargo:rerun-if-changed={}", root.join(proto).display());
    }
    let descriptors = protox::compile(protos, [&root])?;
    Ok(tonic_prost_build::configure().bytes(".gateway.v1").compile_fds(descriptors)?)
}
