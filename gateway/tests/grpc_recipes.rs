//! Promise: the recipes for gRPC in the README do what they say, as they stand there.
#![allow(clippy::unwrap_used)]

mod harness;

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::Gateway;
use tungstenite::Message;

/// Where the README has the gateway.
const ADDRESS: &str = "127.0.0.1:8082";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// The block of shell commands in the part on gRPC.
fn recipes() -> String {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let part = readme.split("\n### The same over gRPC\n").nth(1).expect("the README has a part on gRPC");
    let block = part.split("\n```sh\n").nth(1).expect("it has recipes");
    block.split("\n```\n").next().unwrap().to_owned()
}

#[test]
fn the_recipes_of_the_readme_do_what_they_say() {
    let gateway = Gateway::start("[grpc]\naddress = '127.0.0.1:0'\n");
    let mut client = gateway.client("/rooms/lobby");
    let recipes = recipes();
    assert_eq!(recipes.matches(ADDRESS).count(), 1);
    let script = recipes.replace(ADDRESS, &gateway.grpc.unwrap().to_string());
    let tools = root().join(".tools/buf/node_modules/.bin");
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let ran =
        Command::new("bash").args(["-euo", "pipefail", "-c", &script]).env("PATH", path).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    let complained = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "`make tools` installs buf, which this needs\n{said}\n{complained}");
    for part in
        ["gateway.v1.Gateway/SendToUser", "\"SERVING\"", "\"subscribers\": \"1\"", "\"news\"", &client.id]
    {
        assert!(said.contains(part), "{part} is missing in:\n{said}\n{complained}");
    }
    client.hears("from the server");
    assert_eq!(client.hear(), Message::binary(vec![0, 1]));
    client.hears("only you");
    assert_eq!(client.told_to_go(), (4001, "bye".to_owned()));
    assert_eq!(gateway.wait().0, Some(0), "it drained");
}
