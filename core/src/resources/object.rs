//! Objects, and the set of them that everything else is made from.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::kinds;

/// Namespace and name, written as in an object's `metadata`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectKey {
    /// Namespace. Empty of a cluster-scoped object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// A key from its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// What Kubernetes' ObjectMeta holds, as far as it matters.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ObjectMeta {
    /// Name.
    pub name: String,
    /// Namespace; empty for cluster-scoped kinds, `default` where it is not given.
    pub namespace: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// 1 where it is not given.
    pub generation: i64,
    /// RFC 3339; the oldest wins ties.
    pub creation_timestamp: Option<String>,
    /// The document's own `status`, which others may have written to.
    pub status: Option<Arc<Value>>,
}

impl ObjectMeta {
    /// Namespace and name.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(&self.namespace, &self.name)
    }
}

/// An API group and a version of it, e.g. `gateway.networking.k8s.io/v1`; `v1` of the core group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiVersion {
    /// Empty is core.
    pub group: &'static str,
    /// e.g. `v1`.
    pub version: &'static str,
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.group.is_empty() { "" } else { "/" };
        write!(f, "{}{slash}{}", self.group, self.version)
    }
}

impl Serialize for ApiVersion {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An object of one kind.
#[derive(Debug, Clone)]
pub struct Object<T> {
    /// As it was written.
    pub api_version: ApiVersion,
    /// Its metadata.
    pub meta: ObjectMeta,
    /// Its `spec`, or what stands for one.
    pub spec: T,
}

/// `metadata` as it is written. What only a Kubernetes API server sets is accepted and ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawMeta {
    pub(super) name: String,
    #[serde(default)]
    pub(super) namespace: Option<String>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) generation: Option<i64>,
    #[serde(default)]
    pub(super) creation_timestamp: Option<String>,
    #[serde(default, rename = "uid")]
    _uid: Option<Value>,
    #[serde(default, rename = "resourceVersion")]
    _resource_version: Option<Value>,
    #[serde(default, rename = "managedFields")]
    _managed_fields: Option<Value>,
    #[serde(default, rename = "ownerReferences")]
    _owner_references: Option<Value>,
    #[serde(default, rename = "finalizers")]
    _finalizers: Option<Value>,
    #[serde(default, rename = "generateName")]
    _generate_name: Option<Value>,
    #[serde(default, rename = "deletionTimestamp")]
    _deletion_timestamp: Option<Value>,
    #[serde(default, rename = "deletionGracePeriodSeconds")]
    _deletion_grace: Option<Value>,
    #[serde(default, rename = "selfLink")]
    _self_link: Option<Value>,
}

/// Where the typed part of a document stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Under `spec`.
    Spec,
    /// Under `spec`, which may be absent.
    OptionalSpec,
    /// At the top, beside `metadata`.
    Root,
}

/// What is fixed of a kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct KindInfo {
    pub(super) kind: &'static str,
    pub(super) group: &'static str,
    pub(super) versions: &'static [&'static str],
    pub(super) namespaced: bool,
    pub(super) shape: Shape,
}

macro_rules! kinds {
    ($($field:ident: $variant:ident = $type:ident, $kind:literal, $group:literal, $versions:expr, $namespaced:literal, $shape:ident;)*) => {
        /// An object of any kind.
        #[derive(Debug, Clone)]
        pub enum AnyObject {
            $(
                #[doc = concat!("A ", $kind, ".")]
                $variant(Arc<Object<kinds::$type>>),
            )*
        }

        /// Every kind that is known.
        pub(super) const KINDS: &[KindInfo] = &[
            $(KindInfo { kind: $kind, group: $group, versions: $versions, namespaced: $namespaced, shape: Shape::$shape },)*
        ];

        /// Valid objects, by kind and key. Cheap to clone.
        #[derive(Debug, Clone, Default)]
        pub struct ResourceSet {
            documents: BTreeMap<Arc<str>, Arc<Document>>,
            $(
                #[doc = concat!("Every ", $kind, ".")]
                pub $field: BTreeMap<ObjectKey, Arc<Object<kinds::$type>>>,
            )*
        }

        impl ResourceSet {
            fn index(&mut self, object: &AnyObject) {
                match object {
                    $(AnyObject::$variant(object) => { self.$field.insert(object.meta.key(), object.clone()); })*
                }
            }

            fn unindex(&mut self, object: &AnyObject) {
                match object {
                    $(AnyObject::$variant(object) => { self.$field.remove(&object.meta.key()); })*
                }
            }
        }

        impl AnyObject {
            /// Its metadata.
            pub fn meta(&self) -> &ObjectMeta {
                match self { $(Self::$variant(object) => &object.meta,)* }
            }

            /// Its kind, e.g. `HTTPRoute`.
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $kind,)* }
            }

            /// Its API group; empty is core.
            pub fn group(&self) -> &'static str {
                match self { $(Self::$variant(_) => $group,)* }
            }

        }

        /// Reads the typed part of a document of this kind. None for a kind that is not known.
        pub(super) fn read_body(kind: &KindInfo, api_version: ApiVersion, meta: ObjectMeta, body: &Value)
            -> Option<super::typed::Reading<AnyObject>>
        {
            match (kind.group, kind.kind) {
                $(($group, $kind) => {
                    let reading = super::typed::read_shaped::<kinds::$type>(kind.shape, body);
                    Some(reading.map(|spec| {
                        let object = Object { api_version, meta, spec };
                        AnyObject::$variant(Arc::new(object))
                    }))
                })*
                _ => None,
            }
        }
    };
}

kinds! {
    gateway_classes: GatewayClass = GatewayClass, "GatewayClass", "gateway.networking.k8s.io", &["v1", "v1beta1"], false, Spec;
    gateways: Gateway = Gateway, "Gateway", "gateway.networking.k8s.io", &["v1", "v1beta1"], true, Spec;
    listener_sets: ListenerSet = ListenerSet, "ListenerSet", "gateway.networking.k8s.io", &["v1"], true, Spec;
    x_listener_sets: XListenerSet = ListenerSet, "XListenerSet", "gateway.networking.x-k8s.io", &["v1alpha1"], true, Spec;
    http_routes: HttpRoute = HttpRoute, "HTTPRoute", "gateway.networking.k8s.io", &["v1", "v1beta1"], true, Spec;
    grpc_routes: GrpcRoute = GrpcRoute, "GRPCRoute", "gateway.networking.k8s.io", &["v1", "v1alpha2"], true, Spec;
    tls_routes: TlsRoute = TlsRoute, "TLSRoute", "gateway.networking.k8s.io", &["v1", "v1alpha3", "v1alpha2"], true, Spec;
    tcp_routes: TcpRoute = TcpRoute, "TCPRoute", "gateway.networking.k8s.io", &["v1", "v1alpha2"], true, Spec;
    backend_tls_policies: BackendTlsPolicy = BackendTlsPolicy, "BackendTLSPolicy", "gateway.networking.k8s.io", &["v1", "v1alpha3"], true, Spec;
    reference_grants: ReferenceGrant = ReferenceGrant, "ReferenceGrant", "gateway.networking.k8s.io", &["v1", "v1beta1", "v1alpha2"], true, Spec;
    namespaces: Namespace = Namespace, "Namespace", "", &["v1"], false, Root;
    services: Service = Service, "Service", "", &["v1"], true, Spec;
    secrets: Secret = Secret, "Secret", "", &["v1"], true, Root;
    config_maps: ConfigMap = ConfigMap, "ConfigMap", "", &["v1"], true, Root;
    endpoint_slices: EndpointSlice = EndpointSlice, "EndpointSlice", "discovery.k8s.io", &["v1"], true, Root;
    endpoints: Endpoints = Endpoints, "Endpoints", "", &["v1"], true, Root;
    service_exports: ServiceExport = ServiceExport, "ServiceExport", "multicluster.x-k8s.io", &["v1alpha1", "v1beta1"], true, OptionalSpec;
    service_imports: ServiceImport = ServiceImport, "ServiceImport", "multicluster.x-k8s.io", &["v1alpha1", "v1beta1"], true, OptionalSpec;
    gray_releases: GrayRelease = GrayRelease, "GrayRelease", "tombolo.dev", &["v1alpha1"], true, Spec;
    workloads: Workload = Workload, "Workload", "tombolo.dev", &["v1alpha1"], true, Spec;
    authorization_policies: AuthorizationPolicy = AuthorizationPolicy, "AuthorizationPolicy", "tombolo.dev", &["v1alpha1"], true, Spec;
    traffic_policies: TrafficPolicy = TrafficPolicy, "TrafficPolicy", "tombolo.dev", &["v1alpha1"], true, Spec;
    acme_issuers: AcmeIssuer = AcmeIssuer, "AcmeIssuer", "tombolo.dev", &["v1alpha1"], true, Spec;
    peers: Peer = Peer, "Peer", "tombolo.dev", &["v1alpha1"], false, Spec;
}

/// One valid document: the object, and the JSON it was read from.
#[derive(Debug, Clone)]
pub struct Document {
    /// The object.
    pub object: AnyObject,
    key: Arc<str>,
    /// As text: a tree takes fifteen times as much memory, and is rarely asked for.
    json: Box<str>,
}

impl Document {
    pub(super) fn new(object: AnyObject, json: Box<str>) -> Self {
        let meta = object.meta();
        let key = format!("{}/{}/{}/{}", object.group(), object.kind(), meta.namespace, meta.name).into();
        Self { object, key, json }
    }

    /// `GROUP/KIND/NAMESPACE/NAME`: unique, and what it is called in discovery.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// The document as one line of JSON, without status. A Secret's holds its values.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// [`Self::json`] as a tree. Parses: not for where many are asked.
    pub fn tree(&self) -> Value {
        // It was written from a tree.
        serde_json::from_str(&self.json).unwrap_or_default()
    }
}

impl ResourceSet {
    /// Adds or replaces an object.
    pub fn insert(&mut self, document: impl Into<Arc<Document>>) {
        let document = document.into();
        self.index(&document.object);
        self.documents.insert(Arc::clone(&document.key), document);
    }

    /// Removes the object with this [`Document::key`]. False if it is not there.
    pub fn remove(&mut self, key: &str) -> bool {
        let Some(document) = self.documents.remove(key) else { return false };
        self.unindex(&document.object);
        true
    }

    /// The document with this key.
    pub fn get(&self, key: &str) -> Option<&Arc<Document>> {
        self.documents.get(key)
    }

    /// Every document with its key, in the order of their keys.
    pub fn documents(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Document>)> {
        self.documents.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.documents.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }
}

/// Kinds whose objects are in no namespace.
pub fn kinds_without_namespace() -> impl Iterator<Item = &'static str> {
    KINDS.iter().filter(|info| !info.namespaced).map(|info| info.kind)
}
