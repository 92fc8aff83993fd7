//! AcmeIssuers: which listeners get which certificate, and what is wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

use super::{
    sets,
    status::{CONTROLLER, Conditions, Problem, object_status},
};
use crate::{
    decide::{
        AcmeAuthority, AcmeCertificate, AcmeProgress, AcmeUrgency, DnsUpdate, Hidden, TsigKey,
        acme::{ACME_ISSUER, AcmeChallengeType},
    },
    resources::{
        Object, ObjectKey, ObjectStatus, ResourceSet,
        kinds::{AcmeIssuer, DnsSpec, Gateway, ListenerSpec, TlsMode},
        parse_duration,
    },
};

const PRODUCTION: &str = "https://acme-v02.api.letsencrypt.org/directory";
const STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";
/// Names of one certificate; authorities take no more. Listeners past it get none from ACME.
const MOST_NAMES: usize = 100;

/// What one AcmeIssuer is asked for.
#[derive(Default)]
struct Asked {
    /// Names by Secret.
    secrets: BTreeMap<ObjectKey, BTreeSet<Arc<str>>>,
    problems: Vec<Problem>,
}

/// Every certificate that is to be ordered.
pub fn certificates(resources: &ResourceSet) -> Vec<AcmeCertificate> {
    issuers(resources).0
}

/// The status of every AcmeIssuer, with what the one who orders has written into the documents.
pub fn status(resources: &ResourceSet) -> Vec<ObjectStatus> {
    issuers(resources).1
}

/// Every certificate that is wanted, and the status of AcmeIssuers.
pub(super) fn issuers(resources: &ResourceSet) -> (Vec<AcmeCertificate>, Vec<ObjectStatus>) {
    let mut certificates = Vec::new();
    let mut status = Vec::new();
    for (key, object) in &resources.acme_issuers {
        let asked = asked(resources, key, object.spec.challenge);
        let authority = authority(resources, key, &object.spec);
        let mut wanted = Vec::new();
        if let Ok(authority) = &authority {
            for (secret, names) in &asked.secrets {
                wanted.push(AcmeCertificate {
                    secret: secret.to_string().into(),
                    names: names.iter().cloned().collect(),
                    authority: Arc::clone(authority),
                });
            }
        }
        status.push(issuer_status(object, authority.err(), &asked.problems, &wanted));
        certificates.extend(wanted);
    }
    (certificates, status)
}

/// True if the certificate of this Secret is ordered by an AcmeIssuer that can be used.
pub(super) fn is_ordered(resources: &ResourceSet, secret: &ObjectKey) -> bool {
    resources.acme_issuers.iter().any(|(key, object)| {
        key.namespace == secret.namespace
            && asked(resources, key, object.spec.challenge).secrets.contains_key(secret)
            && authority(resources, key, &object.spec).is_ok()
    })
}

fn asked(resources: &ResourceSet, issuer: &ObjectKey, challenge: AcmeChallengeType) -> Asked {
    let mut asked = Asked::default();
    for (key, gateway) in &resources.gateways {
        let names_it = gateway.meta.annotations.get(ACME_ISSUER) == Some(&issuer.name);
        if key.namespace != issuer.namespace || !names_it || !is_ours(resources, gateway) {
            continue;
        }
        asked.take_all(resources, key, &gateway.spec.listeners, challenge);
    }
    for (key, gateway, set) in sets::let_in(resources) {
        // Its own annotation counts before the Gateway's, which speaks only for its own namespace.
        let inherited =
            || gateway.meta.annotations.get(ACME_ISSUER).filter(|_| gateway.meta.namespace == key.namespace);
        let name = set.meta.annotations.get(ACME_ISSUER).or_else(inherited);
        if key.namespace == issuer.namespace && name == Some(&issuer.name) && is_ours(resources, gateway) {
            asked.take_all(resources, key, &set.spec.listeners, challenge);
        }
    }
    asked
}

impl Asked {
    /// Listeners of a Gateway or ListenerSet.
    fn take_all(
        &mut self,
        resources: &ResourceSet,
        owner: &ObjectKey,
        listeners: &[ListenerSpec],
        challenge: AcmeChallengeType,
    ) {
        for listener in listeners.iter().filter(|listener| terminates(listener)) {
            if let Err(why) = self.take(resources, owner, listener, challenge) {
                let message = format!("listener {owner}/{}: {why}", listener.name);
                self.problems.push(Problem::new("ListenerNotSupported", message));
            }
        }
    }

    fn take(
        &mut self,
        resources: &ResourceSet,
        owner: &ObjectKey,
        listener: &ListenerSpec,
        challenge: AcmeChallengeType,
    ) -> Result<(), String> {
        let references = listener.tls.iter().flat_map(|tls| &tls.certificate_refs);
        let mut own = references.filter(|reference| {
            reference.group.as_deref().unwrap_or_default().is_empty()
                && reference.kind.as_deref().unwrap_or("Secret") == "Secret"
                && reference.namespace.as_ref().is_none_or(|namespace| *namespace == owner.namespace)
        });
        let to_order = own.find_map(|reference| {
            let key = ObjectKey::new(&owner.namespace, &reference.name);
            let ours = |secret: &Arc<Object<_>>| secret.meta.annotations.contains_key(ACME_ISSUER);
            resources.secrets.get(&key).is_none_or(ours).then_some(key)
        });
        // All of its Secrets were made by somebody else, or are in other namespaces.
        let Some(secret) = to_order else { return Ok(()) };
        let Some(hostname) = listener.hostname.as_deref().filter(|name| !name.is_empty()) else {
            return Err("has no hostname to order a certificate for".into());
        };
        if hostname.starts_with('*') && challenge != AcmeChallengeType::Dns01 {
            return Err(format!("{hostname} needs challenge dns-01"));
        }
        let names = self.secrets.entry(secret).or_default();
        if names.len() >= MOST_NAMES && !names.contains(hostname) {
            return Err(format!("a certificate has at most {MOST_NAMES} names; use another Secret"));
        }
        names.insert(hostname.to_ascii_lowercase().into());
        Ok(())
    }
}

fn is_ours(resources: &ResourceSet, gateway: &Object<Gateway>) -> bool {
    let class = resources.gateway_classes.get(&ObjectKey::new("", &gateway.spec.gateway_class_name));
    class.is_some_and(|class| class.spec.controller_name == CONTROLLER)
}

fn terminates(listener: &ListenerSpec) -> bool {
    let mode = listener.tls.as_ref().and_then(|tls| tls.mode).unwrap_or(TlsMode::Terminate);
    matches!(listener.protocol.as_str(), "HTTPS" | "TLS") && mode == TlsMode::Terminate
}

fn authority(
    resources: &ResourceSet,
    key: &ObjectKey,
    spec: &AcmeIssuer,
) -> Result<Arc<AcmeAuthority>, Problem> {
    let directory = match spec.directory.as_deref() {
        None | Some("production") => PRODUCTION,
        Some("staging") => STAGING,
        Some(url) => url,
    };
    let roots_pem = match &spec.ca_bundle_ref {
        None => None,
        Some(reference) => {
            let map = ObjectKey::new(&key.namespace, &reference.name);
            let text = resources.config_maps.get(&map).and_then(|map| map.spec.data.get("ca.crt"));
            let missing = || Problem::new("RefNotFound", format!("there is no ca.crt in a ConfigMap {map}"));
            Some(text.ok_or_else(missing)?.as_str().into())
        }
    };
    let external = match &spec.external_account {
        None => None,
        Some(account) => {
            let text = secret(resources, key, &account.secret_ref.name, "hmac")?;
            let text: Vec<u8> = text.into_iter().filter(|b| !b.is_ascii_whitespace() && *b != b'=').collect();
            let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| {
                let message = format!("hmac in Secret {} is not base64url", account.secret_ref.name);
                Problem::new("InvalidSecret", message)
            })?;
            Some((account.key_id.as_str().into(), Hidden(bytes.into())))
        }
    };
    let propagation = spec.dns.as_ref().and_then(|dns| dns.propagation.as_deref());
    Ok(Arc::new(AcmeAuthority {
        issuer: key.to_string().into(),
        directory: directory.into(),
        email: spec.email.as_deref().map(Into::into),
        roots_pem,
        external,
        challenge: spec.challenge,
        update: spec.dns.as_ref().map(|dns| update(resources, key, dns)).transpose()?.flatten(),
        propagation: propagation.and_then(|text| parse_duration(text).ok()).unwrap_or(Duration::ZERO),
    }))
}

fn update(resources: &ResourceSet, key: &ObjectKey, dns: &DnsSpec) -> Result<Option<DnsUpdate>, Problem> {
    let Some(spec) = &dns.rfc2136 else { return Ok(None) };
    let tsig = match &spec.tsig {
        None => None,
        Some(tsig) => {
            let text = secret(resources, key, &tsig.secret_ref.name, "key")?;
            let text: Vec<u8> = text.into_iter().filter(|b| !b.is_ascii_whitespace()).collect();
            let bytes = STANDARD.decode(text).map_err(|_| {
                Problem::new("InvalidSecret", format!("key in Secret {} is not base64", tsig.secret_ref.name))
            })?;
            let name = tsig.key_name.as_str().into();
            Some(TsigKey { name, algorithm: tsig.algorithm, key: Hidden(bytes.into()) })
        }
    };
    let server = spec.server.parse();
    let server = server.map_err(|_| Problem::new("Invalid", format!("{} is no address", spec.server)))?;
    Ok(Some(DnsUpdate { server, zone: spec.zone.trim_end_matches('.').into(), tsig }))
}

fn secret(resources: &ResourceSet, from: &ObjectKey, name: &str, key: &str) -> Result<Vec<u8>, Problem> {
    let at = ObjectKey::new(&from.namespace, name);
    let value = resources.secrets.get(&at).and_then(|secret| secret.spec.value(key));
    value.ok_or_else(|| Problem::new("RefNotFound", format!("there is no {key} in a Secret {at}")))
}

fn issuer_status(
    object: &Object<AcmeIssuer>,
    refused: Option<Problem>,
    listeners: &[Problem],
    wanted: &[AcmeCertificate],
) -> ObjectStatus {
    let before = object.meta.status.as_ref().and_then(|status| status.get("certificates"));
    let known: Vec<AcmeProgress> =
        before.and_then(|list| serde_json::from_value(list.clone()).ok()).unwrap_or_default();
    let mut conditions = Conditions::new(object.meta.generation);
    conditions.good("Accepted", refused.as_slice());
    conditions.good("ResolvedRefs", listeners);
    let of = |certificate: &AcmeCertificate| known.iter().find(|p| *p.secret == *certificate.secret);
    let failing: Vec<Problem> = wanted.iter().filter_map(of).filter_map(failing).collect();
    let all = wanted.iter().all(|certificate| of(certificate).is_some_and(|p| p.not_after.is_some()));
    match (failing.is_empty(), all) {
        (false, _) => conditions.good("Ready", &failing),
        (true, true) => conditions.good("Ready", &[]),
        (true, false) => {
            conditions.add("Ready", "Unknown", "Pending", "certificates are ordered by a gateway that runs");
        }
    }
    let certificates = wanted.iter().map(|certificate| {
        let mut entry = json!({ "secret": &*certificate.secret, "names": certificate.names });
        if let (Some(progress), Some(entry)) = (of(certificate), entry.as_object_mut())
            && let Ok(Value::Object(progress)) = serde_json::to_value(progress)
        {
            entry.extend(progress);
        }
        entry
    });
    let stanza =
        json!({ "conditions": conditions.value(), "certificates": certificates.collect::<Vec<_>>() });
    object_status("AcmeIssuer", object, stanza)
}

fn failing(progress: &AcmeProgress) -> Option<Problem> {
    let (failure, urgency) = (progress.failure.as_deref(), progress.urgency);
    let (reason, until) = match (&progress.not_after, urgency) {
        (Some(end), AcmeUrgency::Expired) => ("Expired", format!("; the one in use has expired at {end}")),
        (Some(end), AcmeUrgency::NearExpiry | AcmeUrgency::Critical) => {
            ("NearExpiry", format!("; the one in use is good until {end} only"))
        }
        (Some(end), AcmeUrgency::None) => ("RenewalFailing", format!("; the one in use is good until {end}")),
        (None, _) => ("OrderFailing", String::new()),
    };
    // One that is urgent is told, also if no order has failed: perhaps none is made.
    let failure = failure.or_else(|| (urgency != AcmeUrgency::None).then_some("it is not renewed"))?;
    Some(Problem::new(reason, format!("{}: {failure}{until}", progress.secret)))
}
