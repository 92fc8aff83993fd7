//! What types alone do not say: bounds, forms, and fields that go together.

mod acme;
mod auth;
mod common;
mod edge;
mod grpc;
mod jwt;
mod mesh;
mod routes;
mod stream;
mod traffic;
mod traffic_service;

use common::Checker;

use crate::decide::TRUST_CLIENT_LANE;

use super::{
    object::{AnyObject, ObjectMeta},
    typed::FieldProblem,
};

/// What is wrong with labels and annotations.
pub(super) fn validate_meta(meta: &ObjectMeta) -> Vec<FieldProblem> {
    let mut checker = Checker::default();
    checker.at("metadata", |c| {
        c.labels("labels", &meta.labels);
        meta.annotations.keys().for_each(|key| c.label_key("annotations", key));
        if let Some(value) = meta.annotations.get(TRUST_CLIENT_LANE) {
            c.at(&format!("annotations.{TRUST_CLIENT_LANE}"), |c| {
                c.require(
                    matches!(value.as_str(), "true" | "false"),
                    format!("{value:?}"),
                    "use true or false",
                );
            });
        }
    });
    checker.problems
}

/// Every problem of this object.
pub(super) fn validate(object: &AnyObject) -> Vec<FieldProblem> {
    let mut checker = Checker::default();
    let c = &mut checker;
    match object {
        AnyObject::GatewayClass(o) => c.at("spec", |c| edge::gateway_class(c, &o.spec)),
        AnyObject::Gateway(o) => c.at("spec", |c| edge::gateway(c, &o.spec)),
        AnyObject::ListenerSet(o) | AnyObject::XListenerSet(o) => {
            c.at("spec", |c| edge::listener_set(c, &o.spec));
        }
        AnyObject::HttpRoute(o) => c.at("spec", |c| routes::http_route(c, &o.spec)),
        AnyObject::GrpcRoute(o) => c.at("spec", |c| grpc::grpc_route(c, &o.spec)),
        AnyObject::TlsRoute(o) => c.at("spec", |c| stream::tls_route(c, &o.spec, o.api_version)),
        AnyObject::TcpRoute(o) => c.at("spec", |c| stream::tcp_route(c, &o.spec)),
        AnyObject::BackendTlsPolicy(o) => c.at("spec", |c| stream::backend_tls_policy(c, &o.spec)),
        AnyObject::ReferenceGrant(o) => c.at("spec", |c| edge::reference_grant(c, &o.spec)),
        AnyObject::Service(o) => c.at("spec", |c| edge::service(c, &o.spec)),
        AnyObject::Secret(o) => edge::secret(c, &o.spec),
        AnyObject::EndpointSlice(o) => edge::endpoint_slice(c, &o.spec),
        AnyObject::Endpoints(o) => edge::endpoints(c, &o.spec),
        AnyObject::GrayRelease(o) => c.at("spec", |c| mesh::gray_release(c, &o.spec)),
        AnyObject::Workload(o) => c.at("spec", |c| mesh::workload(c, &o.spec)),
        AnyObject::AuthorizationPolicy(o) => c.at("spec", |c| mesh::authorization_policy(c, &o.spec)),
        AnyObject::TrafficPolicy(o) => c.at("spec", |c| traffic::traffic_policy(c, &o.spec)),
        AnyObject::AcmeIssuer(o) => c.at("spec", |c| acme::acme_issuer(c, &o.spec)),
        AnyObject::Peer(o) => c.at("spec", |c| mesh::peer(c, &o.spec)),
        AnyObject::Namespace(_)
        | AnyObject::ConfigMap(_)
        | AnyObject::ServiceExport(_)
        | AnyObject::ServiceImport(_) => {}
    }
    checker.problems
}
