//! Promise: the app servers that people start from work as they stand, in front of real WebSocket clients.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::{
    Client, Example, Gateway, NatsServer, Redis, RedisServer, eventually, example_configuration,
    upgrade_request,
};

/// What the chat promises, whoever wrote it.
#[track_caller]
fn chats(script: &str) {
    let example = Example::start(script, &["127.0.0.1:0"]);
    let address = format!("127.0.0.1:{}", example.port());
    let gateway = Gateway::start(&example_configuration("chat.toml", "127.0.0.1:50051", &address));
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
    // As websocat sends it.
    bob.say("/bye\n");
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

/// What the chats over a bus call a client.
fn name(client: &Client) -> String {
    client.id.split_once('-').unwrap().1.to_owned()
}

/// What the chats over a bus promise: who comes is welcomed, and what is said is told to all. Ada and Bob.
#[track_caller]
fn chats_over_a_bus(gateway: &Gateway) -> (Client, Client) {
    // An answer that comes before the node listens is lost.
    gateway.until("the bus is there", |m| m.sum("gateway_bus_up") == 1.0);
    let mut ada = gateway.client("/chat");
    let mut bob = gateway.client("/chat");
    for client in [&mut ada, &mut bob] {
        client.hears(&format!("welcome, you are {}", name(client)));
    }
    gateway.until("the channel is heard", |m| m.value("gateway_bus_subscriptions") == 1.0);
    for line in ["hello", "", "grüße", &"x".repeat(1_000)] {
        ada.say(line);
        let told = format!("{}: {line}", name(&ada));
        for client in [&mut ada, &mut bob] {
            client.hears(&told);
        }
    }
    (ada, bob)
}

#[test]
fn the_chat_over_nats_answers_one_and_tells_all() {
    let server = NatsServer::start();
    let url = server.url();
    let workers = [(); 2].map(|()| Example::start("nats-python/chat.py", &[&url]));
    let text = example_configuration("nats-python/gateway.toml", "nats://127.0.0.1:4222", &url);
    let gateway = Gateway::start(&text);
    let (mut ada, mut bob) = chats_over_a_bus(&gateway);
    for client in [&mut ada, &mut bob] {
        // As websocat sends it.
        client.say("/who\n");
        client.hears(&format!("you are {}", name(client)));
    }
    let of_ada = name(&ada);
    ada.leave();
    bob.hears(&format!("{of_ada} has left"));
    for worker in workers {
        worker.stop();
    }
    // One that takes whole partitions, after the others have gone.
    let partitions: Vec<String> = (0..16).map(|partition| partition.to_string()).collect();
    let arguments: Vec<&str> = [&*url].into_iter().chain(partitions.iter().map(String::as_str)).collect();
    let worker = Example::start("nats-python/chat.py", &arguments);
    bob.say("/who");
    bob.hears(&format!("you are {}", name(&bob)));
    worker.stop();
    gateway.stop();
}

#[test]
fn the_chat_over_redis_welcomes_each_tells_all_and_does_nothing_twice() {
    let server = RedisServer::start();
    let url = server.url();
    let chat = Example::start("redis-python/chat.py", &[&url, "0-15"]);
    let text = example_configuration("redis-python/gateway.toml", "redis://127.0.0.1:6379", &url);
    let gateway = Gateway::start(&text);
    let (ada, mut bob) = chats_over_a_bus(&gateway);
    let (of_ada, id) = (name(&ada), ada.id.clone());
    ada.leave();
    bob.hears(&format!("{of_ada} has left"));

    // A repetition, as there may be after a loss. It is acknowledged, and nobody is told of it.
    let mut redis = Redis::connect(server.port);
    let (stream, sequence) = eventually("the end is in its stream", || {
        (0..16).map(|partition| format!("gateway:inbound:chat:{partition}")).find_map(|stream| {
            let closed = redis.entries(&stream).into_iter().find(|entry| entry.field("event") == "closed")?;
            Some((stream, closed.field("sequence").to_owned()))
        })
    });
    let again = format!("XADD {stream} * event closed connection {id} sequence {sequence} again 1");
    let again = redis.say(&again);
    eventually("the repetition is acknowledged", || {
        let group = redis.say(&format!("XINFO GROUPS {stream}")).array().remove(0).array();
        let pending = redis.say(&format!("XPENDING {stream} chat")).array();
        (group.contains(&again) && pending[0].number() == 0).then_some(())
    });
    bob.say("still here");
    bob.hears(&format!("{}: still here", name(&bob)));

    // Killed between telling and acknowledging it would tell once more.
    eventually("all is acknowledged", || {
        let mut pending =
            |partition: u8| redis.say(&format!("XPENDING gateway:inbound:chat:{partition} chat"));
        (0..16).all(|partition| pending(partition).array()[0].number() == 0).then_some(())
    });
    drop(chat);
    // What was said while no app server was there is not lost.
    bob.say("anybody?");
    let _chat = Example::start("redis-python/chat.py", &[&url, "0-15"]);
    bob.hears(&format!("{}: anybody?", name(&bob)));
    gateway.stop();
}
