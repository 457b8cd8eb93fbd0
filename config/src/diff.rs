//! Owns what changes from one configuration to the next, key by key, and which keys may change while the program runs.
//! Refuses to apply anything. Called by the program when it reads its configuration again.

use std::collections::BTreeMap;

use crate::sections::Settings;

/// One key that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Section and key, such as `heartbeat.interval`; of a route `route.NAME.key`, and `route.NAME` for all of it; of a
    /// backend alike.
    pub key: String,
    /// As it would be written in TOML; `None` where the key is not set, or the route is not there.
    pub old: Option<String>,
    /// As `old`.
    pub new: Option<String>,
    /// Whether it may change while the program runs. Otherwise it takes a restart.
    pub live: bool,
}

/// Whole sections, and keys, whose values are asked for each time they are needed. All others have been built into
/// something: tables, sockets, threads.
const LIVE: &[&str] = &[
    "api.tokens_file",
    "admin.token_file",
    "backlog.bytes",
    "backlog.frames",
    "drain",
    "heartbeat",
    "http.request_bytes",
    "limits.connection",
    "limits.head_bytes",
    "limits.network",
    "limits.node",
    "limits.peer",
    "limits.subscriptions_per_connection",
    "listen.proxy_protocol",
    "log.endings_per_second",
    "ready",
    "timeouts",
    "trust",
    "websocket",
];

/// Keys within those sections that tables were built for.
const FIXED: &[&str] = &["limits.peer.ipv6_prefix", "limits.peer.recent"];

// Nothing of a backend may change: its partitions are numbered, its streams stand, and shards count by its windows.

/// Keys of a route that may not change: its connections were set up for them.
const ROUTE_FIXED: &[&str] = &["inbound"];

impl Settings {
    /// What is different in `new`, in the order of keys. Routes are compared by name, wherever they stand. One that was
    /// added may come while the program runs; one that is gone may not go, because connections are on it.
    #[must_use]
    pub fn changes(&self, new: &Self) -> Vec<Change> {
        let (old, new) = (entries(self), entries(new));
        let keys: BTreeMap<&String, ()> = old.keys().chain(new.keys()).map(|key| (key, ())).collect();
        let change = |key: &String| {
            let (old, new) = (old.get(key), new.get(key));
            (old != new).then(|| Change {
                key: key.clone(),
                old: old.cloned(),
                new: new.cloned(),
                live: is_live(key, old.is_some(), new.is_some()),
            })
        };
        let changes: Vec<Change> = keys.into_keys().filter_map(change).collect();
        // Of a whole route or backend that came or went, one line is enough.
        let whole: Vec<String> = changes
            .iter()
            .filter(|one| is_whole("route", &one.key) || is_whole("backend", &one.key))
            .map(|one| format!("{}.", one.key))
            .collect();
        changes.into_iter().filter(|one| !whole.iter().any(|route| one.key.starts_with(route))).collect()
    }

    /// Puts the routes and backends that `old` has where they are there, and other routes behind them: a connection knows
    /// its route by number, and a shard whom it tells. To be called when [`Settings::changes`] says that none is gone.
    pub fn number_as(&mut self, old: &Self) {
        let place = |name: &crate::BackendName| {
            old.backends.iter().position(|backend| backend.name == *name).unwrap_or(usize::MAX)
        };
        self.backends.sort_by_key(|backend| place(&backend.name));
        let place = |name: &crate::RouteName| {
            old.routes.iter().position(|route| route.name == *name).unwrap_or(usize::MAX)
        };
        self.routes.sort_by_key(|route| place(&route.name));
    }
}

fn is_whole(list: &str, key: &str) -> bool {
    let name = key.strip_prefix(list).and_then(|rest| rest.strip_prefix('.'));
    name.is_some_and(|name| !name.contains('.'))
}

fn is_live(key: &str, was: bool, is: bool) -> bool {
    if is_whole("route", key) {
        return is || !was;
    }
    if let Some((_, key)) = key.strip_prefix("route.").and_then(|rest| rest.split_once('.')) {
        return !ROUTE_FIXED.contains(&key);
    }
    let is_of = |live: &str| {
        key.strip_prefix(live).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    LIVE.iter().any(|live| is_of(live)) && !FIXED.contains(&key)
}

/// Every key with its value as it is printed, one to a line: what is printed is what is compared, so no key is forgotten.
fn entries(settings: &Settings) -> BTreeMap<String, String> {
    let mut entries = BTreeMap::new();
    let mut prefix = String::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for line in settings.to_toml().lines() {
        if let Some(table) = line.strip_prefix("[[").and_then(|rest| rest.strip_suffix("]]")) {
            let count = counts.entry(table.to_owned()).or_default();
            prefix = format!("{table}[{count}]");
            *count += 1;
        } else if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section.clone_into(&mut prefix);
        } else if let Some((key, value)) = line.split_once(" = ") {
            let list = ["route", "backend"].into_iter().find(|list| prefix.starts_with(&format!("{list}[")));
            if let (Some(list), "name") = (list, key) {
                // It is known by its name, which comes first.
                prefix = format!("{list}.{}", value.trim_matches('"'));
                entries.insert(prefix.clone(), "there".to_owned());
            } else {
                entries.insert(format!("{prefix}.{key}"), value.to_owned());
            }
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn settings(text: &str) -> Settings {
        crate::load(text, []).unwrap()
    }

    fn changes(old: &str, new: &str) -> Vec<(String, bool)> {
        let changes = settings(old).changes(&settings(new));
        changes.into_iter().map(|change| (change.key, change.live)).collect()
    }

    const ROOMS: &str = "[[route]]\nname = 'rooms'\npath = '/rooms'\ninbound = 'ignore'\n";
    const ECHO: &str = "[[route]]\nname = 'echo'\npath = '/echo'\ninbound = 'echo'\n";

    #[test]
    fn nothing_changes_between_equals() {
        assert_eq!(changes("", ""), []);
        assert_eq!(
            changes("[listen]\nbacklog = 4096", ""),
            [],
            "a default that is written down is no change"
        );
    }

    #[test]
    fn each_key_is_named_with_both_values_and_whether_it_may_change() {
        let old = settings("[heartbeat]\ninterval = '10s'");
        let new = settings("[listen]\nbacklog = 17\n[api]\ntokens_file = '/tokens'");
        let change = |key: &str, old: Option<&str>, new: Option<&str>, live| Change {
            key: key.to_owned(),
            old: old.map(str::to_owned),
            new: new.map(str::to_owned),
            live,
        };
        assert_eq!(
            old.changes(&new),
            [
                change("api.tokens_file", None, Some("\"/tokens\""), true),
                change("heartbeat.interval", Some("\"10s\""), Some("\"25s\""), true),
                change("listen.backlog", Some("4096"), Some("17"), false),
            ]
        );
    }

    #[test]
    fn routes_are_compared_by_name_wherever_they_stand() {
        assert_eq!(changes(&format!("{ROOMS}{ECHO}"), &format!("{ECHO}{ROOMS}")), []);
        let policy =
            format!("{ROOMS}slow_consumer = 'drop_oldest'\norigins = ['https://example.org']\n{ECHO}");
        let live = [("route.rooms.origins".to_owned(), true), ("route.rooms.slow_consumer".to_owned(), true)];
        assert_eq!(changes(&format!("{ROOMS}{ECHO}"), &policy), live);
        let other = ROOMS.replace("'ignore'", "'echo'");
        assert_eq!(changes(ROOMS, &other), [("route.rooms.inbound".to_owned(), false)]);
    }

    #[test]
    fn a_route_may_come_and_may_not_go() {
        let both = format!("{ECHO}{ROOMS}");
        assert_eq!(changes(ROOMS, &both), [("route.echo".to_owned(), true)]);
        assert_eq!(changes(&both, ROOMS), [("route.echo".to_owned(), false)]);
        let mut new = settings(&format!("[[route]]\nname = 'new'\npath = '/new'\ninbound = 'echo'\n{both}"));
        new.number_as(&settings(&format!("{ROOMS}{ECHO}")));
        let names: Vec<_> = new.routes.iter().map(|route| route.name.to_string()).collect();
        assert_eq!(names, ["rooms", "echo", "new"]);
    }

    #[test]
    fn backends_are_compared_by_name_and_take_a_restart() {
        let backend = |name: &str, more: &str| {
            format!("[[backend]]\nname = '{name}'\nendpoints = ['http://{name}:1']\n{more}\n")
        };
        let (chat, game) = (backend("chat", ""), backend("game", ""));
        let both = format!("{chat}{game}");
        assert_eq!(changes(&both, &format!("{game}{chat}")), []);
        assert_eq!(changes(&chat, &both), [("backend.game".to_owned(), false)]);
        assert_eq!(changes(&both, &chat), [("backend.game".to_owned(), false)]);
        let wider = backend("chat", "window = 9000");
        assert_eq!(changes(&chat, &wider), [("backend.chat.window".to_owned(), false)]);
        let mut swapped = settings(&format!("{game}{chat}"));
        swapped.number_as(&settings(&both));
        let names: Vec<_> = swapped.backends.iter().map(|backend| backend.name.to_string()).collect();
        assert_eq!(names, ["chat", "game"]);
    }

    #[test]
    fn what_may_change_exists() {
        let optional = "[api]\ntokens_file = '/a'\n[admin]\ntoken_file = '/a'\n\
            [[limits.network]]\ncidr = '10.0.0.0/8'\nexempt = true";
        let all = entries(&settings(optional));
        for live in LIVE {
            assert!(all.keys().any(|key| key.starts_with(live) && is_live(key, true, true)), "{live}");
        }
        for fixed in FIXED {
            assert!(all.contains_key(*fixed) && !is_live(fixed, true, true), "{fixed}");
        }
        for fixed in ROUTE_FIXED {
            assert!(all.contains_key(&format!("route.echo.{fixed}")), "{fixed}");
        }
    }
}
