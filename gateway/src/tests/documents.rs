//! Documents that cannot be read: told everywhere an operator looks, and no harm to the others.

use super::*;

/// A route of its own for this host.
fn route_of(host: &str, service: &str) -> String {
    route(service)
        .replace("name: shop, namespace", &format!("name: {host}, namespace"))
        .replace("shop.example", host)
}

#[tokio::test]
async fn one_that_does_not_parse_is_told_and_the_others_are_served() {
    let (app, _) = app("v1").await;
    let good = [gateway(HTTP), service("v1", app), route("v1")].concat();
    let mut world = World::new(&good).await;
    let admin = world.gateway.admin().unwrap();
    let page = async |path: &str| send(admin, request("admin", path).body(Empty::new()).unwrap()).await;
    let problems = async || {
        let config: serde_json::Value = serde_json::from_str(&page("/config").await.1).unwrap();
        config["problems"].as_array().unwrap().clone()
    };
    assert_eq!(page("/ready").await, (StatusCode::OK, "ready\n".into()));
    for (at, bad) in ["kind: [\n", "just text\n", "kind: Gadget\nmetadata: { name: x }\n"].iter().enumerate()
    {
        // What comes with it, before and behind it in the same file, goes live.
        let (before, behind) = (format!("a{at}.example"), format!("b{at}.example"));
        world
            .reload(
                &[good.as_str(), &route_of(&before, "v1"), bad, "---\n", &route_of(&behind, "v1")].concat(),
            )
            .await;
        for host in ["shop.example", &before, &behind] {
            assert_eq!(world.get(80, host, "/").await, (StatusCode::OK, "v1".into()), "{bad:?}: {host}");
        }
        let told = problems().await;
        assert_eq!(told.len(), 1, "{told:?}");
        let (file, line) = (told[0]["file"].as_str().unwrap(), told[0]["line"].as_u64().unwrap());
        assert!(file.ends_with("all.yaml") && line > 20 && told[0]["document"] == 7, "{told:?}");
        let (status, ready) = page("/ready").await;
        assert_eq!(status, StatusCode::OK, "it serves all the same");
        assert!(ready.contains(&format!("degraded: a document is not in force: {file}:")), "{ready}");
        let metrics = page("/metrics").await.1;
        assert!(metrics.contains("tombolo_state{kind=\"document_problems\"} 1\n"), "{metrics}");
    }
    world.reload(&good).await;
    assert_eq!((problems().await.len(), page("/ready").await.1), (0, "ready\n".into()));
    assert!(page("/metrics").await.1.contains("tombolo_state{kind=\"document_problems\"} 0\n"));
}
