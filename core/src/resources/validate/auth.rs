//! External authorization.

use std::time::Duration;

use super::{common::Checker, routes::backend_ref};
use crate::resources::kinds::{ExternalAuthProtocol, ExternalAuthSpec};

/// What can be kept of a body so that it can still be sent to the backend.
const MOST_BODY: u32 = 65_535;
const LONGEST: Duration = Duration::from_secs(60);

/// `in_policy`: with what only a TrafficPolicy may say.
pub(super) fn external_auth(c: &mut Checker, auth: &ExternalAuthSpec, in_policy: bool) {
    c.at("backendRef", |c| {
        backend_ref(c, &auth.backend_ref);
        let bare = auth.backend_ref.weight.is_none()
            && auth.backend_ref.filters.is_empty()
            && auth.backend_ref.labels.is_empty();
        c.require(bare, "has more than a name and a port", "remove weight, filters and labels");
    });
    let (grpc, http) = (auth.grpc.is_some(), auth.http.is_some());
    match auth.protocol {
        ExternalAuthProtocol::Grpc => {
            c.at("http", |c| c.require(!http, "does not go with GRPC", "remove it"))
        }
        ExternalAuthProtocol::Http => {
            c.at("grpc", |c| c.require(!grpc, "does not go with HTTP", "remove it"))
        }
    }
    if let Some(grpc) = &auth.grpc {
        c.at("grpc", |c| names(c, "allowedHeaders", grpc.allowed_headers.as_ref()));
    }
    if let Some(http) = &auth.http {
        c.at("http", |c| {
            names(c, "allowedHeaders", http.allowed_headers.as_ref());
            names(c, "allowedResponseHeaders", http.allowed_response_headers.as_ref());
            if let Some(path) = http.path.as_deref().filter(|path| !path.is_empty()) {
                let fits =
                    path.starts_with('/') && path.len() <= 1024 && path.bytes().all(|b| b.is_ascii_graphic());
                let fits = fits && !path.contains(['?', '#']);
                c.at("path", |c| {
                    c.require(fits, format!("{path:?} is not a path"), "write one such as /check")
                });
            }
        });
    }
    let most = auth.forward_body.as_ref().and_then(|body| body.max_size).unwrap_or(0);
    c.at("forwardBody.maxSize", |c| {
        c.require(most <= MOST_BODY, format!("{most} is too much"), &format!("use at most {MOST_BODY}"));
    });
    for (field, given) in [("timeout", auth.timeout.is_some()), ("failOpen", auth.fail_open.is_some())] {
        c.at(field, |c| {
            c.require(
                in_policy || !given,
                "belongs into a TrafficPolicy",
                "remove it, or use a TrafficPolicy",
            );
        });
    }
    super::traffic::duration(c, "timeout", auth.timeout.as_deref(), Duration::from_millis(1), LONGEST);
}

fn names(c: &mut Checker, field: &str, names: Option<&Vec<String>>) {
    let names = names.map(Vec::as_slice).unwrap_or_default();
    c.at_most(field, names.len(), 64);
    for (index, name) in names.iter().enumerate() {
        c.header_name(&format!("{field}[{index}]"), name);
    }
}
