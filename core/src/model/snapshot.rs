//! The picture from which a proxy decides.

use std::{collections::HashMap, sync::Arc};

use super::{ServiceEntry, ServiceKey, TrustBundles};
use crate::decide::{Compiled, CookieKey};

/// One immutable, numbered picture of configuration, services, endpoints and trust.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Grows with every change in this process.
    pub version: u64,
    /// Routes, listeners, gray releases and policies, compiled from the documents.
    pub config: Arc<Compiled>,
    /// Services with their endpoints.
    pub services: HashMap<ServiceKey, Arc<ServiceEntry>>,
    /// Who vouches for whom.
    pub trust: Arc<TrustBundles>,
    /// What signs the cookies that gray releases issue at the edge; none: they issue none, and believe none.
    pub cookies: Option<CookieKey>,
}
