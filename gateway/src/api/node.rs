//! Owns the call that ends the node.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Error;
use crate::admin::Admin;
use crate::lifecycle::Order;

/// Longest drain or shed by request, in seconds: the longest that the configuration takes.
pub(crate) const SECONDS_MAX: u16 = 3600;

/// Does what SIGTERM does, within this time or that of `[drain]`. Asking again changes nothing, unless it is with a
/// shorter time.
///
/// # Errors
/// `busy` when too many orders wait.
pub(crate) fn drain(admin: &Admin, within: Option<Duration>) -> Result<(), Error> {
    admin.orders.try_send(Order::Drain(within)).map_err(|_| Error::busy())?;
    // Whoever asks whether the node is ready after this answer sees it.
    admin.draining.store(true, Ordering::Release);
    Ok(())
}
