//! Where policies are found for a request.

use std::{collections::HashMap, sync::Arc};

use http::{HeaderMap, StatusCode};

use super::{EdgePolicy, Policies, RequestLimits};
use crate::{
    decide::{Backend, Caller, Listener, LocalAnswer, Outcome, RequestHead, rule::Origin},
    model::{Scope, ServiceKey},
};

/// The policies of a Gateway with its listeners, or of a route with its rules.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    pub(crate) whole: Option<Arc<EdgePolicy>>,
    /// By the name of the section. Each holds what the whole says, too.
    pub(crate) sections: HashMap<Arc<str>, Arc<EdgePolicy>>,
}

impl Layers {
    fn of(&self, section: &str) -> Option<&Arc<EdgePolicy>> {
        self.sections.get(section).or(self.whole.as_ref())
    }
}

/// All policies of the edge, by what they target.
#[derive(Debug, Default)]
pub(crate) struct PolicyTable {
    /// By `NAMESPACE/NAME`.
    pub(crate) gateways: HashMap<Arc<str>, Layers>,
    /// Of ListenerSets, by `NAMESPACE/NAME`.
    pub(crate) sets: HashMap<Arc<str>, Layers>,
    /// By the route's name in decisions, e.g. `httproute/shop/checkout`.
    pub(crate) routes: HashMap<Arc<str>, Layers>,
    /// By service of the scope `cluster`; they hold for both scopes.
    pub(crate) services: HashMap<ServiceKey, Arc<EdgePolicy>>,
    /// What of the same holds for calls inside the mesh.
    pub(crate) mesh: HashMap<ServiceKey, Arc<EdgePolicy>>,
}

impl PolicyTable {
    fn is_empty(&self) -> bool {
        self.gateways.is_empty() && self.sets.is_empty() && self.routes.is_empty() && self.services.is_empty()
    }

    /// Puts a decision under its policies, or refuses the request by them. `rule` is none where no rule matched.
    pub(crate) fn govern(
        &self,
        listener: &Listener,
        rule: Option<&Origin>,
        head: &RequestHead<'_>,
        caller: &Caller<'_>,
        mut outcome: Outcome,
    ) -> Outcome {
        if self.is_empty() {
            return outcome;
        }
        let gateway = self.gateways.get(&listener.gateway);
        let (listener, gateway) = match &listener.set {
            // Its listener may bear the name of one of the Gateway's.
            Some(set) => {
                (self.sets.get(set).and_then(|set| set.of(&listener.name)), gateway.map(|all| &all.whole))
            }
            None => (gateway.and_then(|gateway| gateway.of(&listener.name)), None),
        };
        let policies = Policies {
            service: of_service(&self.services, &outcome).cloned(),
            rule: rule.and_then(|rule| self.routes.get(&rule.route)?.of(&rule.name)).cloned(),
            listener: listener.cloned(),
            gateway: gateway.cloned().flatten(),
        };
        let refused = if policies.access().is_some_and(|access| !access.permits(caller.address)) {
            Some((StatusCode::FORBIDDEN, "ip_denied"))
        } else if is_over(&policies.limits(), head.headers) {
            Some((StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "policy_headers_too_large"))
        } else {
            None
        };
        if let Some((status, reason)) = refused {
            let route = rule.map(|rule| rule.route.clone());
            return Outcome::Local(LocalAnswer {
                status,
                headers: Vec::new(),
                reason,
                route,
                policies: Default::default(),
                verdict: None,
                missed: None,
            });
        }
        match &mut outcome {
            Outcome::Forward(decision) => decision.policies = policies,
            Outcome::Local(answer) => answer.policies = policies,
        }
        outcome
    }

    /// Puts a call inside the mesh under the policies of the service that it goes to.
    pub(crate) fn govern_call(&self, mut outcome: Outcome) -> Outcome {
        let service = of_service(&self.mesh, &outcome).cloned();
        if let (Outcome::Forward(decision), Some(service)) = (&mut outcome, service) {
            decision.policies = Policies::of_service(service);
        }
        outcome
    }
}

fn of_service<'p>(
    policies: &'p HashMap<ServiceKey, Arc<EdgePolicy>>,
    outcome: &Outcome,
) -> Option<&'p Arc<EdgePolicy>> {
    let Outcome::Forward(decision) = outcome else { return None };
    let Backend::Service { service, .. } = &decision.backend else { return None };
    if policies.is_empty() {
        return None;
    }
    policies.get(&ServiceKey { scope: Scope::Cluster, ..service.clone() })
}

fn is_over(limits: &RequestLimits, headers: &HeaderMap) -> bool {
    let more = |most: Option<u32>, counted: usize| {
        most.is_some_and(|most| usize::try_from(most).is_ok_and(|most| counted > most))
    };
    let bytes = || headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    more(limits.header_count, headers.len())
        || (limits.header_bytes.is_some() && more(limits.header_bytes, bytes()))
}
