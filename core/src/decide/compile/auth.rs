//! External authorization, of HTTPRoutes and TrafficPolicies.

use std::time::Duration;

use http::HeaderName;

use super::{
    refs::{Referrer, resolve},
    status::Problem,
};
use crate::{
    decide::{AuthProtocol, Backend, ExternalAuth},
    model::AppProtocol,
    resources::{
        ResourceSet,
        kinds::{ExternalAuthProtocol, ExternalAuthSpec},
        parse_duration,
    },
};

/// Where nobody says how long it may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Compiles it. A reference that leads nowhere is told, and refuses every request.
pub(super) fn external_auth(
    resources: &ResourceSet,
    from: Referrer<'_>,
    spec: &ExternalAuthSpec,
) -> (ExternalAuth, Option<Problem>) {
    let (mut backend, problem) = match resolve(resources, from, &spec.backend_ref) {
        Ok(resolved) => (Some(resolved.backend), None),
        Err(problem) => (None, Some(problem)),
    };
    let names = |texts: Option<&Vec<String>>| -> Box<[HeaderName]> {
        let texts = texts.map(Vec::as_slice).unwrap_or_default();
        // What is no name was refused with its document.
        texts.iter().filter_map(|text| HeaderName::from_bytes(text.as_bytes()).ok()).collect()
    };
    let protocol = match spec.protocol {
        ExternalAuthProtocol::Grpc => {
            if let Some(Backend::Service { protocol, .. }) = &mut backend {
                *protocol = AppProtocol::Http2;
            }
            AuthProtocol::Grpc {
                headers: names(spec.grpc.as_ref().and_then(|grpc| grpc.allowed_headers.as_ref())),
            }
        }
        ExternalAuthProtocol::Http => {
            let http = spec.http.as_ref();
            AuthProtocol::Http {
                prefix: http
                    .and_then(|http| http.path.as_deref())
                    .unwrap_or_default()
                    .trim_end_matches('/')
                    .into(),
                headers: names(http.and_then(|http| http.allowed_headers.as_ref())),
                response_headers: names(http.and_then(|http| http.allowed_response_headers.as_ref())),
            }
        }
    };
    let auth = ExternalAuth {
        backend,
        protocol,
        body_most: spec
            .forward_body
            .as_ref()
            .and_then(|body| usize::try_from(body.max_size.unwrap_or(0)).ok())
            .unwrap_or(0),
        timeout: spec.timeout.as_deref().and_then(|text| parse_duration(text).ok()).unwrap_or(TIMEOUT),
        fail_open: spec.fail_open.unwrap_or(false),
    };
    (auth, problem)
}
