//! Steps 1 and 2: through the public door.

use super::{StepResult, Tour, expect, version_of};

pub async fn reaches_the_stable_version(tour: &mut Tour<'_>) -> StepResult {
    let headers = [("x-gray", "stable")];
    for _ in 0..20 {
        let reply = tour.reply("/", &headers).await?;
        expect(reply.service == "storefront", || format!("{} answered, not storefront", reply.service))?;
        let version = version_of(&reply, "checkout")?;
        expect(version == "v1", || format!("checkout {version} answered, not v1"))?;
    }
    // Refusing what asks for no known host is part of being reached well.
    let direct = tour.reply("/buy", &[]).await?;
    expect(direct.service == "checkout" && direct.version == "v1", || format!("/buy reached {direct:?}"))?;
    let reply = tour.reply("/", &headers).await?;
    let caller = reply.caller.as_deref().unwrap_or("nobody");
    expect(caller == "spiffe://east.test/ns/tombolo-system/sa/gateway", || {
        format!("storefront saw {caller}")
    })?;
    Ok("20 of 20 requests, and storefront saw the gateway's SPIFFE ID".into())
}

pub async fn header_and_cookie_force_the_arm(tour: &mut Tour<'_>) -> StepResult {
    for (path, headers) in [
        ("/", &[("x-gray", "v2")][..]),
        ("/", &[("cookie", "gray=1")]),
        ("/", &[("cookie", "a=b; gray=1; c=d")]),
        ("/buy", &[("x-gray", "v2")]),
    ] {
        let reply = tour.reply(path, headers).await?;
        let version = version_of(&reply, "checkout")?;
        expect(version == "v2", || format!("{path} with {headers:?} reached checkout {version}"))?;
    }
    // Two users whom the split put on different arms: a forced header moves both.
    let (mut forced_back, mut forced_over) = (0, 0);
    for user in 0..40 {
        let uid = format!("uid=sticky-{user}");
        let own = tour.reply("/", &[("cookie", &uid)]).await?;
        let (other, moved) = match version_of(&own, "checkout")? {
            "v2" => ("stable", &mut forced_back),
            _ => ("v2", &mut forced_over),
        };
        if *moved == 3 {
            continue;
        }
        let reply = tour.reply("/", &[("cookie", &uid), ("x-gray", other)]).await?;
        let version = version_of(&reply, "checkout")?;
        let wanted = if other == "stable" { "v1" } else { "v2" };
        expect(version == wanted, || format!("x-gray: {other} reached checkout {version} for {uid}"))?;
        *moved += 1;
    }
    expect(forced_back > 0 && forced_over > 0, || "40 users were all on one arm".into())?;
    Ok(format!("4 of 4; the header moved {} sticky users", forced_back + forced_over))
}
