//! Certificates that a static gateway orders for itself.

use std::sync::Arc;

use tokio::sync::watch;
use tombolo_core::{
    acme::{Challenges, Holdings, KeeperParts, Overlay, start},
    decide::{AcmeCertificate, Compiled},
    resources::ResourceSet,
    telemetry::Telemetry,
};

use crate::options::AcmeOptions;

/// What is wanted goes to the task that orders, what there is comes back among the documents.
pub(crate) struct Ordering {
    wanted: watch::Sender<Arc<[AcmeCertificate]>>,
    holdings: watch::Receiver<Arc<Holdings>>,
    overlay: Overlay,
}

impl Ordering {
    /// Begins with what was kept; nothing is wanted so far. The task ends when this is dropped. Blocks while it reads.
    pub fn start(options: AcmeOptions, challenges: Arc<Challenges>, telemetry: Arc<Telemetry>) -> Self {
        let (wanted, wanting) = watch::channel(Arc::from([]));
        let holdings = start(KeeperParts {
            state_dir: options.state_dir,
            responder: challenges,
            hook: options.dns_hook,
            patience: options.patience,
            telemetry,
            wanted: wanting,
        });
        Self { wanted, holdings, overlay: Overlay::default() }
    }

    /// Tells of changes of what there is.
    pub fn changes(&self) -> watch::Receiver<Arc<Holdings>> {
        self.holdings.clone()
    }

    /// True if there is something that [`Self::overlay`] has not added yet.
    pub fn has_news(&self) -> bool {
        // An error means that the task has ended: nothing new comes.
        self.holdings.has_changed().unwrap_or_default()
    }

    /// Adds what there is to the documents.
    pub fn overlay(&mut self, resources: &mut ResourceSet) {
        let holdings = Arc::clone(&self.holdings.borrow_and_update());
        self.overlay.apply(&holdings, resources);
    }

    /// Says what is wanted from now on.
    pub fn want(&self, config: &Compiled) {
        self.wanted.send_if_modified(|wanted| {
            let changed = **wanted != *config.acme;
            if changed {
                *wanted = config.acme.clone().into();
            }
            changed
        });
    }
}
