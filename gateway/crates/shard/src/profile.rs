//! What is remembered of few connections for as long as they live, beside the table: where a publisher publishes, and
//! what app servers have said. Owns the entry and its making; most routes need none, and then there is none.

use std::sync::Arc;

use bridge::{Channel, Principal};
use store::{Key, NONE};

use crate::net::Net;
use crate::turn::Shard;

/// The entry that a record's `identity` leads to.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    /// The channel that its messages go to, on a route that publishes.
    pub publishes_to: Option<Channel>,
    /// What app servers have said of it.
    pub principal: Option<Arc<Principal>>,
    /// The tick at which that is no longer true.
    pub expires: Option<u32>,
}

impl Profile {
    /// App servers have said this; nothing is nobody.
    pub(crate) fn be(&mut self, principal: Principal) {
        self.principal = (principal != Principal::default()).then(|| Arc::new(principal));
    }
}

/// No entry is free, which cannot be: there are as many as records.
#[derive(Debug)]
pub(crate) struct NoProfile;

impl<N: Net> Shard<N> {
    /// The profile of a connection, if it has one.
    pub(crate) fn profile(&self, key: Key) -> Option<&Profile> {
        self.profiles.get(self.conns.get(key)?.identity)
    }

    /// The profile of a connection, made now if it has none.
    pub(crate) fn profile_mut(&mut self, key: Key) -> Result<&mut Profile, NoProfile> {
        let conn = self.conns.get_mut(key).ok_or(NoProfile)?;
        if conn.identity == NONE {
            conn.identity = self.profiles.insert(Profile::default()).map_err(|_| NoProfile)?;
        }
        self.profiles.get_mut(conn.identity).ok_or(NoProfile)
    }

    /// Nothing of it is needed any more.
    pub(crate) fn forget_profile(&mut self, key: Key) {
        if let Some(conn) = self.conns.get_mut(key) {
            self.profiles.remove(conn.identity);
            conn.identity = NONE;
        }
    }
}
