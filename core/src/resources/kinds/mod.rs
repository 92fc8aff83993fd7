//! The kinds of documents, field for field. Published kinds follow their API's Go types; fields that only a
//! Kubernetes API server sets are accepted and ignored.

mod core_v1;
mod gateway;
mod mesh;
mod route;

pub use core_v1::{
    ConfigMap, EndpointConditions, EndpointPort, EndpointSlice, Namespace, ReferenceGrant,
    ReferenceGrantFrom, ReferenceGrantTo, Secret, Service, ServicePortSpec, SliceEndpoint, TargetPort,
};
pub use gateway::{
    AllowedRoutes, CertificateRef, FromNamespaces, Gateway, GatewayAddress, GatewayClass, LabelExpression,
    ListenerSpec, ListenerTls, NamespaceSelector, RouteGroupKind, RouteNamespaces, TlsMode,
};
pub use mesh::{
    Analysis, AnalysisStep, Arm, AuthorizationAction, AuthorizationPolicy, CookieRule, ForcedRule,
    GrayRelease, GrayTargetRef, Metric, Peer, PolicyFrom, PolicyRule, PolicyTo, Selector, ServiceExport,
    ServiceImport, ServicePattern, ServicePatterns, Split, SplitKey, TextMatchType, TextRule,
    WhenUnavailable, Workload, WorkloadPortSpec,
};
pub use route::{
    BackendRef, Cors, Filter, FilterType, Fraction, HeaderFilter, HeaderMatchSpec, HeaderMatchType,
    HeaderValueSpec, HttpRoute, MirrorFilter, ParentRef, PathMatchSpec, PathMatchType, PathModifier,
    PathModifierType, QueryMatchSpec, RedirectFilter, RewriteFilter, RouteMatch, RouteRetry, RouteRule,
    RouteTimeouts, SessionPersistence,
};
