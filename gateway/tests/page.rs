//! Promise: two browser tabs talk to each other through the page that the gateway serves, and see live counts.
#![allow(clippy::unwrap_used)]

mod harness;

use std::path::Path;
use std::process::Command;

use harness::Gateway;

#[test]
fn two_tabs_of_a_browser_hear_each_other() {
    let gateway = Gateway::start("");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/two_tabs.mjs");
    let mut node = Command::new("node");
    node.arg(script).arg(format!("http://{}/", gateway.http));
    let output = node.output().expect("node is needed: `make tools` installs what tests need");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complained}");
    gateway.until_only(0);
    gateway.stop();
}
