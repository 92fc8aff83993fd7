//! Services of the cluster set as operators see them: ServiceExports with their conditions, and ServiceImports.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::{
    index::{Import, Index, Name},
    state::State,
};

/// Captured connections find services from here on, unless a sidecar was told another range.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(240, 240, 0, 0);

/// ServiceExports with the conditions of Multi-Cluster Services; other documents as they are.
pub(super) fn with_conditions(state: &State, documents: Vec<String>) -> Vec<String> {
    let shown = |document: String| {
        if !document.contains("\"ServiceExport\"") {
            return document;
        }
        match serde_json::from_str::<Value>(&document) {
            Ok(mut tree) if tree["kind"] == "ServiceExport" => {
                let part = |part: &str| tree["metadata"][part].as_str().unwrap_or_default().to_owned();
                let name = Name::new(&part("namespace"), &part("name"));
                tree["status"] = json!({ "conditions": state.with_index(|index| conditions(index, &name)) });
                tree.to_string()
            }
            _ => document,
        }
    };
    documents.into_iter().map(shown).collect()
}

fn condition(kind: &str, is: bool, reason: &str, message: String) -> Value {
    let status = if is { "True" } else { "False" };
    json!({ "type": kind, "status": status, "reason": reason, "message": message })
}

fn conditions(index: &Index, name: &Name) -> Vec<Value> {
    let exists = index.configuration().services.contains_key(name);
    let valid = match exists {
        true => condition("Valid", true, "Valid", String::new()),
        false => condition("Valid", false, "NoService", format!("there is no Service {name}")),
    };
    let told: Vec<&str> = index.told_to(name).map(|cluster| &**cluster).collect();
    let ready = match told.as_slice() {
        [] => condition("Ready", false, "Pending", "no peer is told of it: see `export` of the Peers".into()),
        told => condition("Ready", true, "Exported", format!("exported to {}", told.join(", "))),
    };
    vec![valid, ready, conflict(index, name)]
}

fn conflict(index: &Index, name: &Name) -> Value {
    let conflicts = index.conflicts_of(name);
    match conflicts.first() {
        None => condition("Conflict", false, "NoConflicts", String::new()),
        Some(first) => {
            let all: Vec<String> = conflicts
                .iter()
                .take(8)
                .map(|found| format!("{}: {}", found.cluster, found.reason))
                .collect();
            condition("Conflict", true, first.kind, format!("the oldest export counts; {}", all.join("; ")))
        }
    }
}

/// ServiceImports: what this cluster has of the cluster set.
pub(super) fn imports(state: &State, namespace: &str, name: &str) -> Vec<String> {
    let fits = |known: &Name| {
        (namespace.is_empty() || *known.namespace == *namespace) && (name.is_empty() || *known.name == *name)
    };
    state.with_index(|index| {
        let names: Vec<Name> = index.import_names().filter(fits).collect();
        let imports = names.iter().filter_map(|name| Some((index.import(name)?, conflict(index, name))));
        imports.map(|(import, conflict)| shown(&import, conflict).to_string()).collect()
    })
}

fn shown(import: &Import, conflict: Value) -> Value {
    let port = |(name, port, app_protocol): &(String, u32, String)| {
        let mut shown = json!({ "port": port, "protocol": "TCP" });
        for (field, text) in [("name", name), ("appProtocol", app_protocol)] {
            if !text.is_empty() {
                shown[field] = text.as_str().into();
            }
        }
        shown
    };
    let address = Ipv4Addr::from_bits(FIRST_ADDRESS.to_bits().saturating_add(import.vip_index));
    let ips: Vec<String> = (import.vip_index > 0).then(|| address.to_string()).into_iter().collect();
    let clusters: Vec<Value> = import.clusters.iter().map(|cluster| json!({ "cluster": cluster })).collect();
    json!({
        "apiVersion": "multicluster.x-k8s.io/v1alpha1",
        "kind": "ServiceImport",
        "metadata": {
            "namespace": &*import.name.namespace,
            "name": &*import.name.name,
            "labels": import.labels,
            "annotations": import.annotations,
        },
        "spec": {
            "type": if import.headless { "Headless" } else { "ClusterSetIP" },
            "ports": import.ports.iter().map(port).collect::<Vec<_>>(),
            "ips": ips,
            "sessionAffinity": "None",
        },
        "status": { "clusters": clusters, "conditions": [conflict] },
    })
}
