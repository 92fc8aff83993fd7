//! For how long a connection to a backend is lent to further requests: what is behind an address or a load balancer comes and
//! goes, and connections that are busy day and night would never notice.

use std::time::Duration;

use pingora_core::protocols::Stream;
use tokio::time::Instant;

use super::Connection;
use crate::proxy::gate::random;

/// So long, and up to a tenth less, so that those that were made together are not all made anew together. Streams and
/// tunnels that are open then go on to their own end.
pub(in crate::proxy) const AGE: Duration = Duration::from_secs(1800);

/// Until when a connection that is made now is lent.
pub(super) fn end_of_loans() -> Instant {
    let spread = AGE.as_millis() as u64 / 10;
    Instant::now() + AGE - Duration::from_millis(random() % spread)
}

impl Connection {
    /// Until when it is lent to further requests.
    pub(in crate::proxy) fn lent_until(&self) -> Instant {
        self.lent_until
    }

    /// The same of a stream, if it is one of these.
    pub(in crate::proxy) fn stream_lent_until(stream: &Stream) -> Option<Instant> {
        (**stream).as_any().downcast_ref::<Self>().map(Self::lent_until)
    }
}
