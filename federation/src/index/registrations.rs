//! What has registered, and until when that is believed.

use std::collections::{BTreeMap, HashMap};

use tombolo_core::{
    model::{LANE_LABEL, Lane, SpiffeId, check_dns_label},
    resources::kinds::{ServicePortSpec, TargetPort},
};
use tombolo_proto::v1;

use super::{Moment, Name, Refusal, RefusalKind, Session};

/// Most workloads of one cluster; a further one is refused.
pub const MAX_REGISTRATIONS: usize = 50_000;
/// Most ports of one workload; more are refused.
pub const MAX_PORTS: usize = 64;
/// Most labels of one workload; more are refused.
pub const MAX_LABELS: usize = 64;
/// Longest label key or value in bytes (Kubernetes: 63, with a prefix of 253 on keys); longer ones are refused.
pub const MAX_LABEL_BYTES: usize = 317;
/// Greatest weight; a greater one is refused.
pub const MAX_WEIGHT: u32 = 1_000_000;

/// One workload as it registered, checked.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Registration {
    /// Namespace: that of its identity.
    pub namespace: String,
    /// Its name, unique in the namespace.
    pub name: String,
    /// Its SPIFFE ID, as text.
    pub identity: String,
    /// Its sidecar's inbound listener.
    pub address: std::net::SocketAddr,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The application's ports: number and name (may be empty).
    pub ports: Vec<(u16, String)>,
    /// Region.
    pub region: String,
    /// Zone.
    pub zone: String,
    /// Network; empty: the cluster's.
    pub network: String,
    /// Share of traffic, at least 1.
    pub weight: u32,
    /// As in `v1::Health`.
    pub health: i32,
}

impl Registration {
    /// Checks what a workload says of itself; its namespace and identity come from its certificate.
    pub fn check(identity: &SpiffeId, request: v1::RegisterRequest) -> Result<Self, Refusal> {
        let object = format!("workload {}/{}", identity.namespace(), clip(&request.name));
        let malformed = |reason: String| Refusal::new(RefusalKind::Malformed, &object, reason);
        let limit = |reason: String| Refusal::new(RefusalKind::Limit, &object, reason);
        check_dns_label(&request.name).map_err(|error| malformed(error.to_string()))?;
        let address = request.address.parse().map_err(|_| malformed("its address is not IP:PORT".into()))?;
        if request.ports.len() > MAX_PORTS {
            return Err(limit(format!("more than {MAX_PORTS} ports")));
        }
        if request.labels.len() > MAX_LABELS {
            return Err(limit(format!("more than {MAX_LABELS} labels")));
        }
        if request.labels.iter().any(|(key, value)| key.len().max(value.len()) > MAX_LABEL_BYTES) {
            return Err(limit(format!("a label longer than {MAX_LABEL_BYTES} bytes")));
        }
        // Proxies refuse a whole service for one endpoint in a lane that is none.
        if let Some(Err(error)) = request.labels.get(LANE_LABEL).map(|lane| Lane::parse(lane)) {
            return Err(malformed(error.to_string()));
        }
        if request.weight > MAX_WEIGHT {
            return Err(limit(format!("its weight is above {MAX_WEIGHT}")));
        }
        let locality = request.locality.unwrap_or_default();
        for (what, text) in
            [("region", &locality.region), ("zone", &locality.zone), ("network", &request.network)]
        {
            if text.len() > 253 {
                return Err(limit(format!("its {what} is longer than 253 bytes")));
            }
        }
        let health = v1::Health::try_from(request.health).map_err(|_| malformed("unknown health".into()))?;
        Ok(Self {
            namespace: identity.namespace().to_owned(),
            name: request.name,
            identity: identity.to_string(),
            address,
            labels: request.labels.into_iter().collect(),
            ports: ports(request.ports).map_err(malformed)?,
            region: locality.region,
            zone: locality.zone,
            network: request.network,
            weight: request.weight.max(1),
            health: health.into(),
        })
    }

    /// Its name.
    pub fn name(&self) -> Name {
        Name::new(&self.namespace, &self.name)
    }

    /// It said goodbye.
    pub fn draining(&self) -> bool {
        self.health == i32::from(v1::Health::Draining)
    }

    /// The workload's port that a service's port leads to; none: it is no endpoint of that port. As for Workload
    /// documents: by `targetPort`, where absent its only port or the service's number, else by the port's name.
    pub fn port(&self, port: &ServicePortSpec) -> Option<u16> {
        let by_name = |wanted: &str| {
            let named = self.ports.iter().find(|(_, name)| !name.is_empty() && name == wanted);
            named.map(|(number, _)| *number)
        };
        let number = match (&port.target_port, self.ports.as_slice()) {
            (Some(TargetPort::Number(number)), _) => Some(*number),
            (Some(TargetPort::Name(name)), _) => by_name(name),
            (None, [(only, _)]) => Some(*only),
            (None, _) => Some(port.port),
        };
        let listens = |number: &u16| self.ports.iter().any(|(port, _)| port == number);
        number.filter(listens).or_else(|| by_name(&port.name))
    }
}

fn ports(ports: Vec<v1::WorkloadPort>) -> Result<Vec<(u16, String)>, String> {
    let mut checked: HashMap<u16, String> = HashMap::new();
    for port in ports {
        let number = u16::try_from(port.port).ok().filter(|number| *number != 0);
        let number = number.ok_or_else(|| format!("port {} is not 1 to 65535", port.port))?;
        if !port.name.is_empty() && check_dns_label(&port.name).is_err() {
            return Err(format!("the name of port {number} is not a DNS label"));
        }
        if checked.insert(number, port.name).is_some() {
            return Err(format!("port {number} is named twice"));
        }
    }
    let mut checked: Vec<_> = checked.into_iter().collect();
    checked.sort();
    Ok(checked)
}

/// What comes from outside is shown shortened.
fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Until when an entry is believed.
#[derive(Debug, Clone, Copy)]
struct Lease {
    /// The stream that keeps it; none once the stream is gone, or after a restart.
    session: Option<Session>,
    /// Of the last stream, also when it is gone: an older one does not take the entry back.
    youngest: Session,
    expires: Moment,
}

/// Things that live as long as their stream, plus a lease.
#[derive(Debug, Clone)]
pub struct Leases<T> {
    entries: BTreeMap<Name, (T, Lease)>,
}

impl<T> Default for Leases<T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new() }
    }
}

impl<T> Leases<T> {
    /// The entry, if it is believed.
    pub fn get(&self, name: &Name) -> Option<&T> {
        self.entries.get(name).map(|(entry, _)| entry)
    }

    /// Adds, replaces or keeps alive. Returns what was there. A stream older than the one that the entry came on is
    /// refused with `None` inside the error.
    pub fn put(
        &mut self,
        name: Name,
        entry: T,
        session: Option<Session>,
        expires: Moment,
    ) -> Result<Option<T>, Superseded> {
        let youngest = session.unwrap_or(0);
        if let Some((_, lease)) = self.entries.get(&name)
            && lease.youngest > youngest
        {
            return Err(Superseded);
        }
        let lease = Lease { session, youngest, expires };
        Ok(self.entries.insert(name, (entry, lease)).map(|(old, _)| old))
    }

    /// The stream is gone: from now the lease runs. True if the stream was this entry's.
    pub fn close(&mut self, name: &Name, session: Session, expires: Moment) -> bool {
        let Some((_, lease)) = self.entries.get_mut(name) else { return false };
        if lease.session != Some(session) {
            return false;
        }
        lease.session = None;
        lease.expires = expires;
        true
    }

    /// Removes an entry.
    pub fn remove(&mut self, name: &Name) -> Option<T> {
        self.entries.remove(name).map(|(entry, _)| entry)
    }

    /// Removes and returns the entries whose lease has ended.
    pub fn expire(&mut self, now: Moment) -> Vec<(Name, T)> {
        let ended = self.entries.iter().filter(|(_, (_, lease))| lease.expires <= now);
        let ended: Vec<Name> = ended.map(|(name, _)| name.clone()).collect();
        ended.into_iter().filter_map(|name| self.remove(&name).map(|entry| (name, entry))).collect()
    }

    /// All entries, in the order of their names, with whether their stream is open.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &T, bool)> {
        self.entries.iter().map(|(name, (entry, lease))| (name, entry, lease.session.is_some()))
    }

    /// Entries of one namespace.
    pub fn in_namespace<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a T> + use<'a, T> {
        let first = Name::new(namespace, "");
        let namespace = first.namespace.clone();
        self.entries
            .range(first..)
            .take_while(move |(name, _)| name.namespace == namespace)
            .map(|(_, (entry, _))| entry)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// A younger stream holds the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superseded;
