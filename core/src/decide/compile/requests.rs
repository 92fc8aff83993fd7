//! HTTPRoutes and GRPCRoutes in one form, the oldest first.

use std::borrow::Cow;

use super::{
    grpc,
    refs::created,
    rules::{GRPC_ROUTE, HTTP_ROUTE},
};
use crate::resources::{
    Object, ObjectKey, ObjectMeta, ResourceSet,
    kinds::{GrpcRoute, HttpRoute, ParentRef, RouteRule},
};

/// A route for requests, as its document has it.
pub(super) struct RequestSource<'a> {
    pub(super) kind: &'static str,
    pub(super) key: &'a ObjectKey,
    pub(super) meta: &'a ObjectMeta,
    pub(super) hostnames: &'a [String],
    pub(super) parents: &'a [ParentRef],
    pub(super) rules: Cow<'a, [RouteRule]>,
}

/// All of them, in their order of precedence: by age, then namespace and name, then HTTPRoutes first.
pub(super) fn sources(resources: &ResourceSet) -> Vec<RequestSource<'_>> {
    let http = resources.http_routes.iter().map(|(key, route)| of_http(key, route));
    let grpc = resources.grpc_routes.iter().map(|(key, route)| of_grpc(key, route));
    let mut all: Vec<_> = http.chain(grpc).map(|source| (created(source.meta), source)).collect();
    all.sort_by(|(a, x), (b, y)| (a, x.key).cmp(&(b, y.key)));
    all.into_iter().map(|(_, source)| source).collect()
}

fn of_http<'a>(key: &'a ObjectKey, route: &'a Object<HttpRoute>) -> RequestSource<'a> {
    RequestSource {
        kind: HTTP_ROUTE,
        key,
        meta: &route.meta,
        hostnames: &route.spec.hostnames,
        parents: &route.spec.parent_refs,
        rules: Cow::Borrowed(&route.spec.rules),
    }
}

fn of_grpc<'a>(key: &'a ObjectKey, route: &'a Object<GrpcRoute>) -> RequestSource<'a> {
    RequestSource {
        kind: GRPC_ROUTE,
        key,
        meta: &route.meta,
        hostnames: &route.spec.hostnames,
        parents: &route.spec.parent_refs,
        rules: Cow::Owned(grpc::as_requests(&route.spec)),
    }
}
