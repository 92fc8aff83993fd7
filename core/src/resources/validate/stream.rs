//! TLSRoute, TCPRoute, BackendTLSPolicy, and `spec.tls` of a Gateway.

use super::{common::Checker, routes::backend_ref};
use crate::resources::{
    ApiVersion,
    kinds::{
        BackendTlsPolicy, BackendTlsValidation, FrontendTls, FrontendTlsConfig, GatewayTls, ParentRef,
        StreamRule, SubjectAltName, SubjectAltNameType, TcpRoute, TlsRoute,
    },
};

pub(super) fn tls_route(c: &mut Checker, route: &TlsRoute, api_version: ApiVersion) {
    parents(c, &route.parent_refs);
    let may_lack = api_version.version == "v1alpha2";
    c.at("hostnames", |c| {
        c.require(may_lack || !route.hostnames.is_empty(), "is empty", "name the server names")
    });
    c.at_most("hostnames", route.hostnames.len(), 16);
    for (index, hostname) in route.hostnames.iter().enumerate() {
        c.hostname(&format!("hostnames[{index}]"), hostname);
    }
    rules(c, &route.rules);
}

pub(super) fn tcp_route(c: &mut Checker, route: &TcpRoute) {
    parents(c, &route.parent_refs);
    rules(c, &route.rules);
}

fn parents(c: &mut Checker, parents: &[ParentRef]) {
    c.at_most("parentRefs", parents.len(), 32);
    c.each("parentRefs", parents, |c, parent| c.dns_name("name", &parent.name));
}

fn rules(c: &mut Checker, rules: &[StreamRule]) {
    c.at("rules", |c| {
        c.require((1..=16).contains(&rules.len()), format!("has {} entries", rules.len()), "use 1 to 16")
    });
    c.unique("rules", "rule", rules.iter().filter_map(|rule| rule.name.as_deref()));
    c.each("rules", rules, |c, rule| {
        if let Some(name) = &rule.name {
            c.dns_name("name", name);
        }
        let count = rule.backend_refs.len();
        c.at("backendRefs", |c| {
            c.require((1..=16).contains(&count), format!("has {count} entries"), "use 1 to 16")
        });
        c.each("backendRefs", &rule.backend_refs, |c, backend| {
            backend_ref(c, backend);
            c.at("filters", |c| {
                c.require(backend.filters.is_empty(), "is for HTTPRoutes and GRPCRoutes", "remove it")
            });
            c.at("labels", |c| {
                c.require(backend.labels.is_empty(), "belongs into a GrayRelease's arm", "remove it")
            });
        });
    });
}

pub(super) fn backend_tls_policy(c: &mut Checker, policy: &BackendTlsPolicy) {
    let count = policy.target_refs.len();
    c.at("targetRefs", |c| {
        c.require((1..=16).contains(&count), format!("has {count} entries"), "use 1 to 16")
    });
    c.each("targetRefs", &policy.target_refs, |c, target| c.dns_name("name", &target.name));
    c.at_most("options", policy.options.len(), 16);
    c.at("validation", |c| backend_tls_validation(c, &policy.validation));
}

fn backend_tls_validation(c: &mut Checker, validation: &BackendTlsValidation) {
    c.at_most("caCertificateRefs", validation.ca_certificate_refs.len(), 8);
    c.each("caCertificateRefs", &validation.ca_certificate_refs, |c, ca| c.dns_name("name", &ca.name));
    let sources =
        [!validation.ca_certificate_refs.is_empty(), validation.well_known_ca_certificates.is_some()];
    c.require(
        sources.iter().filter(|there| **there).count() == 1,
        "has not exactly one of caCertificateRefs and wellKnownCACertificates",
        "name a ConfigMap with ca.crt, or use `wellKnownCACertificates: System`",
    );
    c.dns_name("hostname", &validation.hostname);
    c.at_most("subjectAltNames", validation.subject_alt_names.len(), 5);
    c.each("subjectAltNames", &validation.subject_alt_names, subject_alt_name);
}

fn subject_alt_name(c: &mut Checker, name: &SubjectAltName) {
    let filled = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    let fits = match name.r#type {
        SubjectAltNameType::Hostname => filled(&name.hostname) && !filled(&name.uri),
        SubjectAltNameType::Uri => filled(&name.uri) && !filled(&name.hostname),
    };
    c.require(
        fits,
        "has not the field of its type",
        "`type: Hostname` with hostname, or `type: URI` with uri",
    );
    if let Some(hostname) = name.hostname.as_deref().filter(|hostname| !hostname.is_empty()) {
        c.hostname("hostname", hostname);
    }
    if let Some(uri) = name.uri.as_deref().filter(|uri| !uri.is_empty()) {
        let has_form = uri.split_once(':').is_some_and(|(scheme, rest)| {
            let mut letters = scheme.bytes();
            let begins = letters.next().is_some_and(|first| first.is_ascii_alphabetic());
            begins && letters.all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) && !rest.is_empty()
        });
        c.at("uri", |c| {
            c.require(has_form && uri.is_ascii(), "is not a URI", "e.g. spiffe://example.org/web")
        });
    }
}

pub(super) fn gateway_tls(c: &mut Checker, tls: &GatewayTls) {
    if let Some(reference) = tls.backend.as_ref().and_then(|backend| backend.client_certificate_ref.as_ref())
    {
        c.at("backend.clientCertificateRef", |c| c.dns_name("name", &reference.name));
    }
    if let Some(frontend) = &tls.frontend {
        c.at("frontend", |c| frontend_tls(c, frontend));
    }
}

fn frontend_tls(c: &mut Checker, frontend: &FrontendTls) {
    c.at("default", |c| frontend_config(c, &frontend.default));
    c.at_most("perPort", frontend.per_port.len(), 64);
    c.each("perPort", &frontend.per_port, |c, per_port| {
        c.port("port", per_port.port);
        c.at("tls", |c| frontend_config(c, &per_port.tls));
    });
    let mut ports: Vec<u16> = frontend.per_port.iter().map(|per_port| per_port.port).collect();
    ports.sort_unstable();
    let twice = ports.windows(2).any(|pair| pair.first() == pair.last());
    c.at("perPort", |c| c.require(!twice, "the same port stands twice", "give each port once"));
}

fn frontend_config(c: &mut Checker, config: &FrontendTlsConfig) {
    let Some(validation) = &config.validation else { return };
    let count = validation.ca_certificate_refs.len();
    c.at("validation", |c| {
        c.at("caCertificateRefs", |c| {
            c.require((1..=8).contains(&count), format!("has {count} entries"), "use 1 to 8")
        });
        c.each("caCertificateRefs", &validation.ca_certificate_refs, |c, reference| {
            c.require(reference.group.is_some(), "has no group", "write `group: \"\"` for core");
            c.require(reference.kind.is_some(), "has no kind", "write `kind: ConfigMap`");
            c.dns_name("name", &reference.name);
        });
    });
}
