//! The bus inside the process: one node, nothing to install, never away. What it forwards to is empty by
//! definition, because there is no other node.

use bridge::{Channel, ConnId, Message};

use crate::bus::{Bus, BusFuture, BusState, PublishError};
use crate::bus_stats::BusStats;
use crate::trouble::Trouble;

/// The embedded bus.
#[derive(Clone, Copy, Debug, Default)]
pub struct Embedded;

impl Bus for Embedded {
    fn name(&self) -> &'static str {
        "embedded"
    }

    fn state(&self) -> BusState {
        BusState::Up
    }

    fn trouble(&self) -> Option<Trouble> {
        None
    }

    fn forward<'a>(
        &'a self,
        _: &'a Channel,
        _: &'a Message,
        _: Option<&'a ConnId>,
    ) -> BusFuture<'a, Result<(), PublishError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn stats(&self) -> Option<&BusStats> {
        None
    }

    fn stop(&self) -> BusFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
