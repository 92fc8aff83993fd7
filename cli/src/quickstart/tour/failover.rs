//! Steps 5 and 6: across clusters.

use std::time::{Duration, Instant};

use super::{
    StepResult, Tour, expect,
    load::{self, Load},
    version_of,
};
use crate::commands::admin;

pub async fn calls_across_clusters(tour: &mut Tour<'_>) -> StepResult {
    let west = tour.town.west.gateway_admin();
    let before = admin::metric(west, "tombolo_passthrough_connections_total").await?;
    // Restarted, so that it has no pooled connection: its next call has to dial west's gateway.
    let storefront = tour.town.east.workload("storefront")?;
    storefront.sidecar.kill().await;
    storefront.sidecar.start().map_err(|e| e.to_string())?;
    let storefront = storefront.admin;
    tour.town.wait_ready(&[storefront]).await.map_err(|e| e.to_string())?;

    let client = &tour.client;
    let served = || async { Ok(client.get("/ledger", &[]).await?.reply()?.find("ledger").is_some()) };
    tour.wait_until("ledger answers", Duration::from_secs(15), served).await?;
    for _ in 0..20 {
        let reply = tour.reply("/ledger", &[]).await?;
        let ledger = reply.find("ledger").ok_or("ledger was not reached")?;
        expect(ledger.cluster == "west", || format!("ledger answered from {}", ledger.cluster))?;
        let caller = ledger.caller.as_deref().unwrap_or("nobody");
        expect(caller == "spiffe://east.test/ns/shop/sa/storefront", || format!("ledger saw {caller}"))?;
    }
    let passed = admin::metric(west, "tombolo_passthrough_connections_total").await? - before;
    expect(passed >= 1.0, || "west's gateway passed no connection through".into())?;
    let decrypted = admin::metric(west, "http_server_request_duration_seconds_count").await?;
    expect(decrypted == 0.0, || format!("west's gateway itself saw {decrypted} requests"))?;
    Ok(format!(
        "20 of 20, caller east's storefront; {passed} connection(s) passed by SNI, 0 requests decrypted"
    ))
}

pub async fn endpoint_dies_under_load(tour: &mut Tour<'_>) -> StepResult {
    let load = Load::start(&tour.client, "/");
    let warm = || async { Ok(load.count() >= 200) };
    tour.wait_until("200 requests before", Duration::from_secs(30), warm).await?;
    let checkout = tour.town.east.workload("checkout-v1")?;
    let killed = Instant::now();
    checkout.service.kill().await;
    checkout.sidecar.kill().await;
    let gone = Instant::now();
    let taken_over = || async { Ok(load.served_by("west", gone) >= 300) };
    let waited = tour.wait_until("300 requests served by west", Duration::from_secs(30), taken_over).await;
    let samples = load.finish().await;
    waited.and_then(|_| load::none_failed(&samples))?;
    let after: Vec<_> = samples.iter().filter(|s| s.at > killed).collect();
    let west = after.iter().filter(|s| s.outcome.as_deref() == Ok("west")).count();
    let first = after.iter().filter(|s| s.outcome.as_deref() == Ok("west")).map(|s| s.at - killed).min();
    let slowest = after.iter().map(|s| s.took).max().unwrap_or_default();

    let checkout = tour.town.east.workload("checkout-v1")?;
    let started = checkout.service.start().and_then(|()| checkout.sidecar.start());
    started.map_err(|e| e.to_string())?;
    let admin = checkout.admin;
    tour.town.wait_ready(&[admin]).await.map_err(|e| e.to_string())?;
    let client = &tour.client;
    let back = || async {
        let reply = client.get("/", &[("x-gray", "stable")]).await?.reply()?;
        version_of(&reply, "checkout")?;
        Ok(reply.find("checkout").is_some_and(|r| r.cluster == "east"))
    };
    tour.wait_until("checkout in east is used again", Duration::from_secs(30), back).await?;
    Ok(format!(
        "0 of {} requests failed; west served {west}, the first after {} ms; slowest {} ms; back in east since",
        samples.len(),
        first.unwrap_or_default().as_millis(),
        slowest.as_millis()
    ))
}
