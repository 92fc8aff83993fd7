//! The kinds of documents, field for field. Published kinds follow their API's Go types; fields that only a
//! Kubernetes API server sets are accepted and ignored.

mod acme;
mod core_v1;
mod endpoints;
mod external_auth;
mod gateway;
mod gateway_tls;
mod grpc;
mod jwt;
mod mesh;
mod route;
mod stream;
mod traffic;
mod traffic_service;

pub use acme::{
    AcmeChallengeType, AcmeIssuer, DnsSpec, ExternalAccountSpec, NameRef, Rfc2136Spec, TsigAlgorithmName,
    TsigSpec,
};
pub use core_v1::{
    ConfigMap, EndpointConditions, EndpointPort, EndpointSlice, Namespace, ReferenceGrant,
    ReferenceGrantFrom, ReferenceGrantTo, Secret, Service, ServicePortSpec, SliceEndpoint, TargetPort,
};
pub use endpoints::{EndpointAddress, EndpointSubset, Endpoints};
pub use external_auth::{
    ExternalAuthProtocol, ExternalAuthSpec, ForwardBodySpec, GrpcAuthSpec, HttpAuthSpec,
};
pub use gateway::{
    AllowedListeners, AllowedRoutes, CertificateRef, FromNamespaces, Gateway, GatewayAddress, GatewayClass,
    Infrastructure, LabelExpression, ListenerSet, ListenerSpec, ListenerTls, NamespaceSelector,
    ParentGatewayRef, RouteGroupKind, RouteNamespaces, TlsMode,
};
pub use gateway_tls::{
    FrontendPortTls, FrontendTls, FrontendTlsConfig, FrontendValidation, FrontendValidationMode,
    GatewayBackendTls, GatewayTls,
};
pub use grpc::{GrpcMatch, GrpcMethodMatch, GrpcRoute, GrpcRule};
pub use jwt::{ClaimHeaderSpec, JwksConfigMap, JwksSpec, JwtProviderSpec, JwtSpec, TokenSourceSpec};
pub use mesh::{
    Analysis, AnalysisStep, Arm, AuthorizationAction, AuthorizationPolicy, BundleEndpoint, BundleProfile,
    CookieRule, ForcedRule, GrayRelease, GrayTargetRef, Metric, MetricName, Peer, PeerLease, PeerLimits,
    PolicyFrom, PolicyRule, PolicyTo, Selector, ServiceExport, ServiceImport, ServicePattern,
    ServicePatterns, Split, SplitKey, TextMatchType, TextRule, WhenUnavailable, Workload, WorkloadPortSpec,
};
pub use route::{
    BackendRef, CookieConfig, CookieLifetime, Cors, Filter, FilterType, Fraction, HeaderFilter,
    HeaderMatchSpec, HeaderMatchType, HeaderValueSpec, HttpRoute, MirrorFilter, ParentRef, PathMatchSpec,
    PathMatchType, PathModifier, PathModifierType, QueryMatchSpec, RedirectFilter, RewriteFilter, RouteMatch,
    RouteRetry, RouteRule, RouteTimeouts, SessionPersistence, SessionPersistenceType,
};
pub use stream::{
    BackendTlsPolicy, BackendTlsValidation, LocalRef, PolicyTargetRef, StreamRule, SubjectAltName,
    SubjectAltNameType, TcpRoute, TlsRoute,
};
pub use traffic::{
    CompressionAlgorithm, CompressionSpec, IpAccessSpec, ProxyProtocolVersion, RateKeySpec, RateLimitSpec,
    RequestLimitsSpec, SharedRateLimitSpec, TrafficPolicy, TrafficTargetRef,
};
pub use traffic_service::{
    CapacitySpec, CircuitBreakerSpec, FaultAbortSpec, FaultDelaySpec, FaultHeaderSpec, FaultSpec,
    HashKeySpec, HealthCheckSpec, HealthCheckType, InboundModeSpec, InboundPortSpec, InboundSpec,
    LoadBalancerSpec, LoadBalancerType, LocalitySpec, OutlierSpec, RetryBudgetSpec, StatusesSpec,
};
