//! Names that are not the mesh's: asked of the configured resolvers, with a bounded cache.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RData, Record, RecordType},
};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, NoRecords, runtime::TokioRuntimeProvider},
    system_conf::read_system_conf,
};

/// One question to one resolver; there is a second try.
const TRY: Duration = Duration::from_secs(2);
/// A question with all tries, aliases included; then SERVFAIL.
const TOTAL: Duration = Duration::from_secs(6);
/// Answers that are kept. At the bound the cache drops others.
const CACHED: u64 = 4096;
/// Nothing is kept for longer than this, whatever its TTL says.
const KEPT: Duration = Duration::from_secs(300);
/// Questions at a time on one connection to a resolver; past it they fail.
const ON_ONE_CONNECTION: usize = 256;

/// A forwarder could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// No resolver was given, and the system has none.
    #[error("/etc/resolv.conf: {0}; give a --resolver")]
    System(String),
    /// The resolver refuses its configuration.
    #[error("resolvers: {0}")]
    Setup(String),
}

/// An answer from outside.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// `NOERROR` and `NXDOMAIN` are answers; anything else is a failure.
    pub code: ResponseCode,
    /// Records, aliases included.
    pub answers: Vec<Record>,
    /// The SOA of a negative answer.
    pub authorities: Vec<Record>,
}

/// Asks resolvers. Cheap to clone: the clones share connections and cache.
#[derive(Clone, Debug)]
pub struct Forwarder {
    /// None if there is nobody to ask.
    resolver: Option<TokioResolver>,
}

impl Forwarder {
    /// A forwarder to these resolvers, or to the system's if none is given. `own` is where this server listens: a
    /// resolver at one of these addresses would be itself, and is left out.
    pub fn new(resolvers: &[SocketAddr], own: &[SocketAddr]) -> Result<Self, ForwardError> {
        let candidates = match resolvers {
            [] => system().map_err(|error| ForwardError::System(error.to_string()))?,
            given => given.to_vec(),
        };
        let (selves, others): (Vec<_>, Vec<_>) =
            candidates.into_iter().partition(|resolver| own.iter().any(|own| is_same(*own, *resolver)));
        if !selves.is_empty() {
            tracing::warn!(resolvers = ?selves, "these resolvers are this server itself and are not asked");
        }
        if others.is_empty() {
            tracing::warn!("there is no resolver for names outside the mesh; give a --resolver");
            return Ok(Self { resolver: None });
        }
        let config = ResolverConfig::from_parts(None, Vec::new(), servers(&others));
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options();
        let resolver = builder.build().map_err(|error| ForwardError::Setup(error.to_string()))?;
        Ok(Self { resolver: Some(resolver) })
    }

    /// Asks. Takes no longer than 6 s; what cannot be answered is SERVFAIL, and is not kept.
    ///
    /// Others are asked in lower case: how a client writes a name (0x20) is between it and this server.
    pub async fn ask(&self, name: &Name, kind: RecordType) -> Answer {
        let Some(resolver) = &self.resolver else { return failure() };
        let mut asked = name.to_lowercase();
        // Search lists are the client's business.
        asked.set_fqdn(true);
        match tokio::time::timeout(TOTAL, resolver.lookup(asked.clone(), kind)).await {
            Ok(Ok(lookup)) => {
                let mut answers = lookup.answers().to_vec();
                answers.iter_mut().filter(|r| r.name == asked).for_each(|r| r.name.clone_from(name));
                Answer { code: lookup.message().metadata.response_code, answers, authorities: Vec::new() }
            }
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => negative(none),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a name was not resolved");
                failure()
            }
            Err(_) => failure(),
        }
    }
}

fn failure() -> Answer {
    Answer { code: ResponseCode::ServFail, answers: Vec::new(), authorities: Vec::new() }
}

fn negative(none: NoRecords) -> Answer {
    let soa = none.soa.and_then(|soa| soa.map(|soa| Some(RData::SOA(soa))));
    Answer { code: none.response_code, answers: Vec::new(), authorities: soa.into_iter().collect() }
}

/// The system's resolvers.
fn system() -> Result<Vec<SocketAddr>, NetError> {
    let (config, _) = read_system_conf()?;
    let address = |server: &NameServerConfig| {
        server.connections.first().map(|connection| SocketAddr::new(server.ip, connection.port))
    };
    Ok(config.name_servers().iter().filter_map(address).collect())
}

/// True if who asks `resolver` would reach `own`.
fn is_same(own: SocketAddr, resolver: SocketAddr) -> bool {
    let unspecified_reaches = own.ip().is_unspecified() && resolver.ip().to_canonical().is_loopback();
    own.port() == resolver.port()
        && (own.ip().to_canonical() == resolver.ip().to_canonical()
            || unspecified_reaches
            || resolver.ip().is_unspecified())
}

/// Resolvers as hickory takes them: one entry an IP address, with UDP and TCP for each of its ports.
fn servers(addresses: &[SocketAddr]) -> Vec<NameServerConfig> {
    let mut by_ip: BTreeMap<IpAddr, Vec<ConnectionConfig>> = BTreeMap::new();
    let mut order = Vec::new();
    for address in addresses {
        let connections = by_ip.entry(address.ip()).or_default();
        if connections.is_empty() {
            order.push(address.ip());
        }
        for mut connection in [ConnectionConfig::udp(), ConnectionConfig::tcp()] {
            connection.port = address.port();
            connections.push(connection);
        }
    }
    let server = |ip: IpAddr| NameServerConfig::new(ip, true, by_ip.remove(&ip).unwrap_or_default());
    order.into_iter().map(server).collect()
}

fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = TRY;
    options.attempts = 1;
    options.cache_size = CACHED;
    options.positive_max_ttl = Some(KEPT);
    options.negative_max_ttl = Some(KEPT);
    options.max_active_requests = ON_ONE_CONNECTION;
    // The hosts file is the client's business as well.
    options.use_hosts_file = ResolveHosts::Never;
    options
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn knows_itself() {
        let own = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (listen, resolver, same) in [
            ("127.0.0.1:53", "127.0.0.1:53", true),
            ("127.0.0.1:53", "[::ffff:127.0.0.1]:53", true),
            ("0.0.0.0:53", "127.0.0.1:53", true),
            ("0.0.0.0:53", "10.0.0.2:53", false),
            ("127.0.0.1:15053", "127.0.0.1:53", false),
            ("127.0.0.1:53", "127.0.0.53:53", false),
            ("127.0.0.1:53", "0.0.0.0:53", true),
        ] {
            assert_eq!(is_same(own(listen), own(resolver)), same, "{listen} {resolver}");
        }
    }

    #[tokio::test]
    async fn with_nobody_but_itself_to_ask_it_fails_at_once() {
        let own = "127.0.0.1:5399".parse().unwrap();
        let forwarder = Forwarder::new(&[own], &[own]).unwrap();
        assert_eq!(forwarder.ask(&Name::root(), RecordType::NS).await.code, ResponseCode::ServFail);
    }
}
