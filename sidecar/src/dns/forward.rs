//! Names that are not the mesh's: asked of the configured resolvers, and kept.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use hickory_proto::{
    op::{DnsRequestOptions, Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA},
    },
};
use hickory_resolver::{
    NameServerPool, PoolContext, TlsConfig,
    config::{ConnectionConfig, NameServerConfig, ResolverOpts},
    net::{
        DnsError, NetError, NoRecords,
        xfer::{DnsHandle, RetryDnsHandle},
    },
    system_conf::read_system_conf,
};

use super::{
    kept::{Answer, Kept},
    outgoing::Outgoing,
    zone::TTL,
};

/// One question to one resolver; there is a second try.
const TRY: Duration = Duration::from_secs(2);
const TRIES_MORE: usize = 1;
/// A question with all tries; then SERVFAIL.
const TOTAL: Duration = Duration::from_secs(6);
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

type Pool = RetryDnsHandle<NameServerPool<Outgoing>>;

/// Asks resolvers. Cheap to clone: the clones share connections and what is kept.
#[derive(Clone)]
pub struct Forwarder {
    /// None if there is nobody to ask.
    pool: Option<Pool>,
    kept: Kept,
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
            return Ok(Self { pool: None, kept: Kept::default() });
        }
        let tls = TlsConfig::new().map_err(|error| ForwardError::Setup(error.to_string()))?;
        let context = Arc::new(PoolContext::new(options(), tls));
        let pool = NameServerPool::from_config(servers(&others), context, Outgoing::default());
        Ok(Self { pool: Some(RetryDnsHandle::new(pool, TRIES_MORE)), kept: Kept::default() })
    }

    /// Asks. Takes no longer than 6 s; what cannot be answered is SERVFAIL, and is not kept.
    ///
    /// Others are asked in lower case: how a client writes a name (0x20) is between it and this server.
    pub async fn ask(&self, name: &Name, kind: RecordType) -> Answer {
        if let Some(answer) = special(name, kind) {
            return answer;
        }
        let mut asked = name.to_lowercase();
        // Search lists are the client's business.
        asked.set_fqdn(true);
        let question = (asked, kind);
        let now = Instant::now();
        let mut answer = match self.kept.get(&question, now) {
            Some(answer) => answer,
            None => {
                let fresh = self.exchange(&question).await;
                self.kept.put(question.clone(), &fresh, now);
                fresh
            }
        };
        let same = answer.answers.iter_mut().filter(|record| record.name == question.0);
        same.for_each(|record| record.name.clone_from(name));
        answer
    }

    async fn exchange(&self, (name, kind): &(Name, RecordType)) -> Answer {
        let Some(pool) = &self.pool else { return failure() };
        let mut answers = pool.lookup(Query::query(name.clone(), *kind), DnsRequestOptions::default());
        match tokio::time::timeout(TOTAL, answers.next()).await {
            Ok(Some(Ok(response))) => Answer::of(response, *kind),
            Ok(Some(Err(NetError::Dns(DnsError::NoRecordsFound(none))))) => negative(none),
            Ok(Some(Err(error))) => {
                tracing::debug!(%error, "a name was not resolved");
                failure()
            }
            Ok(None) | Err(_) => failure(),
        }
    }
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarder").field("kept", &self.kept).finish_non_exhaustive()
    }
}

/// Names that nobody is asked for (RFC 6761, section 6; RFC 7686).
fn special(name: &Name, kind: RecordType) -> Option<Answer> {
    let last = name.iter().next_back()?.to_ascii_lowercase();
    let code = match &*last {
        b"localhost" => ResponseCode::NoError,
        b"invalid" | b"onion" => ResponseCode::NXDomain,
        _ => return None,
    };
    let data = match (code, kind) {
        (ResponseCode::NoError, RecordType::A) => Some(RData::A(A(Ipv4Addr::LOCALHOST))),
        (ResponseCode::NoError, RecordType::AAAA) => Some(RData::AAAA(AAAA(Ipv6Addr::LOCALHOST))),
        _ => None,
    };
    let answers = data.map(|data| Record::from_rdata(name.clone(), TTL, data)).into_iter().collect();
    Some(Answer { answers, ..Answer::code(code) })
}

fn failure() -> Answer {
    Answer::code(ResponseCode::ServFail)
}

fn negative(none: NoRecords) -> Answer {
    let soa = none.soa.and_then(|soa| soa.map(|soa| Some(RData::SOA(soa))));
    Answer { authorities: soa.into_iter().collect(), ..Answer::code(none.response_code) }
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
    options.max_active_requests = ON_ONE_CONNECTION;
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

    #[tokio::test]
    async fn special_names_are_nobody_elses_to_answer() {
        let forwarder = Forwarder::new(&["127.0.0.1:9".parse().unwrap()], &[]).unwrap();
        for (name, kind, code, found) in [
            ("localhost.", RecordType::A, ResponseCode::NoError, Some("127.0.0.1")),
            ("app.LocalHost.", RecordType::AAAA, ResponseCode::NoError, Some("::1")),
            ("localhost.", RecordType::MX, ResponseCode::NoError, None),
            ("a.invalid.", RecordType::A, ResponseCode::NXDomain, None),
            ("abc.onion.", RecordType::A, ResponseCode::NXDomain, None),
        ] {
            let answer = forwarder.ask(&Name::from_ascii(name).unwrap(), kind).await;
            let data = answer.answers.first().map(|record| record.data.to_string());
            assert_eq!((answer.code, data.as_deref()), (code, found), "{name} {kind}");
        }
    }
}
