//! Many requests at once, from a few clients with kept connections.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use super::version_of;
use crate::quickstart::client::Client;

const WORKERS: usize = 8;
/// The end of any load, however long a step takes.
const MAX_REQUESTS: usize = 50_000;

/// Which of users 0 to `count` reach checkout v2 by the split.
pub async fn users_on_v2(client: &Client, count: usize) -> Result<BTreeSet<usize>, String> {
    let users: Vec<usize> = (0..count).collect();
    on_v2(client, &users).await
}

/// True if one of these users reaches checkout v2.
pub async fn any_on_v2(client: &Client, users: &[usize]) -> Result<bool, String> {
    Ok(!on_v2(client, users).await?.is_empty())
}

async fn on_v2(client: &Client, users: &[usize]) -> Result<BTreeSet<usize>, String> {
    let mut workers = JoinSet::new();
    for chunk in users.chunks(users.len().div_ceil(WORKERS).max(1)) {
        let (mut session, chunk) = (client.session(), chunk.to_vec());
        workers.spawn(async move {
            let mut on_v2 = Vec::new();
            for user in chunk {
                let cookie = format!("uid=user-{user}");
                let reply = session.get("/", &[("cookie", &cookie)]).await?.reply()?;
                if version_of(&reply, "checkout")? == "v2" {
                    on_v2.push(user);
                }
            }
            Ok::<_, String>(on_v2)
        });
    }
    let mut all = BTreeSet::new();
    while let Some(part) = workers.join_next().await {
        all.extend(part.map_err(|e| e.to_string())??);
    }
    Ok(all)
}

/// One request of a load.
pub struct Sample {
    /// When it was answered.
    pub at: Instant,
    /// How long it took.
    pub took: Duration,
    /// The cluster whose checkout served it, or why it failed.
    pub outcome: Result<String, String>,
}

/// Requests that go on until told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
    workers: JoinSet<()>,
}

impl Load {
    /// Eight clients, one request after the other each.
    pub fn start(client: &Client, path: &'static str) -> Self {
        let (stop, samples) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let mut workers = JoinSet::new();
        for _ in 0..WORKERS {
            let (stop, samples, mut session) = (stop.clone(), samples.clone(), client.session());
            workers.spawn(async move {
                for _ in 0..MAX_REQUESTS / WORKERS {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let began = Instant::now();
                    let answer = session.get(path, &[("x-gray", "stable")]).await;
                    let outcome = answer.and_then(|a| a.reply()).and_then(|reply| {
                        let checkout =
                            reply.find("checkout").ok_or_else(|| format!("no checkout in {reply:?}"))?;
                        Ok(checkout.cluster.clone())
                    });
                    let sample = Sample { at: Instant::now(), took: began.elapsed(), outcome };
                    samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
                }
            });
        }
        Self { stop, samples, workers }
    }

    /// How many requests were answered by this cluster's checkout since.
    pub fn served_by(&self, cluster: &str, since: Instant) -> usize {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.iter().filter(|s| s.at > since && s.outcome.as_deref() == Ok(cluster)).count()
    }

    /// How many requests were answered, well or not.
    pub fn count(&self) -> usize {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Stops and gives all samples.
    pub async fn finish(mut self) -> Vec<Sample> {
        self.stop.store(true, Ordering::Relaxed);
        while self.workers.join_next().await.is_some() {}
        std::mem::take(&mut self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An error that tells of the first failures, if there are any.
pub fn none_failed(samples: &[Sample]) -> Result<(), String> {
    let failures: Vec<&String> = samples.iter().filter_map(|s| s.outcome.as_ref().err()).collect();
    match failures.first() {
        None => Ok(()),
        Some(first) => {
            Err(format!("{} of {} requests failed, first: {first}", failures.len(), samples.len()))
        }
    }
}
