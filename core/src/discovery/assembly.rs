//! What was discovered, object by object, and the snapshot of it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use prost::Message;
use tombolo_proto::{
    v1,
    xds::{DeltaDiscoveryResponse, Resource},
};

use super::{
    convert::{self, EndpointTable, ResourceError, ServiceParts},
    type_url,
};
use crate::{
    decide::{Compiled, CookieKey},
    model::{ServiceEntry, ServiceKey, Snapshot, TrustBundles},
    resources::{self, Document, ResourceSet},
    tls::edge::{OCSP_ANNOTATION, OCSP_KEY},
};

/// Resources of one type; one more is refused.
const MAX_RESOURCES: usize = 200_000;

/// The name under which the cluster's [`CookieKey`] travels among the edge certificates, as it is for gateways alone too:
/// the secret that it is derived from is the `key_pem`, there is no certificate.
pub const COOKIE_KEY: &str = "tombolo-system/cookie-key";

/// A resource that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// What came of a response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// What is not taken; what it held before stays.
    pub refused: Vec<Refused>,
    /// Whether the snapshot changes by it.
    pub changed: bool,
}

/// What is held of one type, as it came.
pub type Held = (&'static str, Vec<Arc<Resource>>);

/// Makes decisions' data of documents: `decide::compile`.
pub type Compile = fn(&ResourceSet) -> Compiled;

/// Pure state: apply responses, then take the snapshot. What is valid is kept as it came, for the cache.
#[derive(Debug)]
pub struct Assembly {
    compile: Compile,
    raw: HashMap<&'static str, BTreeMap<String, Arc<Resource>>>,
    documents: ResourceSet,
    services: BTreeMap<ServiceKey, ServiceParts>,
    endpoints: BTreeMap<ServiceKey, EndpointTable>,
    trust: TrustBundles,
    compiled: Option<Arc<Compiled>>,
    shared_trust: Option<Arc<TrustBundles>>,
    entries: HashMap<ServiceKey, Arc<ServiceEntry>>,
    cookies: Option<CookieKey>,
    version: u64,
}

impl Assembly {
    /// Nothing is known yet.
    pub fn new(compile: Compile) -> Self {
        Self {
            compile,
            raw: HashMap::new(),
            documents: ResourceSet::default(),
            services: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            trust: TrustBundles::default(),
            compiled: None,
            shared_trust: None,
            entries: HashMap::new(),
            cookies: None,
            version: 0,
        }
    }

    /// Takes over what a response names, and nothing else.
    pub fn apply(&mut self, response: &DeltaDiscoveryResponse) -> Applied {
        let mut applied = Applied::default();
        let Some(type_url) = type_url::ALL.into_iter().find(|url| *url == response.type_url) else {
            let reason = format!("type {:?} is not known", response.type_url);
            applied.refused.push(Refused { name: String::new(), reason });
            return applied;
        };
        for resource in &response.resources {
            match self.set(type_url, resource) {
                Ok(changed) => applied.changed |= changed,
                Err(error) => {
                    applied.refused.push(Refused { name: resource.name.clone(), reason: error.to_string() });
                }
            }
        }
        for name in &response.removed_resources {
            applied.changed |= self.remove(type_url, name);
        }
        applied
    }

    fn set(&mut self, type_url: &'static str, resource: &Resource) -> Result<bool, ResourceError> {
        let held = self.raw.entry(type_url).or_default();
        if held.get(&resource.name).is_some_and(|held| held.resource == resource.resource) {
            held.insert(resource.name.clone(), Arc::new(resource.clone()));
            return Ok(false);
        }
        if held.len() >= MAX_RESOURCES && !held.contains_key(&resource.name) {
            return Err(ResourceError(format!("more than {MAX_RESOURCES} of this type")));
        }
        let any = resource.resource.as_ref().ok_or_else(|| ResourceError("it is empty".into()))?;
        if any.type_url != type_url {
            return Err(ResourceError(format!("it holds a {:?}", any.type_url)));
        }
        self.take(type_url, &resource.name, &any.value)?;
        self.raw.entry(type_url).or_default().insert(resource.name.clone(), Arc::new(resource.clone()));
        Ok(true)
    }

    fn take(&mut self, type_url: &'static str, name: &str, bytes: &[u8]) -> Result<(), ResourceError> {
        let broken = |e: prost::DecodeError| ResourceError(format!("it does not parse: {e}"));
        match type_url {
            type_url::CONFIG_DOCUMENT => {
                let message = v1::ConfigDocument::decode(bytes).map_err(broken)?;
                self.set_document(document(name, &message.json)?);
            }
            // Stays when it is withdrawn: no gateway is better off without one.
            type_url::EDGE_CERTIFICATE if name == COOKIE_KEY => {
                let message = v1::EdgeCertificate::decode(bytes).map_err(broken)?;
                self.cookies = Some(CookieKey::derive(&message.key_pem));
            }
            type_url::EDGE_CERTIFICATE => {
                let message = v1::EdgeCertificate::decode(bytes).map_err(broken)?;
                self.set_document(secret(name, &message)?);
            }
            type_url::SERVICE => {
                let parts = convert::service(name, &v1::Service::decode(bytes).map_err(broken)?)?;
                self.entries.remove(&parts.key);
                self.services.insert(parts.key.clone(), parts);
            }
            type_url::ENDPOINT_SET => {
                let (key, table) =
                    convert::endpoint_set(name, &v1::EndpointSet::decode(bytes).map_err(broken)?)?;
                self.entries.remove(&key);
                self.endpoints.insert(key, table);
            }
            _ => {
                let bundle = convert::trust_bundle(name, &v1::TrustBundle::decode(bytes).map_err(broken)?)?;
                let older =
                    self.trust.get(&bundle.trust_domain).is_some_and(|held| held.sequence > bundle.sequence);
                if older {
                    return Err(ResourceError("its sequence is older than what is held".into()));
                }
                self.trust.insert(bundle);
                self.shared_trust = None;
            }
        }
        Ok(())
    }

    fn set_document(&mut self, document: Document) {
        self.documents.insert(document);
        self.compiled = None;
    }

    fn remove(&mut self, type_url: &'static str, name: &str) -> bool {
        let held = self.raw.get_mut(type_url).and_then(|held| held.remove(name)).is_some();
        match type_url {
            type_url::CONFIG_DOCUMENT | type_url::EDGE_CERTIFICATE => {
                let key =
                    if type_url == type_url::CONFIG_DOCUMENT { name.to_owned() } else { secret_key(name) };
                if self.documents.remove(&key) {
                    self.compiled = None;
                }
            }
            type_url::TRUST_BUNDLE => {
                if let Ok(domain) = crate::model::TrustDomain::parse(name) {
                    self.trust.remove(&domain);
                    self.shared_trust = None;
                }
            }
            _ => {
                let Ok(key) = ServiceKey::parse(name) else { return held };
                self.entries.remove(&key);
                if type_url == type_url::SERVICE {
                    self.services.remove(&key);
                } else {
                    // Known to have none, which is not the same as not known.
                    return self.endpoints.insert(key, EndpointTable::default())
                        != Some(EndpointTable::default());
                }
            }
        }
        held
    }

    /// Versions of what is held: what a reconnected stream begins with.
    pub fn versions(&self, type_url: &str) -> HashMap<String, String> {
        let held = self.raw.get(type_url).into_iter().flatten();
        held.map(|(name, resource)| (name.clone(), resource.version.clone())).collect()
    }

    /// Everything valid as it came, by type.
    pub fn held(&self) -> Vec<Held> {
        self.raw.iter().map(|(url, held)| (*url, held.values().cloned().collect())).collect()
    }

    /// The documents, Secrets made of edge certificates among them.
    pub fn documents(&self) -> &ResourceSet {
        &self.documents
    }

    /// The picture of all of it. Only what has changed is made anew.
    pub fn snapshot(&mut self) -> Snapshot {
        self.version += 1;
        let config = self.compiled.get_or_insert_with(|| Arc::new((self.compile)(&self.documents))).clone();
        let trust = self.shared_trust.get_or_insert_with(|| Arc::new(self.trust.clone())).clone();
        for (key, parts) in &self.services {
            self.entries
                .entry(key.clone())
                .or_insert_with(|| Arc::new(entry(parts, self.endpoints.get(key))));
        }
        self.entries.retain(|key, _| self.services.contains_key(key));
        Snapshot {
            version: self.version,
            config,
            services: self.entries.clone(),
            trust,
            cookies: self.cookies.clone(),
        }
    }
}

/// Ports without endpoints are known empty once anything is known of the service's endpoints.
fn entry(parts: &ServiceParts, endpoints: Option<&EndpointTable>) -> ServiceEntry {
    let EndpointTable { endpoints: mut table, summaries } = endpoints.cloned().unwrap_or_default();
    if endpoints.is_some() {
        for port in &parts.ports {
            table.entry(port.port).or_insert_with(|| Arc::from([].as_slice()));
        }
    }
    ServiceEntry {
        key: parts.key.clone(),
        ports: parts.ports.clone(),
        vip_index: parts.vip_index,
        hosts: parts.hosts.clone(),
        endpoints: table,
        summaries,
    }
}

fn document(name: &str, json: &str) -> Result<Document, ResourceError> {
    let document = resources::parse_json(name, json).map_err(|problems| {
        let texts: Vec<String> = problems.iter().take(8).map(ToString::to_string).collect();
        ResourceError(texts.join("\n"))
    })?;
    if **document.key() != *name {
        return Err(ResourceError(format!("it is named {name} but holds {}", document.key())));
    }
    Ok(document)
}

fn secret_key(name: &str) -> String {
    format!("/Secret/{name}")
}

/// An edge certificate as the Secret that a listener names. Errors never hold the key.
fn secret(name: &str, message: &v1::EdgeCertificate) -> Result<Document, ResourceError> {
    let text =
        |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| ResourceError("it is not PEM".into()));
    let mut json = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "namespace": message.namespace, "name": message.name },
        "type": "kubernetes.io/tls",
        "stringData": { "tls.crt": text(&message.certificate_pem)?, "tls.key": text(&message.key_pem)? },
    });
    if !message.ocsp_response.is_empty() {
        json["data"] = serde_json::json!({ OCSP_KEY: STANDARD.encode(&message.ocsp_response) });
    }
    if message.ocsp_fetch {
        json["metadata"]["annotations"] = serde_json::json!({ OCSP_ANNOTATION: "fetch" });
    }
    document(&secret_key(name), &json.to_string())
}
