//! `v1` Endpoints, what EndpointSlices came after: still written by hand for Services without a selector.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{EndpointConditions, EndpointPort, EndpointSlice, SliceEndpoint};

/// Belongs to the Service of the same name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoints {
    /// Addresses with the ports that they all have.
    #[serde(default)]
    pub subsets: Vec<EndpointSubset>,
}

/// Addresses that all have the same ports.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointSubset {
    /// Ready for traffic.
    #[serde(default)]
    pub addresses: Vec<EndpointAddress>,
    /// Not ready for it.
    #[serde(default)]
    pub not_ready_addresses: Vec<EndpointAddress>,
    /// Ports, of each address.
    #[serde(default)]
    pub ports: Vec<EndpointPort>,
}

/// One address.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointAddress {
    /// IPv4 or IPv6.
    pub ip: String,
    /// As in an EndpointSlice.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Ignored.
    #[serde(default)]
    pub node_name: Option<String>,
    /// Ignored.
    #[serde(default)]
    pub target_ref: Option<Value>,
}

impl EndpointSubset {
    /// The same as a slice, as Kubernetes mirrors it.
    pub fn to_slice(&self) -> EndpointSlice {
        let with = |ready: bool| {
            move |address: &EndpointAddress| SliceEndpoint {
                addresses: vec![address.ip.clone()],
                conditions: EndpointConditions { ready: Some(ready), ..Default::default() },
                zone: None,
                hostname: address.hostname.clone(),
                node_name: None,
                target_ref: None,
                hints: None,
                deprecated_topology: None,
            }
        };
        let unready = self.not_ready_addresses.iter().map(with(false));
        EndpointSlice {
            address_type: "IPv4".into(),
            endpoints: self.addresses.iter().map(with(true)).chain(unready).collect(),
            ports: self.ports.clone(),
        }
    }
}
