//! What a source of configuration has made, and what has become of it.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use tombolo_core::{decide::BindKey, model::Snapshot, resources::Problem};

use crate::certificates::Certificates;

/// A state of the configuration, whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// Everything that decisions are made from.
    pub snapshot: Arc<Snapshot>,
    /// Certificates of HTTPS listeners.
    pub certificates: Arc<Certificates>,
    /// What is wrong with the documents.
    pub problems: Vec<Problem>,
    /// What is wrong with the certificates.
    pub certificate_problems: Vec<String>,
    /// Objects in force as they were before a problem.
    pub kept: Vec<Arc<str>>,
}

/// What the gateway serves by now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Served {
    /// What it was made from.
    pub state: Arc<State>,
    /// Open listeners.
    pub listeners: BTreeMap<BindKey, SocketAddr>,
    /// Listeners that are not open, and why.
    pub problems: Vec<String>,
}
