//! Publish/subscribe.

use std::time::Duration;

use backend::joint::OnLoss;
use backend::redis::{Server, Tls, envelope};
use backend::{Bus as _, BusState, Trouble};
use bridge::message::Bytes;
use bridge::{Channel, Epoch, Kind, Message};
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use crate::node::{Node, channel, wall_ms};
use crate::server::Redis;
use crate::streams::gap;

async fn publish(redis: &mut MultiplexedConnection, name: &str, payload: &[u8]) -> u32 {
    redis::cmd("PUBLISH").arg(name).arg(payload).query_async(redis).await.unwrap()
}

#[tokio::test]
async fn an_app_server_publishes_plain_text_and_everything_else_in_an_envelope() {
    let server = Redis::start(&[]);
    let mut redis = server.connection().await;
    let mut node = Node::start("one", server.server()).await;
    node.switchboard.join(0, &channel("room"));
    node.until("the subscription stands", |node| node.bus.stats().unwrap().subscriptions.value() == 1).await;
    assert_eq!(publish(&mut redis, "gateway:channel:room", "grüße".as_bytes()).await, 1);
    let binary = Message::copy_from(Kind::Binary, b"\0\xff");
    publish(&mut redis, "gateway:channel:room", &envelope::encode(None, None, None, &binary)).await;
    node.until("both are heard", |node| node.heard.len() == 2).await;
    assert_eq!(node.heard[0], (channel("room"), Kind::Text, Bytes::from_static("grüße".as_bytes())));
    assert_eq!(node.heard[1], (channel("room"), Kind::Binary, Bytes::from_static(b"\0\xff")));
    node.stop().await;
}

#[tokio::test]
async fn what_is_not_ours_is_counted_and_disturbs_nothing() {
    let server = Redis::start(&[]);
    let mut redis = server.connection().await;
    let mut node = Node::start("one", server.server()).await;
    node.switchboard.join(0, &channel("room"));
    node.until("the subscription stands", |node| node.bus.stats().unwrap().subscriptions.value() == 1).await;
    for garbage in [&b"\0"[..], b"\0garbage", b"\xff\xfe", b"\0\x22\x7f"] {
        publish(&mut redis, "gateway:channel:room", garbage).await;
        publish(&mut redis, "gateway:connection:one", garbage).await;
    }
    publish(&mut redis, "gateway:connection:one", b"to nobody").await;
    let stale = "one-00000000-0-1-1".parse().unwrap();
    let message = Message::copy_from(Kind::Text, b"late");
    publish(&mut redis, "gateway:connection:one", &envelope::encode(None, Some(&stale), None, &message))
        .await;
    // Our own copy, and one of an earlier life of this node, which is somebody else.
    let own = envelope::encode(Some(("one", node.epoch)), None, None, &message);
    publish(&mut redis, "gateway:channel:room", &own).await;
    let earlier = envelope::encode(Some(("one", Epoch(!node.epoch.0))), None, None, &message);
    publish(&mut redis, "gateway:channel:room", &earlier).await;
    publish(&mut redis, "gateway:channel:room", b"ours").await;
    node.until("what is ours is heard", |node| node.heard.len() == 2).await;
    let stats = node.bus.stats().unwrap();
    assert_eq!((stats.malformed.value(), stats.stale.value(), stats.own_copies.value()), (9, 1, 1));
    node.stop().await;
}

#[tokio::test]
async fn a_storm_of_joins_is_few_operations_and_comes_back_after_a_restart() {
    const CHANNELS: u64 = 50_000;
    let mut server = Redis::start(&[]);
    let mut node = Node::start("one", server.server()).await;
    node.is_up().await;
    let channels: Vec<Channel> = (0..CHANNELS).map(|number| channel(&format!("room.{number}"))).collect();
    let started = Instant::now();
    for channel in &channels {
        node.switchboard.join(0, channel);
    }
    let has_all = |node: &mut Node| node.bus.stats().unwrap().subscriptions.value() == CHANNELS;
    node.until("all are subscribed", has_all).await;
    let took = started.elapsed();
    let operations = node.bus.stats().unwrap().subscription_operations.value();
    assert!(operations <= 2 * CHANNELS / 1000, "{operations}");

    server.kill();
    node.until("the loss is noticed", |node| node.bus.state() == BusState::Away).await;
    let started = Instant::now();
    server.restart();
    node.is_up().await;
    let back = started.elapsed();
    assert!(has_all(&mut node), "up means subscribed");
    assert!(back < Duration::from_secs(10), "{back:?}");
    let mut redis = server.connection().await;
    for number in [0, 777, CHANNELS - 1] {
        let name = format!("gateway:channel:room.{number}");
        assert_eq!(publish(&mut redis, &name, b"x").await, 1);
    }
    node.until("all are heard", |node| node.heard.len() == 3).await;
    println!("{CHANNELS} channels: subscribed in {took:?} by {operations} operations, back in {back:?}");
    for channel in &channels {
        node.switchboard.leave(0, channel);
    }
    node.until("all are ended", |node| node.bus.stats().unwrap().subscriptions.value() == 0).await;
    node.stop().await;
}

#[tokio::test]
async fn who_joins_while_the_server_is_away_hears_when_it_is_back_and_publishes_fail_meanwhile() {
    let mut server = Redis::start(&[]);
    let mut node = Node::start("one", server.server()).await;
    node.is_up().await;
    server.kill();
    node.until("the loss is noticed", |node| node.bus.state() == BusState::Away).await;
    node.switchboard.join(0, &channel("late"));
    let message = Message::copy_from(Kind::Text, b"x");
    assert!(node.bus.forward(&channel("late"), &message, None).await.is_err());
    assert_eq!(node.bus.stats().unwrap().left_out.value(), 1, "and are counted");
    server.restart();
    node.is_up().await;
    assert!(node.bus.forward(&channel("late"), &message, None).await.is_ok());
    let mut redis = server.connection().await;
    publish(&mut redis, "gateway:channel:late", b"now").await;
    node.until("it is heard", |node| node.heard.len() == 1).await;
    node.stop().await;
}

#[tokio::test]
async fn a_start_waits_for_a_server_that_answers_and_one_that_did_not_leaves_a_gap() {
    let mut server = Redis::start(&[]);
    let mut node = Node::start("one", server.server()).await;
    assert_eq!(node.bus.state(), BusState::Up);
    node.stop().await;
    let mut redis = server.connection().await;
    let keys: u64 = redis::cmd("DBSIZE").query_async(&mut redis).await.unwrap();
    assert_eq!(keys, 0, "and then there is no gap");

    server.kill();
    let began_ms = wall_ms();
    let mut node = Node::start("one", server.server()).await;
    let started_ms = wall_ms();
    assert_eq!(node.bus.state(), BusState::Away);
    server.restart();
    node.is_up().await;
    let (from_ms, to_ms) = gap(&mut server.connection().await, 0).await;
    assert!((began_ms..=started_ms).contains(&from_ms) && started_ms <= to_ms, "{from_ms} to {to_ms}");
    node.stop().await;
}

#[tokio::test]
async fn a_user_with_a_password_gets_in_and_another_does_not() {
    let folder = tempfile::tempdir().unwrap();
    // What the README says that it needs.
    let rights = "~gateway:* &gateway:* +hello +ping +select +multi +exec +publish +subscribe +unsubscribe +xadd \
        +xlen +xtrim +xpending +xinfo|groups";
    let acl = format!("user default on nopass ~* &* +@all\nuser edge on >secret {rights}\n");
    std::fs::write(folder.path().join("users.acl"), acl).unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "wrong\n").unwrap();
    let server = Redis::start_in(folder, &["--aclfile", "users.acl"]);
    let login =
        Server { user: Some("edge".to_owned()), password_file: Some(password.clone()), ..server.server() };
    let refused = Node::refused(login.clone()).await;
    assert!(refused.contains("WRONGPASS") && refused.contains("bus.redis.password_file"), "{refused}");
    std::fs::write(&password, "secret\n").unwrap();
    // Room for four events and for the gap.
    let mut node = Node::start_with("one", login, 5, OnLoss::Pause).await;
    node.is_up().await;
    // Once it runs, whoever is refused tries again, with what the file says then.
    let mut redis = server.connection().await;
    let mut acl = redis::pipe();
    acl.cmd("ACL").arg(&["SETUSER", "edge", "resetpass", ">other"]).ignore();
    acl.cmd("CLIENT").arg(&["KILL", "USER", "edge"]).ignore();
    acl.exec_async(&mut redis).await.unwrap();
    node.until("it was tried", |node| {
        node.bus.problem().is_some_and(|problem| problem.contains("WRONGPASS"))
    })
    .await;
    assert_eq!((node.bus.state(), node.bus.trouble()), (BusState::Away, Some(Trouble::Login)));
    std::fs::write(&password, "other\n").unwrap();
    node.is_up().await;
    assert_eq!(node.bus.trouble(), None);
    // A group has acknowledged what is there, so that there is something to trim.
    let partition = bridge::Address { shard: 0, slot: 0, generation: 1 }.partition(4);
    let stream = format!("gateway:inbound:app:{partition}");
    for _ in 0..4 {
        node.say(0, b"x").await;
    }
    node.until("it is settled", |node| node.unsettled() == 0).await;
    redis::cmd("XGROUP").arg(&["CREATE", &stream, "workers", "$"]).exec_async(&mut redis).await.unwrap();
    node.say(0, b"x").await;
    node.until("the stream is trimmed", |node| node.unsettled() == 0).await;
    node.switchboard.join(0, &channel("room"));
    node.until("it may subscribe", |node| node.bus.stats().unwrap().subscriptions.value() == 1).await;
    let message = Message::copy_from(Kind::Text, b"x");
    assert!(node.bus.forward(&channel("room"), &message, None).await.is_ok(), "it may publish");
    node.stop().await;
}

#[tokio::test]
async fn a_user_who_needs_no_password_is_who_logs_in_and_nobody_else_in_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let rights = "~gateway:* &gateway:* +@all";
    let users = format!(
        "user default on nopass ~* &* +@all\nuser open on nopass {rights}\nuser edge on >secret {rights}\n"
    );
    std::fs::write(folder.path().join("users.acl"), users).unwrap();
    let server = Redis::start_in(folder, &["--aclfile", "users.acl"]);
    let without_password = |user: &str| Server { user: Some(user.to_owned()), ..server.server() };
    let refused = Node::refused(without_password("edge")).await;
    assert!(refused.contains("WRONGPASS"), "{refused}");
    let mut node = Node::start("one", without_password("open")).await;
    node.is_up().await;
    let mut redis = server.connection().await;
    let clients: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut redis).await.unwrap();
    let of = |user: &str| clients.lines().filter(|line| line.contains(&format!(" user={user} "))).count();
    assert!(of("open") >= 3, "{clients}");
    assert_eq!(of("default"), 1, "this connection: {clients}");
    node.stop().await;
}

#[tokio::test]
async fn who_lacks_a_right_is_not_let_in_and_trying_leaves_nothing_behind() {
    let server = Redis::start(&[]);
    let password = server.folder.path().join("password");
    std::fs::write(&password, "secret").unwrap();
    let mut redis = server.connection().await;
    let login = Server { user: Some("edge".to_owned()), password_file: Some(password), ..server.server() };
    let mut grant = async |rights: &[&str]| {
        let mut grant = redis::cmd("ACL");
        grant.arg(&["SETUSER", "edge", "reset", "on", ">secret"]).arg(rights);
        grant.exec_async(&mut redis).await.unwrap();
    };
    for lacking in
        ["subscribe", "unsubscribe", "publish", "multi", "exec", "xadd", "xlen", "xtrim", "xpending"]
    {
        grant(&["~gateway:*", "&gateway:*", "+@all", &format!("-{lacking}")]).await;
        let refused = Node::refused(login.clone()).await;
        assert!(refused.contains("no permissions") && refused.contains(&format!("'{lacking}'")), "{refused}");
        assert!(refused.contains("(bus.redis.user)"), "{refused}");
    }
    for names in [["~gateway:*", "&other:*"], ["~other:*", "&gateway:*"]] {
        grant(&[&names[..], &["+@all"]].concat()).await;
        let refused = Node::refused(login.clone()).await;
        assert!(refused.contains("no permissions") && refused.contains("(bus.redis.user)"), "{refused}");
    }
    let keys: u64 = redis::cmd("DBSIZE").query_async(&mut redis).await.unwrap();
    assert_eq!(keys, 0, "nothing was added");
    let refused = Node::refused(Server { database: 99, ..server.server() }).await;
    assert!(refused.contains("bus.redis.database"), "{refused}");
    redis::cmd("CONFIG").arg(&["SET", "requirepass", "s3cret"]).exec_async(&mut redis).await.unwrap();
    let refused = Node::refused(server.server()).await;
    assert!(refused.contains("NOAUTH") && refused.contains("set bus.redis.password_file"), "{refused}");
}

#[tokio::test]
async fn tls_is_spoken_and_a_stranger_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let openssl = |arguments: &str| {
        let mut command = std::process::Command::new("openssl");
        command.args(arguments.split(' ')).current_dir(folder.path());
        let output = command.output().expect("openssl is needed: `make tools` installs what tests need");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    for name in ["ca", "stranger"] {
        openssl(&format!("req -x509 {key} -keyout {name}.key -out {name}.pem -subj /CN={name}"));
    }
    openssl(&format!(
        "req -x509 {key} -keyout server.key -out server.pem -subj /CN=localhost -CA ca.pem -CAkey ca.key \
         -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE"
    ));
    let arguments = [
        "--port",
        "0",
        "--tls-port",
        "{port}",
        "--tls-cert-file",
        "server.pem",
        "--tls-key-file",
        "server.key",
        "--tls-ca-cert-file",
        "ca.pem",
        "--tls-auth-clients",
        "optional",
    ];
    let mut server = Redis::start_in(folder, &arguments);
    let (believed, used) = (server.folder.path().join("ca.pem"), server.folder.path().join("used.pem"));
    let login = Server {
        host: "localhost".to_owned(),
        tls: Some(Tls { ca_file: Some(used.clone()), identity: None }),
        ..server.server()
    };
    let believe_stranger = || std::fs::copy(server.folder.path().join("stranger.pem"), &used).unwrap();
    believe_stranger();
    let refused = Node::refused(login.clone()).await;
    assert!(refused.contains("certificate") && refused.contains("set bus.redis.ca_file"), "{refused}");
    std::fs::copy(&believed, &used).unwrap();
    let mut node = Node::start("one", login).await;
    node.is_up().await;
    // Once it runs, it tries again.
    believe_stranger();
    server.kill();
    server.restart();
    node.until("it was tried", |node| {
        node.bus.problem().is_some_and(|problem| problem.contains("certificate"))
    })
    .await;
    assert_eq!((node.bus.state(), node.bus.trouble()), (BusState::Away, Some(Trouble::Tls)));
    std::fs::copy(&believed, &used).unwrap();
    node.is_up().await;
    node.stop().await;
}
