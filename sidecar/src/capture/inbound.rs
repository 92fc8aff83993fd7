//! Connections to the application that did not come over the mesh.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::BytesMut;
use futures::future::BoxFuture;
use tombolo_core::{
    model::{AppProtocol, Snapshot},
    proxy::{
        Accepted, Acceptor, ConnectionService, Entry, HttpEngine, HttpLimits, Observer, Opening,
        original_destination, sniff,
    },
};

use super::{
    plaintext::{Admission, Admissions},
    refuse,
};
use crate::way::told;

/// Where only health checks are admitted, they have to begin within this time.
const PROBE: Duration = Duration::from_secs(2);

/// Serves what is redirected on its way in. Which requests are admitted, the director of the engine says; here, only what
/// is spoken is found out.
pub(crate) struct Inbound {
    pub engine: Arc<HttpEngine>,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub admissions: Arc<Admissions>,
    pub observer: Arc<dyn Observer>,
}

impl Inbound {
    async fn run(&self, mut accepted: Accepted) {
        let port = match original_destination(&accepted.tcp) {
            Ok(Some(to)) => to.port(),
            Ok(None) | Err(_) => {
                return refuse(accepted, Entry::Inbound, None, "not_redirected", &*self.observer);
            }
        };
        let entry = |http2| Entry::Captured { port, http2 };
        let http = |http2| self.engine.http(Acceptor::Plain, entry(http2));
        let raw = || self.engine.tcp(Acceptor::Plain, entry(false));
        let admission = self.admissions.of_port(&self.snapshot.load(), port);
        let service = match (admission, self.told(port)) {
            (Admission::Everything, _) | (Admission::Policies, Some(AppProtocol::Tcp)) => raw(),
            (Admission::Policies, Some(AppProtocol::Http1 | AppProtocol::Http2)) => {
                http(begins_with_http2(&mut accepted).await)
            }
            (Admission::Policies, None) => self.engine.found(entry),
            (Admission::Probes, _) => match begins(&mut accepted, PROBE).await {
                Opening::Http1 => http(false),
                Opening::Http2 => http(true),
                Opening::Tls(_) | Opening::Other | Opening::Silent => return self.refuse(accepted, port),
            },
            (Admission::Nothing, _) => return self.refuse(accepted, port),
        };
        service.serve(accepted).await;
    }

    fn refuse(&self, accepted: Accepted, port: u16) {
        let entry = Entry::Captured { port, http2: false };
        refuse(accepted, entry, None, "plaintext_refused", &*self.observer);
    }

    /// What the port's name says is spoken: nothing of it is found out then, however slow a client is.
    fn told(&self, port: u16) -> Option<AppProtocol> {
        let name = self.admissions.workload.ports.get(&port).map(|name| &**name);
        told(AppProtocol::of_port("", name.unwrap_or_default()), port)
    }
}

/// Which HTTP the client of a port for HTTP speaks: the application is spoken to in the same way. It may be silent for as
/// long as on any port, and is told of a drain.
async fn begins_with_http2(accepted: &mut Accepted) -> bool {
    let (mut ahead, idle) = (BytesMut::new(), HttpLimits::default().idle);
    let opening = tokio::select! {
        opening = sniff(&mut accepted.tcp, &mut ahead, idle) => opening.ok(),
        _ = accepted.stop.wait_for(|stop| *stop) => None,
    };
    accepted.prefix = ahead.freeze();
    opening == Some(Opening::Http2)
}

async fn begins(accepted: &mut Accepted, patience: Duration) -> Opening {
    let mut ahead = BytesMut::new();
    let opening = sniff(&mut accepted.tcp, &mut ahead, patience).await;
    accepted.prefix = ahead.freeze();
    opening.unwrap_or(Opening::Other)
}

impl ConnectionService for Inbound {
    fn serve(self: Arc<Self>, accepted: Accepted) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.run(accepted).await })
    }
}
