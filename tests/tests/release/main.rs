//! Operators at work on a cluster of real processes: previews, steps of gray releases, history and what goes with it.
#![allow(clippy::unwrap_used)]
// Of the conformance scenarios' stage, this uses a part.
#![allow(dead_code)]

mod analysis;
mod arms;
#[path = "../conformance/backend.rs"]
mod backend;
#[path = "../conformance/certificates.rs"]
mod certificates;
#[path = "../conformance/client.rs"]
mod client;
mod cookie;
mod generations;
mod ocsp;
mod preview;
mod sessions;
mod stage;

/// An HTTPRoute's release with an arm on another service.
fn release(more: &str) -> String {
    format!(
        "---
apiVersion: tombolo.dev/v1alpha1
kind: GrayRelease
metadata: {{ name: checkout, namespace: shop }}
spec:
  targetRefs: [{{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: checkout }}]
  arms: [{{ name: v2, backendRefs: [{{ name: canary, port: 80 }}] }}]
{more}
"
    )
}
