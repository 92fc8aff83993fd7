//! Certificates that were issued, among the documents: as Secrets, and in the status of AcmeIssuers.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::json;

use super::{Holdings, Issued};
use crate::{
    decide::ACME_ISSUER,
    resources::{ApiVersion, Object, ObjectKey, ObjectMeta, ResourceSet, kinds::Secret},
};

/// Makes Secrets of what was issued, each once, so that an unchanged certificate is the same object again.
#[derive(Debug, Default)]
pub struct Overlay(BTreeMap<String, (Arc<Issued>, Arc<Object<Secret>>)>);

impl Overlay {
    /// Adds Secrets where documents have none, and what is known of each certificate to its AcmeIssuer.
    pub fn apply(&mut self, holdings: &Holdings, resources: &mut ResourceSet) {
        self.0.retain(|secret, _| holdings.issued.contains_key(secret));
        for (name, issued) in &holdings.issued {
            let Some(key) = key(name) else { continue };
            let made = match self.0.get(name) {
                Some((before, made)) if Arc::ptr_eq(before, issued) => Arc::clone(made),
                _ => Arc::new(secret(&key, issued)),
            };
            self.0.insert(name.clone(), (Arc::clone(issued), Arc::clone(&made)));
            resources.secrets.entry(key).or_insert(made);
        }
        for (issuer, progress) in &holdings.progress {
            let Some(object) = key(issuer).and_then(|key| resources.acme_issuers.get_mut(&key)) else {
                continue;
            };
            let mut told = Object::clone(object);
            let mut status = told.meta.status.as_deref().cloned().unwrap_or_else(|| json!({}));
            if let Some(status) = status.as_object_mut() {
                status.insert("certificates".into(), json!(progress));
            }
            told.meta.status = Some(Arc::new(status));
            *object = Arc::new(told);
        }
    }
}

fn key(name: &str) -> Option<ObjectKey> {
    let (namespace, name) = name.split_once('/')?;
    Some(ObjectKey::new(namespace, name))
}

/// A Secret of type `kubernetes.io/tls` as the issuer's own.
fn secret(key: &ObjectKey, issued: &Issued) -> Object<Secret> {
    let issuer = issued.issuer.rsplit('/').next().unwrap_or_default();
    let meta = ObjectMeta {
        name: key.name.clone(),
        namespace: key.namespace.clone(),
        annotations: BTreeMap::from([(ACME_ISSUER.to_owned(), issuer.to_owned())]),
        generation: 1,
        ..ObjectMeta::default()
    };
    let string_data = BTreeMap::from([
        ("tls.crt".to_owned(), issued.certificate.clone()),
        ("tls.key".to_owned(), issued.key.clone()),
    ]);
    let spec = Secret { r#type: "kubernetes.io/tls".into(), string_data, ..Secret::default() };
    Object { api_version: ApiVersion { group: "", version: "v1" }, meta, spec }
}
