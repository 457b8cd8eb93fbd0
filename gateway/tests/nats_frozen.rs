//! Promise: a NATS server that stands still, its sockets open and nobody reading them, disturbs no client and nobody on the
//! same node. It is noticed before any node is taken for lost, app servers are told from when to when, and afterwards everybody
//! hears everybody.
#![allow(clippy::unwrap_used)]

mod harness;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use harness::{Bystander, Client, Gateway, Nats, NatsServer};

const UP: &str = "gateway_bus_up{bus=\"nats\"}";
/// How long it stands still at least: longer than it takes to hold a silent node for lost.
const FROZEN: Duration = Duration::from_secs(10);
/// Between two messages of a client.
const PACE: Duration = Duration::from_millis(20);
/// What clocks and a busy machine may add to a moment, milliseconds.
const SLACK_MS: u64 = 3_000;

fn node(name: &str, server: &NatsServer) -> Gateway {
    let url = server.url();
    Gateway::start(&format!(
        "[node]\nname = '{name}'\n[bus]\nkind = 'nats'\npartitions = 1\n[bus.nats]\nservers = ['{url}']\n\
         [[route]]\nname = 'room'\npath = '/room'\nsubscribe = ['room']\ninbound = {{ publish = 'room' }}\n\
         [[route]]\nname = 'app'\npath = '/app'\ninbound = 'bus'\n\
         [[route]]\nname = 'echo'\npath = '/echo'\ninbound = 'echo'\n"
    ))
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Says something until the other hears it, and reads everything of it on both sides.
#[track_caller]
fn acquaint(here: &mut Client, there: &mut Client, gateways: [&Gateway; 2]) {
    for gateway in gateways {
        gateway.until("all are there", |m| {
            (m.value(UP), m.value("gateway_nodes"), m.value("gateway_bus_subscriptions")) == (1.0, 2.0, 1.0)
        });
    }
    // That a node has subscribed the server may not know yet.
    let heard = |gateway: &Gateway| gateway.metrics().value("gateway_bus_received_total");
    let before = heard(gateways[1]);
    harness::eventually("one hears the other", || {
        here.echoes("hello");
        (heard(gateways[1]) > before).then_some(())
    });
    there.say("and back");
    while there.hear_text() != "and back" {}
    here.hears("and back");
}

/// What a client hears of one that counts, until this.
#[track_caller]
fn numbers_until(client: &mut Client, sender: &str, last: u32) -> Vec<u32> {
    let mut heard = Vec::new();
    while heard.last() != Some(&last) {
        let text = client.hear_text();
        heard.extend(text.strip_prefix(sender).and_then(|number| number.trim().parse::<u32>().ok()));
    }
    heard
}

#[test]
fn a_server_that_stands_still_disturbs_nobody_and_no_node_is_taken_for_lost() {
    let server = NatsServer::start();
    let (a, b) = (node("a", &server), node("b", &server));
    let mut app = Nats::connect(server.port);
    for subject in ["gateway.inbound.app.0", "gateway.node", "test.end"] {
        app.subscribe(subject);
    }
    let (mut on_a, mut on_b, mut tells) = (a.client("/room"), b.client("/room"), a.client("/app"));
    acquaint(&mut on_a, &mut on_b, [&a, &b]);
    assert_eq!(app.hear().header("Gateway-Event"), "opened");
    let beside = [Bystander::beside(&a), Bystander::beside(&b)];

    let frozen_ms = wall_ms();
    server.freeze();
    let (frozen, mut number, mut noticed_at) = (Instant::now(), 0, None);
    while frozen.elapsed() < FROZEN {
        on_a.echoes(&format!("a {number}"));
        on_b.echoes(&format!("b {number}"));
        number += 1;
        for gateway in [&a, &b] {
            assert_eq!(gateway.metrics().value("gateway_nodes"), 2.0, "after {:?}", frozen.elapsed());
        }
        if noticed_at.is_none() && [&a, &b].iter().all(|gateway| gateway.metrics().value(UP) == 0.0) {
            noticed_at = Some(number);
            tells.say("while it is away");
        }
        std::thread::park_timeout(PACE);
    }
    let noticed_at = noticed_at.expect("both notice");
    a.http().post("/v1/channels/room/messages", "text/plain", b"api").problem(503, "bus_away");
    on_a.hears("api");

    let thawed_ms = wall_ms();
    server.thaw();
    for gateway in [&a, &b] {
        let back = gateway.until("the bus is back", |m| m.value(UP) == 1.0);
        assert_eq!((back.value("gateway_nodes"), back.value("gateway_bus_losses_total")), (2.0, 1.0));
    }
    // What was said before anybody noticed may be lost; nothing else is, nor comes twice or in disorder.
    for (hears, sender) in [(&mut on_a, "b"), (&mut on_b, "a")] {
        let heard = numbers_until(hears, sender, number - 1);
        assert!(heard.is_sorted_by(|one, next| one < next), "{sender}: {heard:?}");
        let later: Vec<u32> = heard.into_iter().filter(|heard| *heard >= noticed_at).collect();
        assert_eq!(later, (noticed_at..number).collect::<Vec<u32>>(), "{sender}");
    }
    acquaint(&mut on_a, &mut on_b, [&a, &b]);

    let mut events = Vec::new();
    while events.len() < 3 {
        events.push(app.hear());
    }
    Nats::connect(server.port).publish("test.end", b"");
    assert_eq!(app.hear().subject, "test.end", "no node was told of, and no event came twice");
    let (gaps, others): (Vec<_>, Vec<_>) =
        events.iter().partition(|event| event.header("Gateway-Event") == "gap");
    assert_eq!((gaps.len(), others.len()), (2, 1), "{events:?}");
    assert_eq!((others[0].text(), others[0].header("Gateway-Sequence")), ("while it is away", "2"));
    for gap in gaps {
        let told: serde_json::Value = serde_json::from_str(gap.text()).unwrap();
        let (from, to) = (told["from_ms"].as_u64().unwrap(), told["to_ms"].as_u64().unwrap());
        assert!(from.abs_diff(frozen_ms) < SLACK_MS, "{told}: it stood still at {frozen_ms}");
        assert!((thawed_ms..thawed_ms + SLACK_MS).contains(&to), "{told}: it went on at {thawed_ms}");
    }
    beside.into_iter().for_each(Bystander::was_not_disturbed);
    a.stop();
    b.stop();
}
