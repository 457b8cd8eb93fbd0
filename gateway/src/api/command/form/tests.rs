//! Which form a command has, what each of them says, and that bytes of strangers do no harm.
#![allow(clippy::unwrap_used)]

use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::Type;

use super::*;

const ID: &str = "b-0000000a-0-1-1";

fn command(order: Order) -> proto::Command {
    let reply_to = "gateway:answer:x".to_owned();
    proto::Command { id: 7, order: Some(order), reply_to }
}

fn close() -> Order {
    Order::Close(wire::CloseOne { connection: ID.to_owned(), code: 4001, reason: "bye".to_owned() })
}

fn json_order(text: &str) -> Result<Order, String> {
    let question = read(&Bytes::copy_from_slice(text.as_bytes()));
    assert!(question.manner.is_json, "{text}");
    question.order
}

#[test]
fn both_forms_say_the_same() {
    let protobuf = read(&command(close()).encode_to_vec().into());
    let text = format!(
        r#" {{"id": "7", "replyTo": "gateway:answer:x", "close": {{"connection": "{ID}", "code": 4001, "reason": "bye"}}}}"#
    );
    let json = read(&text.into());
    assert_eq!((protobuf.manner, json.manner.is_json), (Manner { is_json: false, id: 7 }, true));
    assert_eq!((protobuf.manner.id, &protobuf.reply_to), (json.manner.id, &json.reply_to));
    assert_eq!(protobuf.order.unwrap(), close());
    assert_eq!(json.order.unwrap(), close());
}

#[test]
fn no_field_of_a_command_begins_like_json() {
    let set = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
    let mut messages = set.file.iter().flat_map(|file| &file.message_type);
    let message = messages.find(|message| message.name() == "Command").unwrap();
    assert!(message.field.len() > 8, "it was found");
    for field in &message.field {
        let wire_type = match field.r#type() {
            Type::Uint64 | Type::Uint32 | Type::Int64 | Type::Int32 | Type::Sint32 | Type::Sint64 => 0,
            Type::Bool | Type::Enum => 0,
            Type::Fixed64 | Type::Sfixed64 | Type::Double => 1,
            Type::String | Type::Bytes | Type::Message => 2,
            Type::Group => 3,
            Type::Fixed32 | Type::Sfixed32 | Type::Float => 5,
        };
        let tag = (field.number() as u32) << 3 | wire_type;
        // Of a longer tag the first byte has its upper bit set, which no byte of JSON outside of a text has.
        let first = if tag < 0x80 { tag as u8 } else { tag as u8 | 0x80 };
        assert!(!b" \t\n\r{".contains(&first), "{}: {first:#x}", field.name());
    }
}

#[test]
fn a_command_is_what_a_person_can_type() {
    assert!(
        matches!(json_order(r#"{"close":{"connection":"x"}}"#), Ok(Order::Close(close)) if close.code == 0)
    );
    let Ok(Order::List(list)) = json_order(r#"{"list":{"limit":5}}"#) else { panic!("a list") };
    assert_eq!((list.epoch, list.from, list.limit), (None, None, 5));
    let payload = |text: &str| match json_order(text) {
        Ok(Order::Send(send)) => send.message.unwrap().payload.unwrap(),
        other => panic!("{other:?}"),
    };
    for (text, expected) in [
        (r#"{"send":{"connection":"x","text":"ü"}}"#, Payload::Text("ü".to_owned())),
        (r#"{"send":{"connection":"x","message":{"text":""}}}"#, Payload::Text(String::new())),
        (r#"{"send":{"connection":"x","base64":"/wA="}}"#, Payload::Binary(Bytes::from_static(b"\xff\0"))),
        (
            r#"{"send":{"connection":"x","message":{"binary":"_wA"}}}"#,
            Payload::Binary(Bytes::from_static(b"\xff\0")),
        ),
    ] {
        assert_eq!(payload(text), expected, "{text}");
    }
    let Ok(Order::Block(block)) = json_order("\n{\"block\":{\"cidr\":\"c\",\"ttlS\":9,\"at_ms\":\"5\"}}")
    else {
        panic!("a block")
    };
    assert_eq!((block.ttl_s, block.at_ms), (9, 5));
    for bad in [
        "{}",
        "{",
        r#"{"close":{}}"#,
        r#"{"stop":{}}"#,
        r#"{"close":{"connection":"x","c":1}}"#,
        r#"{"close":{"connection":"x"},"describe":{"connection":"x"}}"#,
        r#"{"send":{"connection":"x"}}"#,
        r#"{"send":{"connection":"x","text":"a","base64":"AA"}}"#,
        r#"{"send":{"connection":"x","base64":"?"}}"#,
    ] {
        assert!(json_order(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_mistake_is_told_where_its_maker_wants_it_told() {
    for (bad, id) in [
        (r#"{"id":3,"reply_to":"gateway:answer:x","stop":{}}"#, 3),
        (r#"{"reply_to":"gateway:answer:x"}"#, 0),
        (r#"{"id":"x","replyTo":"gateway:answer:x","close":{"connection":"x"}}"#, 0),
    ] {
        let question = read(&Bytes::from_static(bad.as_bytes()));
        assert_eq!((question.manner.id, &*question.reply_to), (id, "gateway:answer:x"), "{bad}");
        assert!(question.order.is_err());
    }
    let later = proto::Command { order: None, ..command(close()) }.encode_to_vec();
    let question = read(&later.into());
    assert_eq!(
        (question.manner, &*question.reply_to),
        (Manner { is_json: false, id: 7 }, "gateway:answer:x")
    );
    assert!(question.order.is_err());
    for neither in ["", " ", "nonsense", "[]", "\"x\"", "\0", "\u{1}"] {
        let question = read(&Bytes::from_static(neither.as_bytes()));
        assert!(question.manner.is_json && question.order.is_err(), "{neither:?}");
    }
}

#[test]
fn an_answer_has_the_form_of_its_command() {
    let node = NodeName::parse("b").unwrap();
    let answer = |is_json, id, outcome| Manner { is_json, id }.answer(&node, Epoch(10), outcome);
    let json = |id, outcome| serde_json::from_slice::<Value>(&answer(true, id, outcome)).unwrap();
    assert_eq!(json(0, Ok(Done::Nothing)), json!({ "node": "b", "epoch": "0000000a", "done": {} }));
    assert_eq!(
        json(7, Ok(Done::Closed(2))),
        json!({ "id": "7", "node": "b", "epoch": "0000000a", "done": { "connections": 2 } })
    );
    let busy = json(0, Err(Error::busy()));
    assert_eq!((&busy["error"]["reason"], &busy["error"]["retry_after_s"]), (&json!("busy"), &json!(1)));

    let protobuf = |outcome| proto::Answer::decode(answer(false, 7, outcome)).unwrap();
    let done = protobuf(Ok(Done::WasBlocked(true)));
    assert_eq!((done.id, &*done.node, done.epoch), (7, "b", 10));
    assert_eq!(done.outcome, Some(Outcome::WasBlocked(true)));
    let busy = protobuf(Err(Error::busy()));
    assert!(matches!(busy.outcome, Some(Outcome::Error(failure)) if failure.reason == "busy"));
    assert_eq!(busy.retry_after_s, 1);
}

#[test]
fn bytes_of_strangers_are_read_or_refused_and_nothing_else() {
    let mut random = fastrand::Rng::with_seed(7);
    let whole = [
        command(close()).encode_to_vec(),
        format!(r#"{{"id":"7","send":{{"connection":"{ID}","message":{{"binary":"AAE="}}}}}}"#).into_bytes(),
    ];
    let mut read_as = [0; 2];
    for round in 0..50_000 {
        let mut bytes: Vec<u8> = match round % 3 {
            0 => (0..random.usize(..64)).map(|_| random.u8(..)).collect(),
            part => whole[part - 1].clone(),
        };
        if round % 3 != 0 {
            for _ in 0..random.usize(..3) {
                let place = random.usize(..bytes.len());
                bytes[place] = random.u8(..);
            }
            bytes.truncate(random.usize(..=bytes.len()));
        }
        let question = read(&bytes.into());
        read_as[usize::from(question.manner.is_json)] += usize::from(question.order.is_ok());
    }
    assert!(read_as.iter().all(|read| *read > 20), "both forms were among them: {read_as:?}");
}
