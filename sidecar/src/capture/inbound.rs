//! Connections to the application that did not come over the mesh.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use tombolo_core::{
    model::{AppProtocol, Snapshot},
    proxy::{
        Accepted, Acceptor, ConnectionService, Entry, HttpEngine, Observer, Opening, original_destination,
        sniff,
    },
};

use super::{
    plaintext::{Admission, Admissions},
    refuse,
};
use crate::way::patience;

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
        let admission = self.admissions.of_port(&self.snapshot.load(), port);
        let opening = match admission {
            Admission::Everything => Opening::Other,
            Admission::Policies => self.found_out(&mut accepted, port).await,
            Admission::Probes => match begins(&mut accepted, PROBE).await {
                http @ (Opening::Http1 | Opening::Http2) => http,
                _ => return self.refuse(accepted, port),
            },
            Admission::Nothing => return self.refuse(accepted, port),
        };
        let entry = Entry::Captured { port, http2: opening == Opening::Http2 };
        let service = match opening {
            Opening::Http1 | Opening::Http2 => self.engine.http(Acceptor::Plain, entry),
            Opening::Tls(_) | Opening::Other | Opening::Silent => self.engine.tcp(Acceptor::Plain, entry),
        };
        service.serve(accepted).await;
    }

    fn refuse(&self, accepted: Accepted, port: u16) {
        let entry = Entry::Captured { port, http2: false };
        refuse(accepted, entry, None, "plaintext_refused", &*self.observer);
    }

    /// What the port's name says is spoken, else what the client begins with.
    async fn found_out(&self, accepted: &mut Accepted, port: u16) -> Opening {
        let name = self.admissions.workload.ports.get(&port).map(|name| &**name);
        match (AppProtocol::of_port("", name.unwrap_or_default()), patience(port)) {
            (Some(AppProtocol::Tcp), _) | (_, None) => Opening::Other,
            (_, Some(patience)) => begins(accepted, patience).await,
        }
    }
}

async fn begins(accepted: &mut Accepted, patience: Duration) -> Opening {
    match sniff(&mut accepted.tcp, patience).await {
        Ok((opening, bytes)) => {
            accepted.prefix = bytes;
            opening
        }
        Err(_) => Opening::Other,
    }
}

impl ConnectionService for Inbound {
    fn serve(self: Arc<Self>, accepted: Accepted) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.run(accepted).await })
    }
}
