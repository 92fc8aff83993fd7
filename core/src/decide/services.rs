//! What configuration says of the mesh's services: routes attached to them, releases, and which services a proxy may
//! have to know of.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Backend,
    gray::{Release, WhenUnavailable},
    hash::NameMap,
    rule::{Action, Rule, Target, Weighted},
    table::RouteTable,
};
use crate::model::{AppProtocol, Scope, ServiceKey};

/// Everything about services that is known from documents.
#[derive(Debug, Default)]
pub(crate) struct Mesh {
    /// Routes by the service that they are attached to.
    pub(crate) routes: NameMap<ServiceKey, Vec<MeshTable>>,
    pub(crate) services: NameMap<ServiceKey, KnownService>,
}

/// The routes of one service for some of its callers.
#[derive(Debug)]
pub(crate) struct MeshTable {
    /// Only for callers of this namespace (GAMMA consumer routes); none: for all others.
    pub(crate) consumer: Option<Arc<str>>,
    /// Only on this port; none: on every port that has no table of its own. A port's table holds the routes of every
    /// port as well.
    pub(crate) port: Option<u16>,
    pub(crate) table: RouteTable,
}

/// A service that has a document, or a release.
#[derive(Debug)]
pub(crate) struct KnownService {
    /// `service/NAMESPACE/NAME`.
    pub(crate) route: Arc<str>,
    pub(crate) ports: Box<[(u16, AppProtocol)]>,
    pub(crate) release: Option<Arc<Release>>,
}

impl KnownService {
    /// What its document says is spoken on a port.
    pub(crate) fn protocol(&self, port: u16) -> Option<AppProtocol> {
        self.ports.iter().find(|(p, _)| *p == port).map(|(_, protocol)| *protocol)
    }
}

impl Mesh {
    /// The routes for a caller's requests to a service's port. None: no route is attached.
    pub(crate) fn table(&self, service: &ServiceKey, port: u16, caller: Option<&str>) -> Option<&RouteTable> {
        let tables = self.routes.get(service)?;
        let find = |consumer: Option<&str>| {
            let of = |wanted: Option<u16>| {
                tables
                    .iter()
                    .find(|t| t.port == wanted && t.consumer.as_deref() == consumer)
                    .map(|t| &t.table)
            };
            of(Some(port)).or_else(|| of(None))
        };
        caller.and_then(|caller| find(Some(caller))).or_else(|| find(None))
    }

    /// A service that documents tell of.
    pub(crate) fn service(&self, service: &ServiceKey) -> Option<&KnownService> {
        self.services.get(service)
    }

    /// The services that requests for one may be sent to, besides itself.
    pub(crate) fn behind(&self, service: &ServiceKey, out: &mut BTreeSet<ServiceKey>) {
        for table in self.routes.get(service).into_iter().flatten() {
            table.table.rules().for_each(|rule| rule_services(rule, out));
        }
        if let Some(release) = self.services.get(service).and_then(|known| known.release.as_ref()) {
            release_services(release, out);
        }
    }
}

/// The services that a rule may send to.
pub(crate) fn rule_services(rule: &Rule, out: &mut BTreeSet<ServiceKey>) {
    if let Action::Forward(backends) = &rule.action {
        for target in backends.targets() {
            target_service(target, out);
            if rule.release.is_none()
                && let Some(release) = &target.release
            {
                release_services(release, out);
            }
        }
    }
    if let Some(release) = &rule.release {
        release_services(release, out);
    }
    out.extend(rule.mirrors.iter().filter_map(|mirror| key(&mirror.backend)).cloned());
}

/// The services that a choice by weight may send to.
pub(crate) fn weighted_services(backends: &Weighted, out: &mut BTreeSet<ServiceKey>) {
    backends.targets().for_each(|target| target_service(target, out));
}

fn release_services(release: &Release, out: &mut BTreeSet<ServiceKey>) {
    for target in release.arms.iter().flat_map(|arm| arm.targets.targets()) {
        target_service(target, out);
        if release.when_unavailable == WhenUnavailable::OtherCluster
            && let Some(service) = key(&target.backend)
        {
            out.insert(ServiceKey { scope: Scope::Clusterset, ..service.clone() });
        }
    }
}

fn target_service(target: &Target, out: &mut BTreeSet<ServiceKey>) {
    out.extend(key(&target.backend).cloned());
}

fn key(backend: &Backend) -> Option<&ServiceKey> {
    match backend {
        Backend::Service { service, .. } => Some(service),
        Backend::Address { .. } => None,
    }
}
