//! GrayReleases: what each applies to, and its compiled form.

use std::{collections::HashMap, sync::Arc};

use http::HeaderName;

use super::{
    refs::{GATEWAY_GROUP, OWN_GROUP, Referrer, Resolved, by_age, resolve},
    rules::GRPC_ROUTE,
    status::{Conditions, Problem, messages, object_status},
};
use crate::{
    decide::{
        Backend,
        gray::{Arm, DEFAULT_COOKIE, ForcedRule, KeySource, Release, STABLE, Split, WHOLE, WhenUnavailable},
        matcher::{HeaderMatch, TextMatch},
        rule::{Invalid, Target, Weighted},
    },
    model::{Lane, Scope},
    resources::{
        Object, ObjectKey, ObjectStatus, ResourceSet,
        kinds::{self, BackendRef, GrayRelease, GrayTargetRef, TextMatchType, TextRule},
    },
};

/// Which release applies where. Of several for one rule or service the oldest does.
#[derive(Debug, Default)]
pub(super) struct Releases {
    rules: HashMap<(&'static str, ObjectKey, usize), Arc<Release>>,
    services: HashMap<(ObjectKey, Scope), Arc<Release>>,
    pub(super) status: Vec<ObjectStatus>,
}

/// What became of one release's targets.
#[derive(Default)]
struct Targets {
    applied: usize,
    missing: Vec<Problem>,
    taken: Vec<Problem>,
}

impl Releases {
    /// The release of the rule at this position of a route.
    pub(super) fn of_rule(
        &self,
        kind: &'static str,
        route: &ObjectKey,
        rule: usize,
    ) -> Option<&Arc<Release>> {
        self.rules.get(&(kind, route.clone(), rule))
    }

    /// The release of a service, for calls under its name in this scope.
    pub(super) fn of_service(&self, service: &ObjectKey, scope: Scope) -> Option<&Arc<Release>> {
        self.services.get(&(service.clone(), scope))
    }

    pub(super) fn compile(resources: &ResourceSet) -> Self {
        let mut out = Self::default();
        let releases = by_age(&resources.gray_releases);
        let mut targets: Vec<Targets> = releases.iter().map(|_| Targets::default()).collect();
        // What names a rule goes before what means all rules of a route.
        for whole_routes in [false, true] {
            for ((key, release), targets) in releases.iter().zip(&mut targets) {
                let is_whole = |t: &&GrayTargetRef| route_kind(t).is_some() && t.section_name.is_none();
                for target in release.spec.target_refs.iter().filter(|t| is_whole(t) == whole_routes) {
                    out.claim(resources, key, &release.spec, target, targets);
                }
            }
        }
        out.status = releases
            .iter()
            .zip(&targets)
            .map(|((key, release), targets)| status(resources, key, release, targets))
            .collect();
        out.status.sort_by_cached_key(|status| status.metadata.to_string());
        out
    }

    fn claim(
        &mut self,
        resources: &ResourceSet,
        key: &ObjectKey,
        spec: &GrayRelease,
        target: &GrayTargetRef,
        targets: &mut Targets,
    ) {
        let at = ObjectKey::new(&key.namespace, &target.name);
        if let Some(kind) = route_kind(target) {
            let names = rule_names(resources, kind, &at);
            self.claim_rules(resources, (key, spec), (kind, &at, names), target, targets);
        } else if !resources.services.contains_key(&at) {
            targets.missing.push(Problem::new("TargetNotFound", format!("there is no Service {at}")));
        } else if let Some(other) = self.of_service(&at, Scope::Cluster) {
            targets.taken.push(taken(&format!("Service {at}"), other));
        } else {
            targets.applied += 1;
            for scope in [Scope::Cluster, Scope::Clusterset] {
                let everywhere = (scope == Scope::Clusterset).then_some(&at);
                let release = Arc::new(build(resources, key, spec, everywhere));
                self.services.insert((at.clone(), scope), release);
            }
        }
    }

    fn claim_rules(
        &mut self,
        resources: &ResourceSet,
        (key, spec): (&ObjectKey, &GrayRelease),
        (kind, at, names): (&'static str, &ObjectKey, Option<Vec<Option<&str>>>),
        target: &GrayTargetRef,
        targets: &mut Targets,
    ) {
        let Some(names) = names else {
            return targets.missing.push(Problem::new("TargetNotFound", format!("there is no {kind} {at}")));
        };
        let rules: Vec<usize> = match target.section_name.as_deref() {
            None => (0..names.len().max(1)).collect(),
            Some(name) => names.iter().position(|rule| *rule == Some(name)).into_iter().collect(),
        };
        if rules.is_empty() {
            let name = target.section_name.as_deref().unwrap_or_default();
            let message = format!("{kind} {at} has no rule named {name:?}");
            return targets.missing.push(Problem::new("TargetNotFound", message));
        }
        let release = Arc::new(build(resources, key, spec, None));
        let mut claimed = 0;
        let mut problem = None;
        for rule in rules {
            match self.rules.get(&(kind, at.clone(), rule)) {
                Some(other) => problem = Some(taken(&format!("{kind} {at} rule {rule}"), other)),
                None => {
                    self.rules.insert((kind, at.clone(), rule), release.clone());
                    claimed += 1;
                }
            }
        }
        targets.applied += claimed;
        // A release of all rules makes room for those of single ones: that is no conflict.
        if claimed == 0 || target.section_name.is_some() {
            targets.taken.extend(problem);
        }
    }
}

/// The kind of route that is meant, if it is one.
fn route_kind(target: &GrayTargetRef) -> Option<&'static str> {
    match (target.group.as_str(), target.kind.as_str()) {
        (GATEWAY_GROUP, "HTTPRoute") => Some("HTTPRoute"),
        (GATEWAY_GROUP, GRPC_ROUTE) => Some(GRPC_ROUTE),
        _ => None,
    }
}

/// The names of a route's rules, in their order.
fn rule_names<'a>(resources: &'a ResourceSet, kind: &str, at: &ObjectKey) -> Option<Vec<Option<&'a str>>> {
    if kind == GRPC_ROUTE {
        let route = resources.grpc_routes.get(at)?;
        return Some(route.spec.rules.iter().map(|rule| rule.name.as_deref()).collect());
    }
    let route = resources.http_routes.get(at)?;
    Some(route.spec.rules.iter().map(|rule| rule.name.as_deref()).collect())
}

fn taken(what: &str, other: &Release) -> Problem {
    Problem::new("Conflicted", format!("{what} has the older release {}", other.name))
}

fn status(
    resources: &ResourceSet,
    key: &ObjectKey,
    release: &Object<GrayRelease>,
    targets: &Targets,
) -> ObjectStatus {
    let mut conditions = Conditions::new(release.meta.generation);
    let lost: Vec<Problem> = targets.missing.iter().chain(&targets.taken).cloned().collect();
    conditions.good("Accepted", if targets.applied == 0 { &lost } else { &[] });
    let mut unresolved = if targets.applied == 0 { Vec::new() } else { targets.missing.clone() };
    let references = release.spec.arms.iter().flat_map(|arm| &arm.backend_refs);
    unresolved.extend(references.filter_map(|r| resolve(resources, referrer(key), r).err()));
    conditions.good("ResolvedRefs", &unresolved);
    if !targets.taken.is_empty() {
        conditions.add("Conflicted", "True", "Conflicted", messages(&targets.taken));
    }
    object_status("GrayRelease", release, conditions.stanza())
}

fn referrer(key: &ObjectKey) -> Referrer<'_> {
    Referrer { group: OWN_GROUP, kind: "GrayRelease", namespace: &key.namespace }
}

/// Compiles a release. `everywhere`: the service is called by its name in all clusters, and arms that are versions of
/// the same service are then looked for in all clusters as well.
fn build(
    resources: &ResourceSet,
    key: &ObjectKey,
    spec: &GrayRelease,
    everywhere: Option<&ObjectKey>,
) -> Release {
    let position = |name: &str| spec.arms.iter().position(|arm| arm.name == name);
    let arms = spec.arms.iter().map(|arm| Arm {
        name: arm.name.as_str().into(),
        targets: arm_targets(resources, referrer(key), &arm.backend_refs, everywhere),
        lane: arm.lane.as_deref().and_then(|lane| Lane::parse(lane).ok()),
    });
    let weight = |name: &str| {
        let percent = spec.split.as_ref().and_then(|split| split.weights.get(name)).copied().unwrap_or(0.0);
        // Two decimals, 0 to 100, as was checked when it was read; the cast saturates.
        (percent * f64::from(WHOLE) / 100.0).round() as u16
    };
    let name = key.to_string();
    Release {
        split: Split::new(&name, spec.arms.iter().map(|arm| (arm.name.as_str(), weight(&arm.name)))),
        name: name.into(),
        arms: arms.collect(),
        stable: STABLE.into(),
        rules: spec.rules.iter().filter_map(|rule| forced(rule, position(&rule.arm))).collect(),
        key: key_source(spec),
        when_unavailable: match spec.when_unavailable {
            kinds::WhenUnavailable::Stable => WhenUnavailable::Stable,
            kinds::WhenUnavailable::Fail => WhenUnavailable::Fail,
            kinds::WhenUnavailable::OtherCluster => WhenUnavailable::OtherCluster,
        },
    }
}

fn arm_targets(
    resources: &ResourceSet,
    from: Referrer<'_>,
    references: &[BackendRef],
    everywhere: Option<&ObjectKey>,
) -> Weighted {
    Weighted::new(references.iter().map(|reference| {
        let target = resolve(resources, from, reference).map_err(|_| Invalid).map(|resolved| {
            let Resolved { mut backend, protocol, key } = resolved;
            if let Backend::Service { service, .. } = &mut backend
                && everywhere == Some(&key)
            {
                service.scope = Scope::Clusterset;
            }
            Arc::new(Target::plain(backend, protocol))
        });
        (reference.weight.unwrap_or(1), target)
    }))
}

fn key_source(spec: &GrayRelease) -> KeySource {
    let key = spec.split.as_ref().map(|split| &split.key);
    let header = key.and_then(|key| key.header.as_deref());
    if let Some(name) = header.and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok()) {
        return KeySource::Header(name);
    }
    if key.is_some_and(|key| key.source_ip == Some(true)) {
        return KeySource::SourceIp;
    }
    match key.and_then(|key| key.cookie.as_deref()) {
        Some(name) if name != DEFAULT_COOKIE => KeySource::Cookie(name.into()),
        _ => KeySource::Issued,
    }
}

/// A rule with a condition that cannot be compiled is left out: to force nobody is better than to force everybody.
fn forced(rule: &kinds::ForcedRule, arm: Option<usize>) -> Option<ForcedRule> {
    let headers: Option<Box<[_]>> = rule.headers.iter().map(header_match).collect();
    let cookies: Option<Box<[_]>> =
        rule.cookies.iter().map(|cookie| Some((cookie.name.as_str().into(), text_match(cookie)?))).collect();
    Some(ForcedRule { arm, headers: headers?, cookies: cookies? })
}

/// A condition on a header, as in GrayRelease and AuthorizationPolicy.
pub(super) fn header_match(rule: &TextRule) -> Option<HeaderMatch> {
    let name = HeaderName::from_bytes(rule.name.as_bytes()).ok()?;
    Some(HeaderMatch { name, value: text_match(rule)? })
}

fn text_match(rule: &TextRule) -> Option<TextMatch> {
    let value = rule.value.as_deref().unwrap_or_default();
    Some(match rule.r#type {
        TextMatchType::Exact => TextMatch::Exact(value.into()),
        TextMatchType::Prefix => TextMatch::Prefix(value.into()),
        TextMatchType::Present => TextMatch::Present,
        TextMatchType::In => TextMatch::In(rule.values.iter().map(|value| value.as_str().into()).collect()),
        TextMatchType::RegularExpression => TextMatch::anywhere(value).ok()?,
    })
}
