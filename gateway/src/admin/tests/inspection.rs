//! Tests of the calls that answer questions about the past and about the largest.
#![allow(clippy::unwrap_used)]

use bridge::{EndReason, Ending, Principal, User};

use super::*;

fn alice() -> User {
    User::parse("alice@a").unwrap()
}

#[tokio::test]
async fn endings_are_found_by_whose_they_were_and_why() {
    let admin = node(Tokens::none());
    for slot in 0..10 {
        let peer = if slot < 3 { "2001:db8::" } else { "192.0.2.7" };
        let ending = Ending {
            address: Address { shard: 1, slot, generation: 1 },
            peer: peer.parse().unwrap(),
            route: 0,
            principal: (slot < 4)
                .then(|| Arc::new(Principal { user: Some(alice()), ..Principal::default() })),
            reason: if slot % 2 == 0 { EndReason::ClientClose } else { EndReason::SlowConsumer },
            age_ticks: 5,
            traffic: Traffic { messages_in: 1, messages_out: 2, bytes_in: 3, bytes_out: 4 },
            sent_code: (slot % 2 == 1).then_some(1013),
            received_code: None,
        };
        admin.recent.keep(u64::from(slot) * 1000, ending);
    }
    let endpoint = endpoint(admin);
    let (status, body) = ask(&endpoint, "GET /v1/endings?limit=1", "").await;
    let newest = &body["endings"][0];
    assert_eq!((status, &newest["id"], &newest["ended_ms"]), (200, &id(1, 9).into(), &9000.into()));
    assert_eq!((&newest["reason"], &newest["sent_code"]), (&"slow_consumer".into(), &1013.into()));
    assert_eq!((&newest["route"], &newest["user"]), (&"rooms".into(), &Value::Null));
    assert_eq!((&body["more"], &body["oldest_ms"]), (&true.into(), &0.into()));
    for (query, count) in [
        ("", 10),
        ("reason=client_close", 5),
        ("peer=2001:db8::77", 3),
        ("peer=192.0.0.0/16&reason=slow_consumer", 4),
        ("route=rooms&since=8000", 2),
        ("since=1h", 0),
        ("user=alice%40a", 4),
        ("user=alice%40a&reason=client_close", 2),
        ("user=bob", 0),
    ] {
        let (status, body) = ask(&endpoint, &format!("GET /v1/endings?{query}"), "").await;
        assert_eq!((status, body["endings"].as_array().unwrap().len()), (200, count), "{query}");
    }
    for query in
        ["reason=bored", "route=none", "peer=localhost", "since=soon", "limit=0", "limit=1001", "by=me"]
    {
        assert_eq!(
            refusal(&endpoint, &format!("GET /v1/endings?{query}"), "").await.1,
            "bad_request",
            "{query}"
        );
    }
}

#[tokio::test]
async fn the_largest_are_gathered_from_all_shards_slice_by_slice() {
    let endpoint = endpoint(node(Tokens::none()));
    let (status, body) = ask(&endpoint, "GET /v1/top?by=bytes&limit=3", "").await;
    let amounts: Vec<&Value> = body["top"].as_array().unwrap().iter().map(|one| &one["amount"]).collect();
    assert_eq!((status, amounts), (200, vec![&21.into(), &20.into(), &11.into()]));
    assert_eq!(body["top"][0]["connection"]["id"], id(1, 2));
    assert_eq!(ask(&endpoint, "GET /v1/top?by=messages", "").await.1["top"].as_array().unwrap().len(), 6);
    let (_, body) = ask(&endpoint, "GET /v1/top?by=channel&limit=2", "").await;
    let expected = serde_json::json!([{ "amount": 14, "channel": "a" }, { "amount": 12, "channel": "c" }]);
    assert_eq!((&body["top"], &body["exact"]), (&expected, &true.into()));
    for query in ["", "by=user", "by=bytes&limit=0", "by=bytes&limit=101", "by=bytes&since=1"] {
        assert_eq!(refusal(&endpoint, &format!("GET /v1/top?{query}"), "").await.1, "bad_request", "{query}");
    }
}

#[tokio::test]
async fn an_answer_that_may_miss_a_channel_says_so() {
    let endpoint = endpoint(node_with_floor(Tokens::none(), 7));
    let (_, body) = ask(&endpoint, "GET /v1/top?by=channel&limit=2", "").await;
    assert_eq!(body["exact"], false, "one that nobody named may have 14, and the second here has 12");
    let (_, body) = ask(&endpoint, "GET /v1/top?by=channel&limit=1", "").await;
    assert_eq!((&body["top"][0]["channel"], &body["exact"]), (&"a".into(), &true.into()));
}
