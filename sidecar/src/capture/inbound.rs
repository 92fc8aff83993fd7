//! Connections to the application that did not come over the mesh.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tombolo_core::{
    model::AppProtocol,
    proxy::{
        Accepted, Acceptor, ConnectionService, Entry, HttpEngine, Observer, Opening, original_destination,
        sniff,
    },
};

use super::{
    plaintext::{Admission, Plaintext},
    refuse,
};
use crate::way::patience;

/// Where only health checks are admitted, they have to begin within this time.
const PROBE: Duration = Duration::from_secs(2);

/// Serves what is redirected on its way in. Which requests are admitted, the director of the engine says; here, only what
/// is spoken is found out.
pub(crate) struct Inbound {
    pub engine: Arc<HttpEngine>,
    pub plaintext: Arc<Plaintext>,
    /// The application's ports with their names.
    pub ports: Vec<(u16, String)>,
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
        let opening = match self.plaintext.of_port(port) {
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
        let name = self.ports.iter().find(|(own, _)| *own == port).map(|(_, name)| name.as_str());
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
