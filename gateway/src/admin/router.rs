//! Owns the table of everything the HTTP side answers: method, path, role, what it demands, what it does. One
//! entry is one line; the dispatch asks it and matches on the action. Pure: it sees a method and a path.

use hyper::Method;
use percent_encoding::percent_decode_str;

use super::auth::{Access, Scope};
use super::{Role, RoleSet};

/// What an entry does; each is one function of this module's siblings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Livez,
    Readyz,
    Metrics,
    Publish,
    PublishMany,
    Send,
    SendToUser,
    Describe,
    List,
    Endings,
    Top,
    Close,
    CloseUser,
    Block,
    Unblock,
    Blocked,
    Blocks,
    Subscribe,
    Unsubscribe,
    Page,
    Node,
    Drain,
    Shed,
    Reload,
}

/// One line of the table.
#[derive(Debug)]
pub(super) struct Entry {
    method: Method,
    pattern: &'static str,
    /// Which listeners have it.
    pub(super) role: Role,
    /// What it demands of its caller.
    pub(super) access: Access,
    /// What it does.
    pub(super) action: Action,
}

const PUBLISH: Access = Access::Api(Scope::Publish);
const READ: Access = Access::Api(Scope::Read);
const CLOSE: Access = Access::Api(Scope::Close);

const fn entry(method: Method, pattern: &'static str, role: Role, access: Access, action: Action) -> Entry {
    Entry { method, pattern, role, access, action }
}

/// The table. A segment in braces takes any one segment. The page holds nothing secret and cannot send a token
/// before it is there, so it is open; what it fetches is not.
#[rustfmt::skip]
static TABLE: &[Entry] = &[
    entry(Method::GET,    "/livez",                                 Role::Health, Access::Open,  Action::Livez),
    entry(Method::GET,    "/readyz",                                Role::Health, Access::Open,  Action::Readyz),
    entry(Method::GET,    "/metrics",                               Role::Health, Access::Open,  Action::Metrics),
    entry(Method::POST,   "/v1/channels/{channel}/messages",        Role::Api,    PUBLISH,       Action::Publish),
    entry(Method::POST,   "/v1/publish",                            Role::Api,    PUBLISH,       Action::PublishMany),
    entry(Method::POST,   "/v1/users/{user}/messages",              Role::Api,    PUBLISH,       Action::SendToUser),
    entry(Method::POST,   "/v1/connections/{id}/messages",          Role::Api,    PUBLISH,       Action::Send),
    entry(Method::GET,    "/v1/connections/{id}",                   Role::Api,    READ,          Action::Describe),
    entry(Method::GET,    "/v1/connections",                        Role::Api,    READ,          Action::List),
    entry(Method::GET,    "/v1/top",                                Role::Api,    READ,          Action::Top),
    entry(Method::GET,    "/v1/endings",                            Role::Api,    READ,          Action::Endings),
    entry(Method::DELETE, "/v1/connections/{id}",                   Role::Api,    CLOSE,         Action::Close),
    entry(Method::DELETE, "/v1/users/{user}/connections",           Role::Api,    CLOSE,         Action::CloseUser),
    entry(Method::PUT,    "/v1/connections/{id}/channels/{channel}", Role::Api,   PUBLISH,       Action::Subscribe),
    entry(Method::DELETE, "/v1/connections/{id}/channels/{channel}", Role::Api,   PUBLISH,       Action::Unsubscribe),
    entry(Method::GET,    "/v1/blocks",                             Role::Api,    CLOSE,         Action::Blocks),
    entry(Method::PUT,    "/v1/blocks/{cidr}",                      Role::Api,    CLOSE,         Action::Block),
    entry(Method::DELETE, "/v1/blocks/{cidr}",                      Role::Api,    CLOSE,         Action::Unblock),
    entry(Method::GET,    "/v1/blocks/{cidr}",                      Role::Api,    CLOSE,         Action::Blocked),
    entry(Method::PUT,    "/v1/blocks/{address}/{prefix}",          Role::Api,    CLOSE,         Action::Block),
    entry(Method::DELETE, "/v1/blocks/{address}/{prefix}",          Role::Api,    CLOSE,         Action::Unblock),
    entry(Method::GET,    "/v1/blocks/{address}/{prefix}",          Role::Api,    CLOSE,         Action::Blocked),
    entry(Method::GET,    "/",                                      Role::Admin,  Access::Open,  Action::Page),
    entry(Method::GET,    "/v1/node",                               Role::Admin,  Access::Admin, Action::Node),
    entry(Method::POST,   "/v1/drain",                              Role::Admin,  Access::Admin, Action::Drain),
    entry(Method::POST,   "/v1/shed",                               Role::Admin,  Access::Admin, Action::Shed),
    entry(Method::POST,   "/v1/reload",                             Role::Admin,  Access::Admin, Action::Reload),
];

/// An entry and the values of its variables, percent-decoded, in the order of the pattern.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) entry: &'static Entry,
    pub(super) variables: Vec<String>,
}

/// Why there is no entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoRoute {
    /// No listener has this path.
    Path,
    /// The path is of a role that this listener does not have.
    Role(Role),
    /// The path has these methods only, as `Allow` lists them.
    Method(String),
}

/// Finds the entry of a request on a listener with these roles. HEAD is GET without the body.
///
/// # Errors
/// As [`NoRoute`] says.
pub(super) fn route(method: &Method, path: &str, roles: RoleSet) -> Result<Route, NoRoute> {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let mut elsewhere = None;
    let mut allowed = Vec::new();
    for entry in TABLE {
        let Some(variables) = variables(entry.pattern, path) else { continue };
        if !roles.contains(entry.role) {
            elsewhere = Some(entry.role);
        } else if entry.method == *method {
            return Ok(Route { entry, variables });
        } else {
            allowed.push(entry.method.as_str());
            if entry.method == Method::GET {
                allowed.push("HEAD");
            }
        }
    }
    match elsewhere {
        _ if !allowed.is_empty() => Err(NoRoute::Method(allowed.join(", "))),
        Some(role) => Err(NoRoute::Role(role)),
        None => Err(NoRoute::Path),
    }
}

fn variables(pattern: &str, path: &str) -> Option<Vec<String>> {
    let mut variables = Vec::new();
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(variables),
            (Some(wanted), Some(given)) if wanted.starts_with('{') && !given.is_empty() => {
                // What is not UTF-8 becomes a character that no name has.
                variables.push(percent_decode_str(given).decode_utf8_lossy().into_owned());
            }
            (Some(wanted), Some(given)) if wanted == given => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn all() -> RoleSet {
        Role::ALL.into_iter().collect()
    }

    fn only(role: Role) -> RoleSet {
        RoleSet::default().with(role)
    }

    #[test]
    fn every_entry_is_found_by_its_own_method_and_path() {
        for entry in TABLE {
            let path = entry.pattern.replace(['{', '}'], "");
            assert_eq!(route(&entry.method, &path, only(entry.role)).unwrap().entry.action, entry.action);
        }
    }

    #[test]
    fn variables_are_one_decoded_segment_each() {
        let found = route(&Method::PUT, "/v1/connections/n-1-2-3-4/channels/room%2E1", all()).unwrap();
        assert_eq!(found.entry.action, Action::Subscribe);
        assert_eq!(found.variables, ["n-1-2-3-4", "room.1"]);
        let found = route(&Method::POST, "/v1/channels/a%2Fb%ff/messages", all()).unwrap();
        assert_eq!(found.variables, ["a/b\u{fffd}"]);
    }

    #[test]
    fn a_path_that_is_nearly_right_is_none() {
        for path in
            ["", "/livez/", "//livez", "/Livez", "/v1", "/v1/channels//messages", "/v1/channels/a/b/messages"]
        {
            assert_eq!(route(&Method::GET, path, all()).unwrap_err(), NoRoute::Path, "{path}");
        }
    }

    #[test]
    fn a_wrong_method_is_told_the_right_ones() {
        let allow = |method: Method, path| match route(&method, path, all()) {
            Err(NoRoute::Method(allow)) => allow,
            other => panic!("{other:?}"),
        };
        assert_eq!(allow(Method::POST, "/v1/connections/x"), "GET, HEAD, DELETE");
        assert_eq!(allow(Method::OPTIONS, "/v1/publish"), "POST");
        assert_eq!(route(&Method::HEAD, "/readyz", all()).unwrap().entry.action, Action::Readyz);
    }

    #[test]
    fn a_listener_answers_its_own_roles_only() {
        let health = only(Role::Health);
        assert_eq!(route(&Method::POST, "/v1/drain", health).unwrap_err(), NoRoute::Role(Role::Admin));
        assert_eq!(route(&Method::GET, "/v1/publish", health).unwrap_err(), NoRoute::Role(Role::Api));
        assert!(route(&Method::GET, "/livez", health).is_ok());
    }

    #[test]
    fn only_health_and_the_page_are_open() {
        for entry in TABLE {
            let open = entry.role == Role::Health || entry.action == Action::Page;
            assert_eq!(entry.access == Access::Open, open, "{}", entry.pattern);
            assert_eq!(matches!(entry.access, Access::Api(_)), entry.role == Role::Api, "{}", entry.pattern);
        }
    }
}
