//! What applying something would do to the requests that gateways have seen.

use std::{sync::Arc, time::Duration};

use tombolo_core::decide::{self, Sample};
use tombolo_proto::v1::{ApplyRequest, PreviewResponse, TrafficQuestion};
use tonic::Status;

use super::{
    OperatorService,
    generations::{by, lines, texts},
    internal,
};

/// Gateways have so long to tell what they have seen.
const ASKED: Duration = Duration::from_secs(5);

/// Tries what is proposed on recent requests, and applies nothing.
pub(super) async fn preview(
    service: &OperatorService,
    request: ApplyRequest,
) -> Result<PreviewResponse, Status> {
    let state = Arc::clone(&service.state);
    let by = by(&state, "", "");
    let (sources, prune) = texts(request)?;
    let in_force = state.documents();
    let proposing = tokio::task::spawn_blocking(move || in_force.apply(&sources, &prune, &by));
    let proposal = match proposing.await.map_err(internal)? {
        Ok(proposal) => proposal,
        Err(problems) => return Ok(PreviewResponse { errors: lines(&problems), ..Default::default() }),
    };
    let question = TrafficQuestion { samples: true, ..Default::default() };
    let told = service.traffic.ask(question, true, ASKED).await;
    let changes = proposal.told;
    let gateways = u32::try_from(told.reports.len()).unwrap_or(u32::MAX);
    let tried = tokio::task::spawn_blocking(move || {
        let heads = told.reports.iter().flat_map(|(_, report)| &report.samples);
        // A gateway of another version may have samples of another form.
        let samples: Vec<Sample> = heads.filter_map(|json| serde_json::from_str(json).ok()).collect();
        let (old, new) = state.pictures(&proposal.resources);
        let preview = decide::preview(&old, &new, &samples);
        (serde_json::to_string(&preview).unwrap_or_default(), told.silent)
    });
    let (json, silent) = tried.await.map_err(internal)?;
    Ok(PreviewResponse { changes, errors: Vec::new(), gateways, silent, json })
}
