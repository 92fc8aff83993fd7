//! Certificates that the controller orders for its gateways (ACME).
//!
//! There is one controller in a cluster, so that exactly one orders. Gateways are told the answers to challenges as a
//! ConfigMap of this name, and all get the certificate as they get Secrets of documents.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::watch;
use tombolo_core::{
    acme::{
        Answer, CHALLENGES, Holdings, KeeperParts, Overlay, Patience, Responder, answers_document, start,
    },
    decide::{AcmeCertificate, acme_certificates, acme_status},
    resources::{ObjectStatus, ResourceSet},
};
use tombolo_proto::v1;

use crate::{
    discovery::{Acknowledged, DeltaServer},
    state::State,
};

/// The authority is asked to look once every gateway has acknowledged the answer, or after this long: it may come in at one
/// that knows it.
const ACKNOWLEDGED: Duration = Duration::from_secs(10);

/// What ordering adds to the configuration.
#[derive(Debug)]
pub struct Ordered {
    wanted: watch::Sender<Arc<[AcmeCertificate]>>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    overlay: Overlay,
    holdings: Arc<Holdings>,
    answers: Vec<Answer>,
}

impl Default for Ordered {
    fn default() -> Self {
        Self { wanted: watch::Sender::new(Arc::from([])), inner: Mutex::default() }
    }
}

impl Ordered {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what there is. True if gateways have to be told: certificates have changed.
    fn take(&self, holdings: Arc<Holdings>) -> bool {
        let mut inner = self.inner();
        let changed = inner.holdings.issued != holdings.issued;
        inner.holdings = holdings;
        changed
    }

    /// Adds what was issued to the documents, and says what they want.
    pub fn add(&self, resources: &mut ResourceSet) {
        let inner = &mut *self.inner();
        inner.overlay.apply(&inner.holdings, resources);
        let certificates = acme_certificates(resources);
        self.wanted.send_if_modified(|wanted| {
            let changed = **wanted != *certificates;
            if changed {
                *wanted = certificates.into();
            }
            changed
        });
    }

    /// How the AcmeIssuers of these documents are.
    pub fn status(&self, mut resources: ResourceSet) -> Vec<ObjectStatus> {
        let inner = &mut *self.inner();
        inner.overlay.apply(&inner.holdings, &mut resources);
        acme_status(&resources)
    }

    /// Adds the answers to challenges, where there are any.
    pub fn add_answers(&self, documents: &mut BTreeMap<String, v1::ConfigDocument>) {
        if let Some(json) = answers_document(&self.inner().answers) {
            documents.insert(CHALLENGES.into(), v1::ConfigDocument { json });
        }
    }
}

/// Tells all gateways.
struct Gateways {
    state: Weak<State>,
    discovery: DeltaServer,
}

impl Gateways {
    async fn change(&self, change: impl FnOnce(&mut Vec<Answer>)) -> Result<(), String> {
        let state = self.state.upgrade().ok_or("the controller ends")?;
        change(&mut state.ordered.inner().answers);
        state.reconfigure().await;
        Ok(())
    }
}

#[async_trait]
impl Responder for Gateways {
    async fn give(&self, answer: &Answer) -> Result<(), String> {
        self.change(|answers| answers.push(answer.clone())).await?;
        let Acknowledged { proxies, waiting, .. } =
            self.discovery.acknowledged_by_gateways(ACKNOWLEDGED).await;
        if proxies == 0 {
            return Err("no gateway is connected that could answer the challenge".into());
        }
        if !waiting.is_empty() {
            tracing::warn!(
                ?waiting,
                "gateways that do not know the answer to a challenge yet; the authority looks all the same"
            );
        }
        Ok(())
    }

    async fn withdraw(&self, answer: &Answer) {
        // It fails only where the controller ends, and then nobody is told any more.
        let _ended = self.change(|answers| answers.retain(|other| other != answer)).await;
    }
}

/// Puts in force what was kept; from then on certificates are ordered, until `stop`.
pub async fn begin(
    state: &Arc<State>,
    discovery: DeltaServer,
    state_dir: PathBuf,
    hook: Option<PathBuf>,
    patience: Patience,
    mut stop: watch::Receiver<bool>,
) {
    let parts = KeeperParts {
        state_dir,
        responder: Arc::new(Gateways { state: Arc::downgrade(state), discovery }),
        hook,
        patience,
        telemetry: Arc::clone(&state.telemetry),
        wanted: state.ordered.wanted.subscribe(),
    };
    let mut holdings = start(parts);
    let kept = Arc::clone(&holdings.borrow_and_update());
    if state.ordered.take(kept) {
        state.reconfigure().await;
    }
    let state = Arc::downgrade(state);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                changed = holdings.changed() => if changed.is_err() { return },
                () = crate::running::stopped(&mut stop) => return,
            }
            let Some(state) = state.upgrade() else { return };
            let next = Arc::clone(&holdings.borrow_and_update());
            if state.ordered.take(next) {
                state.reconfigure().await;
            }
        }
    });
}
