//! SPIFFE federation: this cluster's bundle served over HTTPS, and those of others asked for where a Peer document says
//! so. A bundle counts for its own trust domain alone, and for none that a link leads to.

mod endpoint;
mod source;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{sync::watch, task::JoinSet, time::interval};
use tombolo_core::{
    decide::{BackendName, BackendTls, BackendTrust},
    model::TrustDomain,
    resources::kinds::{BundleEndpoint, BundleProfile},
    spiffe::{Document, fetch, parse_url},
    tls::{self, backend_client},
};

pub use endpoint::{BundleListener, serve};
pub use source::Pace;
use source::Source;

use crate::{
    index::{Event, Kind, Resource},
    running::stopped,
    state::{State, bundle_message},
    store::{Table, Write},
};

/// How often it is looked at whether an endpoint is due, or the documents have changed.
const LOOK: Duration = Duration::from_millis(250);
/// Endpoints that are asked at a time.
const MAX_ASKED: usize = 16;

/// What is kept of an endpoint: the document, and by which first bundle its trust began.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptBundle {
    begun_with: String,
    document: String,
}

/// What was kept of endpoints, by trust domain, as it was written.
pub type Kept = BTreeMap<String, Vec<u8>>;

type Answer = (TrustDomain, Arc<BundleEndpoint>, Result<Vec<u8>, String>);

/// All endpoints that are asked.
pub struct Sources {
    state: Arc<State>,
    pace: Pace,
    all: BTreeMap<TrustDomain, Source>,
    kept: Kept,
    generation: Option<u64>,
}

impl Sources {
    /// What was kept is in force at once.
    pub fn begin(state: Arc<State>, pace: Pace, kept: Kept) -> Self {
        let mut sources = Self { state, pace, all: BTreeMap::new(), kept, generation: None };
        sources.reconcile(Instant::now());
        sources
    }

    /// Follows documents and endpoints until `stop`.
    pub async fn follow(mut self, mut stop: watch::Receiver<bool>) {
        let (mut ticks, mut asking) = (interval(LOOK), JoinSet::<Answer>::new());
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let now = Instant::now();
                    self.reconcile(now);
                    self.ask(now, &mut asking);
                }
                // A panic there was reported then; the endpoint is not asked again until its document changes.
                Some(Ok((domain, endpoint, answer))) = asking.join_next() => {
                    self.answered(&domain, &endpoint, answer);
                }
                () = stopped(&mut stop) => return,
            }
        }
    }

    /// Endpoints are those that the documents in force name; of two for one trust domain the first by name counts.
    fn reconcile(&mut self, now: Instant) {
        let configuration = self.state.with_index(|index| Arc::clone(index.configuration()));
        if self.generation == Some(configuration.generation) && configuration.generation > 0 {
            return;
        }
        let mut wanted = BTreeMap::new();
        for (peer, policy) in &configuration.peers {
            if let Some(endpoint) = policy.bundle_endpoint.as_ref()
                && policy.trust_domain != self.state.trust_domain
            {
                wanted.entry(policy.trust_domain.clone()).or_insert((peer, endpoint));
            }
        }
        let is_known = |(domain, source): (&TrustDomain, &Source)| {
            wanted
                .get(domain)
                .is_some_and(|(peer, endpoint)| **peer == source.peer && **endpoint == source.endpoint)
        };
        let changed =
            self.generation.is_none() || wanted.len() != self.all.len() || !self.all.iter().all(is_known);
        self.generation = Some(configuration.generation);
        if !changed {
            return;
        }
        let gone: Vec<_> = self.all.keys().filter(|domain| !wanted.contains_key(domain)).cloned().collect();
        for domain in gone {
            self.all.remove(&domain);
            self.keep(&domain, None);
        }
        for (domain, (peer, endpoint)) in wanted {
            let known = self.all.get(&domain).is_some_and(|s| s.peer == *peer && s.endpoint == *endpoint);
            if !known {
                let held = self.kept_document(&domain, endpoint);
                let source = Source::new(peer, domain.clone(), Arc::clone(endpoint), held, now);
                self.all.insert(domain, source);
            }
        }
        self.publish();
    }

    /// What was kept, unless the operator has given another bundle to begin with.
    fn kept_document(&self, domain: &TrustDomain, endpoint: &BundleEndpoint) -> Option<Document> {
        let kept: KeptBundle = serde_json::from_slice(self.kept.get(domain.as_str())?).ok()?;
        let document = Document::parse(kept.document.as_bytes(), domain).ok()?;
        (kept.begun_with == begun_with(endpoint)).then_some(document)
    }

    fn ask(&mut self, now: Instant, asking: &mut JoinSet<Answer>) {
        let bundles = &self.state;
        for source in self.all.values_mut().filter(|source| source.due <= now && !source.is_asked) {
            if asking.len() >= MAX_ASKED {
                return;
            }
            source.is_asked = true;
            let (domain, endpoint) = (source.domain.clone(), Arc::clone(&source.endpoint));
            let client = client(source, bundles);
            asking.spawn(async move {
                let answer = async {
                    let url = parse_url(&endpoint.url)?;
                    let body = fetch(&url, client?).await.map_err(|error| error.to_string())?;
                    Ok(body.to_vec())
                };
                let answer = answer.await;
                (domain, endpoint, answer)
            });
        }
    }

    fn answered(
        &mut self,
        domain: &TrustDomain,
        asked: &Arc<BundleEndpoint>,
        answer: Result<Vec<u8>, String>,
    ) {
        // What was asked by a document that is not in force any more does not count.
        let Some(source) = self.all.get_mut(domain).filter(|source| source.endpoint == *asked) else {
            return;
        };
        let answer = answer.as_deref().map_err(String::clone);
        if source.answered(answer, Instant::now(), self.pace) {
            let kept = source
                .held
                .as_ref()
                .map(|held| KeptBundle { begun_with: begun_with(&source.endpoint), document: held.print() });
            tracing::info!(trust_domain = %domain, url = source.endpoint.url, "another trust bundle is in force");
            self.keep(&domain.clone(), kept);
            self.publish();
        }
        self.show();
    }

    fn keep(&mut self, domain: &TrustDomain, kept: Option<KeptBundle>) {
        let key = domain.to_string();
        let value = kept.and_then(|kept| serde_json::to_vec(&kept).ok());
        match &value {
            Some(value) => drop(self.kept.insert(key.clone(), value.clone())),
            None => drop(self.kept.remove(&key)),
        }
        self.state.save(Write { table: Table::Bundles, key, value });
    }

    fn publish(&self) {
        let held = self.all.values().filter_map(|source| source.held.as_ref());
        let bundles = held.map(|document| bundle_message(&document.bundle)).collect();
        self.state.apply(Event::ForeignBundles(bundles));
        self.show();
    }

    fn show(&self) {
        self.state.show_foreign(self.all.values().map(shown).collect());
    }
}

fn begun_with(endpoint: &BundleEndpoint) -> String {
    STANDARD.encode(tls::fingerprint(endpoint.bundle.as_deref().unwrap_or_default().as_bytes()))
}

/// Who has to answer, by the endpoint's profile.
fn client(source: &Source, state: &State) -> Result<Arc<ClientConfig>, String> {
    let endpoint = &source.endpoint;
    let (trust, names) = match (endpoint.profile, &endpoint.spiffe_id) {
        (BundleProfile::Web, _) => match &endpoint.ca_certificates {
            None => (BackendTrust::System, Vec::new()),
            Some(pem) => {
                let roots = CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok);
                (BackendTrust::Roots(roots.map(|root| Arc::from(root.as_ref())).collect()), Vec::new())
            }
        },
        (BundleProfile::Spiffe, Some(id)) => (
            BackendTrust::Roots(roots_of(id, source, state)?.into()),
            vec![BackendName::Uri(id.as_str().into())],
        ),
        (BundleProfile::Spiffe, None) => return Err("https_spiffe needs the endpoint's SPIFFE ID".into()),
    };
    let policy = BackendTls { trust, hostname: "".into(), names: names.into() };
    backend_client(&policy, None, &["http/1.1"]).map(Arc::new).map_err(|error| error.to_string())
}

/// The roots by which an endpoint's own SVID is verified: those of the trust domain in its ID, and no others.
fn roots_of(id: &str, source: &Source, state: &State) -> Result<Vec<Arc<[u8]>>, String> {
    let domain = id.strip_prefix("spiffe://").and_then(|rest| rest.split('/').next()).unwrap_or_default();
    if domain == source.domain.as_str()
        && let Some(held) = &source.held
    {
        return Ok(held.bundle.roots.clone());
    }
    let known = state.with_index(|index| {
        let found = index.published(Kind::TrustBundle).find(|(name, _)| *name == domain);
        match found {
            Some((_, Resource::TrustBundle(bundle))) => {
                Some(bundle.roots_der.iter().map(|root| Arc::from(root.as_ref())).collect())
            }
            _ => None,
        }
    });
    known.ok_or_else(|| format!("no bundle of {domain}, whom the endpoint is of, is held"))
}

/// As in the status.
fn shown(source: &Source) -> Value {
    let roots = source.held.iter().flat_map(|held| &held.bundle.roots);
    let fetched = source.fetched.and_then(|at| OffsetDateTime::from(at).format(&Rfc3339).ok());
    json!({
        "trustDomain": source.domain.as_str(),
        "peer": source.peer,
        "url": source.endpoint.url,
        "profile": source.endpoint.profile,
        "state": match (&source.held, &source.error) {
            (None, _) => "missing",
            (Some(_), Some(_)) => "failing",
            (Some(_), None) => "held",
        },
        "sequence": source.held.as_ref().filter(|held| held.has_sequence).map(|held| held.bundle.sequence),
        "roots": roots.count(),
        "fetched": fetched,
        "error": source.error,
    })
}
