//! Promise: the app servers that people start from work as they stand, in front of real WebSocket clients.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Example, Gateway, example_configuration, upgrade_request};

/// What the chat promises, whoever wrote it.
#[track_caller]
fn chats(script: &str) {
    let example = Example::start(script);
    let gateway = Gateway::start(&example_configuration("chat.toml", "127.0.0.1:50051", example.port));
    let mut ada = gateway.client("/chat/lobby?user=ada");
    ada.hears("ada is here");
    let mut bob = gateway.client("/chat/lobby?user=bob");
    bob.hears("bob is here");
    ada.hears("bob is here");
    let mut eve = gateway.client("/chat/kitchen?user=eve");
    eve.hears("eve is here");
    bob.say("hello");
    for client in [&mut ada, &mut bob] {
        client.hears("bob: hello");
    }
    bob.say("/bye");
    assert_eq!(bob.told_to_go().0, 4500);
    ada.hears("bob has left");
    eve.say("anybody here?");
    eve.hears("eve: anybody here?");
    let mut stranger = gateway.raw();
    stranger.send(upgrade_request("/chat/lobby?user=").as_bytes());
    let (status, reason) = stranger.refusal();
    assert_eq!(status, 403);
    assert!(reason.contains("say who you are: ?user=NAME"), "{reason}");
    gateway.stop();
    example.stop();
}

#[test]
fn the_chat_in_python_chats() {
    chats("chat-python/chat.py");
}

#[test]
fn the_chat_in_node_chats() {
    chats("chat-node/chat.js");
}
