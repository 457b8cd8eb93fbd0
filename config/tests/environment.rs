//! What environment variables may override, how their values are read, and what is said about the wrong ones.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use config::units::Bytes;
use config::{AutoOr, LogFormat, Mistake, Settings, Source, load};

fn env<const N: usize>(variables: [(&str, &str); N]) -> [(String, String); N] {
    variables.map(|(name, value)| (name.to_owned(), value.to_owned()))
}

fn only(text: &str, variable: (&str, &str)) -> Mistake {
    let mut all = load(text, env([variable])).unwrap_err();
    assert_eq!(all.len(), 1, "{variable:?}: {all:#?}");
    all.remove(0)
}

#[test]
fn a_variable_goes_before_the_file_and_the_file_before_the_default() {
    let text = "[limits]\nconnections = 10\nchannels = 20\n";
    let settings = load(text, env([("GATEWAY__LIMITS__CONNECTIONS", "30")])).unwrap();
    assert!(matches!(settings.limits.connections, AutoOr::Set(n) if n.get() == 30));
    assert_eq!(settings.limits.channels.get(), 20);
    assert_eq!(settings.limits.handshakes, Settings::default().limits.handshakes);
}

#[test]
fn a_value_is_read_as_toml_or_as_the_text_it_is() {
    let settings = load(
        "",
        env([
            ("GATEWAY__LIMITS__CHANNELS", "2_000"),
            ("GATEWAY__LIMITS__HEAD_BYTES", "4096"),
            ("GATEWAY__WEBSOCKET__MESSAGE_BYTES", "64KiB"),
            ("GATEWAY__HEARTBEAT__INTERVAL", "\"2m\""),
            ("GATEWAY__DRAIN__DEADLINE", "30s"),
            ("GATEWAY__SHARDS__OWN_DESCRIPTORS", "true"),
            ("GATEWAY__SHARDS__COUNT", "auto"),
            ("GATEWAY__LISTEN__ADDRESS", "[::]:9090"),
            ("GATEWAY__LOG__FORMAT", "json"),
            // Numbers and dates to TOML, names to an operator.
            ("GATEWAY__NODE__NAME", "2024-01-01"),
            ("GATEWAY__API__TOKENS_FILE", "17"),
        ]),
    )
    .unwrap();
    assert_eq!(settings.limits.channels.get(), 2000);
    assert_eq!(settings.limits.head_bytes, Bytes::kib(4));
    assert_eq!(settings.websocket.message_bytes, Bytes::kib(64));
    assert_eq!(settings.heartbeat.interval, Duration::from_secs(120));
    assert_eq!(settings.drain.deadline, Duration::from_secs(30));
    assert!(settings.shards.own_descriptors);
    assert_eq!(settings.shards.count, AutoOr::Auto);
    assert_eq!(settings.listen.address, "[::]:9090".parse().unwrap());
    assert_eq!(settings.log.format, LogFormat::Json);
    assert!(matches!(&settings.node.name, AutoOr::Set(name) if name.as_str() == "2024-01-01"));
    assert_eq!(settings.api.tokens_file.as_deref(), Some("17".as_ref()));
}

#[test]
fn the_built_in_routes_inherit_what_a_variable_sets() {
    let settings = load("", env([("GATEWAY__WEBSOCKET__MESSAGE_BYTES", "64KiB")])).unwrap();
    assert!(settings.routes.iter().all(|route| route.message_bytes == Bytes::kib(64)));
}

#[test]
fn every_key_of_every_section_can_be_overridden() {
    let printed = Settings::default().to_toml();
    let mut section = String::new();
    let mut tried = 0;
    for line in printed.lines().take_while(|line| *line != "[[route]]") {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_ascii_uppercase().replace('.', "__");
        } else if let Some((key, value)) = line.split_once(" = ") {
            let variable = format!("GATEWAY__{section}__{}", key.to_ascii_uppercase());
            assert_eq!(load("", env([(&variable, value)])), Ok(Settings::default()), "{variable}");
            assert!(load("", env([(&variable, "[[")])).is_err(), "{variable} is not read");
            tried += 1;
        }
    }
    assert!(tried > 25, "only {tried} keys were found");
}

#[test]
fn variables_of_others_are_none_of_our_business() {
    let others =
        env([("PATH", "/bin"), ("GATEWAY_PORT", "tcp://x"), ("gateway__x__y", "1"), ("XGATEWAY__A__B", "")]);
    assert_eq!(load("", others), Ok(Settings::default()));
}

#[test]
fn a_wrong_value_is_told_with_its_variable() {
    let mistake = only("", ("GATEWAY__LIMITS__CONNECTIONS", "0"));
    assert_eq!(mistake.source, Source::Env("GATEWAY__LIMITS__CONNECTIONS".to_owned()));
    assert_eq!(
        mistake.to_string(),
        "environment GATEWAY__LIMITS__CONNECTIONS: limits.connections: found 0, expected an integer from 1 to \
         100000000, or \"auto\""
    );
    assert_eq!(only("", ("GATEWAY__DRAIN__DEADLINE", "")).found, "nothing");
    assert_eq!(only("", ("GATEWAY__DRAIN__DEADLINE", "a\nb")).found, "a b");
}

#[test]
fn a_variable_that_overrides_nothing_is_a_mistake() {
    for (variable, expected) in [
        ("GATEWAY__LIMIT__CONNECTIONS", "did you mean GATEWAY__LIMITS__CONNECTIONS?"),
        ("GATEWAY__limits__connections", "in capitals"),
        ("GATEWAY__LIMITS", "GATEWAY__SECTION__KEY"),
        ("GATEWAY__", "GATEWAY__SECTION__KEY"),
        ("GATEWAY__ROUTE__0__NAME", "in the file, which alone can have them"),
    ] {
        let mistake = only("", (variable, "1"));
        assert_eq!((mistake.found.as_str(), mistake.line), ("an unknown variable", None));
        assert!(mistake.expected.contains(expected), "{mistake}");
    }
}

#[test]
fn a_contradiction_names_the_variable_that_made_it() {
    let text = "[api]\ntokens_file = 'a'\n";
    let mistake = only(text, ("GATEWAY__ADMIN__ADDRESS", "0.0.0.0:9000"));
    assert_eq!(mistake.key, "admin.token_file");
    assert_eq!(mistake.source, Source::Env("GATEWAY__ADMIN__ADDRESS".to_owned()));
}

#[test]
fn mistakes_of_the_file_come_first_and_are_not_hidden_by_a_variable() {
    let variables = env([("GATEWAY__LIMITS__CHANNELS", "5"), ("GATEWAY__LIMITS__HANDSHAKES", "none")]);
    let mistakes = load("[limits]\nchannels = 0", variables).unwrap_err();
    let told: Vec<_> = mistakes.iter().map(|m| (m.line, m.key.as_str())).collect();
    assert_eq!(told, [(Some(2), "limits.channels"), (None, "limits.handshakes")]);
}
