//! Telling the controller what this process uses of limits that the cluster holds together, and taking its shares over.

use std::{
    convert::Infallible,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use tokio_stream::wrappers::ReceiverStream;
use tombolo_proto::v1::{QuotaReport, QuotaUse, quota_client::QuotaClient};

use super::{pauses::Pauses, random_seed};
use crate::{
    discovery::Connect,
    quota::{Quotas, Use, WHOLE},
};

/// How often demand is looked at.
const TICK: Duration = Duration::from_millis(250);
/// A report at least this often until the controller has said how long its leases are.
const PULSE: Duration = Duration::from_secs(2);

/// A stream of reports that is kept up while this process has a share of anything. Ends when it is dropped; the shares
/// stay as they are.
#[derive(Debug)]
pub struct Sharing(JoinHandle<()>);

impl Sharing {
    /// Begins.
    pub fn start(connect: Connect, quotas: Arc<Quotas>) -> Self {
        let reporter = Reporter { connect, quotas, process: random_seed() };
        Self(tokio::spawn(reporter.run()))
    }
}

impl Drop for Sharing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Reporter {
    connect: Connect,
    quotas: Arc<Quotas>,
    process: u64,
}

impl Reporter {
    async fn run(self) {
        // Most processes have no such limit, and then no stream.
        self.quotas.first_use().await;
        let mut pauses = Pauses::default();
        loop {
            let mut heard = false;
            let Err(reason) = self.stream(&mut heard).await;
            tracing::debug!(reason, "shares of limits stay as they are");
            if heard {
                pauses.again_short();
            }
            pauses.pause().await;
        }
    }

    /// One stream from its beginning to its end.
    async fn stream(&self, heard: &mut bool) -> Result<Infallible, String> {
        let text = |error: &dyn fmt::Display| error.to_string();
        self.quotas.forget_numbers();
        let channel = (self.connect)().await.map_err(|error| text(&error))?;
        let (reports, queue) = mpsc::channel(4);
        let mut last = Last { uses: self.quotas.uses(Instant::now()), at: Instant::now(), pulse: PULSE };
        reports.try_send(self.report(&last.uses)).map_err(|error| text(&error))?;
        let answer = QuotaClient::new(channel).share(ReceiverStream::new(queue)).await;
        let mut answers = answer.map_err(|status| text(&status.message()))?.into_inner();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let told = tokio::select! {
                message = answers.message() => {
                    let message = message.map_err(|status| text(&status.message()))?;
                    let leases = message.ok_or("the controller has ended the stream")?;
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
            };
            let uses = self.quotas.uses(Instant::now());
            if told || last.is_outdated(&uses) {
                reports.send(self.report(&uses)).await.map_err(|error| text(&error))?;
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
