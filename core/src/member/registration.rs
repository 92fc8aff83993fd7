//! Telling the controller that this process is there, for as long as it is.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tombolo_proto::v1::{Health, RegisterRequest, RegisterResponse, registry_client::RegistryClient};

use crate::{
    discovery::{Connect, Pauses},
    identity::files::{read_private, write_private},
    model::{check_dns_label, is_opaque_sni},
};

/// A lease outside of these bounds is taken as the nearer bound, in seconds.
const LEASE: std::ops::RangeInclusive<u32> = 3..=3600;
/// Ports of one workload. An answer with more is refused.
const MAX_PORTS: usize = 256;
/// The file that the last good answer is kept in.
const FILE: &str = "registration.json";

/// What the controller has said of this process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registered {
    /// The name of its cluster.
    pub cluster: String,
    /// Its ports by the server names that lead to them.
    pub inbound: BTreeMap<String, u16>,
}

/// What a registration is made of.
pub struct RegistrationParts {
    /// How to reach the controller.
    pub connect: Connect,
    /// Everything but the health.
    pub request: RegisterRequest,
    /// Whether the application answers. A change is told at once.
    pub health: watch::Receiver<Health>,
    /// Where the last good answer is kept.
    pub state_dir: PathBuf,
}

/// A registration that is kept up. Ends without a word when it is dropped: the lease runs out.
#[derive(Debug)]
pub struct Registration {
    registered: watch::Receiver<Option<Arc<Registered>>>,
    withdraw: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Registration {
    /// Registers, and goes on doing so. Begins with what was kept of an earlier life.
    pub fn start(parts: RegistrationParts) -> Self {
        let kept = load(&parts.state_dir).map(Arc::new);
        let (tell, registered) = watch::channel(kept);
        let (withdraw, withdrawn) = watch::channel(false);
        let keeping = Keeping { parts, tell, withdrawn };
        Self { registered, withdraw, task: tokio::spawn(keeping.run()) }
    }

    /// What the controller has said last, also in an earlier life. Waits until it has said something.
    pub async fn registered(&mut self) -> Arc<Registered> {
        loop {
            if let Some(registered) = self.registered.borrow_and_update().clone() {
                return registered;
            }
            if self.registered.changed().await.is_err() {
                // The task ends only when it is withdrawn or dropped.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Changes with what the controller says.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Registered>>> {
        self.registered.clone()
    }

    /// Says that this process is going away, and waits until the controller has taken note, no longer than `limit`.
    /// False: it has not.
    pub async fn withdraw(mut self, limit: Duration) -> bool {
        self.withdraw.send_replace(true);
        timeout(limit, &mut self.task).await.is_ok()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Keeping {
    parts: RegistrationParts,
    tell: watch::Sender<Option<Arc<Registered>>>,
    withdrawn: watch::Receiver<bool>,
}

/// How a stream ended.
enum End {
    /// This process is going away, and the controller knows.
    Withdrawn,
    /// By itself.
    Broken(String),
}

impl Keeping {
    async fn run(mut self) {
        let mut pauses = Pauses::default();
        loop {
            let mut answered = false;
            match self.stream(&mut answered).await {
                End::Withdrawn => return,
                End::Broken(reason) if answered => {
                    tracing::warn!(reason, "the registration has broken off; registering again");
                    pauses.again_short();
                }
                End::Broken(reason) => tracing::debug!(reason, "not registered"),
            }
            tokio::select! {
                () = pauses.pause() => {}
                // There is nobody to tell.
                _ = self.withdrawn.wait_for(|withdrawn| *withdrawn) => return,
            }
        }
    }

    /// One stream from its beginning to its end.
    async fn stream(&mut self, answered: &mut bool) -> End {
        let broken = |reason: &dyn fmt::Display| End::Broken(reason.to_string());
        let channel = match (self.parts.connect)().await {
            Ok(channel) => channel,
            Err(reason) => return broken(&reason),
        };
        // One request waits at a time: the queue is full only where the controller does not read.
        let (requests, queue) = mpsc::channel(4);
        if requests.try_send(self.request()).is_err() {
            return broken(&"the stream takes nothing");
        }
        let mut answers = match RegistryClient::new(channel).register(ReceiverStream::new(queue)).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return broken(&status.message()),
        };
        let mut beat = Duration::from_secs(1);
        let mut leaving = false;
        // Each request gets one answer: the farewell has been heard when none is owed any more.
        let mut unanswered: u32 = 1;
        loop {
            let say = tokio::select! {
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => {
                        *answered = true;
                        beat = self.take(answer);
                        unanswered = unanswered.saturating_sub(1);
                        if leaving && unanswered == 0 {
                            return End::Withdrawn;
                        }
                        false
                    }
                    Ok(None) => return broken(&"the controller has ended the stream"),
                    Err(status) => return broken(&status.message()),
                },
                () = sleep(beat) => true,
                // Its sender lives as long as the process it speaks of.
                Ok(()) = self.parts.health.changed() => true,
                Ok(()) = self.withdrawn.changed(), if !leaving => {
                    leaving = true;
                    true
                }
            };
            if say {
                unanswered = unanswered.saturating_add(1);
                if requests.try_send(self.request()).is_err() {
                    return broken(&"the controller reads nothing");
                }
            }
        }
    }

    fn request(&mut self) -> RegisterRequest {
        let mut request = self.parts.request.clone();
        let health = *self.parts.health.borrow_and_update();
        request.set_health(if *self.withdrawn.borrow() { Health::Draining } else { health });
        request
    }

    /// Takes an answer over. Gives the time to the next heartbeat: a third of the lease.
    fn take(&self, answer: RegisterResponse) -> Duration {
        let lease = answer.lease_seconds.clamp(*LEASE.start(), *LEASE.end());
        match check(answer) {
            Ok(registered) => {
                let is_new = self.tell.borrow().as_deref() != Some(&registered);
                if is_new {
                    save(&self.parts.state_dir, &registered);
                    self.tell.send_replace(Some(Arc::new(registered)));
                }
            }
            Err(reason) => {
                tracing::warn!(reason, "the controller's answer is refused; the last good one stays")
            }
        }
        Duration::from_secs(lease.into()) / 3
    }
}

fn check(answer: RegisterResponse) -> Result<Registered, String> {
    check_dns_label(&answer.cluster).map_err(|error| format!("cluster: {error}"))?;
    if answer.inbound.len() > MAX_PORTS {
        return Err(format!("{} ports, more than {MAX_PORTS}", answer.inbound.len()));
    }
    let port = |port: tombolo_proto::v1::InboundPort| {
        let number = u16::try_from(port.port).ok().filter(|number| *number > 0 && is_opaque_sni(&port.sni));
        let number = number.ok_or_else(|| format!("{:?} for port {} is not valid", port.sni, port.port))?;
        Ok((port.sni, number))
    };
    let inbound = answer.inbound.into_iter().map(port).collect::<Result<_, String>>()?;
    Ok(Registered { cluster: answer.cluster, inbound })
}

fn load(state_dir: &Path) -> Option<Registered> {
    let path = state_dir.join(FILE);
    let bytes = match read_private(&path) {
        Ok(bytes) => bytes?,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot be read");
            return None;
        }
    };
    let parsed = serde_json::from_slice(&bytes);
    parsed.inspect_err(|error| tracing::warn!(path = %path.display(), %error, "is damaged")).ok()
}

fn save(state_dir: &Path, registered: &Registered) {
    let path = state_dir.join(FILE);
    let saved = serde_json::to_vec_pretty(registered)
        .map_err(std::io::Error::other)
        .and_then(|bytes| write_private(&path, &bytes));
    if let Err(error) = saved {
        tracing::error!(path = %path.display(), %error, "not saved: a restart would need the controller");
    }
}

impl fmt::Debug for RegistrationParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrationParts").field("request", &self.request).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
