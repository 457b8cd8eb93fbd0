//! One log line for each peer that hits a limit, about once a second: shards add up and send few. Owns the line and
//! refuses to count; the counters do. Called with what the pump brings.

use bridge::Limited;

/// Writes the line: a warning, or in a dry run a note.
pub(crate) fn log(limited: &Limited) {
    let Limited { peer, kind, times } = limited;
    // Of so many peers that their names would be the next flood, there is one line; a limit of the node is nobody's.
    let nobody = if kind.limit.is_of_node() { "any" } else { "others" };
    let peer = peer.map_or_else(|| nobody.to_owned(), |peer| peer.to_string());
    let (limit, action) = (kind.limit.label(), kind.action.label());
    if kind.dry_run {
        tracing::info!(%peer, limit, action, times, dry_run = true, "limit would have been enforced");
    } else {
        tracing::warn!(%peer, limit, action, times, dry_run = false, "limit enforced");
    }
}
