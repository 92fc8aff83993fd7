//! Shares of limits that the proxies of this cluster hold together, dealt out over a stream to each.

mod allocator;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_stream::wrappers::ReceiverStream;
use tombolo_core::{model::TrustDomain, quota::MOST_LIMITS, tls::grpc::require_id};
use tombolo_proto::v1::{QuotaLease, QuotaLeases, QuotaReport, quota_server};
use tonic::{Request, Response, Status, Streaming};

use crate::running::stopped;
use allocator::{Allocator, Lease, Used};

/// Streams at a time; one more is refused, and tries again later.
const MAX_STREAMS: usize = 10_000;
/// Messages that wait for one proxy at most; leases beyond count as not arrived.
const QUEUE: usize = 4;
/// How often shares are dealt out.
const TICK: Duration = Duration::from_millis(100);

/// A proxy: its identity, and the number of its process.
type Holder = (Arc<str>, u64);

/// Deals shares out.
#[derive(Clone)]
pub struct Quota {
    trust_domain: TrustDomain,
    shared: Arc<Mutex<Shared>>,
    origin: Instant,
    stop: watch::Receiver<bool>,
}

struct Shared {
    allocator: Allocator<Holder>,
    streams: BTreeMap<Holder, (u64, mpsc::Sender<Result<QuotaLeases, Status>>)>,
    /// The number of the last stream.
    last: u64,
}

impl Quota {
    /// For callers of this trust domain, until `stop` turns true. Call it inside a tokio runtime.
    pub fn start(trust_domain: TrustDomain, lease: Duration, stop: watch::Receiver<bool>) -> Self {
        let allocator = Allocator::new(lease, Duration::ZERO);
        let shared = Shared { allocator, streams: BTreeMap::new(), last: 0 };
        let quota = Self { trust_domain, shared: Arc::new(Mutex::new(shared)), origin: Instant::now(), stop };
        tokio::spawn(quota.clone().deal());
        quota
    }

    async fn deal(self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stop = self.stop.clone();
        loop {
            tokio::select! {
                _ = ticks.tick() => self.lock().deal(self.origin.elapsed()),
                () = stopped(&mut stop) => return,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one report. False: this stream has been followed by another.
    fn heard(&self, holder: &Holder, stream: u64, report: QuotaReport) -> bool {
        let mut shared = self.lock();
        if shared.streams.get(holder).is_none_or(|(number, _)| *number != stream) {
            return false;
        }
        let uses = report.uses.into_iter().take(MOST_LIMITS).map(|used| Used {
            policy: used.policy,
            demand: used.demand,
            share: used.share,
            lease: used.lease,
        });
        shared.allocator.report(holder, uses.collect(), self.origin.elapsed());
        true
    }
}

impl Shared {
    fn deal(&mut self, now: Duration) {
        let lease_millis = self.lease_millis();
        let mut all: BTreeMap<Holder, Vec<QuotaLease>> = BTreeMap::new();
        for (holder, Lease { policy, share, number }) in self.allocator.tick(now) {
            all.entry(holder).or_default().push(QuotaLease { policy, share, number });
        }
        for (holder, leases) in all {
            if let Some((_, stream)) = self.streams.get(&holder) {
                // What finds no room is not confirmed, and dealt out anew.
                let _full = stream.try_send(Ok(QuotaLeases { lease_millis, leases }));
            }
        }
    }

    fn lease_millis(&self) -> u32 {
        u32::try_from(self.allocator.lease().as_millis()).unwrap_or(u32::MAX)
    }
}

/// Ends a stream's part in the whole. Its holder has what it has until its lease is over.
struct Open {
    quota: Quota,
    holder: Holder,
    stream: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut shared = self.quota.lock();
        if shared.streams.get(&self.holder).is_some_and(|(number, _)| *number == self.stream) {
            shared.streams.remove(&self.holder);
        }
    }
}

#[tonic::async_trait]
impl quota_server::Quota for Quota {
    type ShareStream = ReceiverStream<Result<QuotaLeases, Status>>;

    async fn share(
        &self,
        request: Request<Streaming<QuotaReport>>,
    ) -> Result<Response<Self::ShareStream>, Status> {
        let id = require_id(&request)?.clone();
        if *id.trust_domain() != self.trust_domain {
            return Err(Status::permission_denied("this is for members of this cluster"));
        }
        let mut reports = request.into_inner();
        let first = reports.message().await?.ok_or_else(|| Status::invalid_argument("no report"))?;
        let holder: Holder = (id.to_string().into(), first.process);
        let (leases, queue) = mpsc::channel(QUEUE);
        let open = {
            let mut shared = self.lock();
            if shared.streams.len() >= MAX_STREAMS {
                return Err(Status::resource_exhausted("too many streams"));
            }
            shared.last += 1;
            let stream = shared.last;
            let lease_millis = shared.lease_millis();
            // There is room for the first message.
            let _sent = leases.try_send(Ok(QuotaLeases { lease_millis, leases: Vec::new() }));
            shared.streams.insert(holder.clone(), (stream, leases.clone()));
            Open { quota: self.clone(), holder, stream }
        };
        let mut stop = self.stop.clone();
        tokio::spawn(async move {
            let reading = async {
                let mut next = Some(first);
                while let Some(report) = next {
                    if !open.quota.heard(&open.holder, open.stream, report) {
                        return;
                    }
                    next = reports.message().await.ok().flatten();
                }
            };
            tokio::select! {
                () = reading => {}
                () = leases.closed() => {}
                () = stopped(&mut stop) => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}

impl fmt::Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quota").field("streams", &self.lock().streams.len()).finish_non_exhaustive()
    }
}
