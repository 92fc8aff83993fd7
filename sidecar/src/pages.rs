//! The admin pages of a sidecar.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use http::StatusCode;
use serde_json::{Value, json};
use tombolo_core::{
    balance::Pools,
    decide::{Caller, explain_authorize, explain_mesh},
    lifecycle::admin::{Page, Pages},
    member::{Question, explain_service, shares, view},
    model::{Scope, ServiceKey, Snapshot, SpiffeId},
    quota::Quotas,
};

use crate::{capture::plaintext::Admissions, inbound::Names, loopback::Called};

/// What a sidecar serves by now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Served {
    /// Open outbound listeners.
    pub outbound: BTreeMap<Called, SocketAddr>,
    /// Listeners that are not open, and why.
    pub problems: Vec<String>,
}

/// `/config` and `/explain`.
pub(crate) struct SidecarPages {
    pub id: SpiffeId,
    pub admissions: Arc<Admissions>,
    pub inbound: SocketAddr,
    pub dns: Option<SocketAddr>,
    pub names: Arc<ArcSwap<Names>>,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub served: Arc<ArcSwap<Served>>,
    pub pools: Arc<Pools>,
    pub quotas: Arc<Quotas>,
}

impl Pages for SidecarPages {
    fn page(&self, path: &str, query: Option<&str>) -> Option<Page> {
        match path {
            "/config" => Some(Page::json(&self.config())),
            "/explain" => Some(self.explain(query.unwrap_or_default())),
            _ => None,
        }
    }
}

impl SidecarPages {
    fn config(&self) -> Value {
        let served = self.served.load();
        let outbound = served.outbound.iter().map(|(called, address)| {
            let Called { service, port, host } = called;
            json!({ "service": service.to_string(), "port": port, "host": host.as_deref(), "bound": address.to_string() })
        });
        let snapshot = self.snapshot.load();
        let workload = &self.admissions.workload;
        let ports = workload.ports.iter().map(|(port, name)| {
            let (mode, policy) = self.admissions.mode(&snapshot, *port);
            json!({ "port": port, "name": name, "mode": mode.to_string(), "policy": policy })
        });
        let mut config = view(&snapshot, &self.pools);
        let more = json!({
            "identity": self.id.to_string(),
            "labels": workload.labels,
            "inbound": {
                "bound": self.inbound.to_string(),
                "names": **self.names.load(),
                "ports": ports.collect::<Vec<_>>(),
            },
            "dns": self.dns.map(|address| address.to_string()),
            "outbound": outbound.collect::<Vec<_>>(),
            "listenerProblems": served.problems,
            "sharedRateLimits": shares(&self.quotas),
        });
        if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
            config.extend(more);
        }
        config
    }

    /// A URL of a service explains an outbound request; one of `inbound.local` a call to the application's port, by the
    /// `identity` that is given.
    fn explain(&self, query: &str) -> Page {
        match explain_service(&self.snapshot.load(), &self.pools, query) {
            Some(Ok(shown)) => return Page::json(&shown),
            Some(Err(error)) => return Page::error(StatusCode::BAD_REQUEST, error),
            None => {}
        }
        let question = match Question::parse(query) {
            Ok(question) => question,
            Err(error) => return Page::error(StatusCode::BAD_REQUEST, error),
        };
        let host = question.host();
        let (head, caller) = (question.head(&host), question.caller(&host));
        let snapshot = self.snapshot.load();
        if host == "inbound.local" {
            let own = self.id.trust_domain();
            let explained = explain_authorize(
                &snapshot,
                own,
                &self.admissions.workload,
                question.port(),
                Some(&head),
                &caller,
            );
            return Page::json(&explained);
        }
        let Some(service) = service(&host) else {
            let text = "use SERVICE.NAMESPACE.svc.cluster.local, .svc.clusterset.local, or inbound.local";
            return Page::error(StatusCode::NOT_FOUND, format!("{host} is no service: {text}"));
        };
        let caller = Caller { identity: Some(&self.id), ..caller };
        let explained = explain_mesh(&snapshot, &service, question.port(), &head, &caller, &*self.pools);
        Page::json(&explained)
    }
}

pub(crate) fn service(host: &str) -> Option<ServiceKey> {
    let labels: Vec<&str> = host.trim_end_matches('.').split('.').collect();
    let [name, namespace, "svc", zone, "local"] = *labels.as_slice() else { return None };
    let scope = match zone {
        "cluster" => Scope::Cluster,
        "clusterset" => Scope::Clusterset,
        _ => return None,
    };
    ServiceKey::new(scope, namespace, name).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_services() {
        let key = |text: &str| Some(ServiceKey::parse(text).unwrap());
        assert_eq!(service("checkout.shop.svc.cluster.local"), key("cluster/shop/checkout"));
        assert_eq!(service("ledger.bank.svc.clusterset.local."), key("clusterset/bank/ledger"));
        for other in ["checkout", "checkout.shop", "a.b.svc.other.local", "x.a.b.svc.cluster.local", ""] {
            assert_eq!(service(other), None, "{other}");
        }
    }
}
