//! Telling the controller what this process sees of traffic, when it asks.

use std::{fmt, sync::Arc};

use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tombolo_proto::v1::{TrafficQuestion, TrafficReport, traffic_client::TrafficClient};

use crate::{
    discovery::{Connect, Pauses},
    telemetry::{Samples, Telemetry},
};

/// A stream of answers that is kept up. Ends when it is dropped.
#[derive(Debug)]
pub struct Reporting(JoinHandle<()>);

impl Reporting {
    /// Begins. Without `samples` none are told.
    pub fn start(connect: Connect, telemetry: Arc<Telemetry>, samples: Option<Arc<Samples>>) -> Self {
        let answering = Answering { connect, telemetry, samples };
        Self(tokio::spawn(answering.run()))
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Answering {
    connect: Connect,
    telemetry: Arc<Telemetry>,
    samples: Option<Arc<Samples>>,
}

impl Answering {
    async fn run(self) {
        let mut pauses = Pauses::default();
        loop {
            let mut asked = false;
            let Err(reason) = self.stream(&mut asked).await;
            tracing::debug!(reason, "the controller cannot ask of traffic");
            if asked {
                pauses.again_short();
            }
            pauses.pause().await;
        }
    }

    /// One stream from its beginning to its end.
    async fn stream(&self, asked: &mut bool) -> Result<std::convert::Infallible, String> {
        let text = |error: &dyn fmt::Display| error.to_string();
        let channel = (self.connect)().await.map_err(|error| text(&error))?;
        // A question waits until the one before it is answered.
        let (reports, queue) = mpsc::channel(2);
        reports.try_send(TrafficReport::default()).map_err(|error| text(&error))?;
        let answer = TrafficClient::new(channel).report(ReceiverStream::new(queue)).await;
        let mut questions = answer.map_err(|status| text(&status.message()))?.into_inner();
        loop {
            match questions.message().await {
                Ok(Some(question)) => {
                    *asked = true;
                    reports.send(self.report(&question)).await.map_err(|error| text(&error))?;
                }
                Ok(None) => return Err("the controller has ended the stream".into()),
                Err(status) => return Err(text(&status.message())),
            }
        }
    }

    fn report(&self, question: &TrafficQuestion) -> TrafficReport {
        let samples = self.samples.as_ref().filter(|_| question.samples);
        let samples = samples.map(|samples| samples.recent()).unwrap_or_default();
        TrafficReport {
            number: question.number,
            samples: samples.iter().filter_map(|sample| serde_json::to_string(sample).ok()).collect(),
            arms: if question.arms { self.telemetry.arms() } else { Vec::new() },
        }
    }
}
