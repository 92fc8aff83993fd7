//! Waiting until the proxies decide by a change.

use std::time::{Duration, Instant};

use tombolo_proto::v1::{AcknowledgedRequest, AcknowledgedResponse};

use super::{OperatorClient, operator::refused};
use crate::failure::Failure;

/// How long to wait.
#[derive(clap::Args, Debug, Clone, Copy)]
pub struct WaitArgs {
    /// How long to wait until the connected proxies decide by the change, in seconds, at most 60; 0: not at all
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=60))]
    timeout: u32,
}

impl WaitArgs {
    /// Waits, and says who has taken over this generation, which was put in force since `began`. It fails where not all
    /// have.
    pub async fn wait(
        self,
        client: &mut OperatorClient,
        generation: u64,
        began: Instant,
    ) -> Result<(), Failure> {
        if self.timeout == 0 {
            return Ok(());
        }
        let request = AcknowledgedRequest { timeout_millis: self.timeout * 1000 };
        let report = client.acknowledged(request).await.map_err(refused)?.into_inner();
        told(generation, &report, began.elapsed())
    }
}

fn told(generation: u64, report: &AcknowledgedResponse, took: Duration) -> Result<(), Failure> {
    let (proxies, waiting) = (report.proxies, report.waiting.len());
    if waiting == 0 && report.refused.is_empty() {
        println!("generation {generation} is in force on all {proxies} connected proxies after {took:.1?}");
        return Ok(());
    }
    let mut text = format!("generation {generation} is kept, but not in force on all {proxies} proxies");
    report.waiting.iter().for_each(|id| text += &format!("\n  no answer in {took:.1?}: {id}"));
    report.refused.iter().for_each(|refusal| text += &format!("\n  refused by {refusal}"));
    Err(Failure::new(text))
}
