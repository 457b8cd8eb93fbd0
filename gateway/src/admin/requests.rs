//! Under which labels requests of the HTTP side are counted: the roles, and the statuses that this program answers. Owns
//! their order; the cells are those of [`crate::answers`]. Counted by the dispatch.

use hyper::StatusCode;

use super::Role;
use crate::answers::{self, Labels};

/// Every status that is answered; anything else counts as `other`.
const CODES: [&str; 15] = [
    "200", "202", "204", "400", "401", "403", "404", "405", "408", "409", "413", "415", "500", "503", "other",
];

/// Labels of the roles, and of what no role of the listener has.
const ROLES: [&str; Role::ALL.len() + 1] =
    [Role::Health.label(), Role::Api.label(), Role::Admin.label(), "none"];

/// A request, by the role that it was for.
#[derive(Debug)]
pub(crate) enum ByRole {}

impl Labels for ByRole {
    const ASKED: &'static [&'static str] = &ROLES;
    const ANSWERED: &'static [&'static str] = &CODES;
}

/// What the HTTP side has answered.
pub(crate) type Requests = answers::Answers<ByRole>;

impl Requests {
    /// A request for a role, or for none, was answered.
    pub(super) fn answered(&self, role: Option<Role>, status: StatusCode) {
        let role = role.map_or(ROLES.len() - 1, |role| role as usize);
        let code = CODES.iter().position(|code| *code == status.as_str()).unwrap_or(CODES.len() - 1);
        self.count(role, code);
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
        assert_eq!(requests.counted(), [("api", "409", 1), ("none", "other", 1)]);
    }

    #[test]
    fn roles_stand_in_the_order_of_their_numbers() {
        for role in Role::ALL {
            assert_eq!(ROLES[role as usize], role.label());
        }
    }
}
