//! Mistakes in limits: figures that cannot work together, and networks that say too much or too little.

#![allow(clippy::unwrap_used)]

use config::{NetworkRule, load};

/// The one mistake of a text: its key and what was expected.
fn only(text: &str) -> (String, String) {
    let mut all = load(text, []).expect_err(text);
    assert_eq!(all.len(), 1, "{text}: {all:#?}");
    let mistake = all.remove(0);
    (mistake.key, mistake.expected)
}

#[test]
fn figures_that_cannot_work_together_are_found() {
    for (text, key, expected) in [
        ("[limits.peer]\nmessages_per_second = 0", "limits.peer.messages_per_second", "from 1 to"),
        ("[limits.peer]\nconnections = -1", "limits.peer.connections", "or \"off\""),
        ("[limits.peer]\nipv6_prefix = 65", "limits.peer.ipv6_prefix", "from 16 to 64"),
        (
            "[limits]\nconnections = 50\n[limits.peer]\nconnections = 51",
            "limits.peer.connections",
            "at most limits",
        ),
        (
            "[limits.connection]\nmessages_per_second = 100\nmessages_burst = 9",
            "limits.connection.messages_burst",
            "at least a tenth",
        ),
        (
            "[limits.peer]\nbytes_per_second = '1MiB'\nbytes_burst = '512KiB'\naction = 'drop'",
            "limits.peer.bytes_burst",
            "at least the longest message",
        ),
        ("[limits.peer]\nburst = 1", "limits.peer.burst", "messages_burst"),
        ("[limits]\npeer = 1", "limits.peer", "a table"),
    ] {
        let (found, words) = only(text);
        assert_eq!(found, key, "{text}");
        assert!(words.contains(expected), "{text}: {words}");
    }
    let paused = "[limits.peer]\nbytes_per_second = '1MiB'\nbytes_burst = '512KiB'";
    assert!(load(paused, []).is_ok(), "who is paused may owe");
    assert!(load("[limits]\nconnections = 50", []).is_ok(), "defaults contradict nobody");
}

#[test]
fn a_network_says_one_thing() {
    let entry = |lines: &str| format!("[[limits.network]]\ncidr = '10.0.0.0/8'\n{lines}");
    let settings = load(&entry("exempt = true"), []).unwrap();
    assert!(matches!(settings.networks[0].rule, NetworkRule::Exempt));
    for (lines, key, expected) in [
        ("", "limits.network[0].factor", "one of factor"),
        ("exempt = false", "limits.network[0].factor", "one of factor"),
        ("factor = 2\nblock = true", "limits.network[0].factor", "only one of"),
        ("factor = 0", "limits.network[0].factor", "a number from"),
        ("block = 'yes'", "limits.network[0].block", "true or false"),
        (
            "block = true\n[[limits.network]]\ncidr = '10.0.0.0/8'\nexempt = true",
            "limits.network[1].cidr",
            "once",
        ),
    ] {
        let text = entry(lines);
        let all = load(&text, []).expect_err(&text);
        assert!(all.iter().any(|one| one.key == key && one.expected.contains(expected)), "{text}: {all:#?}");
    }
    let (key, expected) = only("[[limits.network]]\ncidr = '2001:db8::/65'\nblock = true");
    assert_eq!(key, "limits.network[0].cidr");
    assert!(expected.contains("one peer"), "{expected}");
    assert_eq!(only("[limits]\nnetwork = 'x'").0, "limits.network");
}
