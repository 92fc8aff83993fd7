//! The documents: changed, kept, and put in force.

use std::sync::Arc;

use tombolo_core::{
    discovery::COOKIE_KEY,
    resources::{Problem, ResourceSet},
};
use tombolo_proto::v1;

use super::State;
use crate::{
    config::{self, Documents, Proposal},
    index::{Configuration, Event},
    store::{self, History, StoreError},
};

impl State {
    /// Changes the documents by what `propose` makes of them: kept first, then in force. `None` changes nothing. Reading
    /// many documents takes its time, so `propose` runs where it may block. With `despite_disk` a generation is in force
    /// even if it cannot be kept: files can be read again after a restart.
    pub async fn change_documents<E: Send + 'static>(
        &self,
        propose: impl FnOnce(&Documents) -> Result<Option<Proposal>, E> + Send + 'static,
        despite_disk: bool,
    ) -> Result<Result<(), E>, StoreError> {
        let _one_at_a_time = self.changing.lock().await;
        let before = self.documents();
        let proposing = tokio::task::spawn_blocking(move || propose(&before)).await;
        let proposal = match proposing {
            Ok(Ok(Some(proposal))) => proposal,
            Ok(Ok(None)) => return Ok(Ok(())),
            Ok(Err(error)) => return Ok(Err(error)),
            // It panicked, or the process ends.
            Err(_) => return Err(StoreError::Abandoned),
        };
        let (new, old) = (&proposal.generation, self.documents());
        if new.documents != old.generation().documents || new.from_files != old.generation().from_files {
            match self.store.commit(store::generation(new)).await {
                Err(error) if !despite_disk => return Err(error),
                _ => {}
            }
        }
        let mut next = Documents::clone(&old);
        next.adopt(proposal);
        self.documents.store(Arc::new(next));
        self.configured();
        Ok(Ok(()))
    }

    /// The generations that are kept. Reading them blocks.
    pub async fn history(&self) -> Result<History, StoreError> {
        self.store.history().await
    }

    /// Publishes the documents anew, with what ordering adds to them.
    pub async fn reconfigure(&self) {
        let _one_at_a_time = self.changing.lock().await;
        self.configured();
    }

    pub(super) fn configured(&self) {
        let documents = self.documents();
        let generation = documents.generation().number;
        self.telemetry.set("configuration_generation", i64::try_from(generation).unwrap_or(i64::MAX));
        let configuration = self.configuration(generation, documents.resources());
        self.apply(Event::Configured(Arc::new(configuration)));
    }

    /// Shows what is wrong with the watched files as they are now.
    pub fn show_problems(&self, problems: Vec<Problem>) {
        self.telemetry.set("document_problems", i64::try_from(problems.len()).unwrap_or(i64::MAX));
        self.problems.store(Arc::new(problems));
    }

    /// What was shown last.
    pub fn problems(&self) -> Arc<Vec<Problem>> {
        self.problems.load_full()
    }

    /// What proxies get of these documents.
    pub(super) fn configuration(&self, generation: u64, resources: &ResourceSet) -> Configuration {
        let mut resources = resources.clone();
        self.ordered.add(&mut resources);
        let mut configuration =
            config::configuration(generation, &resources, &self.cluster, &self.trust_domain);
        self.ordered.add_answers(&mut configuration.documents);
        let key = v1::EdgeCertificate { key_pem: self.ca.cookie_secret().into(), ..Default::default() };
        configuration.certificates.insert(COOKIE_KEY.to_owned(), key);
        configuration
    }
}
