//! AuthorizationPolicies, and the kinds that are only checked.

use std::sync::Arc;

use serde_json::Value;

use super::{
    releases::header_match,
    status::{Conditions, Problem, object_status},
};
use crate::{
    decide::authorize::{Operation, Pattern, Policies, Policy, PolicyRule, Source},
    resources::{
        Object, ObjectKey, ObjectStatus, ResourceSet,
        kinds::{self, AuthorizationAction, AuthorizationPolicy, PolicyFrom, PolicyTo},
    },
};

/// All policies by namespace, and their status.
pub(super) fn policies(resources: &ResourceSet) -> (Policies, Vec<ObjectStatus>) {
    let mut out = Policies::default();
    let mut status = Vec::new();
    for (key, object) in &resources.authorization_policies {
        out.0.entry(key.namespace.as_str().into()).or_default().push(policy(key, &object.spec));
        status.push(accepted("AuthorizationPolicy", object, &[]));
    }
    (out, status)
}

fn policy(key: &ObjectKey, spec: &AuthorizationPolicy) -> Policy {
    let deny = spec.action == AuthorizationAction::Deny;
    Policy {
        name: Arc::from(key.to_string()),
        deny,
        dry_run: spec.dry_run,
        selector: spec
            .selector
            .iter()
            .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
            .collect(),
        rules: spec.rules.iter().filter_map(|rule| policy_rule(rule, deny)).collect(),
    }
}

/// None for an ALLOW rule with a condition that cannot be compiled; a DENY rule does without that condition. Either
/// way nobody gets in by it.
fn policy_rule(rule: &kinds::PolicyRule, deny: bool) -> Option<PolicyRule> {
    let to = match rule.to.as_ref().map(|to| operation(to, deny)) {
        Some(to) => Some(to?),
        None => None,
    };
    let is_everybody = |from: &&PolicyFrom| {
        from.spiffe_ids.is_empty()
            && from.namespaces.is_empty()
            && from.accounts.is_empty()
            && from.trust_domains.is_empty()
    };
    let from = rule.from.as_ref().filter(|from| !is_everybody(from)).map(source);
    Some(PolicyRule { from, to })
}

fn source(from: &PolicyFrom) -> Source {
    let patterns = |texts: &[String]| texts.iter().map(|text| Pattern::parse(text)).collect();
    Source {
        identities: patterns(&from.spiffe_ids),
        namespaces: patterns(&from.namespaces),
        accounts: patterns(&from.accounts),
        trust_domains: patterns(&from.trust_domains),
    }
}

fn operation(to: &PolicyTo, deny: bool) -> Option<Operation> {
    let headers: Vec<_> = to.headers.iter().filter_map(header_match).collect();
    if headers.len() < to.headers.len() && !deny {
        return None;
    }
    Some(Operation {
        methods: to.methods.iter().map(|method| method.to_ascii_uppercase().into()).collect(),
        paths: to.paths.iter().map(|path| Pattern::parse(path)).collect(),
        ports: to.ports.as_slice().into(),
        headers: headers.into(),
    })
}

/// Status of ServiceExports, Workloads and Peers: what they name has to be there.
pub(super) fn checked_only(resources: &ResourceSet) -> Vec<ObjectStatus> {
    let mut out = Vec::new();
    for (key, export) in &resources.service_exports {
        let missing = (!resources.services.contains_key(key))
            .then(|| Problem::new("NoService", format!("there is no Service {key}")));
        out.push(export_status(export, missing.as_slice()));
    }
    for (key, workload) in &resources.workloads {
        let missing: Vec<Problem> = workload
            .spec
            .services
            .iter()
            .map(|name| ObjectKey::new(&key.namespace, name))
            .filter(|service| !resources.services.contains_key(service))
            .map(|service| Problem::new("TargetNotFound", format!("there is no Service {service}")))
            .collect();
        out.push(accepted("Workload", workload, &missing));
    }
    out.extend(resources.peers.values().map(|peer| accepted("Peer", peer, &[])));
    out
}

/// Also with the condition of the Multi-Cluster Services API.
fn export_status<T>(object: &Object<T>, problems: &[Problem]) -> ObjectStatus {
    let mut conditions = Conditions::new(object.meta.generation);
    conditions.good("Accepted", problems);
    conditions.good("Valid", problems);
    object_status("ServiceExport", object, conditions.stanza())
}

fn accepted<T>(kind: &'static str, object: &Object<T>, problems: &[Problem]) -> ObjectStatus {
    let mut conditions = Conditions::new(object.meta.generation);
    conditions.good("Accepted", problems);
    let stanza: Value = conditions.stanza();
    object_status(kind, object, stanza)
}
