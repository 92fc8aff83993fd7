//! Steps 3 and 4: the split and the lane.

use std::{collections::BTreeSet, time::Duration};

use super::{StepResult, Tour, expect, load, version_of};
use crate::quickstart::documents;

const USERS: usize = 1000;

pub async fn split_is_exact_and_sticky(tour: &mut Tour<'_>) -> StepResult {
    let at_20 = load::users_on_v2(&tour.client, USERS).await?;
    let again: BTreeSet<usize> = load::users_on_v2(&tour.client, 200).await?;
    let before: BTreeSet<usize> = at_20.iter().copied().filter(|user| *user < 200).collect();
    expect(again == before, || "a user changed arm between two requests".into())?;
    share_is(at_20.len(), 20)?;

    tour.town.east.apply("release.yaml", &documents::release(40)).await.map_err(|e| e.to_string())?;
    // A quarter of the users on stable move: when one of 60 has, the new weight is in force.
    let stable: Vec<usize> = (0..USERS).filter(|user| !at_20.contains(user)).take(60).collect();
    let client = &tour.client;
    let moved = || async { load::any_on_v2(client, &stable).await };
    let took = tour.wait_until("the new weight in force", Duration::from_secs(15), moved).await?;

    let at_40 = load::users_on_v2(&tour.client, USERS).await?;
    share_is(at_40.len(), 40)?;
    let left = at_20.difference(&at_40).count();
    expect(left == 0, || format!("{left} users left v2 when it grew"))?;
    Ok(format!(
        "{:.1}% then {:.1}% of {USERS} users on v2, 0 left it; new weight in force after {:.1} s",
        at_20.len() as f64 * 100.0 / USERS as f64,
        at_40.len() as f64 * 100.0 / USERS as f64,
        took.as_secs_f64()
    ))
}

fn share_is(count: usize, percent: usize) -> Result<(), String> {
    let (low, high) = ((percent - 3) * USERS / 100, (percent + 3) * USERS / 100);
    expect((low..=high).contains(&count), || format!("{count} of {USERS} users on v2, not {percent}% +- 3"))
}

pub async fn lane_is_kept(tour: &mut Tour<'_>) -> StepResult {
    for _ in 0..20 {
        // checkout v2 passes on only `traceparent`: its sidecar restores the lane for payments.
        let gray = tour.reply("/", &[("x-gray", "v2")]).await?;
        expect(version_of(&gray, "checkout")? == "v2", || "checkout left the lane".into())?;
        let lane = gray.find("payments").and_then(|r| r.baggage.clone()).unwrap_or_default();
        expect(lane.contains("tombolo.lane=v2"), || format!("payments saw baggage {lane:?}"))?;
        let plain = tour.reply("/", &[("x-gray", "stable")]).await?;
        let baggage = plain.find("payments").and_then(|r| r.baggage.clone()).unwrap_or_default();
        expect(!baggage.contains("tombolo.lane"), || format!("a baseline request had baggage {baggage:?}"))?;
        expect(version_of(&plain, "payments")? == "v1", || "a baseline request entered the lane".into())?;
        expect(version_of(&gray, "payments")? == "v2", || "payments' v2 was not used in lane v2".into())?;
    }
    // ledger has no lane v2, and neither has storefront: both serve from the baseline, and the request stays gray.
    let ledger = tour.reply("/ledger", &[("x-gray", "v2")]).await?;
    let ledger_version = version_of(&ledger, "ledger")?;
    expect(ledger_version == "v1", || format!("ledger {ledger_version}"))?;
    // A client cannot choose a lane.
    let forged = tour.reply("/", &[("x-gray", "stable"), ("baggage", "tombolo.lane=v2")]).await?;
    expect(version_of(&forged, "checkout")? == "v1", || "a client's own baggage chose the lane".into())?;
    Ok("20 of 20 in lane v2 down to payments, ledger from the baseline, a forged lane ignored".into())
}
