//! What the mesh is made of: names, identities, services, endpoints, and the [`Snapshot`] of them all.
//!
//! Nothing in this module does I/O or knows of async.

mod endpoint;
mod name;
mod service;
mod snapshot;
mod sni;
mod spiffe;
mod trust;

pub use endpoint::{Endpoint, EndpointHealth, HOST_LABEL, LANE_LABEL, Labels, Locality, Reach, Transport};
pub use name::{Lane, NameError, check_dns_label, check_dns_subdomain, check_object_name};
pub use service::{
    AppProtocol, Host, HostName, MAX_HOSTS, Scope, ServiceEntry, ServiceKey, ServiceKeyError, ServicePort,
    Summary,
};
pub use snapshot::Snapshot;
pub use sni::{is_opaque_sni, opaque_sni};
pub use spiffe::{SYSTEM_NAMESPACE, SpiffeError, SpiffeId, TrustDomain};
pub use trust::{BundleError, TrustBundle, TrustBundles};
