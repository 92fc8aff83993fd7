//! Public listeners: they follow the snapshot.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tombolo_core::{
    acme::Challenges,
    decide::{Bind, BindKey, Compiled, ListenerProtocol, Proxied},
    member::{ListenerSet, Wanted},
    proxy::{Acceptor, Apart, Behind, ConnectionService, Entry, HttpEngine, Inherited, Serving},
    telemetry::Telemetry,
};

use crate::{certificates::Certificates, listener_tls::BindTls, options::Options, options::Ports};

/// What connections on a socket begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Plain HTTP.
    Http,
    /// A ClientHello.
    Tls,
    /// Anything.
    Tcp,
}

/// What a socket is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Use {
    purpose: Purpose,
    /// Whose connections begin with a PROXY header.
    proxied: Option<Arc<Proxied>>,
}

impl Purpose {
    fn of(bind: &Bind) -> Self {
        match bind.listeners.first().map(|listener| listener.protocol) {
            Some(ListenerProtocol::Tcp) => Self::Tcp,
            Some(protocol) if protocol.begins_with_tls() => Self::Tls,
            Some(_) | None => Self::Http,
        }
    }
}

/// The public listeners of a gateway.
pub(crate) struct Edge {
    address: IpAddr,
    ports: Ports,
    challenges: Arc<Challenges>,
    telemetry: Arc<Telemetry>,
    tls: Arc<Mutex<BTreeMap<BindKey, Arc<BindTls>>>>,
    /// Addresses where a socket for every address does not answer.
    apart: Arc<ArcSwap<BTreeSet<IpAddr>>>,
    listeners: ListenerSet<BindKey, Use>,
}

impl Edge {
    /// No listeners so far.
    pub fn new(
        engine: Arc<HttpEngine>,
        options: &Options,
        challenges: Arc<Challenges>,
        drain: watch::Receiver<bool>,
    ) -> Self {
        let tls: Arc<Mutex<BTreeMap<BindKey, Arc<BindTls>>>> = Arc::default();
        let apart: Arc<ArcSwap<BTreeSet<IpAddr>>> = Arc::default();
        let (known, theirs) = (Arc::clone(&tls), Arc::clone(&apart));
        let make = move |key: &BindKey, usage: &Use| -> Arc<dyn ConnectionService> {
            let entry = Entry::Edge(*key);
            let tls = known.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
            let service = match (usage.purpose, tls) {
                (Purpose::Tls, Some(tls)) => engine.http(Acceptor::Chosen(tls), entry),
                (Purpose::Tcp, _) => engine.tcp(Acceptor::Plain, entry),
                (Purpose::Http | Purpose::Tls, _) => engine.http(Acceptor::Plain, entry),
            };
            let service = match &usage.proxied {
                Some(proxied) => Arc::new(Behind { proxied: Arc::clone(proxied), service }),
                None => service,
            };
            match key.address.is_none_or(|address| address.is_unspecified()) {
                true => Arc::new(Apart { addresses: Arc::clone(&theirs), service }),
                false => service,
            }
        };
        Self {
            address: options.address.unwrap_or_else(every_address),
            ports: options.ports,
            challenges,
            telemetry: Arc::clone(&options.telemetry),
            tls,
            apart,
            listeners: match options.share_ports {
                true => ListenerSet::new(make, options.limits, drain).beside_other_processes(),
                false => ListenerSet::new(make, options.limits, drain).beside_each_other(),
            },
        }
    }

    /// Makes the listeners those of this configuration. Says what could not be done.
    pub fn apply(&mut self, config: &Compiled, certificates: &Certificates) -> Vec<String> {
        let mut problems = Vec::new();
        let mut wanted = BTreeMap::new();
        for bind in &config.binds {
            match self.prepare(config, bind, certificates) {
                Ok(prepared) => drop(wanted.insert(bind.key, prepared)),
                Err(problem) => problems.push(problem),
            }
        }
        one_each(&mut wanted, &mut problems);
        self.apart.store(Arc::new(config.apart.clone()));
        let before: Vec<BindKey> = self.listeners.iter().map(|(key, _)| *key).collect();
        for (_, address, error) in self.listeners.apply(&wanted) {
            problems.push(format!("cannot listen on {address}: {error}{}", hint(address, &error)));
        }
        for (key, serving) in self.listeners.iter().filter(|(key, _)| !before.contains(key)) {
            let stats = Arc::clone(serving.stats());
            self.telemetry.watch_listener(name(*key), false, stats);
        }
        self.tls.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| wanted.contains_key(key));
        problems
    }

    /// Where a socket is to be, with its certificates in force.
    fn prepare(
        &self,
        config: &Compiled,
        bind: &Bind,
        certificates: &Certificates,
    ) -> Result<Wanted<Use>, String> {
        let port =
            match self.ports {
                Ports::Free => 0,
                Ports::Offset(offset) => bind.key.port.checked_add(offset).ok_or_else(|| {
                    format!("port {} plus the offset {offset} is past 65535", bind.key.port)
                })?,
            };
        let proxied = config.proxied(bind);
        let purpose = Purpose::of(bind);
        if purpose == Purpose::Tls {
            for problem in self.tls(bind.key).update(bind, certificates) {
                tracing::warn!(port = bind.key.port, "{problem}");
            }
        }
        let address = SocketAddr::new(bind.key.address.unwrap_or(self.address), port);
        Ok(Wanted { address, purpose: Use { purpose, proxied } })
    }

    fn tls(&self, key: BindKey) -> Arc<BindTls> {
        let mut all = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(key).or_insert_with(|| Arc::new(BindTls::new(Arc::clone(&self.challenges)))))
    }

    /// The open listeners, with their real addresses.
    pub fn addresses(&self) -> BTreeMap<BindKey, SocketAddr> {
        self.listeners.iter().map(|(key, serving)| (*key, Serving::address(serving))).collect()
    }

    /// Where a listener is wanted that another process had open, its socket is used.
    pub fn inherit(&mut self, inherited: Inherited) {
        self.listeners.inherit(inherited);
    }

    /// The sockets of the open listeners, to be handed to another process.
    pub fn sockets(&self) -> impl Iterator<Item = OwnedFd> {
        self.listeners.iter().filter_map(|(_, serving)| serving.socket())
    }

    /// The listeners, to be drained.
    pub fn into_listeners(self) -> ListenerSet<BindKey, Use> {
        self.listeners
    }
}

/// Two sockets at one address would take each other's connections at random. That of Gateways without an address
/// (`--address`) comes first.
fn one_each(wanted: &mut BTreeMap<BindKey, Wanted<Use>>, problems: &mut Vec<String>) {
    let mut taken = BTreeSet::new();
    wanted.retain(|key, wanted| {
        let is_first = wanted.address.port() == 0 || taken.insert(wanted.address);
        if !is_first {
            let ip = key.address.map(|ip| ip.to_string()).unwrap_or_default();
            problems.push(format!(
                "cannot listen on {} for the Gateways that name {ip}: those without an address listen there, by --address",
                wanted.address
            ));
        }
        is_first
    });
}

fn name(key: BindKey) -> String {
    key.address.map_or_else(|| format!("*:{}", key.port), |ip| SocketAddr::new(ip, key.port).to_string())
}

fn hint(address: SocketAddr, error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied if address.port() < 1024 => {
            "; ports below 1024 need root or CAP_NET_BIND_SERVICE, or give --port-offset 8000"
        }
        // It says itself what to do.
        std::io::ErrorKind::AddrInUse if error.raw_os_error().is_none() => "",
        std::io::ErrorKind::AddrInUse => "; something else listens there, see `ss -ltnp`",
        _ => "",
    }
}

/// Both families where there are both.
fn every_address() -> IpAddr {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => Ipv6Addr::UNSPECIFIED.into(),
        Err(_) => Ipv4Addr::UNSPECIFIED.into(),
    }
}
