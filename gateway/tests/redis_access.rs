//! Promise: a gateway that a Redis server does not let in does not start: it says why, and which key to set. Once it runs,
//! it tells of a refusal once, tries again, and gets in when it is mended. A server that is away is waited for.
#![allow(clippy::unwrap_used)]

mod harness;

use std::path::Path;

use harness::{Authority, Finished, Gateway, Redis, RedisServer, Value, free_port};

const UP: &str = "gateway_bus_up{bus=\"redis\"}";

fn configuration(server: &str, of_redis: &str) -> String {
    format!(
        "[node]\nname = 'a'\n[bus]\nkind = 'redis'\n[bus.redis]\nserver = '{server}'\n{of_redis}\n\
         [[route]]\nname = 'app'\npath = '/app'\ninbound = 'bus'\n"
    )
}

fn key(name: &str, file: &Path) -> String {
    format!("{name} = '{}'\n", file.display())
}

/// A start that is refused says these things, in one line.
#[track_caller]
fn refuses(server: &str, of_redis: &str, says: &[&str]) {
    let refused = Finished::refused(&configuration(server, of_redis));
    let complaint = refused.complained.lines().find(|line| line.contains("bus.redis"));
    let complaint = complaint.unwrap_or_else(|| panic!("{refused:?}"));
    for word in says {
        assert!(complaint.contains(word), "{word}: {refused:?}");
    }
}

#[track_caller]
fn gets_in(server: &str, of_redis: &str) -> Gateway {
    let gateway = Gateway::start(&configuration(server, of_redis));
    gateway.until("the bus is there", |metrics| metrics.value(UP) == 1.0);
    gateway
}

#[track_caller]
fn does(redis: &mut Redis, command: &str) {
    let answer = redis.say(command);
    assert_eq!(answer, Value::Bytes(b"OK".to_vec()), "{command}");
}

#[test]
fn a_login_that_is_refused_ends_the_start_with_the_key_to_set() {
    let server = RedisServer::start();
    let mut redis = Redis::connect(server.port);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "s3cret\n").unwrap();
    let password = key("password_file", &file);
    let edge = format!("user = 'edge'\n{password}");
    let url = server.url();

    does(&mut redis, "ACL SETUSER edge on >s3cret ~gateway:* &gateway:* +@all");
    gets_in(&url, &edge).stop();
    std::fs::write(&file, "wrong").unwrap();
    refuses(&url, &edge, &[&url, "WRONGPASS", "bus.redis.user", "bus.redis.password_file"]);
    std::fs::write(&file, "s3cret").unwrap();
    refuses(&url, &format!("user = 'stranger'\n{password}"), &["WRONGPASS", "bus.redis.user"]);
    does(&mut redis, "ACL SETUSER edge -publish -xadd");
    refuses(&url, &edge, &["'publish'", "'xadd'", "(bus.redis.user)", "+xadd"]);
    refuses(&url, "database = 999", &["bus.redis.database"]);
    does(&mut redis, "CONFIG SET requirepass s3cret");
    refuses(&url, "", &["NOAUTH", "set bus.redis.password_file"]);
    gets_in(&url, &password).stop();
    // One that merely is not there is waited for.
    let away = Gateway::start(&configuration(&format!("redis://127.0.0.1:{}", free_port()), &edge));
    away.logged(&["no Redis server answers"]);
    away.stop();
}

#[test]
fn a_certificate_that_is_not_believed_ends_the_start_with_the_key_to_set() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let folder = tempfile::tempdir().unwrap();
    let (ca, stranger) = (ours.write(folder.path(), "ours.pem"), theirs.write(folder.path(), "theirs.pem"));
    let server = RedisServer::start_secure(&ours.certify("127.0.0.1", folder.path(), "server"), &ca);
    let url = format!("rediss://127.0.0.1:{}", server.port);
    let certificate = |authority: &Authority, name: &str| {
        let (certificate, own_key) = authority.certify("gateway", folder.path(), name);
        key("certificate_file", &certificate) + &key("key_file", &own_key)
    };
    let (good, bad) = (certificate(&ours, "good"), certificate(&theirs, "bad"));
    let believed = key("ca_file", &ca);
    gets_in(&url, &format!("{believed}{good}")).stop();
    refuses(&url, &key("ca_file", &stranger), &["UnknownIssuer", "set bus.redis.ca_file"]);
    refuses(&url, "", &["certificate", "bus.redis.ca_file"]);
    for shown in ["", &bad] {
        refuses(&url, &format!("{believed}{shown}"), &["bus.redis.certificate_file"]);
    }
    let misnamed = RedisServer::start_secure(&ours.certify("redis.internal", folder.path(), "other"), &ca);
    let url = format!("rediss://127.0.0.1:{}", misnamed.port);
    refuses(&url, &format!("{believed}{good}"), &["another name", "bus.redis.server"]);
}

#[test]
fn who_is_not_let_in_any_more_says_so_once_and_gets_in_when_it_is_mended() {
    let server = RedisServer::start();
    let mut redis = Redis::connect(server.port);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "s3cret").unwrap();
    does(&mut redis, "ACL SETUSER edge on >s3cret ~gateway:* &gateway:* +@all");
    let a = gets_in(&server.url(), &format!("user = 'edge'\n{}", key("password_file", &file)));
    does(&mut redis, "ACL SETUSER edge resetpass >another");
    assert!(redis.say("CLIENT KILL USER edge").number() > 0);
    let line = a.logged(&["the Redis server does not let us in", "WRONGPASS"]);
    assert!(line.contains("bus.redis.password_file"), "{line}");
    let login = "gateway_bus_trouble{reason=\"login\"}";
    let failed = a.until("it is a login that fails", |m| m.value(login) == 1.0);
    let failed = failed.value("gateway_bus_connects_failed_total");
    a.until("it has tried a few times", |m| m.value("gateway_bus_connects_failed_total") >= failed + 6.0);
    assert_eq!(a.log().matches("does not let us in").count(), 1, "told once\n{}", a.log());
    std::fs::write(&file, "another").unwrap();
    a.until("the bus is there", |m| m.value(UP) == 1.0 && m.value(login) == 0.0);
    a.stop();
}
