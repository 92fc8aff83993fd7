//! Whom the controller's server believes, and bundles on the wire.

use std::sync::Arc;

use rustls::ServerConfig;
use tombolo_core::{
    identity::Credentials,
    model::{TrustBundle, TrustBundles, TrustDomain},
    tls::{self, TlsError},
};
use tombolo_proto::v1;

use crate::index::Index;

pub(super) fn server_config(
    credentials: &Arc<Credentials>,
    trust: Arc<TrustBundles>,
) -> Result<Arc<ServerConfig>, TlsError> {
    tls::controller_server(credentials.clone(), trust, &["h2"])
}

pub(super) fn own_trust(bundle: &TrustBundle) -> Arc<TrustBundles> {
    let mut trust = TrustBundles::default();
    trust.insert(bundle.clone());
    Arc::new(trust)
}

pub(super) fn trust_of(index: &Index, own: &TrustBundle) -> Arc<TrustBundles> {
    let mut trust = TrustBundles::default();
    let (ended, live): (Vec<_>, Vec<_>) = index.peers().partition(|(_, peer)| peer.ended.is_some());
    // A later one of the same trust domain takes the place of an earlier one.
    for (_, peer) in ended.into_iter().chain(live) {
        if let Some(bundle) = bundle_model(&peer.identity.bundle) {
            trust.insert(bundle);
        }
    }
    // Last, so that no peer can take its place.
    trust.insert(own.clone());
    Arc::new(trust)
}

/// A bundle for the wire.
pub fn bundle_message(bundle: &TrustBundle) -> v1::TrustBundle {
    v1::TrustBundle {
        trust_domain: bundle.trust_domain.to_string(),
        roots_der: bundle.roots.iter().map(|root| root.to_vec().into()).collect(),
        sequence: bundle.sequence,
        refresh_hint_seconds: 3600,
    }
}

/// A bundle from the wire; none if it is not valid.
pub fn bundle_model(message: &v1::TrustBundle) -> Option<TrustBundle> {
    let domain = TrustDomain::parse(&message.trust_domain).ok()?;
    let roots = message.roots_der.iter().map(|root| Arc::from(root.as_ref())).collect();
    let bundle = TrustBundle::new(domain, roots, message.sequence).ok()?;
    tls::check_bundle(&bundle).ok()?;
    Some(bundle)
}
