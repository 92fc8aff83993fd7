//! The last good state goes to the disk from a task of its own: a slow or full disk does not hold up discovery.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{sync::watch, task::spawn_blocking, time::timeout};

use super::{assembly::Held, cache::Cache, client::DiscoveryStats};

/// Changes are saved so long after the first that is not saved yet.
const SAVE_DELAY: Duration = Duration::from_millis(500);

/// What waits to be saved: only the newest.
#[derive(Default)]
pub(super) struct Unsaved {
    state: Arc<Mutex<Option<Vec<Held>>>>,
    there: watch::Sender<()>,
}

impl Unsaved {
    pub(super) fn put(&self, state: Vec<Held>) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
        self.there.send_replace(());
    }

    /// Saves what is put. When this is dropped, what is left is saved at once, and the future ends.
    pub(super) fn save_to(
        &self,
        cache: Cache,
        stats: Arc<DiscoveryStats>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (state, there) = (Arc::clone(&self.state), self.there.subscribe());
        save_changes(cache, state, there, stats)
    }
}

async fn save_changes(
    cache: Cache,
    unsaved: Arc<Mutex<Option<Vec<Held>>>>,
    mut there: watch::Receiver<()>,
    stats: Arc<DiscoveryStats>,
) {
    // A change that was not seen is told before the end is.
    while there.changed().await.is_ok() {
        let ended = async { while there.changed().await.is_ok() {} };
        let _ended_meanwhile = timeout(SAVE_DELAY, ended).await;
        let Some(state) = unsaved.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            continue;
        };
        let cache = cache.clone();
        let error = match spawn_blocking(move || cache.save(&state)).await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        stats.saves_failed.fetch_add(1, Relaxed);
        tracing::error!(
            error,
            "the snapshot is not saved: a restart without a controller would use an older one"
        );
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::pin::pin;

    use super::*;
    use crate::discovery::type_url;

    fn state(name: &str) -> Vec<Held> {
        let resource = tombolo_proto::xds::Resource { name: name.into(), ..Default::default() };
        vec![(type_url::CONFIG_DOCUMENT, vec![Arc::new(resource)])]
    }

    fn saved(cache: &Cache) -> Option<String> {
        Some(cache.load().unwrap()?[0].resources[0].name.clone())
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_last_is_saved_before_the_end_and_without_delay() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path());
        let unsaved = Unsaved::default();
        let mut saving = pin!(unsaved.save_to(cache.clone(), Arc::default()));
        unsaved.put(state("first"));
        // It waits for more.
        assert!(timeout(SAVE_DELAY / 2, &mut saving).await.is_err());
        assert_eq!(saved(&cache), None);
        unsaved.put(state("last"));
        drop(unsaved);
        let end = tokio::time::Instant::now();
        saving.await;
        assert_eq!(saved(&cache).as_deref(), Some("last"));
        assert_eq!(end.elapsed(), Duration::ZERO);
    }
}
