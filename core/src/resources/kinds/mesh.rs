//! Multi-Cluster Services kinds and our own (`tombolo.dev/v1alpha1`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{BackendRef, ServicePortSpec, TargetPort};

/// ServiceExport (`multicluster.x-k8s.io`): the Service of this name may leave the cluster.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceExport {
    /// Labels of the ServiceImport; of several clusters' the oldest export's.
    #[serde(default)]
    pub exported_labels: BTreeMap<String, String>,
    /// Its annotations, likewise.
    #[serde(default)]
    pub exported_annotations: BTreeMap<String, String>,
}

/// ServiceImport (`multicluster.x-k8s.io`): made by the controller; accepted in files, and ignored.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceImport {
    /// Ports.
    #[serde(default)]
    pub ports: Vec<ServicePortSpec>,
    /// Addresses.
    #[serde(default)]
    pub ips: Vec<String>,
    /// `ClusterSetIP` or `Headless`.
    #[serde(default)]
    pub r#type: Option<String>,
    /// Not used.
    #[serde(default)]
    pub session_affinity: Option<Value>,
    /// Not used.
    #[serde(default)]
    pub session_affinity_config: Option<Value>,
}

/// GrayRelease: several versions behind one route rule or service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrayRelease {
    /// What it applies to.
    pub target_refs: Vec<GrayTargetRef>,
    /// The versions besides `stable`.
    #[serde(default)]
    pub arms: Vec<Arm>,
    /// In order; the first that matches wins, before any percentage.
    #[serde(default)]
    pub rules: Vec<ForcedRule>,
    /// Percentages.
    #[serde(default)]
    pub split: Option<Split>,
    /// When the chosen arm has no healthy endpoint.
    #[serde(default)]
    pub when_unavailable: WhenUnavailable,
    /// Steps and thresholds of an automatic release, carried out by the cluster's controller.
    #[serde(default)]
    pub analysis: Option<Analysis>,
}

/// What a release applies to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrayTargetRef {
    /// Empty for a Service.
    #[serde(default)]
    pub group: String,
    /// `HTTPRoute`, `GRPCRoute` or `Service`.
    pub kind: String,
    /// Its name, in the release's namespace.
    pub name: String,
    /// The name of a rule; all rules where absent.
    #[serde(default)]
    pub section_name: Option<String>,
}

/// One version.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Arm {
    /// A DNS label; not `stable`, which is the rule's own backendRefs.
    pub name: String,
    /// Where its requests go.
    pub backend_refs: Vec<BackendRef>,
    /// The lane that its requests are in from here on.
    #[serde(default)]
    pub lane: Option<String>,
}

/// Forces an arm: all of its conditions.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ForcedRule {
    /// `stable` or an arm's name.
    pub arm: String,
    /// Conditions on headers.
    #[serde(default)]
    pub headers: Vec<TextRule>,
    /// Conditions on cookies.
    #[serde(default)]
    pub cookies: Vec<CookieRule>,
}

/// A condition on a header or a cookie.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TextRule {
    /// Its name.
    pub name: String,
    /// How.
    #[serde(default)]
    pub r#type: TextMatchType,
    /// For all but `In` and `Present`.
    #[serde(default)]
    pub value: Option<String>,
    /// For `In`.
    #[serde(default)]
    pub values: Vec<String>,
}

/// A condition on a cookie.
pub type CookieRule = TextRule;

/// How a text is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TextMatchType {
    /// Equal.
    #[default]
    Exact,
    /// Anywhere in the text.
    RegularExpression,
    /// Begins with.
    Prefix,
    /// Is there.
    Present,
    /// One of `values`.
    In,
}

/// Percentages by a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Split {
    /// What keeps a user on an arm; an issued cookie where absent.
    #[serde(default)]
    pub key: SplitKey,
    /// Percent of each arm, two decimals; `stable` takes the rest.
    #[serde(default)]
    pub weights: BTreeMap<String, f64>,
}

/// The key of a split; exactly one.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SplitKey {
    /// Name of a cookie.
    #[serde(default)]
    pub cookie: Option<String>,
    /// Name of a header.
    #[serde(default)]
    pub header: Option<String>,
    /// The client's address.
    #[serde(default, rename = "sourceIP")]
    pub source_ip: Option<bool>,
}

/// When an arm has no healthy endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WhenUnavailable {
    /// The rule's own backends.
    #[default]
    Stable,
    /// 503.
    Fail,
    /// The same arm in other clusters.
    OtherCluster,
}

/// An automatic release: one arm gets the weights of the steps one after the other, for as long as it fares well.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Analysis {
    /// The arm; it may be left out where there is but one.
    #[serde(default)]
    pub arm: Option<String>,
    /// Percentages one after the other, each greater than the one before.
    #[serde(default)]
    pub steps: Vec<AnalysisStep>,
    /// What must hold to go on.
    #[serde(default)]
    pub thresholds: Vec<Metric>,
    /// Requests of the arm that are judged together at least, of a step and of each ten seconds of it; 50 where it is not
    /// said.
    #[serde(default)]
    pub min_requests: Option<u64>,
    /// Whether to go back to 0 when a threshold is broken, as where it is not said; else the arm stays where it is.
    #[serde(default)]
    pub rollback: Option<bool>,
}

/// One step of an automatic release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AnalysisStep {
    /// Percent of the arm.
    pub weight: f64,
    /// How long at least, e.g. `10m`.
    pub duration: String,
}

/// A threshold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metric {
    /// What of the arm's requests.
    pub metric: MetricName,
    /// Upper bound, for `latency-p99`: milliseconds.
    #[serde(default)]
    pub max: Option<f64>,
    /// Lower bound, for `success-rate`: percent.
    #[serde(default)]
    pub min: Option<f64>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetricName {
    /// Percent of the requests that were not answered with 5xx.
    SuccessRate,
    /// Milliseconds from head to end within which 99 of 100 requests were done.
    #[serde(rename = "latency-p99")]
    LatencyP99,
}

/// Workload: an endpoint outside any registry.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Workload {
    /// IP address.
    pub address: String,
    /// Ports that it listens on.
    pub ports: Vec<WorkloadPortSpec>,
    /// Services of the same namespace that it belongs to, besides those that select its labels.
    #[serde(default)]
    pub services: Vec<String>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Region.
    #[serde(default)]
    pub region: String,
    /// Zone.
    #[serde(default)]
    pub zone: String,
    /// Network.
    #[serde(default)]
    pub network: String,
    /// Share of traffic; 1 where absent.
    #[serde(default)]
    pub weight: Option<u32>,
    /// Its service account, if a sidecar stands before it; plaintext where absent.
    #[serde(default)]
    pub account: Option<String>,
}

/// A port of a Workload.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadPortSpec {
    /// Matched by a Service's `targetPort`.
    #[serde(default)]
    pub name: String,
    /// Number.
    pub port: u16,
}

impl Workload {
    /// The workload's own port that a Service's port leads to.
    pub fn target_port(&self, port: &ServicePortSpec) -> Option<u16> {
        match &port.target_port {
            Some(TargetPort::Name(name)) => self.ports.iter().find(|p| p.name == *name).map(|p| p.port),
            Some(TargetPort::Number(number)) => Some(*number),
            None => Some(port.port),
        }
    }
}

/// AuthorizationPolicy: who may call what.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicy {
    /// Whether a match allows or denies; a denial wins.
    #[serde(default)]
    pub action: AuthorizationAction,
    /// It is not enforced: what it would change is only logged and counted.
    #[serde(default)]
    pub dry_run: bool,
    /// Labels of the workloads it applies to; all of the namespace where absent.
    #[serde(default)]
    pub selector: Selector,
    /// Any of these matches. None: matches nothing.
    #[serde(default)]
    pub rules: Vec<PolicyRule>,
}

/// Labels that a workload must have.
pub type Selector = BTreeMap<String, String>;

/// What a policy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum AuthorizationAction {
    /// Lets through.
    #[default]
    Allow,
    /// Refuses.
    Deny,
}

/// A rule of a policy: `from` and `to` must both match.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyRule {
    /// Everybody where absent.
    #[serde(default)]
    pub from: Option<PolicyFrom>,
    /// Everything where absent.
    #[serde(default)]
    pub to: Option<PolicyTo>,
}

/// Who: each list that is not empty must have a match.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyFrom {
    /// Whole SPIFFE IDs; a `*` at the end matches any rest.
    #[serde(default)]
    pub spiffe_ids: Vec<String>,
    /// Namespaces.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Service accounts.
    #[serde(default)]
    pub accounts: Vec<String>,
    /// Trust domains; the own one where this and `spiffeIds` are empty.
    #[serde(default)]
    pub trust_domains: Vec<String>,
}

/// What: each list that is not empty must have a match. A TCP connection has only ports.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyTo {
    /// Methods.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Paths; a `*` at the end matches any rest.
    #[serde(default)]
    pub paths: Vec<String>,
    /// All of these.
    #[serde(default)]
    pub headers: Vec<TextRule>,
    /// The workload's own ports.
    #[serde(default)]
    pub ports: Vec<u16>,
}

/// Peer: what crosses the link with the cluster of this name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Peer {
    /// The only trust domain whose identities it may advertise.
    pub trust_domain: String,
    /// What it may see, of what has a ServiceExport.
    #[serde(default)]
    pub export: ServicePatterns,
    /// What is taken of what it offers.
    #[serde(default)]
    pub import: ServicePatterns,
    /// Where this cluster stands among others that serve the same: lower is called first. Those without come after all
    /// others, by measured round trip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<u32>,
    /// For how long what it said is good while it is silent.
    #[serde(default)]
    pub lease: PeerLease,
    /// The network that it is on. A link on which it says another one is refused; any where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// How much it may say.
    #[serde(default)]
    pub limits: PeerLimits,
    /// Where its trust bundle is served (SPIFFE Federation), for a peer that no link leads to: SPIRE, another mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle_endpoint: Option<BundleEndpoint>,
}

/// How much is taken from a peer. What is beyond it is refused, and read more slowly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerLimits {
    /// Services, 1 to 100,000; 10,000 where it is not said. A further one is refused.
    #[serde(default)]
    pub services: Option<u32>,
    /// Endpoints over all services, 1 to 1,000,000; 100,000 where it is not said. A service that exceeds it is refused.
    #[serde(default)]
    pub endpoints: Option<u32>,
    /// Messages on its link, 10 to 100,000; 2,000 where it is not said. More are read later.
    #[serde(default)]
    pub messages_per_second: Option<u32>,
    /// Their bytes, 65,536 to 1,000,000,000; 16,777,216 where it is not said. More are read later.
    #[serde(default)]
    pub bytes_per_second: Option<u32>,
}

/// Where a trust bundle is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BundleEndpoint {
    /// An `https` URL.
    pub url: String,
    /// How who answers is verified.
    pub profile: BundleProfile,
    /// With `https_spiffe`: who has to answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<String>,
    /// With `https_web`: the authorities that vouch for the endpoint, in PEM; the machine's where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_certificates: Option<String>,
    /// The bundle to begin with, as a SPIFFE document (a JWK Set). `https_spiffe` needs it: by it the first answer is
    /// verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<String>,
}

/// How who serves a bundle is verified (SPIFFE Federation, section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BundleProfile {
    /// By its host's name and the authorities of the web.
    #[serde(rename = "https_web")]
    Web,
    /// By its SPIFFE ID and the bundle that is held.
    #[serde(rename = "https_spiffe")]
    Spiffe,
}

/// For how long what a peer said is good while it is silent.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerLease {
    /// Then its endpoints are used last, if its gateways fail as well; 30 s where it is not said.
    #[serde(default)]
    pub deprioritize_after: Option<String>,
    /// Then they are dropped; 24 h where it is not said.
    #[serde(default)]
    pub drop_after: Option<String>,
}

/// A choice of services.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePatterns {
    /// Any of these; none where empty.
    #[serde(default)]
    pub services: Vec<ServicePattern>,
}

/// A service, or `*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePattern {
    /// Namespace, or `*`.
    pub namespace: String,
    /// Name, or `*`.
    pub name: String,
}

impl ServicePatterns {
    /// True if one of the patterns covers this service.
    pub fn cover(&self, namespace: &str, name: &str) -> bool {
        let fits = |pattern: &str, text: &str| pattern == "*" || pattern == text;
        self.services.iter().any(|p| fits(&p.namespace, namespace) && fits(&p.name, name))
    }
}
