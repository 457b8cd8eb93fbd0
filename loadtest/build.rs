//! Compiles the protos of the gateway for the harness's own app server and client: what it measures must not be made of
//! the code that it measures. And notes the revision that it was built from, for reports; without git there is none.

use std::error::Error;
use std::path::Path;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../gateway/crates/backend/proto");
    let protos = ["gateway/v1/backend.proto", "gateway/v1/message.proto"];
    for proto in protos {
        println!("cargo:rerun-if-changed={}", root.join(proto).display());
    }
    let revision = revision().map_or(String::new(), |revision| format!(", revision {revision}"));
    println!("cargo:rustc-env=LOADTEST_REVISION={revision}");
    let descriptors = protox::compile(protos, [&root])?;
    Ok(tonic_prost_build::configure().bytes(".gateway.v1").compile_fds(descriptors)?)
}

/// The commit at hand, if this file is part of one. Asked again when another one is.
fn revision() -> Option<String> {
    git(&["ls-files", "--error-unmatch", "build.rs"])?;
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo:rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
