//! Orders about who is behind connections: another state for one, a goodbye to all of a user. Owns the goodbyes that are
//! under way, a slice in each turn, and their bound; refuses to make users: authorising does. Called by mail and by turn.

use std::collections::VecDeque;

use bridge::command::{Count, NotDone};
use bridge::message::Bytes;
use bridge::{Address, Channel, EndReason, Principal, Upstream, User};
use store::Key;

use crate::cold::Then;
use crate::net::Net;
use crate::turn::Shard;

/// Users that may be told to go at a time; further orders stay in the mailbox.
const LEAVING_MAX: usize = 16;
/// Goodbyes per turn, for all of them.
const GOODBYES_PER_TURN: u32 = 512;

/// Users that are being told to go, the first one now.
#[derive(Default)]
pub(crate) struct Leaving(VecDeque<Leave>);

struct Leave {
    channel: Channel,
    code: u16,
    reason: Box<str>,
    /// Connections that are still to be told: those that were there when the order came. Whoever comes back at once is
    /// let be, or this would go on for ever.
    left: u32,
    told: u32,
    reply: Count,
}

impl Leaving {
    /// Whether another user may be told to go.
    pub(crate) fn has_room(&self) -> bool {
        self.0.len() < LEAVING_MAX
    }

    /// Whether nobody is.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<N: Net> Shard<N> {
    /// Another state for the events that are to come.
    pub(crate) fn set_state(
        &mut self,
        whom: Address,
        state: Bytes,
        by: Option<Upstream>,
    ) -> Result<(), NotDone> {
        let key = self.open(whom, by)?;
        let profile = self.profile_mut(key).map_err(|_| NotDone::Full)?;
        let user = profile.principal.as_ref().and_then(|principal| principal.user.clone());
        profile.be(Principal { user, state });
        Ok(())
    }

    /// All of a user are told to go, and no others: nobody else can be in a user's channel.
    pub(crate) fn close_user(&mut self, user: &User, code: u16, reason: Box<str>, reply: Count) {
        let channel = user.channel();
        let found = self.channels.find(channel.as_str());
        let left = found.map_or(0, |index| self.channels.subscribers(index));
        self.leaving.0.push_back(Leave { channel, code, reason, left, told: 0, reply });
    }

    /// One slice of that.
    pub(crate) fn close_users(&mut self) {
        let mut budget = GOODBYES_PER_TURN;
        while budget > 0 {
            let Some(mut leave) = self.leaving.0.pop_front() else { return };
            let most = leave.left.min(budget);
            let keys = self.first_members(&leave.channel, most);
            let told = keys.len() as u32;
            for key in keys {
                self.goodbye(key, leave.code, &leave.reason, EndReason::ApiClose, Then::Await);
            }
            budget -= told;
            leave.told += told;
            leave.left -= told;
            if told < most || leave.left == 0 {
                // Whoever asked may be gone by now.
                let _ = leave.reply.send(leave.told);
            } else {
                self.leaving.0.push_front(leave);
            }
        }
    }

    /// A goodbye takes its connection out of all channels, so the next ones are the first then.
    fn first_members(&self, channel: &Channel, most: u32) -> Vec<Key> {
        let Some(index) = self.channels.find(channel.as_str()) else { return Vec::new() };
        let members = self.channels.members(index).take(most as usize);
        members.filter_map(|slot| self.conns.key_at(slot)).collect()
    }
}
