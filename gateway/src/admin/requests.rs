//! Owns the figures of the HTTP side itself: how many requests each role answered with which status, and how many
//! connections it holds. Labels are bounded: four roles, and the statuses that this program answers. Counted by dispatch and
//! server, read by the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use hyper::StatusCode;

use super::Role;

/// Every status that is answered; anything else counts as `other`.
const CODES: [(u16, &str); 15] = [
    (200, "200"),
    (202, "202"),
    (204, "204"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (408, "408"),
    (409, "409"),
    (413, "413"),
    (415, "415"),
    (500, "500"),
    (503, "503"),
    (0, "other"),
];

/// Labels of the roles, and of what no role of the listener has.
const ROLES: [&str; Role::ALL.len() + 1] =
    [Role::Health.label(), Role::Api.label(), Role::Admin.label(), "none"];

/// The counters; several threads write them.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    answered: [[AtomicU64; CODES.len()]; ROLES.len()],
    connections: AtomicU64,
}

/// A connection that is held; it is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Held<'a>(&'a Requests);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Requests {
    /// A request for a role, or for none, was answered.
    pub(super) fn answered(&self, role: Option<Role>, status: StatusCode) {
        let role = role.map_or(ROLES.len() - 1, |role| role as usize);
        let code = CODES.iter().position(|(code, _)| *code == status.as_u16()).unwrap_or(CODES.len() - 1);
        self.answered[role][code].fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was accepted.
    pub(super) fn hold(&self) -> Held<'_> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Held(self)
    }

    /// Connections held.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Every series: its place, role and code.
    pub(crate) fn series() -> impl Iterator<Item = (usize, usize, &'static str, &'static str)> {
        ROLES.into_iter().enumerate().flat_map(|(role, name)| {
            CODES.into_iter().enumerate().map(move |(code, (_, label))| (role, code, name, label))
        })
    }

    /// The value at a place of [`Requests::series`].
    pub(crate) fn value(&self, role: usize, code: usize) -> u64 {
        self.answered[role][code].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod requests_tests {
    use super::*;

    #[test]
    fn a_request_counts_under_its_role_and_status() {
        let requests = Requests::default();
        requests.answered(Some(Role::Api), StatusCode::CONFLICT);
        requests.answered(None, StatusCode::IM_A_TEAPOT);
        let counted: Vec<_> = Requests::series()
            .filter(|(role, code, ..)| requests.value(*role, *code) > 0)
            .map(|(_, _, role, code)| (role, code))
            .collect();
        assert_eq!(counted, [("api", "409"), ("none", "other")]);
    }

    #[test]
    fn roles_stand_in_the_order_of_their_numbers() {
        for role in Role::ALL {
            assert_eq!(ROLES[role as usize], role.label());
        }
    }

    #[test]
    fn a_connection_counts_while_it_is_held() {
        let requests = Requests::default();
        let held = requests.hold();
        assert_eq!(requests.connections(), 1);
        drop(held);
        assert_eq!(requests.connections(), 0);
    }
}
