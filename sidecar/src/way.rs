//! The way to a service's port: what is spoken, and on to the engine.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::future::BoxFuture;
use tombolo_core::{
    model::{AppProtocol, Host, HostName, ServiceEntry, ServiceKey, Snapshot},
    proxy::{Accepted, Acceptor, ConnectionService, Entry, HttpEngine},
};

use crate::outbound::Uses;

/// Ports where servers always speak first: FTP, SSH, SMTP, POP3, IMAP, MySQL. Nothing is to be found out.
const SERVER_FIRST: [u16; 8] = [21, 22, 25, 110, 143, 587, 3306, 33060];

/// What is spoken on a port, as far as its name or, where nobody else says it, its number tells.
pub(crate) fn told(said: Option<AppProtocol>, port: u16) -> Option<AppProtocol> {
    said.or_else(|| SERVER_FIRST.contains(&port).then_some(AppProtocol::Tcp))
}

/// Where a way leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Destination {
    pub service: ServiceKey,
    /// The service's own number of it.
    pub port: u16,
    /// One host of a headless service; none: any endpoint.
    pub host: Option<HostName>,
}

/// The way to a service's port, or to that of one of its hosts.
pub(crate) struct Way {
    said: Option<AppProtocol>,
    to: Destination,
    uses: Arc<Uses>,
    begun: AtomicBool,
    http: Arc<dyn ConnectionService>,
    /// Whatever is spoken, as far as it is said.
    any: Arc<dyn ConnectionService>,
}

impl Way {
    /// On which `said` is spoken; none: it is found out for each connection, unless the port tells.
    pub fn new(
        engine: &Arc<HttpEngine>,
        uses: &Arc<Uses>,
        to: Destination,
        said: Option<AppProtocol>,
    ) -> Arc<Self> {
        let entry = |http2| {
            let Destination { service, port, host } = to.clone();
            Entry::Outbound { service, port, http2, host }
        };
        let http = engine.http(Acceptor::Plain, entry(false));
        let any = match told(said, to.port) {
            Some(AppProtocol::Http1 | AppProtocol::Http2) => Arc::clone(&http),
            Some(AppProtocol::Tcp) => engine.tcp(Acceptor::Plain, entry(false)),
            None => engine.found(entry),
        };
        Arc::new(Self { said, uses: Arc::clone(uses), begun: AtomicBool::new(false), http, any, to })
    }

    /// The service's endpoints are asked for at its first use.
    async fn begin(&self) {
        if !self.begun.load(Ordering::Acquire) {
            self.uses.begin(&self.to.service).await;
            self.begun.store(true, Ordering::Release);
        }
    }

    /// Serves a connection on which HTTP is spoken, whatever is said.
    pub async fn serve_http(&self, accepted: Accepted) {
        self.begin().await;
        Arc::clone(&self.http).serve(accepted).await;
    }
}

impl ConnectionService for Way {
    fn serve(self: Arc<Self>, accepted: Accepted) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.begin().await;
            Arc::clone(&self.any).serve(accepted).await;
        })
    }
}

/// The ways to all services of a snapshot, as captured connections and the HTTP proxy look them up.
#[derive(Default)]
pub(crate) struct Ways {
    /// By the index of the virtual address.
    services: HashMap<u32, ServiceKey>,
    ways: HashMap<ServiceKey, ByPort>,
    /// Of single hosts, by the index of theirs.
    hosts: HashMap<u32, ByPort>,
    /// Those indexes by name, as DNS has it.
    names: HashMap<String, u32>,
}

type ByPort = HashMap<u16, Arc<Way>>;

impl Ways {
    /// The way to this port of the service, or host, with a virtual address.
    pub fn by_index(&self, index: u32, port: u16) -> Option<Arc<Way>> {
        match self.services.get(&index) {
            Some(service) => self.by_key(service, port),
            None => self.hosts.get(&index)?.get(&port).cloned(),
        }
    }

    /// The way to this port of the host of this DNS name, in lower case.
    pub fn by_name(&self, name: &str, port: u16) -> Option<Arc<Way>> {
        self.by_index(*self.names.get(name)?, port)
    }

    /// The way to this port of a service.
    pub fn by_key(&self, service: &ServiceKey, port: u16) -> Option<Arc<Way>> {
        self.ways.get(service)?.get(&port).cloned()
    }

    /// The ways of a newer snapshot. Those that are as they were are kept, with what is known of their use.
    pub fn of(&self, snapshot: &Snapshot, engine: &Arc<HttpEngine>, uses: &Arc<Uses>) -> Self {
        let mut new = Self::default();
        for entry in snapshot.services.values() {
            if entry.vip_index > 0 {
                new.services.insert(entry.vip_index, entry.key.clone());
            }
            let ports = entry.ports.iter().map(|port| {
                let before = self.by_key(&entry.key, port.port).filter(|way| way.said == port.said());
                let to = Destination { service: entry.key.clone(), port: port.port, host: None };
                (port.port, before.unwrap_or_else(|| Way::new(engine, uses, to, port.said())))
            });
            new.ways.insert(entry.key.clone(), ports.collect());
            for host in entry.hosts().iter().filter(|host| host.vip_index > 0) {
                new.names.insert(entry.host_dns_name(host), host.vip_index);
                let ways = destinations(entry, host).map(|(called, to, said)| {
                    let before = self.hosts.get(&host.vip_index).and_then(|ways| ways.get(&called));
                    let before = before.filter(|way| way.to == to && way.said == said).cloned();
                    (called, before.unwrap_or_else(|| Way::new(engine, uses, to, said)))
                });
                new.hosts.insert(host.vip_index, ways.collect());
            }
        }
        new
    }
}

/// Where the ports of a host lead, with what is said to be spoken there.
pub(crate) fn destinations(
    entry: &ServiceEntry,
    host: &Host,
) -> impl Iterator<Item = (u16, Destination, Option<AppProtocol>)> {
    let name = host.full_name();
    host.called_ports().filter_map(move |called| {
        let port = entry.port(host.port(called)?)?;
        let to = Destination { service: entry.key.clone(), port: port.port, host: Some(Arc::clone(&name)) };
        Some((called, to, port.said()))
    })
}
