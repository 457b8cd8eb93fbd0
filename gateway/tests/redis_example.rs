//! Promise: the app server of `deploy/examples/redis-python` does what it says, with the configuration beside it.
#![allow(clippy::unwrap_used)]

mod harness;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use harness::{Gateway, RedisServer};

/// Ends with the test.
struct AppServer(Child);

impl AppServer {
    #[track_caller]
    fn start(example: &Path, root: &Path, url: &str) -> Self {
        let python = root.join(".tools/venv/bin/python");
        let mut command = Command::new(python);
        command.arg(example.join("chat.py")).args([url, "0-15"]);
        command.env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("Python with redis is needed: `make tools` installs it");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let server = Self(child);
        assert_eq!(line, "ready\n");
        server
    }
}

impl Drop for AppServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_python_chat_welcomes_each_and_tells_all() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
    let example = root.join("deploy/examples/redis-python");
    let server = RedisServer::start();
    let chat = AppServer::start(&example, &root, &server.url());
    let text = std::fs::read_to_string(example.join("gateway.toml")).unwrap();
    let text = text.replace("redis://127.0.0.1:6379", &server.url());
    assert!(text.contains(&server.url()), "the example's address is replaced by the test's");
    let gateway = Gateway::start(&text);
    let subscribed = |m: &harness::Metrics| m.value("gateway_bus_subscriptions") == 1.0;
    let mut ada = gateway.client("/chat");
    let name = |client: &harness::Client| client.id.split_once('-').unwrap().1.to_owned();
    let (of_ada, mut bob) = (name(&ada), gateway.client("/chat"));
    let of_bob = name(&bob);
    ada.hears(&format!("welcome, you are {of_ada}"));
    bob.hears(&format!("welcome, you are {of_bob}"));
    gateway.until("the channel is heard", subscribed);
    for line in ["hello", "", "grüße", &"x".repeat(1_000)] {
        ada.say(line);
        for client in [&mut ada, &mut bob] {
            client.hears(&format!("{of_ada}: {line}"));
        }
    }
    ada.leave();
    bob.hears(&format!("{of_ada} has left"));
    drop(chat);
    // What was said while no app server was there is not lost.
    bob.say("anybody?");
    let _chat = AppServer::start(&example, &root, &server.url());
    bob.hears(&format!("{of_bob}: anybody?"));
    gateway.stop();
}
