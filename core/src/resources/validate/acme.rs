//! AcmeIssuer.

use std::{net::SocketAddr, time::Duration};

use super::common::Checker;
use crate::resources::{
    duration::parse_duration,
    kinds::{AcmeChallengeType, AcmeIssuer, DnsSpec},
};

/// The longest wait for records to spread.
const MOST_PROPAGATION: Duration = Duration::from_secs(600);

pub(super) fn acme_issuer(c: &mut Checker, issuer: &AcmeIssuer) {
    c.at("termsOfServiceAgreed", |c| {
        c.require(
            issuer.terms_of_service_agreed,
            "must be true",
            "read the authority's terms of service, then say so",
        );
    });
    if let Some(directory) = issuer.directory.as_deref() {
        let known = matches!(directory, "production" | "staging") || is_https(directory);
        let hint = "use production, staging, or a URL such as https://acme.example/directory";
        c.at("directory", |c| c.require(known, format!("{directory:?} is no ACME directory"), hint));
    }
    if let Some(email) = issuer.email.as_deref() {
        let fits = email.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty())
            && email.bytes().all(|b| b.is_ascii_graphic() && !b"?,:".contains(&b));
        c.at("email", |c| c.require(fits, "is not an address", "write one such as ops@example.com"));
    }
    if let Some(bundle) = &issuer.ca_bundle_ref {
        c.at("caBundleRef", |c| c.dns_name("name", &bundle.name));
    }
    if let Some(account) = &issuer.external_account {
        c.at("externalAccount", |c| {
            let given = !account.key_id.is_empty() && account.key_id.len() <= 256;
            c.at("keyId", |c| c.require(given, "is empty or too long", "use 1 to 256 letters"));
            c.at("secretRef", |c| c.dns_name("name", &account.secret_ref.name));
        });
    }
    if let Some(spec) = &issuer.dns {
        let fits = issuer.challenge == AcmeChallengeType::Dns01;
        c.at("dns", |c| {
            c.require(fits, "is for challenge dns-01 only", "set challenge: dns-01, or remove it");
            dns(c, spec);
        });
    }
}

fn is_https(url: &str) -> bool {
    url.parse::<http::Uri>().is_ok_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some())
}

fn dns(c: &mut Checker, spec: &DnsSpec) {
    c.duration("propagation", spec.propagation.as_ref());
    if let Some(Ok(wait)) = spec.propagation.as_deref().map(parse_duration) {
        c.at("propagation", |c| c.require(wait <= MOST_PROPAGATION, "is too long", "use at most 10m"));
    }
    let Some(update) = &spec.rfc2136 else { return };
    c.at("rfc2136", |c| {
        let parsed = update.server.parse::<SocketAddr>();
        let fits = parsed.is_ok_and(|server| server.port() != 0);
        let message = format!("{:?} is not IP:PORT", update.server);
        c.at("server", |c| c.require(fits, message, "write one such as 192.0.2.53:53"));
        c.dns_name("zone", &update.zone);
        if let Some(tsig) = &update.tsig {
            c.at("tsig", |c| {
                c.dns_name("keyName", tsig.key_name.trim_end_matches('.'));
                c.at("secretRef", |c| c.dns_name("name", &tsig.secret_ref.name));
            });
        }
    });
}
