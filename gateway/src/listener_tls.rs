//! The TLS side of public sockets: which listener takes a connection, and with which certificates.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{ServerConfig, server::ClientHello};
use tombolo_core::{
    acme::{ACME_TLS_ALPN, Challenges},
    decide::{Bind, Listener, ListenerProtocol},
    proxy::{TlsChoice, TlsChooser},
    tls::{ClientValidation, EdgeCertificates, TlsError, edge_server},
};

use crate::certificates::Certificates;

/// What is spoken inside of an HTTPS listener's TLS, in order of preference.
const HTTP: &[&str] = &["h2", "http/1.1"];

/// The TLS side of one socket. Each of its listeners has a configuration of its own, so that sessions of one are never
/// resumed at another; it stays as long as what it asks of clients does, and its certificates are swapped.
pub(crate) struct BindTls {
    challenges: Arc<Challenges>,
    served: ArcSwap<Served>,
}

#[derive(Default)]
struct Served {
    bind: Option<Bind>,
    ends: HashMap<EndKey, End>,
}

/// What a configuration is good for: a change of any of it needs a new one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct EndKey {
    gateway: Arc<str>,
    set: Option<Arc<str>>,
    listener: Arc<str>,
    hostname: Option<Arc<str>>,
    raw: bool,
    clients: Option<ClientValidation>,
}

/// A listener's end of TLS.
#[derive(Clone)]
struct End {
    certificates: Arc<ArcSwap<EdgeCertificates>>,
    config: Arc<ServerConfig>,
}

impl EndKey {
    fn of(listener: &Listener) -> Self {
        Self {
            gateway: Arc::clone(&listener.gateway),
            set: listener.set.clone(),
            listener: Arc::clone(&listener.name),
            hostname: listener.hostname.clone(),
            raw: listener.protocol == ListenerProtocol::TlsTerminate,
            clients: listener.clients.clone(),
        }
    }
}

impl End {
    fn new(key: &EndKey) -> Result<Self, TlsError> {
        let certificates = Arc::new(ArcSwap::from_pointee(EdgeCertificates::default()));
        let alpn = if key.raw { &[] } else { HTTP };
        let config = edge_server(Arc::clone(&certificates), alpn, key.clients.as_ref())?;
        Ok(Self { certificates, config })
    }
}

impl BindTls {
    /// Without listeners so far.
    pub fn new(challenges: Arc<Challenges>) -> Self {
        Self { challenges, served: ArcSwap::default() }
    }

    /// Puts a socket's listeners and their certificates in force. Gives what is wrong with some of them: those are left
    /// out, the others serve.
    pub fn update(&self, bind: &Bind, known: &Certificates) -> Vec<String> {
        let before = self.served.load();
        let mut problems = Vec::new();
        let mut ends = HashMap::new();
        for listener in bind.listeners.iter().filter(|l| l.protocol != ListenerProtocol::TlsPassthrough) {
            let key = EndKey::of(listener);
            let end = match before.ends.get(&key) {
                Some(end) => end.clone(),
                None => match End::new(&key) {
                    Ok(end) => end,
                    Err(error) => {
                        problems.push(format!("listener {}: {error}", listener.title()));
                        continue;
                    }
                },
            };
            end.certificates.store(Arc::new(certificates(listener, known, &mut problems)));
            ends.insert(key, end);
        }
        self.served.store(Arc::new(Served { bind: Some(bind.clone()), ends }));
        problems
    }
}

fn certificates(listener: &Listener, known: &Certificates, problems: &mut Vec<String>) -> EdgeCertificates {
    let mut set = EdgeCertificates::default();
    let mut usable = Vec::new();
    for name in &listener.certificates {
        match known.get(name) {
            Some(certificate) => usable.push(&**certificate),
            None => problems.push(format!("listener {}: certificate {name} is not there", listener.title())),
        }
    }
    set.add(None, usable);
    set
}

impl BindTls {
    /// The answer to a certificate authority that looks for one of ours. Others' pass to who has the name.
    fn challenge(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        let asks = hello.alpn()?.any(|protocol| protocol == ACME_TLS_ALPN);
        asks.then(|| self.challenges.tls(hello.server_name()?)).flatten()
    }
}

impl TlsChooser for BindTls {
    fn choose(&self, hello: &ClientHello<'_>) -> TlsChoice {
        if let Some(config) = self.challenge(hello) {
            return TlsChoice::Prove(config);
        }
        let served = self.served.load();
        let Some(bind) = &served.bind else { return TlsChoice::Refuse };
        let Some(listener) = bind.tls_listener(hello.server_name()) else {
            // Where TLS is passed on, there is nobody here to speak it.
            let passes = bind.listeners.iter().any(|l| l.protocol == ListenerProtocol::TlsPassthrough);
            return if passes { TlsChoice::Reset } else { TlsChoice::Refuse };
        };
        if listener.protocol == ListenerProtocol::TlsPassthrough {
            return TlsChoice::Pass;
        }
        let key = EndKey::of(listener);
        match served.ends.get(&key) {
            Some(end) if key.raw => TlsChoice::Raw(Arc::clone(&end.config)),
            Some(end) => TlsChoice::Http { config: Arc::clone(&end.config), clients: key.clients },
            None => TlsChoice::Refuse,
        }
    }
}
