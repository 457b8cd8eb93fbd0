//! Holds the package `gateway.v1` to what is recorded of it: whoever has generated code keeps working with every later
//! gateway. Each name, number, type and method is one line of `proto/recorded/gateway.v1.txt`; a line that is lost
//! fails the test. Lines that are new are recorded by running it with `RECORD_PROTO=1`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;

use backend::proto::DESCRIPTORS;
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, ServiceDescriptorProto,
};

fn current() -> FileDescriptorSet {
    FileDescriptorSet::decode(DESCRIPTORS).unwrap()
}

/// All that generated code and bytes on the wire depend on, one fact a line.
fn facts(set: &FileDescriptorSet) -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    for file in &set.file {
        let package = file.package();
        facts.insert(format!("file {}", file.name()));
        file.message_type.iter().for_each(|message| message_facts(package, message, &mut facts));
        file.enum_type.iter().for_each(|values| enum_facts(package, values, &mut facts));
        file.service.iter().for_each(|service| service_facts(package, service, &mut facts));
    }
    facts
}

fn message_facts(scope: &str, message: &DescriptorProto, facts: &mut BTreeSet<String>) {
    let name = format!("{scope}.{}", message.name());
    facts.insert(format!("message {name}"));
    for field in &message.field {
        facts.insert(format!("{name} {} = {}", field.number(), field_fact(message, field)));
    }
    message.nested_type.iter().for_each(|nested| message_facts(&name, nested, facts));
    message.enum_type.iter().for_each(|values| enum_facts(&name, values, facts));
}

fn field_fact(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let kind = match field.r#type() {
        Type::Message | Type::Enum => field.type_name().trim_start_matches('.').to_owned(),
        plain => plain.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    let oneof = field.oneof_index.map(|index| message.oneof_decl[index as usize].name());
    let how = match (field.label(), field.proto3_optional(), oneof) {
        (Label::Repeated, ..) => "repeated ".to_owned(),
        (_, true, _) => "optional ".to_owned(),
        (_, _, Some(oneof)) => format!("oneof {oneof} "),
        _ => String::new(),
    };
    format!("{how}{kind} {}", field.name())
}

fn enum_facts(scope: &str, values: &EnumDescriptorProto, facts: &mut BTreeSet<String>) {
    let name = format!("{scope}.{}", values.name());
    facts.extend(values.value.iter().map(|value| format!("{name} {} = {}", value.number(), value.name())));
}

fn service_facts(scope: &str, service: &ServiceDescriptorProto, facts: &mut BTreeSet<String>) {
    for method in &service.method {
        let end = |stream: bool, of: &str| {
            format!("{}{}", if stream { "stream " } else { "" }, of.trim_start_matches('.'))
        };
        facts.insert(format!(
            "service {scope}.{} {}({}) = {}",
            service.name(),
            method.name(),
            end(method.client_streaming(), method.input_type()),
            end(method.server_streaming(), method.output_type())
        ));
    }
}

#[test]
fn nothing_that_was_recorded_has_gone_or_changed() {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/recorded/gateway.v1.txt");
    let recorded: BTreeSet<String> =
        std::fs::read_to_string(&place).unwrap_or_default().lines().map(str::to_owned).collect();
    let current = facts(&current());
    let lost: Vec<_> = recorded.difference(&current).collect();
    assert!(
        lost.is_empty(),
        "generated code elsewhere depends on these; add beside them instead, and never use a number again: {lost:#?}"
    );
    if std::env::var_os("RECORD_PROTO").is_some() {
        let lines: String = current.iter().map(|fact| format!("{fact}\n")).collect();
        std::fs::write(place, lines).unwrap();
        return;
    }
    let new: Vec<_> = current.difference(&recorded).collect();
    assert!(new.is_empty(), "record what is new by RECORD_PROTO=1 cargo test -p backend: {new:#?}");
}

#[test]
fn each_kind_of_breaking_change_loses_a_fact() {
    type Change = (&'static str, fn(&mut FileDescriptorSet));
    fn message<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut DescriptorProto {
        let mut messages = set.file.iter_mut().flat_map(|file| &mut file.message_type);
        messages.find(|message| message.name() == name).unwrap()
    }
    fn gateway(set: &mut FileDescriptorSet) -> &mut ServiceDescriptorProto {
        let mut services = set.file.iter_mut().flat_map(|file| &mut file.service);
        services.find(|service| service.name() == "Gateway").unwrap()
    }
    let changes: [Change; 11] = [
        ("renumber", |set| message(set, "PublishRequest").field[0].number = Some(9)),
        ("rename", |set| message(set, "PublishRequest").field[0].name = Some("room".to_owned())),
        ("retype", |set| message(set, "PublishRequest").field[0].set_type(Type::Bytes)),
        ("repeat", |set| message(set, "PublishRequest").field[0].set_label(Label::Repeated)),
        ("remove", |set| drop(message(set, "PublishRequest").field.remove(0))),
        ("take out of its oneof", |set| message(set, "Message").field[0].oneof_index = None),
        ("make always present", |set| {
            let field = &mut message(set, "DrainRequest").field[0];
            (field.proto3_optional, field.oneof_index) = (None, None);
        }),
        ("rename a message", |set| message(set, "SendResponse").name = Some("Sent".to_owned())),
        ("remove a method", |set| drop(gateway(set).method.remove(0))),
        ("answer with another", |set| {
            gateway(set).method[0].output_type = Some(".gateway.v1.Message".to_owned())
        }),
        ("stream", |set| gateway(set).method[0].server_streaming = Some(true)),
    ];
    let before = facts(&current());
    for (what, change) in changes {
        let mut changed = current();
        change(&mut changed);
        assert!(!before.is_subset(&facts(&changed)), "{what}");
    }
}

#[test]
fn an_addition_loses_nothing() {
    let mut more = current();
    let file = more.file.iter_mut().find(|file| file.name().ends_with("gateway.proto")).unwrap();
    let field = FieldDescriptorProto { number: Some(99), ..file.message_type[0].field[0].clone() };
    file.message_type[0].field.push(field);
    let mut method = file.service[0].method[0].clone();
    method.name = Some("More".to_owned());
    file.service[0].method.push(method);
    let (before, after) = (facts(&current()), facts(&more));
    assert!(before.is_subset(&after) && after.len() == before.len() + 2);
}
