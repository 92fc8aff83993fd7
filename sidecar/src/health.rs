//! Whether the application answers.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tombolo_core::outgoing;
use tombolo_proto::v1::Health;

/// Each port is tried so often.
const INTERVAL: Duration = Duration::from_secs(1);
/// One that does not accept within this time does not answer.
const LIMIT: Duration = Duration::from_secs(1);
/// So many tries in a row have to fail before the application counts as unhealthy; one that succeeds makes it healthy.
const FAILURES: u8 = 2;

/// Tries the application's ports for as long as it lives.
#[derive(Debug)]
pub struct Probe {
    health: watch::Receiver<Health>,
    is_gone: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

/// What came of trying all ports.
struct Tried {
    /// All accept.
    accepting: bool,
    /// There are some, and nobody listens at any.
    gone: bool,
}

impl Probe {
    /// Connects to each port, once a second. The application is unhealthy until all have accepted, and when one has
    /// not accepted twice in a row. Without ports it is always healthy.
    pub fn start(address: IpAddr, ports: Vec<u16>) -> Self {
        let (tell, health) = watch::channel(Health::Unhealthy);
        let is_gone = Arc::new(AtomicBool::new(false));
        let gone = Arc::clone(&is_gone);
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(INTERVAL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut failures = FAILURES;
            loop {
                ticks.tick().await;
                let tried = accept(address, &ports).await;
                gone.store(tried.gone, Relaxed);
                failures = if tried.accepting { 0 } else { failures.saturating_add(1) };
                let now = if failures < FAILURES { Health::Healthy } else { Health::Unhealthy };
                // A first failure changes nothing: the application stays what it was.
                if failures == 0 || failures >= FAILURES {
                    let changed = |health: &mut Health| std::mem::replace(health, now) != now;
                    if tell.send_if_modified(changed) {
                        tracing::info!(health = now.as_str_name(), "the application");
                    }
                }
            }
        });
        Self { health, is_gone, task }
    }

    /// When the ports were last tried, nobody listened at any of them: an application that is only unhealthy has not gone.
    pub fn is_gone(&self) -> bool {
        self.is_gone.load(Relaxed)
    }

    /// The health of the moment.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(address: IpAddr, ports: &[u16]) -> Tried {
    let mut tried = Tried { accepting: true, gone: !ports.is_empty() };
    for port in ports {
        let connecting = outgoing::connect(SocketAddr::new(address, *port));
        let result = timeout(LIMIT, connecting).await;
        tried.accepting &= matches!(result, Ok(Ok(_)));
        tried.gone &= matches!(result, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused);
        if !tried.accepting && !tried.gone {
            break;
        }
    }
    tried
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn becomes(probe: &Probe, health: Health) {
        let mut watch = probe.health();
        let changed = watch.wait_for(|now| *now == health);
        timeout(Duration::from_secs(10), changed).await.expect("a change of health").unwrap();
    }

    #[tokio::test]
    async fn follows_the_application() {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let second = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = second.local_addr().unwrap();
        let ports = vec![first.local_addr().unwrap().port(), address.port()];
        let probe = Probe::start(address.ip(), ports);
        assert_eq!(*probe.health().borrow(), Health::Unhealthy, "nothing is known yet");
        becomes(&probe, Health::Healthy).await;
        drop(second);
        becomes(&probe, Health::Unhealthy).await;
        assert!(!probe.is_gone(), "it listens elsewhere");
        let second = TcpListener::bind(address).await.unwrap();
        becomes(&probe, Health::Healthy).await;
        drop((first, second));
        becomes(&probe, Health::Unhealthy).await;
        assert!(probe.is_gone());
    }
}
