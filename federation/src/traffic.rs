//! What proxies see of traffic, asked when somebody wants to know.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tombolo_core::{
    model::{SpiffeId, TrustDomain},
    tls::grpc::require_id,
};
use tombolo_proto::v1::{TrafficQuestion, TrafficReport, traffic_server};
use tonic::{Request, Response, Status, Streaming};

use crate::{discovery::Viewer, running::stopped};

/// Streams at a time; one more is refused, and tries again later.
const MAX_STREAMS: usize = 10_000;
/// Questions that wait for one proxy at most; more are not asked of it.
const QUEUE: usize = 4;

/// The proxies that can be asked.
#[derive(Clone)]
pub struct Traffic {
    trust_domain: TrustDomain,
    proxies: Arc<Mutex<Proxies>>,
    stop: watch::Receiver<bool>,
}

#[derive(Default)]
struct Proxies {
    open: BTreeMap<u64, Proxy>,
    /// The last number of a stream or a question.
    last: u64,
}

struct Proxy {
    id: SpiffeId,
    questions: mpsc::Sender<Result<TrafficQuestion, Status>>,
    /// Who waits for the answer to which question.
    waiting: BTreeMap<u64, oneshot::Sender<TrafficReport>>,
}

/// What became of a question.
#[derive(Debug, Default)]
pub struct Told {
    /// The answers, each with the number of its stream, which is of one process.
    pub reports: Vec<(u64, TrafficReport)>,
    /// Who has not answered in time, by identity.
    pub silent: Vec<String>,
}

impl Traffic {
    /// For callers of this trust domain, until `stop` turns true.
    pub fn new(trust_domain: TrustDomain, stop: watch::Receiver<bool>) -> Self {
        Self { trust_domain, proxies: Arc::default(), stop }
    }

    /// Asks gateways (or all proxies, where `of_gateways` is false), and waits for their answers no longer than `limit`.
    pub async fn ask(&self, question: TrafficQuestion, of_gateways: bool, limit: Duration) -> Told {
        let asked = {
            let mut proxies = self.lock();
            proxies.last += 1;
            let number = proxies.last;
            let is_asked = |(_, proxy): &(&u64, &mut Proxy)| !of_gateways || Viewer::of(&proxy.id).is_gateway;
            let ask = |(stream, proxy): (&u64, &mut Proxy)| {
                let (answer, answered) = oneshot::channel();
                // Where too many questions wait, its answer does not come: it is silent.
                if proxy.questions.try_send(Ok(TrafficQuestion { number, ..question })).is_ok() {
                    proxy.waiting.retain(|_, waiting| !waiting.is_closed());
                    proxy.waiting.insert(number, answer);
                }
                (*stream, proxy.id.to_string(), answered)
            };
            proxies.open.iter_mut().filter(is_asked).map(ask).collect::<Vec<_>>()
        };
        let answers = asked.into_iter().map(|(stream, id, answer)| async move {
            match timeout(limit, answer).await {
                Ok(Ok(report)) => Ok((stream, report)),
                _ => Err(id),
            }
        });
        let mut told = Told::default();
        for answer in join_all(answers).await {
            match answer {
                Ok(report) => told.reports.push(report),
                Err(id) => told.silent.push(id),
            }
        }
        told
    }

    /// Whether a stream is open.
    pub fn is_open(&self, stream: u64) -> bool {
        self.lock().open.contains_key(&stream)
    }

    fn lock(&self) -> MutexGuard<'_, Proxies> {
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered(&self, stream: u64, report: TrafficReport) {
        let waiting = self.lock().open.get_mut(&stream).and_then(|p| p.waiting.remove(&report.number));
        if let Some(waiting) = waiting {
            // Who asked may have stopped waiting.
            let _gone = waiting.send(report);
        }
    }
}

/// Takes a stream out of those that can be asked.
struct Open {
    traffic: Traffic,
    stream: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.traffic.lock().open.remove(&self.stream);
    }
}

#[tonic::async_trait]
impl traffic_server::Traffic for Traffic {
    type ReportStream = ReceiverStream<Result<TrafficQuestion, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<TrafficReport>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let id = require_id(&request)?.clone();
        if *id.trust_domain() != self.trust_domain {
            return Err(Status::permission_denied("this is for members of this cluster"));
        }
        let (questions, queue) = mpsc::channel(QUEUE);
        let open = {
            let mut proxies = self.lock();
            if proxies.open.len() >= MAX_STREAMS {
                return Err(Status::resource_exhausted("too many streams"));
            }
            proxies.last += 1;
            let stream = proxies.last;
            proxies.open.insert(stream, Proxy { id, questions: questions.clone(), waiting: BTreeMap::new() });
            Open { traffic: self.clone(), stream }
        };
        let mut reports = request.into_inner();
        let mut stop = self.stop.clone();
        tokio::spawn(async move {
            let reading = async {
                while let Ok(Some(report)) = reports.message().await {
                    open.traffic.answered(open.stream, report);
                }
            };
            tokio::select! {
                () = reading => {}
                () = questions.closed() => {}
                () = stopped(&mut stop) => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}

impl fmt::Debug for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traffic").field("streams", &self.lock().open.len()).finish_non_exhaustive()
    }
}
