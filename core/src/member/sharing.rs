//! Telling the controller what this process uses of limits that the cluster holds together, and taking its shares over.

use std::{
    convert::Infallible,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tombolo_proto::v1::{QuotaReport, QuotaUse, quota_client::QuotaClient};

use super::random_seed;
use crate::{
    discovery::{Connect, Pauses},
    quota::{Quotas, Use, WHOLE},
};

/// How often demand is looked at.
const TICK: Duration = Duration::from_millis(250);
/// A report at least this often until the controller has said how long its leases are.
const PULSE: Duration = Duration::from_secs(2);

/// The controller is given so long to take note that a process gives its shares back.
const FAREWELL: Duration = Duration::from_millis(500);

/// A stream of reports that is kept up while this process has a share of anything. Ends when it is dropped; the shares
/// stay as they are.
#[derive(Debug)]
pub struct Sharing {
    task: JoinHandle<()>,
    end: watch::Sender<bool>,
}

impl Sharing {
    /// Begins.
    pub fn start(connect: Connect, quotas: Arc<Quotas>) -> Self {
        let (end, ending) = watch::channel(false);
        let reporter = Reporter { connect, quotas, process: random_seed(), ending };
        Self { task: tokio::spawn(reporter.run()), end }
    }

    /// Gives all shares back: this process lets nothing through any more. Waits for the controller half a second at most.
    pub async fn give_back(mut self) {
        self.end.send_replace(true);
        // What it did not hear of is dealt out again when the lease is over.
        let _heard = timeout(FAREWELL, &mut self.task).await;
    }
}

impl Drop for Sharing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Reporter {
    connect: Connect,
    quotas: Arc<Quotas>,
    process: u64,
    ending: watch::Receiver<bool>,
}

/// Why there is no stream any more.
enum End {
    /// Everything is given back.
    Told,
    /// It broke, or was refused.
    Failed(String),
}

impl<E: fmt::Display> From<E> for End {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Reporter {
    async fn run(self) {
        // Most processes have no such limit, and then no stream.
        let mut ending = self.ending.clone();
        tokio::select! {
            () = self.quotas.first_use() => {}
            () = told(&mut ending) => return,
        }
        let mut pauses = Pauses::default();
        loop {
            let mut heard = false;
            let Err(End::Failed(reason)) = self.stream(&mut heard).await else { return };
            tracing::debug!(reason, "shares of limits stay as they are");
            if heard {
                pauses.again_short();
            }
            pauses.pause().await;
        }
    }

    /// One stream from its beginning to its end.
    async fn stream(&self, heard: &mut bool) -> Result<Infallible, End> {
        self.quotas.forget_numbers();
        let channel = (self.connect)().await?;
        let (reports, queue) = mpsc::channel(4);
        let mut last = Last { uses: self.quotas.uses(Instant::now()), at: Instant::now(), pulse: PULSE };
        reports.try_send(self.report(&last.uses))?;
        let answer = QuotaClient::new(channel).share(ReceiverStream::new(queue)).await;
        let mut answers = answer?.into_inner();
        let (mut ticks, mut ending) = (interval(TICK), self.ending.clone());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let answered = tokio::select! {
                message = answers.message() => {
                    let leases = message?.ok_or("the controller has ended the stream")?;
                    *heard = true;
                    last.pulse = Duration::from_millis(u64::from(leases.lease_millis.max(400)) / 4);
                    let now = Instant::now();
                    for lease in &leases.leases {
                        self.quotas.lease(&lease.policy, lease.share, lease.number, now);
                    }
                    !leases.leases.is_empty()
                }
                _ = ticks.tick() => false,
                () = self.quotas.first_use() => true,
                () = told(&mut ending) => {
                    reports.send(self.report(&[])).await?;
                    drop(reports);
                    // It ends the stream when it has read everything.
                    while let Ok(Some(_)) = answers.message().await {}
                    return Err(End::Told);
                }
            };
            let uses = self.quotas.uses(Instant::now());
            if answered || last.is_outdated(&uses) {
                reports.send(self.report(&uses)).await?;
                (last.uses, last.at) = (uses, Instant::now());
            }
        }
    }

    fn report(&self, uses: &[Use]) -> QuotaReport {
        let told = |used: &Use| QuotaUse {
            policy: used.policy.to_string(),
            demand: used.demand,
            share: used.share,
            lease: used.lease,
        };
        QuotaReport { process: self.process, uses: uses.iter().map(told).collect() }
    }
}

/// Resolves when this process is to give its shares back.
async fn told(ending: &mut watch::Receiver<bool>) {
    // An error means that it is dropped, and this task with it.
    let _told = ending.wait_for(|end| *end).await;
}

/// What the controller knows.
struct Last {
    uses: Vec<Use>,
    at: Instant,
    pulse: Duration,
}

impl Last {
    /// True if it is to be told anew: other limits, a demand that has moved by a twentieth, or it is time.
    fn is_outdated(&self, uses: &[Use]) -> bool {
        let moved = |before: &Use, now: &Use| {
            before.policy != now.policy
                || before.demand.abs_diff(now.demand) > (before.demand / 20).max(u64::from(WHOLE) / 1000)
        };
        uses.len() != self.uses.len()
            || self.uses.iter().zip(uses).any(|(before, now)| moved(before, now))
            || (!uses.is_empty() && self.at.elapsed() >= self.pulse)
    }
}
