//! Steps 7 and 8: without controllers, and without a whole cluster.

use std::time::Duration;

use super::{
    StepResult, Tour, expect,
    load::{self, Load},
};

pub async fn without_controllers(tour: &mut Tour<'_>) -> StepResult {
    let load = Load::start(&tour.client, "/");
    tour.town.east.controller.kill().await;
    tour.town.west.controller.kill().await;
    let served = || async { Ok(load.count() >= 300) };
    let waited = tour.wait_until("300 requests without controllers", Duration::from_secs(30), served).await;
    let samples = load.finish().await;
    waited.and_then(|_| load::none_failed(&samples))?;

    let east = &mut tour.town.east;
    east.gateway.kill().await;
    let gateway_admin = east.gateway_admin();
    let storefront = east.workload("storefront")?;
    storefront.sidecar.kill().await;
    let restarted = storefront.sidecar.start();
    let storefront_admin = storefront.admin;
    restarted.and_then(|()| east.gateway.start()).map_err(|e| e.to_string())?;
    tour.town.wait_ready(&[gateway_admin, storefront_admin]).await.map_err(|e| e.to_string())?;
    let mut restarted_served = 0;
    for path in ["/", "/ledger"] {
        for _ in 0..50 {
            tour.reply(path, &[]).await.map_err(|e| format!("{path} after the restart: {e}"))?;
            restarted_served += 1;
        }
    }
    let controllers = [tour.town.east.controller_admin(), tour.town.west.controller_admin()];
    let started = tour.town.east.controller.start().and_then(|()| tour.town.west.controller.start());
    started.map_err(|e| e.to_string())?;
    tour.town.wait_ready(&controllers).await.map_err(|e| e.to_string())?;
    // Controllers that come back must not blank anything either.
    for _ in 0..50 {
        tour.reply("/ledger", &[]).await.map_err(|e| format!("after the controllers' return: {e}"))?;
    }
    Ok(format!(
        "{} requests without a failure; {restarted_served} of {restarted_served} from restarted proxies' cached snapshots",
        samples.len()
    ))
}

pub async fn without_west(tour: &mut Tour<'_>) -> StepResult {
    let load = Load::start(&tour.client, "/");
    for process in tour.town.west.processes() {
        process.kill().await;
    }
    let already = load.count();
    let served = || async { Ok(load.count() >= already + 300) };
    let waited = tour.wait_until("300 requests without west", Duration::from_secs(30), served).await;
    let samples = load.finish().await;
    waited.and_then(|_| load::none_failed(&samples))?;
    let status = tour.status("/ledger").await?;
    expect(status == 502, || format!("/ledger answered {status} while its only cluster is dead"))?;

    for process in tour.town.west.processes() {
        process.start().map_err(|e| e.to_string())?;
    }
    let client = &tour.client;
    let back = || async { Ok(client.get("/ledger", &[]).await?.reply()?.find("ledger").is_some()) };
    let took = tour.wait_until("ledger in west is used again", Duration::from_secs(60), back).await?;
    Ok(format!(
        "0 of {} requests failed in east; ledger served again {:.1} s after west's start",
        samples.len(),
        took.as_secs_f64()
    ))
}
