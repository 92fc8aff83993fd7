//! Whether a TLS connection may carry requests for a listener: what its client had to show when it was made.

use super::{BindKey, ClientValidation, host::normalize_host, trace::Untraced};
use crate::model::Snapshot;

/// True if a connection whose client had to show `shown` may carry requests for this host.
///
/// A listener that asks for client certificates takes no request from a connection that was made for a listener that asks
/// for none, or for others: without a server name, by a coalesced request, or before a change of what is asked. Such a
/// request gets a 421, and its client comes again on a new connection.
pub fn carries(snapshot: &Snapshot, bind: BindKey, host: &str, shown: Option<&ClientValidation>) -> bool {
    let Some(bind) = snapshot.config.bind(bind) else { return true };
    if shown.is_none() && bind.listeners.iter().all(|listener| listener.clients.is_none()) {
        return true;
    }
    let group = bind.listeners_for(&normalize_host(host), &mut Untraced);
    // All of a group ask for the same.
    group.and_then(|group| group.first()).is_none_or(|listener| listener.clients.as_ref() == shown)
}
